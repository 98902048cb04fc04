/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The table of leases (lease.c), and leases over a restart (lease-keep.c), which does nothing where nothing is kept. */

#include "lease.h"
#include "manager.h"

struct keep;

struct leases {
        struct manager *manager;
        const struct lease_source *source;
        struct manager_watcher models;
        struct list list;
        struct list watchers;
        uint64_t last_id;
        bool news; /* one of them has some */
};

/* It has a descriptor now; it goes. */
void lease_keep(struct lease *lease);
void lease_keep_gone(struct lease *lease);
/* All that there are: their part of a snapshot. */
void leases_keep_all(struct manager *m, struct keep *k);
/* Takes up what was kept, with its descriptors. Models must have been taken up before. */
void leases_restore(struct manager *m);
