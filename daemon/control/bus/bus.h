/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * org.sparkd.Spark1 on the bus, as systemd/org.sparkd.Spark1.xml describes it. Owned by the manager. A bus that cannot
 * be reached is looked for again every few seconds; without one the service goes on over its socket. Nothing here waits
 * for the bus: even a caller's identity is asked for in a message of its own, before the call is looked at.
 */

#include <stdbool.h>
#include <stdint.h>

struct bus;
struct inherited;
struct keep;
struct kept_request;
struct manager;
struct polkit;

/* 0, with NULL where the configuration wants no bus; -ENOMEM. */
int bus_new(struct bus **ret, struct manager *m);
struct bus *bus_free(struct bus *b);
/* What is due in a turn; NULL is allowed in all of these. */
void bus_turn(struct bus *b);
/* Pipes over restarts: all do nothing where there is no bus. Appends those that are kept, as they stand; takes one up where an
 * earlier process left off (fd is taken over). */
void bus_write(struct bus *b, struct keep *k);
void bus_keep_again(struct bus *b);
void bus_restore_pipe(struct bus *b, const struct kept_request *kept, struct inherited *in, int input_fd);
void bus_tick(struct bus *b, uint64_t now_us);
/* Whom to ask for rights; NULL where there is no bus. */
struct polkit *bus_polkit(struct bus *b);
/* True while output waits for its reader. */
bool bus_is_busy(const struct bus *b);
