/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "keep/inherited.h"
#include "keep/keep.h"
#include "lease-keep.h"
#include "manager.h"

struct lease_keeper {
        struct lease_watcher watcher;
        struct manager *manager;
        struct keep_records requests; /* of leases that these held, by their keys: until they are back */
};

/* ---- writing ---- */

static void lease_name(uint64_t id, char *out, size_t size) {
        (void)snprintf(out, size, "lease.%" PRIu64, id);
}

static void append_lease(struct keep *k, struct lease *lease) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;
        Spark__State__V1__Lease m;

        lease_record(lease, &m);
        record.body_case = SPARK__STATE__V1__RECORD__BODY_LEASE;
        record.lease = &m;
        keep_append(k, &record);
        lease->granted_kept = m.granted;
}

static void append_gone(struct keep *k, uint64_t id) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;
        Spark__State__V1__LeaseGone m = SPARK__STATE__V1__LEASE_GONE__INIT;

        m.id = id;
        record.body_case = SPARK__STATE__V1__RECORD__BODY_LEASE_GONE;
        record.lease_gone = &m;
        keep_append(k, &record);
}

static void on_lease_changed(void *userdata, struct lease *lease, bool removed) {
        struct lease_keeper *keeper = userdata;
        struct keep *k = keeper->manager->keep;
        char name[64];

        if (!keep_is_on(k) || (lease->fd < 0 && !lease->request))
                return;
        lease_name(lease->id, name, sizeof(name));
        if (removed) {
                if (lease->kept)
                        append_gone(k, lease->id);
                if (lease->kept && lease->fd >= 0)
                        keep_remove_fd(k, name);
                return;
        }
        if (lease->kept && (lease->granted_kept || !lease->granted))
                return; /* nothing else of it changes */
        lease->kept = lease->kept || lease->request || keep_push_fd(k, name, lease->fd);
        if (lease->kept)
                append_lease(k, lease);
}

void leases_keep_all(struct leases *t, struct keep *k) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, leases_list(t)) {
                struct lease *lease = LIST_ENTRY(pos, struct lease, link);

                if (lease->kept)
                        append_lease(k, lease);
        }
}

void leases_keep_again(struct leases *t, struct keep *k) {
        struct list *pos, *tmp;
        char name[64];

        LIST_FOREACH(pos, tmp, leases_list(t)) {
                struct lease *lease = LIST_ENTRY(pos, struct lease, link);

                lease_name(lease->id, name, sizeof(name));
                lease->kept = lease->request || (lease->fd >= 0 && keep_push_fd(k, name, lease->fd));
        }
}

int lease_keeper_new(struct lease_keeper **ret, struct manager *m) {
        struct lease_keeper *keeper = calloc(1, sizeof(*keeper));

        if (!keeper)
                return -ENOMEM;
        keeper->manager = m;
        keeper->watcher.changed = on_lease_changed;
        keeper->watcher.userdata = keeper;
        list_init(&keeper->watcher.link);
        leases_watch(m->leases, &keeper->watcher);
        *ret = keeper;
        return 0;
}

struct lease_keeper *lease_keeper_free(struct lease_keeper *keeper) {
        if (!keeper)
                return NULL;
        list_remove(&keeper->watcher.link);
        keep_records_deinit(&keeper->requests);
        free(keeper);
        return NULL;
}

/* ---- reading ---- */

void leases_kept_read(struct keep_records *kept, const Spark__State__V1__Record *record) {
        if (record->body_case == SPARK__STATE__V1__RECORD__BODY_LEASE)
                keep_records_put(kept, record->lease->id, record);
        else
                keep_records_drop(kept, record->lease_gone->id);
}

/* Its holder let go of it while nobody looked. */
static bool is_over(int fd) {
        struct pollfd p = { .fd = fd };

        return poll(&p, 1, 0) != 0;
}

/* Where it can't be held any more its holder sees the end of the pipe. */
static int restore_one(struct manager *m, const Spark__State__V1__Lease *s) {
        struct request_error error;
        struct lease *lease;
        char name[64];
        int fd, r;

        lease_name(s->id, name, sizeof(name));
        fd = inherited_take(m->inherited, name);
        if (fd < 0)
                return 0;
        if (is_over(fd)) {
                keep_remove_fd(m->keep, name);
                (void)fd_close(fd);
                return 0;
        }
        r = lease_restore(m->leases, s, fd, NULL, NULL, &lease, &error);
        if (r) {
                log_warning("lease %" PRIu64 " is not taken over: %s", s->id, r < 0 ? strerror(-r) : error.text);
                keep_remove_fd(m->keep, name);
        }
        return MIN(r, 0);
}

int leases_restore(struct manager *m, const struct keep_records *kept) {
        struct keep_records *requests = &m->lease_keeper->requests;
        int r = kept->failed ? -ENOMEM : 0;

        for (size_t i = 0; i < kept->n && r >= 0; i++) {
                const Spark__State__V1__Lease *s = kept->list[i]->lease;

                if (s->request)
                        keep_records_put(requests, s->request, kept->list[i]);
                r = s->request ? requests->failed ? -ENOMEM : 0 : restore_one(m, s);
        }
        return r;
}

const Spark__State__V1__Lease *lease_kept_find(const struct lease_keeper *keeper, uint64_t request) {
        const Spark__State__V1__Record *record = keeper ? keep_records_find(&keeper->requests, request) : NULL;

        return record ? record->lease : NULL;
}

void leases_restored(struct lease_keeper *keeper) {
        keep_records_deinit(&keeper->requests);
}
