/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/words.h"
#include "bus/bus.h"
#include "clients/connection.h"
#include "keep/carry.h"
#include "keep/inherited.h"
#include "keep/keep-clients.h"
#include "kept.h"
#include "manager.h"
#include "request/request-keep.h"
#include "restore-clients.h"
#include "session/session.h"

/* ---- handing on ---- */

bool clients_hand_on(struct manager *m) {
        struct list *pos, *tmp;

        if (!keep_is_on(m->keep))
                return false;
        LIST_FOREACH(pos, tmp, &m->connections)
                connection_keep(LIST_ENTRY(pos, struct connection, link));
        clients_commit(m);
        m->handed_on = keep_is_on(m->keep);
        return m->handed_on;
}

void clients_keep_again(struct manager *m) {
        struct list *pos, *tmp;

        m->clients_kept.n_dropped = 0;
        LIST_FOREACH(pos, tmp, &m->connections)
                connection_keep_again(LIST_ENTRY(pos, struct connection, link));
        bus_keep_again(m->bus);
}

void clients_write(struct manager *m, struct keep *k) {
        Spark__State__V1__Numbers numbers = SPARK__STATE__V1__NUMBERS__INIT;
        struct list *pos, *tmp;

        numbers.connection = m->last_client;
        numbers.request = m->requests.sequence;
        KEEP_APPEND(k, NUMBERS, numbers, &numbers);
        LIST_FOREACH(pos, tmp, &m->connections)
                connection_write(LIST_ENTRY(pos, struct connection, link), k);
        bus_write(m->bus, k);
}

/* ---- taking up ---- */

/* What the last process was about, at its end. */
static void take_rest(struct manager *m, struct kept *kept, struct carry_rest *rest) {
        struct carry *carry = keep_carry(m->keep);
        struct kept_connection *c;
        struct kept_request *r;

        if (!carry || carry_recover(carry, rest) != 1) {
                *rest = (struct carry_rest){ 0 };
                return;
        }
        c = kept_find_connection(kept, rest->id);
        r = rest->id & CLIENTS_OF_PIPE ? kept_find_request(kept, rest->id & ~CLIENTS_OF_PIPE) : NULL;
        if (rest->sending && c)
                kept_connection_sent(kept, c, rest->sent);
        else if (rest->sending && r)
                kept_request_sent(kept, r, rest->sent);
}

/* What came of it is committed, some of it may still be in the socket. */
static int take_last(struct manager *m, uint64_t id, int fd, const struct carry_rest *rest) {
        struct carry *carry = keep_carry(m->keep);
        int r;

        if (rest->sending || rest->id != id)
                return 0;
        r = carry_take(carry, fd);
        carry_done(carry);
        return r;
}

static struct connection *restore_connection(struct manager *m, const struct kept_connection *kept, struct inherited *in,
                                             const struct carry_rest *rest) {
        struct connection *c = NULL;
        char name[CLIENTS_NAME_MAX];
        int fd, r = CONNECTION_E_UNUSABLE;

        clients_name_connection(name, kept->id);
        fd = inherited_take(in, name);
        if (fd < 0) {
                sessions_connection_gone(m->sessions, kept->id);
                log_debug("a client has left meanwhile"); /* the service manager lets go of what hangs up */
                return NULL;
        }
        if (take_last(m, kept->id, fd, rest) < 0 || kept->bad) {
                (void)shutdown(fd, SHUT_RDWR);
                (void)fd_close(fd);
        } else {
                r = connection_restore(m, fd, kept, in, &c);
        }
        if (r) {
                log_warning("a client's connection is lost: %s",
                            r < 0 ? strerror(-r) : "what is written down of it does not fit together");
                clients_drop_fd(m, name);
                sessions_connection_gone(m->sessions, kept->id);
                return NULL;
        }
        return c;
}

static struct connection *find_connection(struct manager *m, uint64_t client) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &m->connections)
                if (LIST_ENTRY(pos, struct connection, link)->client == client)
                        return LIST_ENTRY(pos, struct connection, link);
        return NULL;
}

bool clients_has(struct manager *m, uint64_t client) {
        return find_connection(m, client) != NULL;
}

static void restore_requests(struct manager *m, struct kept *kept, struct inherited *in) {
        struct list *pos, *tmp;

        if (kept_sort(kept) < 0)
                return;
        LIST_FOREACH(pos, tmp, &kept->requests) {
                const struct kept_request *r = LIST_ENTRY(pos, struct kept_request, link);
                struct connection *c = r->connection ? find_connection(m, r->connection) : NULL;
                char name[CLIENTS_NAME_MAX];
                int fd = -1;

                clients_name_input(name, r->key);
                if (r->input)
                        fd = inherited_take(in, name);
                if (c)
                        connection_restore_request(c, r, fd);
                else if (r->connection == 0)
                        bus_restore_pipe(m->bus, r, in, fd);
                else
                        fd = fd_close(fd);
                if (r->input && !requests_find(&m->requests, r->key))
                        clients_drop_fd(m, name);
        }
        requests_added_again(&m->requests);
}

void clients_restore(struct manager *m, struct kept *kept, struct inherited *in) {
        struct carry_rest rest = { 0 };
        struct list *pos, *tmp;
        size_t n = 0;

        if (kept->spoiled)
                log_warning("%zu record%s of clients without sense: what they are about is given up", kept->spoiled,
                            words_s(kept->spoiled));
        m->last_client = MAX(m->last_client, kept->last_connection);
        m->requests.sequence = MAX(m->requests.sequence, kept->last_request);
        take_rest(m, kept, &rest);
        LIST_FOREACH(pos, tmp, &kept->connections)
                n += restore_connection(m, LIST_ENTRY(pos, struct kept_connection, link), in, &rest) != NULL;
        restore_requests(m, kept, in);
        if (n > 0)
                log_info("going on with %zu client%s and %zu request%s", n, words_s(n), m->requests.count, words_s(m->requests.count));
}
