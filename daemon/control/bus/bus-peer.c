/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Callers and their calls. sd-bus would look a caller up with a blocking call; so the bus is asked here, and the calls
 * wait. The match on the caller's name is installed before the question is put: where the caller has left by then, one
 * of the two answers says so.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/fd.h"
#include "base/log.h"
#include "bus-error.h"
#include "bus-internal.h"

#define PEERS_MAX 256u          /* the bus lets us have 512 matches */
#define PEERS_PER_USER_MAX 64u
#define CALLS_PER_PEER_MAX 128u /* at once */
#define FDS_SPARE 64u           /* for anything but connections and calls */

/* ---- calls ---- */

static struct bus_call *call_new(struct bus_peer *p, sd_bus_message *m, const struct bus_demand *demand) {
        struct bus_call *c = calloc(1, sizeof(*c));

        if (!c)
                return NULL;
        c->peer = p;
        c->message = sd_bus_message_ref(m);
        c->lease_fd = -1;
        c->demand = demand;
        c->operation = demand->run;
        list_append(&p->calls, &c->link);
        p->n_calls++;
        return c;
}

/* Cancels its request and frees it, unanswered. */
static struct bus_call *bus_call_free(struct bus_call *c) {
        if (!c)
                return NULL;
        if (c->request)
                request_detach(c->request);
        authorize_end(&c->authorization);
        c->lease_fd = fd_close(c->lease_fd); /* and with it a lease that was not handed out */
        bus_text_deinit(&c->text);
        if (c->charged)
                user_release(c->peer->user, USER_BYTES, c->charged);
        c->message = sd_bus_message_unref(c->message);
        list_remove(&c->link);
        if (--c->peer->n_calls == 0) {
                c->peer->bus->calls_dirty = true;
                manager_kick(c->peer->bus->manager);
        }
        free(c);
        return NULL;
}

void bus_call_reply(struct bus_call *c, sd_bus_message *reply) {
        int r = reply ? sd_bus_message_send(reply) : -ENOMEM;

        (void)sd_bus_message_unref(reply);
        if (r < 0)
                log_debug("an answer could not be sent on the bus: %s", strerror(-r));
        (void)bus_call_free(c);
}

void bus_call_reply_empty(struct bus_call *c) {
        sd_bus_message *reply = NULL;

        (void)sd_bus_message_new_method_return(c->message, &reply);
        bus_call_reply(c, reply);
}

void bus_call_fail(struct bus_call *c, const struct request_error *error) {
        sd_bus_error e = SD_BUS_ERROR_NULL;

        (void)bus_error_set_request(&e, error);
        (void)sd_bus_reply_method_error(c->message, &e);
        sd_bus_error_free(&e);
        (void)bus_call_free(c);
}

void bus_call_fail_with(struct bus_call *c, Spark__V1__ErrorCode code, const char *fmt, ...) {
        struct request_error error = { .code = code };
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(error.text, sizeof(error.text), fmt, ap);
        va_end(ap);
        bus_call_fail(c, &error);
}

void bus_call_fail_named(struct bus_call *c, const char *name, const char *text) {
        sd_bus_error e = SD_BUS_ERROR_NULL;

        (void)sd_bus_error_set(&e, name, text);
        (void)sd_bus_reply_method_error(c->message, &e);
        sd_bus_error_free(&e);
        (void)bus_call_free(c);
}

void bus_call_refuse(struct bus_call *c, int r, struct request_error *error) {
        if (r < 0)
                request_error_set(error, SPARK__V1__ERROR_CODE__INTERNAL, "The call could not be taken: %s.",
                                  strerror(-r));
        bus_call_fail(c, error);
}

/* ---- peers ---- */

static struct bus_peer *peer_find(struct bus *b, const char *name) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &b->peers) {
                struct bus_peer *p = LIST_ENTRY(pos, struct bus_peer, link);

                if (strcmp(p->name, name) == 0)
                        return p;
        }
        return NULL;
}

static void peer_drop_calls(struct bus_peer *p) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &p->calls)
                (void)bus_call_free(LIST_ENTRY(pos, struct bus_call, link));
}

