/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "connection.h"
#include "manager.h"
#include "message.h"
#include "pending.h"
#include "status.h"

#define FRAMES_PER_TURN 64          /* of one client, before others are served */
#define COALESCE_FRAMES 1024u       /* queued: from here on tokens are joined, blocked or not */
#define RESERVE_FRAMES 8u           /* beyond the limit, for the sentence that says goodbye */
#define RESERVE_BYTES ((size_t)64 << 10)
#define IN_FDS_MAX 64u
#define LINGER_US (5u * 1000000u)   /* a closing connection whose client does not read */
#define SOFTWARE_MAX 128u
#define DISCARD_READS 16

struct stream {
        struct connection *connection;
        struct request *request;
        uint64_t id;
        struct list link;
        struct pending pending;
};

static void connection_dirty(struct connection *c) {
        if (list_empty(&c->dirty_link))
                list_append(&c->manager->dirty_connections, &c->dirty_link);
        manager_kick(c->manager);
}

static bool connection_is_open(const struct connection *c) {
        return c->state == CONNECTION_NEW || c->state == CONNECTION_OPEN;
}

/* ---- output ---- */

static bool output_has_room(const struct connection *c) {
        const struct config_limits *l = &c->manager->config->limits;

        return c->channel.out_frames < l->output_frames && c->channel.out_bytes < l->output_bytes;
}

static void connection_finish_with(struct connection *c, Spark__V1__Error *error) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;

        if (!connection_is_open(c))
                return;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_ERROR;
        frame.error = error;
        (void)message_queue(&c->channel, &frame.base); /* the reserve is for this; no matter if it fails */
        connection_finish(c);
}

void connection_finish(struct connection *c) {
        if (!connection_is_open(c))
                return;
        c->state = CONNECTION_CLOSING;
        c->since_us = manager_now_us();
        connection_dirty(c);
}

void connection_fail(struct connection *c, Spark__V1__ErrorCode code, const char *fmt, ...) {
        Spark__V1__Error error = SPARK__V1__ERROR__INIT;
        char text[512];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        log_debug("connection of pid %d: %s", (int)c->peer.pid, text);
        error.code = code;
        error.message = text;
        connection_finish_with(c, &error);
}

static void connection_kill(struct connection *c) {
        c->state = CONNECTION_DEAD;
        connection_dirty(c);
}

/* 0, CHANNEL_E_OVERSIZE, or negative; a full queue ends the connection. */
static int connection_send(struct connection *c, const Spark__V1__ServerFrame *frame) {
        int r;

        if (!connection_is_open(c))
                return 0;
        connection_dirty(c);
        if (!output_has_room(c)) {
                connection_fail(c, SPARK__V1__ERROR_CODE__SLOW_READER, "The client leaves its output unread.");
                return 0;
        }
        r = message_queue(&c->channel, &frame->base);
        if (r == CHANNEL_E_FULL)
                connection_fail(c, SPARK__V1__ERROR_CODE__SLOW_READER, "The client leaves its output unread.");
        else if (r < 0)
                connection_kill(c);
        return r == CHANNEL_E_OVERSIZE ? r : 0;
}

static void connection_send_error(struct connection *c, uint64_t id, Spark__V1__Error *error) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;

        frame.id = id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_ERROR;
        frame.error = error;
        (void)connection_send(c, &frame);
}

static _printf_(4, 5) void connection_refuse(struct connection *c, uint64_t id, Spark__V1__ErrorCode code,
                                              const char *fmt, ...) {
        Spark__V1__Error error = SPARK__V1__ERROR__INIT;
        char text[512];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        error.code = code;
        error.message = text;
        connection_send_error(c, id, &error);
}

static void connection_send_done(struct connection *c, uint64_t id, const Spark__V1__Done *done) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;

        frame.id = id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_DONE;
        frame.done = (Spark__V1__Done *)done;
        if (connection_send(c, &frame) == CHANNEL_E_OVERSIZE)
                connection_refuse(c, id, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                  "The answer does not fit in a frame of %u bytes; ask for less at once.",
                                  CHANNEL_FRAME_MAX);
}

static void connection_send_token(struct connection *c, uint64_t id, const Spark__V1__Token *token) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;

        frame.id = id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_TOKEN;
        frame.token = (Spark__V1__Token *)token;
        (void)connection_send(c, &frame);
}

/* ---- streams: what a request's sink is, here ---- */

static struct stream *stream_find(struct connection *c, uint64_t id) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &c->streams) {
                struct stream *s = LIST_ENTRY(pos, struct stream, link);

                if (s->id == id)
                        return s;
        }
        return NULL;
}

