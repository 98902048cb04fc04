/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Leases that are held by a descriptor, over a restart: our end of the pipe is in the service manager's store, a record says what
 * it is for. The store lets go of an end whose other one was closed meanwhile, and a record without a descriptor counts for nothing. (Leases
 * that are requests come back with these.)
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "inherited.h"
#include "keep-clients.h"
#include "lease-private.h"
#include "manager.h"

static void name_fd(char *out, uint64_t id) {
        (void)snprintf(out, CLIENTS_NAME_MAX, "lease.%" PRIu64, id);
}

static void append(struct keep *k, const struct lease *lease) {
        Spark__State__V1__Lease record;

        lease_record(lease, &record);
        KEEP_APPEND(k, LEASE, lease, &record);
}

void lease_keep(struct lease *lease) {
        struct keep *k = lease->table->manager->keep;
        char name[CLIENTS_NAME_MAX];

        name_fd(name, lease->id);
        if (!keep_is_on(k) || !keep_push_fd(k, name, lease->fd))
                return;
        lease->kept = true;
        append(k, lease);
}

void lease_keep_gone(struct lease *lease) {
        struct manager *m = lease->table->manager;
        Spark__State__V1__LeaseGone gone = SPARK__STATE__V1__LEASE_GONE__INIT;
        char name[CLIENTS_NAME_MAX];

        if (!lease->kept || clients_are_handed_on(m, true))
                return;
        lease->kept = false;
        gone.id = lease->id;
        KEEP_APPEND(m->keep, LEASE_GONE, lease_gone, &gone);
        name_fd(name, lease->id);
        clients_drop_fd(m, name);
}

void leases_keep_all(struct manager *m, struct keep *k) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, leases_list(m->leases)) {
                const struct lease *lease = LIST_ENTRY(pos, struct lease, link);

                if (lease->kept)
                        append(k, lease);
        }
}

/* ---- in the next process ---- */

struct kept_leases {
        Spark__State__V1__Lease **list;
        size_t n;
        bool failed; /* no memory */
};

static void kept_leases_deinit(struct kept_leases *kept) {
        for (size_t i = 0; i < kept->n; i++)
                spark__state__v1__lease__free_unpacked(kept->list[i], NULL);
        free(kept->list);
}

static void add(struct kept_leases *kept, const Spark__State__V1__Lease *record) {
        size_t size = spark__state__v1__lease__get_packed_size(record);
        _cleanup_free_ uint8_t *packed = malloc(size + 1);
        Spark__State__V1__Lease *copy = NULL, **list = reallocarray(kept->list, kept->n + 1, sizeof(*list));

        if (list)
                kept->list = list;
        if (packed) {
                (void)spark__state__v1__lease__pack(record, packed);
                copy = spark__state__v1__lease__unpack(NULL, size, packed);
        }
        if (!list || !copy) {
                kept->failed = true;
                if (copy)
                        spark__state__v1__lease__free_unpacked(copy, NULL);
                return;
        }
        kept->list[kept->n++] = copy;
}

static void drop(struct kept_leases *kept, uint64_t id) {
        for (size_t i = 0; i < kept->n; i++)
                if (kept->list[i]->id == id) {
                        spark__state__v1__lease__free_unpacked(kept->list[i], NULL);
                        kept->list[i] = kept->list[--kept->n];
                        return;
                }
}

static void read_lease(void *userdata, const Spark__State__V1__Record *record) {
        struct kept_leases *kept = userdata;

        if (record->body_case == SPARK__STATE__V1__RECORD__BODY_LEASE) {
                drop(kept, record->lease->id);
                add(kept, record->lease);
        } else if (record->body_case == SPARK__STATE__V1__RECORD__BODY_LEASE_GONE) {
                drop(kept, record->lease_gone->id);
        }
}

static void restore_one(struct manager *m, const Spark__State__V1__Lease *record) {
        char name[CLIENTS_NAME_MAX];
        struct lease *lease;
        int fd, r;

        name_fd(name, record->id);
        fd = inherited_take(m->inherited, name);
        if (fd < 0)
                return; /* whoever had it let go of it meanwhile */
        r = lease_restore_fd(m->leases, record, fd, NULL, NULL, &lease);
        if (r == 0) {
                lease->kept = true;
                return;
        }
        log_warning("lease %" PRIu64 " of '%s' is lost: %s", record->id, record->who,
                    r == -ENOENT ? "its model is not there any more" : "no memory");
        clients_drop_fd(m, name);
}

void leases_restore(struct manager *m) {
        _cleanup_(kept_leases_deinit) struct kept_leases kept = { 0 };

        if (keep_read(m->keep, read_lease, &kept) < 0 || kept.failed)
                return;
        for (size_t i = 0; i < kept.n; i++)
                restore_one(m, kept.list[i]);
}