static struct bus_peer *peer_free(struct bus_peer *p) {
        if (!p)
                return NULL;
        peer_drop_calls(p);
        p->query = sd_bus_slot_unref(p->query);
        p->watch = sd_bus_slot_unref(p->watch);
        peer_deinit(&p->peer);
        p->user = user_unref(p->user);
        free(p->groups);
        list_remove(&p->link);
        p->bus->n_peers--;
        free(p->name);
        free(p);
        return NULL;
}
DEFINE_CLEANUP(struct bus_peer *, peer_free)

static void peer_fail_calls(struct bus_peer *p, Spark__V1__ErrorCode code, const char *text) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &p->calls)
                bus_call_fail_with(LIST_ENTRY(pos, struct bus_call, link), code, "%s", text);
}

static int on_name_owner_changed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *name, *before, *after;

        if (sd_bus_message_read(m, "sss", &name, &before, &after) >= 0 && !*after)
                peer_drop_calls(userdata);
        return 0;
}

static int on_watch_installed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct bus_peer *p = userdata;

        if (!sd_bus_message_is_method_error(m, NULL))
                return 0;
        log_warning("the bus lets us watch no more callers: %s", sd_bus_message_get_error(m)->message);
        peer_fail_calls(p, SPARK__V1__ERROR_CODE__BUSY, "Too many callers at once; try again later.");
        return 0;
}

static int read_groups(sd_bus_message *m, struct bus_peer *p) {
        const uint32_t *groups;
        size_t size;
        int r = sd_bus_message_enter_container(m, 'v', "au");

        if (r >= 0)
                r = sd_bus_message_read_array(m, 'u', (const void **)&groups, &size);
        if (r < 0)
                return r;
        free(p->groups);
        p->groups = malloc(size + 1);
        if (!p->groups)
                return -ENOMEM;
        memcpy(p->groups, groups, size); /* gid_t is a u32 */
        p->n_groups = size / sizeof(*groups);
        return sd_bus_message_exit_container(m);
}

