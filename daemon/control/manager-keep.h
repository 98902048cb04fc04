/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the manager keeps over restarts (keep.h), put together from those that have something to keep. */

#include <stdbool.h>

struct manager;

/* Takes up what an earlier process left, when everything is there to take it; then keeping begins. 0 or -errno. */
int manager_keep_take_up(struct manager *m);
/* The last thing in a turn. */
void manager_keep_turn(struct manager *m);
/* The service is told to end: true where the next process will go on with what there is, and this one has nothing left to do. */
bool manager_keep_hand_on(struct manager *m);
void manager_keep_end(struct manager *m);
