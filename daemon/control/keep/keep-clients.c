/* SPDX-License-Identifier: Apache-2.0 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "inherited.h"
#include "keep-clients.h"
#include "manager.h"

/* ---- names ---- */

void clients_name_connection(char *out, uint64_t client) {
        (void)snprintf(out, CLIENTS_NAME_MAX, "client.%" PRIu64, client);
}

void clients_name_connection_fd(char *out, uint64_t client, uint64_t n) {
        (void)snprintf(out, CLIENTS_NAME_MAX, "client.%" PRIu64 ".%" PRIu64, client, n);
}

void clients_name_input(char *out, uint64_t key) {
        (void)snprintf(out, CLIENTS_NAME_MAX, "input.%" PRIu64, key);
}

int clients_take_fd(struct inherited *in, uint64_t client, uint64_t n) {
        char name[CLIENTS_NAME_MAX];

        clients_name_connection_fd(name, client, n);
        return inherited_take(in, name);
}

/* ---- committing ---- */

void clients_deinit(struct manager *m) {
        free(m->clients_kept.dropped);
        m->clients_kept = (struct clients_kept){ 0 };
}

void clients_drop_fd(struct manager *m, const char *name) {
        struct clients_kept *c = &m->clients_kept;
        size_t room = c->room ? 2 * c->room : 16;
        void *p;

        if (c->n_dropped == c->room) {
                p = reallocarray(c->dropped, room, sizeof(*c->dropped));
                if (!p) {
                        log_error("out of memory: a descriptor stays in the store until the next start");
                        return;
                }
                c->dropped = p;
                c->room = room;
        }
        (void)snprintf(c->dropped[c->n_dropped++], CLIENTS_NAME_MAX, "%s", name);
}

void clients_commit(struct manager *m) {
        struct clients_kept *c = &m->clients_kept;

        keep_commit(m->keep);
        while (c->n_dropped > 0)
                keep_remove_fd(m->keep, c->dropped[--c->n_dropped]);
}

bool clients_are_handed_on(const struct manager *m, bool kept) {
        return m->handed_on && kept;
}
