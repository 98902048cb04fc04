/* SPDX-License-Identifier: Apache-2.0 */

/*
 * OpenSession, and the objects below /org/sparkd/Spark1/session: org.sparkd.Spark1.Session. A session is a connection
 * like any other whose socket we made ourselves; its object goes with it.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/log.h"
#include "bus-internal.h"
#include "connection.h"

struct bus_session {
        struct bus *bus;
        struct list link;
        struct connection *connection;
        sd_bus_slot *slot;
        char path[64];
};

static int get_user(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                    void *userdata, sd_bus_error *error) {
        const struct bus_session *s = userdata;

        return sd_bus_message_append(reply, "u", (uint32_t)s->connection->peer.uid);
}

static struct bus_session *session_find(struct bus *b, const char *path) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &b->sessions) {
                struct bus_session *s = LIST_ENTRY(pos, struct bus_session, link);

                if (strcmp(s->path, path) == 0)
                        return s;
        }
        return NULL;
}

static void operation_close(struct bus_call *c) {
        struct bus_session *s = session_find(c->peer->bus, sd_bus_message_get_path(c->message));
        uid_t caller = c->peer->user->uid;

        if (s && s->connection->peer.uid != caller && !manager_is_privileged(caller)) {
                bus_call_fail_with(c, SPARK__V1__ERROR_CODE__PERMISSION_DENIED, "The session is another user's.");
                return;
        }
        if (s)
                connection_fail(s->connection, SPARK__V1__ERROR_CODE__CANCELLED, "The session was closed.");
        bus_call_reply_empty(c);
}

static int on_close(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        struct bus_session *s = userdata;

        return bus_call_begin(s->bus, m, operation_close, error);
}

static const sd_bus_vtable session_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_PROPERTY("User", "u", get_user, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_METHOD_WITH_ARGS("Close", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_close, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END,
};

static struct bus_session *session_free(struct bus_session *s) {
        if (!s)
                return NULL;
        if (s->connection) {
                s->connection->gone = NULL;
                s->connection->gone_userdata = NULL;
        }
        list_remove(&s->link);
        s->slot = sd_bus_slot_unref(s->slot);
        free(s);
        return NULL;
}
DEFINE_CLEANUP(struct bus_session *, session_free)

/* From connection_free(). */
static void on_gone(void *userdata) {
        struct bus_session *s = userdata;

        (void)sd_bus_emit_object_removed(s->bus->bus, s->path);
        (void)session_free(s);
}

static int session_new(struct bus_call *c, int fd, struct bus_session **ret) {
        _cleanup_(session_freep) struct bus_session *s = calloc(1, sizeof(*s));
        _cleanup_fd_ int sock = fd;
        struct bus *b = c->peer->bus;
        struct manager *m = b->manager;
        int r;

        if (!s)
                return -ENOMEM;
        s->bus = b;
        list_append(&b->sessions, &s->link);
        r = connection_new(m, fd_steal(&sock), c->peer->user->uid);
        if (r < 0)
                return r;
        s->connection = LIST_ENTRY(m->connections.prev, struct connection, link); /* where new ones are appended */
        s->connection->gone = on_gone;
        s->connection->gone_userdata = s;
        peer_set_pid(&s->connection->peer, c->peer->peer.pid);
        (void)snprintf(s->path, sizeof(s->path), BUS_PATH_SESSION "/%" PRIu64, s->connection->client);
        r = sd_bus_add_object_vtable(b->bus, &s->slot, s->path, BUS_IFACE_SESSION, session_vtable, s);
        if (r < 0) {
                connection_finish(s->connection);
                return r;
        }
        *ret = steal_ptr(&s);
        return 0;
}

void bus_operation_open_session(struct bus_call *c) {
        _cleanup_fd_ int ours = -1, theirs = -1;
        struct bus_session *s = NULL;
        sd_bus_message *reply = NULL;
        struct request_error error;
        int fds[2], r;

        r = bus_options_read_none(c->message, &error);
        if (r == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
                r = -errno;
        if (r == 0) {
                ours = fds[0];
                theirs = fds[1];
                r = session_new(c, fd_steal(&ours), &s);
        }
        if (r) {
                bus_call_refuse(c, r, &error);
                return;
        }
        (void)sd_bus_emit_object_added(c->peer->bus->bus, s->path);
        r = sd_bus_message_new_method_return(c->message, &reply);
        if (r >= 0)
                r = sd_bus_message_append(reply, "oh", s->path, theirs);
        bus_call_reply(c, r < 0 ? sd_bus_message_unref(reply) : reply);
}

void bus_sessions_deinit(struct bus *b) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &b->sessions)
                (void)session_free(LIST_ENTRY(pos, struct bus_session, link));
}