static struct stream *stream_new(struct connection *c, uint64_t id) {
        struct stream *s = calloc(1, sizeof(*s));

        if (!s)
                return NULL;
        s->connection = c;
        s->id = id;
        pending_init(&s->pending);
        list_append(&c->streams, &s->link);
        c->n_streams++;
        return s;
}

static void stream_free(struct stream *s) {
        s->connection->n_streams--;
        list_remove(&s->link);
        pending_deinit(&s->pending);
        free(s);
}

static void stream_send_pending(struct stream *s) {
        Spark__V1__Token token;

        if (pending_is_empty(&s->pending))
                return;
        pending_fill(&s->pending, &token);
        connection_send_token(s->connection, s->id, &token);
        pending_clear(&s->pending);
}

static void on_token(void *userdata, struct request *r, const Spark__V1__Token *token) {
        struct stream *s = userdata;
        struct connection *c = s->connection;
        int e;

        if (!connection_is_open(c))
                return;
        if (!c->blocked && pending_is_empty(&s->pending) && c->channel.out_frames < COALESCE_FRAMES) {
                connection_send_token(c, s->id, token);
                return;
        }
        request_stall(r);
        e = pending_add(&s->pending, token);
        if (e == PENDING_E_DIFFERS) {
                stream_send_pending(s);
                e = pending_add(&s->pending, token);
        }
        if (e == PENDING_E_LIMIT)
                connection_fail(c, SPARK__V1__ERROR_CODE__SLOW_READER, "The client leaves its output unread.");
        else if (e < 0)
                connection_kill(c);
        connection_dirty(c);
}

static void on_progress(void *userdata, struct request *r, const Spark__V1__Progress *progress) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        struct stream *s = userdata;
        struct connection *c = s->connection;

        if (c->blocked || c->channel.out_frames >= COALESCE_FRAMES) /* the next one will do */
                return;
        frame.id = s->id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_PROGRESS;
        frame.progress = (Spark__V1__Progress *)progress;
        (void)connection_send(c, &frame);
}

static void on_done(void *userdata, struct request *r, const Spark__V1__Done *done) {
        struct stream *s = userdata;

        stream_send_pending(s);
        connection_send_done(s->connection, s->id, done);
        stream_free(s);
}

static void on_error(void *userdata, struct request *r, const Spark__V1__Error *error) {
        struct stream *s = userdata;

        stream_send_pending(s);
        connection_send_error(s->connection, s->id, (Spark__V1__Error *)error);
        stream_free(s);
}

static const struct request_sink stream_sink = {
        .token = on_token, .progress = on_progress, .done = on_done, .error = on_error
};

/* ---- input ---- */

static void handle_hello(struct connection *c, const Spark__V1__Hello *hello) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__Hello answer = SPARK__V1__HELLO__INIT;

        if (hello->protocol_version != 1) {
                connection_fail(c, SPARK__V1__ERROR_CODE__UNIMPLEMENTED,
                                "hello.protocol_version is %u; this daemon speaks version 1.", hello->protocol_version);
                return;
        }
        if (strlen(hello->software) > SOFTWARE_MAX) {
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "hello.software has more than %u bytes.",
                                SOFTWARE_MAX);
                return;
        }
        c->state = CONNECTION_OPEN;
        answer.protocol_version = 1;
        answer.software = (char *)"sparkd " SPARK_VERSION;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_HELLO;
        frame.hello = &answer;
        (void)connection_send(c, &frame);
}

static void handle_cancel(struct connection *c, uint64_t id) {
        struct stream *s = stream_find(c, id);

        if (!s)
                return;
        request_detach(s->request);
        stream_send_pending(s);
        stream_free(s);
        connection_refuse(c, id, SPARK__V1__ERROR_CODE__CANCELLED, "The request was cancelled.");
}

static void handle_credit(struct connection *c, uint64_t id, uint32_t tokens) {
        struct stream *s = stream_find(c, id);

        if (s)
                request_add_credit(s->request, tokens);
}

static bool frame_has_input(const Spark__V1__ClientFrame *f) {
        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_GENERATE:
                return f->generate->input_fd;
        case SPARK__V1__CLIENT_FRAME__BODY_TOKENIZE:
                return f->tokenize->input_fd;
        case SPARK__V1__CLIENT_FRAME__BODY_SCORE:
                return f->score->input_fd;
        case SPARK__V1__CLIENT_FRAME__BODY_LOAD:
                return f->load->input_fd;
        default:
                return false;
        }
}

