/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sessions that live as long as their connection, over a restart: their texts are written down as they grow. Those with files are
 * found on disk.
 */

#include <stdbool.h>
#include <stddef.h>

#include "state.pb-c.h"

struct keep;
struct manager;
struct session;
struct sessions;

/* It is new, or its text has changed: what follows the first `kept` tokens is written down. */
void session_keep(struct session *s);
/* It goes. */
void session_keep_gone(struct session *s);
/* All that there are. */
void sessions_keep_all(struct sessions *t, struct keep *k);

/* What was read of sessions, as they stood. */
struct sessions_kept {
        struct session_kept *list;
        size_t n, room;
        bool failed; /* no memory */
};

void sessions_kept_read(struct sessions_kept *kept, const Spark__State__V1__Record *record);
void sessions_kept_deinit(struct sessions_kept *kept);
/* Puts them into the table. 0 or -errno. */
int sessions_restore(struct manager *m, const struct sessions_kept *kept);
/* All connections that there are have been taken up: sessions of others go. */
void sessions_restored(struct manager *m);
