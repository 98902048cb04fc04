/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Leases over a restart: of one that a descriptor holds the end that is watched is in the service manager's store, and a record says
 * what it stands for. One that is a request comes back with that, as its record says.
 */

#include "keep/keep-records.h"
#include "lease.h"

struct keep;
struct lease_keeper;

/* Writes down what comes and goes from now on. 0 or -errno. */
int lease_keeper_new(struct lease_keeper **ret, struct manager *m);
struct lease_keeper *lease_keeper_free(struct lease_keeper *keeper);
/* All that there are. */
void leases_keep_all(struct leases *t, struct keep *k);

/* Gives the store all of them anew: it has none. */
void leases_keep_again(struct leases *t, struct keep *k);

/* What was read of leases, and holding them again: 0 or -errno. */
void leases_kept_read(struct keep_records *kept, const Spark__State__V1__Record *record);
int leases_restore(struct manager *m, const struct keep_records *kept);
/* What the request of this key held in an earlier process; NULL: nothing that is known. Until leases_restored(): all requests are
 * back. */
const Spark__State__V1__Lease *lease_kept_find(const struct lease_keeper *keeper, uint64_t request);
void leases_restored(struct lease_keeper *keeper);
