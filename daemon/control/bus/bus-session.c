/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The objects below /org/sparkd/Spark1/session: org.sparkd.Spark1.Session. There are two kinds. A conversation is a session
 * of the protocol, which may outlive its connection and the daemon; a connection is what OpenSession handed out, like any
 * other but for the socket, which we made ourselves.
 */

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/log.h"
#include "bus-objects.h"
#include "clients/connection.h"
#include "session/session-view.h"

#define PROPERTIES(P)                                           \
        P("Id", 's', "s", id, CONST)                            \
        P("Uid", 'u', "u", uid, CONST)                          \
        P("Kind", 's', "s", kind, CONST)                        \
        P("Model", 's', "s", model, SILENT)                     \
        P("Name", 's', "s", name, SILENT)                       \
        P("State", 's', "s", state, SILENT)                     \
        P("Tokens", 't', "t", tokens, SILENT)                   \
        P("Persistent", 'b', "b", persistent, SILENT)           \
        P("IdleUSec", 't', "t", idle_us, SILENT)                \
        P("StoredBytes", 't', "t", stored_bytes, SILENT)

#define IN_TABLE(name, type, signature, field, how) \
        { name, type, BUS_PROPERTY_TOLD_##how, offsetof(struct bus_session_view, field) },
#define IN_VTABLE(name, type, signature, field, how) \
        SD_BUS_PROPERTY(name, signature, bus_hidden_get, 0, BUS_PROPERTY_FLAG_##how),

static const struct bus_property properties[] = { PROPERTIES(IN_TABLE) };
const struct bus_class bus_class_session = { BUS_IFACE_SESSION, properties, ARRAY_SIZE(properties) };

/* A connection that OpenSession handed out. */
struct bus_session {
        struct bus *bus;
        struct list link;
        struct connection *connection;
        char id[24];
};

/* ---- finding ---- */

static const char *id_of_path(const char *path) {
        static const char prefix[] = BUS_PATH_SESSION "/";

        return strncmp(path, prefix, strlen(prefix)) == 0 ? path + strlen(prefix) : NULL;
}

static void path_of_id(const char *id, char out[128]) {
        (void)snprintf(out, 128, BUS_PATH_SESSION "/%.64s", id);
}

static struct bus_session *connection_find(struct bus *b, const char *id) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &b->sessions) {
                struct bus_session *s = LIST_ENTRY(pos, struct bus_session, link);

                if (strcmp(s->id, id) == 0)
                        return s;
        }
        return NULL;
}

static void view_connection(const struct bus_session *s, struct bus_session_view *ret) {
        *ret = (struct bus_session_view){
                .id = (char *)s->id,
                .kind = (char *)"connection",
                .model = (char *)"",
                .name = (char *)"",
                .state = (char *)(s->connection->n_streams > 0 ? "busy" : "idle"),
                .uid = s->connection->peer.uid,
        };
}

static void view_conversation(const struct session *s, struct bus_session_view *ret) {
        Spark__V1__SessionInfo info;

        session_fill_info(s, &info);
        *ret = (struct bus_session_view){
                .id = info.id,
                .kind = (char *)"conversation",
                .model = info.model,
                .name = info.name,
                .state = info.state,
                .uid = info.uid,
                .tokens = info.tokens,
                .idle_us = session_idle_us(s, manager_now_us()),
                .stored_bytes = info.stored_bytes,
                .persistent = info.persistent,
        };
}

bool bus_session_view(struct bus *b, const char *path, struct bus_session_view *ret) {
        const char *id = id_of_path(path);
        const struct bus_session *connection = id ? connection_find(b, id) : NULL;
        const struct session *s = id ? session_find(b->manager->sessions, id) : NULL;

        if (connection)
                view_connection(connection, ret);
        else if (s)
                view_conversation(s, ret);
        return connection || s;
}

/* ---- all of them ---- */

bool bus_sessions_has_others(struct bus *b, uid_t uid) {
        const struct session *s = NULL;
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &b->sessions)
                if (LIST_ENTRY(pos, struct bus_session, link)->connection->peer.uid != uid)
                        return true;
        while ((s = sessions_next(b->manager->sessions, s)))
                if (session_uid(s) != uid)
                        return true;
        return false;
}

static int append_one(sd_bus_message *reply, const struct bus_session_view *view, uid_t uid, bool all) {
        char path[128];

        if (!all && view->uid != uid)
                return 0;
        path_of_id(view->id, path);
        return bus_object_append(reply, path, &bus_class_session, view);
}

int bus_sessions_append(struct bus *b, sd_bus_message *reply, uid_t uid, bool all) {
        const struct session *s = NULL;
        struct bus_session_view view;
        struct list *pos, *tmp;
        int r = 0;

        LIST_FOREACH(pos, tmp, &b->sessions) {
                view_connection(LIST_ENTRY(pos, struct bus_session, link), &view);
                if (r >= 0)
                        r = append_one(reply, &view, uid, all);
        }
        while (r >= 0 && (s = sessions_next(b->manager->sessions, s))) {
                view_conversation(s, &view);
                r = append_one(reply, &view, uid, all);
        }
        return r;
}