static void send_refusal(struct connection *c, uint64_t id, int r, struct request_error *refused) {
        Spark__V1__Error error = SPARK__V1__ERROR__INIT;

        if (r < 0)
                request_error_set(refused, SPARK__V1__ERROR_CODE__INTERNAL, "The request could not be taken: %s.",
                                  strerror(-r));
        error.code = refused->code;
        error.message = refused->text;
        error.retry_after_ms = refused->retry_after_ms;
        error.have = refused->have;
        error.max = refused->max;
        connection_send_error(c, id, &error);
}

static void handle_request(struct connection *c, const Spark__V1__ClientFrame *f, const struct channel_frame *packed) {
        uint64_t limit = c->manager->config->limits.requests_per_connection;
        struct request_error refused;
        struct stream *s;
        int fd = frame_has_input(f) ? channel_take_fd(&c->channel) : -1, r;

        if (c->n_streams >= limit) {
                fd = fd_close(fd);
                connection_refuse(c, f->id, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                  "The connection has %llu requests running, which is all it may have.",
                                  (unsigned long long)limit);
                return;
        }
        s = stream_new(c, f->id);
        if (!s) {
                fd = fd_close(fd);
                connection_kill(c);
                return;
        }
        const struct request_submit submit = {
                .frame = f,
                .packed = packed->data,
                .packed_size = packed->size,
                .input_fd = fd,
                .origin = { .user = c->user, .pid = c->peer.pid, .unit = c->peer.unit, .client = c->client },
                .sink = &stream_sink,
                .userdata = s,
        };

        r = request_submit(c->manager, &submit, &s->request, &refused);
        if (r) {
                stream_free(s);
                send_refusal(c, f->id, r, &refused);
        }
}

static void send_status(struct connection *c, uint64_t id, bool models_only) {
        _cleanup_(status_freep) Spark__V1__Done *done =
                models_only ? status_new_models(c->manager) : status_new_status(c->manager, c->user->uid);

        if (done)
                connection_send_done(c, id, done);
        else
                connection_refuse(c, id, SPARK__V1__ERROR_CODE__INTERNAL, "Out of memory.");
}

static void dispatch_request(struct connection *c, const Spark__V1__ClientFrame *f, const struct channel_frame *packed) {
        if (f->id == 0) {
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                "id is 0; a request needs an id of its own.");
                return;
        }
        if (stream_find(c, f->id)) {
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                "id %llu is in use by a running request.", (unsigned long long)f->id);
                return;
        }
        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_MODELS:
                send_status(c, f->id, true);
                return;
        case SPARK__V1__CLIENT_FRAME__BODY_STATUS:
                send_status(c, f->id, false);
                return;
        case SPARK__V1__CLIENT_FRAME__BODY__NOT_SET:
                connection_refuse(c, f->id, SPARK__V1__ERROR_CODE__UNIMPLEMENTED,
                                  "This version does not know the message.");
                return;
        default:
                handle_request(c, f, packed);
        }
}

static void handle_message(struct connection *c, const Spark__V1__ClientFrame *f, const struct channel_frame *packed) {
        bool hello = f->body_case == SPARK__V1__CLIENT_FRAME__BODY_HELLO;

        if (c->state == CONNECTION_NEW && !hello) {
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "The first frame must be Hello.");
                return;
        }
        if (c->state == CONNECTION_OPEN && hello) {
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "A second Hello.");
                return;
        }
        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_HELLO:
                handle_hello(c, f->hello);
                return;
        case SPARK__V1__CLIENT_FRAME__BODY_CANCEL:
                handle_cancel(c, f->id);
                return;
        case SPARK__V1__CLIENT_FRAME__BODY_CREDIT:
                handle_credit(c, f->id, f->credit->tokens);
                return;
        default:
                dispatch_request(c, f, packed);
        }
}

/* A frame that is no message. What lies in a text field of a request is that request's fault, all else the
 * connection's. */
static void handle_fault(struct connection *c, int code, const struct message_fault *fault) {
        Spark__V1__ErrorCode error = code == MESSAGE_E_UTF8 ? SPARK__V1__ERROR_CODE__INVALID_UTF8
                                                            : SPARK__V1__ERROR_CODE__INVALID_ARGUMENT;
        bool of_request = (code == MESSAGE_E_UTF8 || code == MESSAGE_E_NUL) && fault->id != 0;

        if (c->state == CONNECTION_OPEN && of_request && !stream_find(c, fault->id))
                connection_refuse(c, fault->id, error, "%s", fault->text);
        else
                connection_fail(c, error, "%s", fault->text);
}

