/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The start of a process that goes on where another one ended: what was kept (keep/keep.h) is read and handed to those whose it is,
 * each of whom collects until all is known and then puts it back in place. And the other way round: who writes it down.
 */

#include <stdint.h>

struct manager;

/* Takes what the service manager handed over. 0 or -errno, after having logged why. */
int restore_begin(struct manager *m);
/* Puts everything back in place. 0 or -errno. Where something does not fit it is left out, with a word in the log. */
int restore_all(struct manager *m);
/* Then, when clients and the bus can be served: puts back connections and what runs for them. From here on everything is kept;
 * what nobody took is given up. 0 or -errno. */
int restore_end(struct manager *m);
/* At the end of a turn: keeps everything again where there was no room for a time. */
void restore_keeping(struct manager *m, uint64_t now_us);