static int read_credentials(sd_bus_message *m, struct bus_peer *p, uint32_t *uid, uint32_t *pid) {
        const char *key;
        int r;

        *uid = (uint32_t)-1;
        *pid = 0;
        r = sd_bus_message_enter_container(m, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                r = sd_bus_message_read_basic(m, 's', &key);
                if (r < 0)
                        return r;
                if (strcmp(key, "UnixUserID") == 0)
                        r = sd_bus_message_read(m, "v", "u", uid);
                else if (strcmp(key, "ProcessID") == 0)
                        r = sd_bus_message_read(m, "v", "u", pid);
                else if (strcmp(key, "UnixGroupIDs") == 0)
                        r = read_groups(m, p);
                else
                        r = sd_bus_message_skip(m, "v");
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        if (r >= 0 && *uid == (uint32_t)-1)
                r = -ENODATA;
        return r;
}

static size_t count_peers_of(struct bus *b, uid_t uid) {
        struct list *pos, *tmp;
        size_t n = 0;

        LIST_FOREACH(pos, tmp, &b->peers) {
                const struct bus_peer *p = LIST_ENTRY(pos, struct bus_peer, link);

                n += p->user && p->user->uid == uid;
        }
        return n;
}

static int on_credentials(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct bus_peer *p = userdata;
        struct list *pos, *tmp;
        uint32_t uid, pid;

        p->query = sd_bus_slot_unref(p->query);
        if (sd_bus_message_is_method_error(m, NULL) || read_credentials(m, p, &uid, &pid) < 0) {
                peer_fail_calls(p, SPARK__V1__ERROR_CODE__PERMISSION_DENIED, "The bus does not say who you are.");
                return 0;
        }
        if (count_peers_of(p->bus, uid) >= PEERS_PER_USER_MAX) {
                peer_fail_calls(p, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                "Too many programs of your user call at once; try again later.");
                return 0;
        }
        p->user = users_get(&p->bus->manager->users, uid);
        if (!p->user) {
                peer_fail_calls(p, SPARK__V1__ERROR_CODE__INTERNAL, "Out of memory.");
                return 0;
        }
        p->peer.uid = uid;
        peer_set_pid(&p->peer, (pid_t)pid);
        LIST_FOREACH(pos, tmp, &p->calls)
                bus_call_authorize(LIST_ENTRY(pos, struct bus_call, link));
        return 0;
}

static int peer_ask(struct bus_peer *p) {
        char match[256];
        int r;

        (void)snprintf(match, sizeof(match),
                       "type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',"
                       "interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='%.64s'", p->name);
        r = sd_bus_add_match_async(p->bus->bus, &p->watch, match, on_name_owner_changed, on_watch_installed, p);
        if (r < 0)
                return r;
        return sd_bus_call_method_async(p->bus->bus, &p->query, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                        "org.freedesktop.DBus", "GetConnectionCredentials", on_credentials, p, "s",
                                        p->name);
}

static int peer_new(struct bus *b, const char *name, struct bus_peer **ret) {
        _cleanup_(peer_freep) struct bus_peer *p = calloc(1, sizeof(*p));
        int r;

        if (!p)
                return -ENOMEM;
        p->bus = b;
        p->peer = PEER_NULL;
        list_init(&p->calls);
        list_append(&b->peers, &p->link);
        b->n_peers++;
        p->client = ++b->manager->last_client;
        p->name = strdup(name);
        if (!p->name)
                return -ENOMEM;
        r = peer_ask(p);
        if (r < 0)
                return r;
        *ret = steal_ptr(&p);
        return 0;
}

/*
 * A message may bring descriptors that its method does not ask for, and they are open as long as the message is there: sixteen
 * for each call that waits for its answer. Connections that may still come keep theirs. The lowest number that is free says how
 * many are open: gaps are filled first.
 */
static bool fds_run_short(const struct bus *b) {
        const struct manager *m = b->manager;
        uint64_t connections = m->config->limits.connections, kept = FDS_SPARE;
        int lowest = fcntl(sd_bus_get_fd(b->bus), F_DUPFD_CLOEXEC, 0);
        struct rlimit limit;

        if (lowest < 0)
                return true;
        (void)fd_close(lowest);
        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return false;
        if (connections > m->n_connections)
                kept += 2 * (connections - m->n_connections);
        return (uint64_t)lowest + MIN(kept, (uint64_t)limit.rlim_cur / 2) > (uint64_t)limit.rlim_cur;
}

int bus_call_begin(struct bus *b, sd_bus_message *m, const struct bus_demand *demand, sd_bus_error *error) {
        const char *sender = sd_bus_message_get_sender(m);
        struct bus_peer *p = sender ? peer_find(b, sender) : NULL;
        struct bus_call *c;
        int r;

        if (!sender)
                return -EBADMSG;
        if (!demand->always && !manager_accepts(b->manager))
                return bus_error_set(error, SPARK__V1__ERROR_CODE__STOPPING, "The daemon is shutting down.");
        if (p ? p->n_calls >= CALLS_PER_PEER_MAX : b->n_peers >= PEERS_MAX)
                return bus_error_set(error, SPARK__V1__ERROR_CODE__BUSY, "Too many calls at once; try again later.");
        if (fds_run_short(b))
                return bus_error_set(error, SPARK__V1__ERROR_CODE__BUSY, "Calls hold too many descriptors; try again later.");
        if (!p) {
                r = peer_new(b, sender, &p);
                if (r < 0)
                        return r;
        }
        c = call_new(p, m, demand);
        if (!c) {
                b->calls_dirty = true;
                return -ENOMEM;
        }
        if (p->user)
                bus_call_authorize(c);
        return 1;
}

void bus_peers_turn(struct bus *b) {
        struct list *pos, *tmp, *cpos, *ctmp;

        LIST_FOREACH(pos, tmp, &b->peers) {
                struct bus_peer *p = LIST_ENTRY(pos, struct bus_peer, link);

                LIST_FOREACH(cpos, ctmp, &p->calls)
                        bus_call_turn(LIST_ENTRY(cpos, struct bus_call, link));
                if (p->n_calls == 0)
                        (void)peer_free(p);
        }
}

void bus_peers_deinit(struct bus *b) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &b->peers)
                (void)peer_free(LIST_ENTRY(pos, struct bus_peer, link));
}