static void handle_frame(struct connection *c, const struct channel_frame *frame) {
        struct message_fault fault;
        ProtobufCMessage *m;
        int r;

        r = message_unpack(&spark__v1__client_frame__descriptor, frame->data, frame->size, &m, &fault);
        if (r < 0) {
                connection_kill(c);
                return;
        }
        if (r > 0) {
                handle_fault(c, r, &fault);
                return;
        }
        handle_message(c, (Spark__V1__ClientFrame *)m, frame);
        (void)message_free(m);
}

static void handle_channel_fault(struct connection *c, int r) {
        switch (r) {
        case CHANNEL_E_OVERSIZE:
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "A frame of more than %u bytes.",
                                CHANNEL_FRAME_MAX);
                return;
        case CHANNEL_E_EMPTY:
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "A frame of length zero.");
                return;
        case CHANNEL_E_FDS:
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                "Descriptors were sent that belong to no frame.");
                return;
        default:
                connection_kill(c); /* gone, or the socket is broken */
        }
}

/* Input that waits to become a frame is the user's, too. */
static void charge_input(struct connection *c) {
        uint64_t cap = c->channel.in_cap;

        if (cap < c->input_charged) {
                user_release(c->user, USER_BYTES, c->input_charged - cap);
                c->input_charged = cap;
        } else if (cap > c->input_charged) {
                if (user_charge(c->user, USER_BYTES, cap - c->input_charged)) {
                        connection_fail(c, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                        "The requests of your user take more than %llu bytes.",
                                        (unsigned long long)c->manager->config->limits.bytes_per_user);
                        return;
                }
                c->input_charged = cap;
        }
}

static void handle_frames(struct connection *c) {
        struct channel_frame frame;
        int r = 0;

        c->frames_left = false;
        for (int i = 0; i < FRAMES_PER_TURN && connection_is_open(c); i++) {
                r = channel_next(&c->channel, &frame);
                if (r != 1)
                        break;
                handle_frame(c, &frame);
        }
        if (!connection_is_open(c))
                return;
        if (r == 1) {
                c->frames_left = true;
                connection_dirty(c);
        } else if (r == 0 && channel_pending_fds(&c->channel) > 0 && !channel_partial_frame(&c->channel)) {
                handle_channel_fault(c, CHANNEL_E_FDS);
        } else if (r > 1) {
                handle_channel_fault(c, r);
        }
        charge_input(c);
}

/* ---- the socket ---- */

static void update_events(struct connection *c) {
        bool read = connection_is_open(c) && !c->frames_left &&
                    c->channel.out_bytes < c->manager->config->limits.output_bytes / 2;
        uint32_t events = (read ? (uint32_t)EPOLLIN : 0u) | (c->blocked ? (uint32_t)EPOLLOUT : 0u);

        if (events == c->events)
                return;
        if (sd_event_source_set_io_events(c->source, events) >= 0)
                c->events = events;
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        struct connection *c = userdata;
        int r;

        if (events & EPOLLOUT)
                connection_dirty(c);
        if (events & EPOLLIN && connection_is_open(c)) {
                r = channel_read(&c->channel);
                if (r == 1)
                        handle_frames(c);
                else if (r != 0)
                        handle_channel_fault(c, r);
        } else if (events & (EPOLLHUP | EPOLLERR)) {
                connection_kill(c);
        }
        return 0;
}

static void detach_streams(struct connection *c) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &c->streams) {
                struct stream *s = LIST_ENTRY(pos, struct stream, link);

                request_detach(s->request);
                stream_free(s);
        }
}

static void send_all_pending(struct connection *c) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &c->streams) {
                struct stream *s = LIST_ENTRY(pos, struct stream, link);

                if (pending_is_empty(&s->pending) || !connection_is_open(c))
                        continue;
                stream_send_pending(s);
                request_resume(s->request);
        }
}

static void connection_flush(struct connection *c) {
        int r = channel_flush(&c->channel);

        c->blocked = r == 0;
        if (r == 1 && connection_is_open(c)) {
                send_all_pending(c);
                if (channel_wants_write(&c->channel))
                        r = channel_flush(&c->channel);
                c->blocked = r == 0;
        }
        if (r != 0 && r != 1)
                c->state = CONNECTION_DEAD;
        else if (r == 1 && c->state == CONNECTION_CLOSING)
                c->state = CONNECTION_DEAD;
}

void connection_turn(struct connection *c) {
        if (c->frames_left && connection_is_open(c))
                handle_frames(c);
        if (!connection_is_open(c))
                detach_streams(c);
        if (c->state != CONNECTION_DEAD)
                connection_flush(c);
        if (c->state == CONNECTION_DEAD) {
                (void)connection_free(c);
                return;
        }
        update_events(c);
}

