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
};

/* ---- writing ---- */

static void lease_name(uint64_t id, char *out, size_t size) {
        (void)snprintf(out, size, "lease.%" PRIu64, id);
}

static void append_lease(struct keep *k, const struct lease *lease) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;
        Spark__State__V1__Lease m;

        lease_record(lease, &m);
        record.body_case = SPARK__STATE__V1__RECORD__BODY_LEASE;
        record.lease = &m;
        keep_append(k, &record);
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

        if (!keep_is_on(k) || lease->fd < 0)
                return;
        lease_name(lease->id, name, sizeof(name));
        if (removed) {
                if (lease->kept) {
                        append_gone(k, lease->id);
                        keep_remove_fd(k, name);
                }
                return;
        }
        if (lease->kept)
                return; /* nothing of it changes any more */
        lease->kept = keep_push_fd(k, name, lease->fd);
        if (lease->kept)
                append_lease(k, lease);
}

void leases_keep_all(struct leases *t, struct keep *k) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, leases_list(t)) {
                const struct lease *lease = LIST_ENTRY(pos, struct lease, link);

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
                lease->kept = lease->fd >= 0 && keep_push_fd(k, name, lease->fd);
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
        r = lease_restore_fd(m->leases, s, fd, NULL, NULL, &lease);
        if (r < 0) {
                log_warning("lease %" PRIu64 " is not taken over: %s", s->id, strerror(-r));
                keep_remove_fd(m->keep, name);
                return r == -ENOENT ? 0 : r;
        }
        lease->kept = true;
        return 0;
}

int leases_restore(struct manager *m, const struct keep_records *kept) {
        int r = kept->failed ? -ENOMEM : 0;

        for (size_t i = 0; i < kept->n && r >= 0; i++)
                r = restore_one(m, kept->list[i]->lease);
        return r;
}
