/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Clients over restarts, all of them: connections, their requests, and the bus's pipes are written down together, handed on, and
 * put back in place out of what an earlier process kept (kept.h). When it counts says keep/keep-clients.h.
 */

#include <stdbool.h>
#include <stdint.h>

struct inherited;
struct keep;
struct kept;
struct manager;

/* Keeps all there are, and commits: this process is about to end, and another one to follow. Nothing that is kept is ended then
 * by freeing it. False: there was no room for that, nothing is kept. */
bool clients_hand_on(struct manager *m);
/* The store has nothing any more: gives it all anew. */
void clients_keep_again(struct manager *m);
/* Appends everybody, as they stand: their part of a snapshot. */
void clients_write(struct manager *m, struct keep *k);
/* Takes up what there is in *kept, with its descriptors. Models and sessions must have been taken up before. */
void clients_restore(struct manager *m, struct kept *kept, struct inherited *in);
/* There is a connection of this number. */
bool clients_has(struct manager *m, uint64_t client);