void connection_tick(struct connection *c, uint64_t now_us) {
        const struct config_limits *l = &c->manager->config->limits;
        uint64_t blocked_us = c->channel.out_blocked_us;

        if (c->state == CONNECTION_CLOSING && now_us > c->since_us + LINGER_US)
                connection_kill(c);
        else if (c->state == CONNECTION_NEW && now_us > c->since_us + l->hello_seconds * 1000000u)
                connection_fail(c, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "No Hello came for %llu seconds.",
                                (unsigned long long)l->hello_seconds);
        else if (c->state == CONNECTION_OPEN && blocked_us && now_us > blocked_us + l->output_seconds * 1000000u)
                connection_fail(c, SPARK__V1__ERROR_CODE__SLOW_READER,
                                "The client left its output unread for %llu seconds.",
                                (unsigned long long)l->output_seconds);
}

/* ---- life ---- */

/* Unread input would make the client's next read an ECONNRESET instead of the end that it is. */
static void discard_input(int fd) {
        char waste[4096];

        for (int i = 0; i < DISCARD_READS; i++)
                if (recv(fd, waste, sizeof(waste), MSG_DONTWAIT) <= 0)
                        return;
}

struct connection *connection_free(struct connection *c) {
        if (!c)
                return NULL;
        detach_streams(c);
        list_remove(&c->link);
        list_remove(&c->dirty_link);
        c->source = sd_event_source_disable_unref(c->source);
        if (c->channel.fd >= 0) {
                (void)shutdown(c->channel.fd, SHUT_WR);
                discard_input(c->channel.fd);
                channel_deinit(&c->channel);
        }
        if (c->charged) {
                user_release(c->user, USER_CONNECTIONS, 1);
                c->manager->n_connections--;
        }
        if (c->user) {
                user_release(c->user, USER_BYTES, c->input_charged);
                c->user = user_unref(c->user);
        }
        peer_deinit(&c->peer);
        free(c);
        return NULL;
}
DEFINE_CLEANUP(struct connection *, connection_free)

static int connection_identify(struct connection *c, uid_t peer_uid) {
        int r = peer_init(&c->peer, c->channel.fd);

        if (r < 0)
                return r;
        if (peer_uid != (uid_t)-1)
                c->peer.uid = peer_uid;
        c->user = users_get(&c->manager->users, c->peer.uid);
        return c->user ? 0 : -ENOMEM;
}

static void connection_admit(struct connection *c) {
        struct manager *m = c->manager;

        if (!manager_accepts(m)) {
                connection_fail(c, SPARK__V1__ERROR_CODE__STOPPING, "The daemon is shutting down.");
        } else if (m->n_connections >= m->config->limits.connections) {
                connection_fail(c, SPARK__V1__ERROR_CODE__BUSY, "The daemon has %llu connections, which is all it takes.",
                                (unsigned long long)m->config->limits.connections);
        } else if (user_charge(c->user, USER_CONNECTIONS, 1)) {
                connection_fail(c, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                "Your user has %llu connections, which is all it may have.",
                                (unsigned long long)m->config->limits.connections_per_user);
        } else {
                m->n_connections++;
                c->charged = true;
        }
}

int connection_new(struct manager *m, int fd, uid_t peer_uid) {
        _cleanup_(connection_freep) struct connection *c = calloc(1, sizeof(*c));
        const struct channel_limits limits = {
                .frame_max = CHANNEL_FRAME_MAX,
                .out_frames = (size_t)m->config->limits.output_frames + RESERVE_FRAMES,
                .out_bytes = (size_t)m->config->limits.output_bytes + CHANNEL_FRAME_MAX + RESERVE_BYTES,
                .in_fds = IN_FDS_MAX,
        };
        int r;

        if (!c) {
                (void)fd_close(fd);
                return -ENOMEM;
        }
        c->manager = m;
        c->peer = PEER_NULL;
        c->channel.fd = -1;
        list_init(&c->link);
        list_init(&c->dirty_link);
        list_init(&c->streams);
        r = channel_init(&c->channel, fd, &limits);
        if (r < 0) {
                (void)fd_close(fd);
                return r;
        }
        r = connection_identify(c, peer_uid);
        if (r < 0)
                return r;
        c->client = ++m->last_client;
        c->since_us = manager_now_us();
        c->events = EPOLLIN;
        r = sd_event_add_io(m->event, &c->source, c->channel.fd, c->events, on_io, c);
        if (r < 0)
                return r;
        connection_admit(c);
        list_append(&m->connections, &c->link);
        (void)steal_ptr(&c);
        return 0;
}