/* ---- Close ---- */

static uint32_t close_requires(struct bus_call *c) {
        struct bus_session_view view;

        if (!bus_session_view(c->peer->bus, sd_bus_message_get_path(c->message), &view) || view.uid == c->peer->user->uid)
                return 0;
        return RIGHT_BIT(RIGHT_MANAGE_MODELS);
}

static void close_conversation(struct bus_call *c, const char *id) {
        static const struct request_sink sink = { .token = bus_call_ignore_token, .progress = bus_call_ignore_progress,
                                                  .done = bus_call_done_empty, .error = bus_call_error };
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__SessionClose close = SPARK__V1__SESSION_CLOSE__INIT;

        close.session = (char *)id;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_SESSION_CLOSE;
        frame.session_close = &close;
        bus_call_submit(c, &frame, NULL, 0, &sink);
}

static void operation_close(struct bus_call *c) {
        const char *id = id_of_path(sd_bus_message_get_path(c->message));
        struct bus_session *s = id ? connection_find(c->peer->bus, id) : NULL;

        if (s) {
                connection_fail(s->connection, SPARK__V1__ERROR_CODE__CANCELLED, "The session was closed.");
                bus_call_reply_empty(c);
        } else if (id && session_find(c->peer->bus->manager->sessions, id)) {
                close_conversation(c, id);
        } else {
                bus_call_fail_named(c, SD_BUS_ERROR_UNKNOWN_OBJECT, "There is no such session (any more).");
        }
}

static int on_close(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        static const struct bus_demand demand = { .run = operation_close, .adjust = close_requires };

        return bus_call_begin(userdata, m, &demand, error);
}

static const sd_bus_vtable session_vtable[] = {
        SD_BUS_VTABLE_START(0),
        PROPERTIES(IN_VTABLE)
        SD_BUS_METHOD_WITH_ARGS("Close", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_close, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END,
};

static int on_find(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret_found,
                   sd_bus_error *error) {
        struct bus_session_view view;

        *ret_found = userdata;
        return bus_session_view(userdata, path, &view);
}

/* ---- life ---- */

/* From session.c. */
static void on_conversation(void *userdata, const struct session *s, bool removed) {
        char path[128];

        path_of_id(session_id(s), path);
        (removed ? bus_hidden_removed : bus_hidden_added)(userdata, path, BUS_IFACE_SESSION);
}

static struct bus_session *session_handle_free(struct bus_session *s) {
        if (!s)
                return NULL;
        if (s->connection) {
                s->connection->gone = NULL;
                s->connection->gone_userdata = NULL;
        }
        list_remove(&s->link);
        free(s);
        return NULL;
}
DEFINE_CLEANUP(struct bus_session *, session_handle_free)

/* From connection_free(). */
static void on_gone(void *userdata) {
        struct bus_session *s = userdata;
        char path[128];

        path_of_id(s->id, path);
        bus_hidden_removed(s->bus, path, BUS_IFACE_SESSION);
        (void)session_handle_free(s);
}

static int open_connection(struct bus_call *c, int fd, struct bus_session **ret) {
        _cleanup_(session_handle_freep) struct bus_session *s = calloc(1, sizeof(*s));
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
        s->connection->normal_only = !bus_call_may(c, RIGHT_USE_INTERACTIVE);
        s->connection->rights = c->authorization.granted;
        peer_set_pid(&s->connection->peer, c->peer->peer.pid);
        (void)snprintf(s->id, sizeof(s->id), "%" PRIu64, s->connection->client);
        *ret = steal_ptr(&s);
        return 0;
}

void bus_operation_open_session(struct bus_call *c) {
        _cleanup_fd_ int ours = -1, theirs = -1;
        struct bus_session *s = NULL;
        sd_bus_message *reply = NULL;
        struct request_error error;
        char path[128];
        int fds[2], r;

        r = bus_options_read_none(c->message, &error);
        if (r == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
                r = -errno;
        if (r == 0) {
                ours = fds[0];
                theirs = fds[1];
                r = open_connection(c, fd_steal(&ours), &s);
        }
        if (r) {
                bus_call_refuse(c, r, &error);
                return;
        }
        path_of_id(s->id, path);
        bus_hidden_added(c->peer->bus, path, BUS_IFACE_SESSION);
        r = sd_bus_message_new_method_return(c->message, &reply);
        if (r >= 0)
                r = sd_bus_message_append(reply, "oh", path, theirs);
        bus_call_reply(c, r < 0 ? sd_bus_message_unref(reply) : reply);
}

int bus_sessions_register(struct bus *b) {
        sessions_watch(b->manager->sessions, on_conversation, b);
        return sd_bus_add_fallback_vtable(b->bus, NULL, BUS_PATH_SESSION, BUS_IFACE_SESSION, session_vtable, on_find, b);
}

void bus_sessions_deinit(struct bus *b) {
        struct list *pos, *tmp;

        sessions_watch(b->manager->sessions, NULL, NULL);
        LIST_FOREACH(pos, tmp, &b->sessions)
                (void)session_handle_free(LIST_ENTRY(pos, struct bus_session, link));
}
