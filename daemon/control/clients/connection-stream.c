/* SPDX-License-Identifier: Apache-2.0 */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "connection-private.h"
#include "message.h"
#include "request/request-keep.h"

void connection_dirty(struct connection *c) {
        if (list_empty(&c->dirty_link))
                list_append(&c->manager->dirty_connections, &c->dirty_link);
        manager_kick(c->manager);
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
        connection_note_all(c);
        connection_dirty(c);
}

static void fail_with(struct connection *c, Spark__V1__Error *error, const char *text) {
        log_debug("connection of pid %d: %s", (int)c->peer.pid, text);
        error->message = (char *)text;
        connection_finish_with(c, error);
}

void connection_fail(struct connection *c, Spark__V1__ErrorCode code, const char *fmt, ...) {
        Spark__V1__Error error = SPARK__V1__ERROR__INIT;
        char text[512];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        error.code = code;
        fail_with(c, &error, text);
}

void connection_fail_busy(struct connection *c, uint32_t retry_after_ms, const char *fmt, ...) {
        Spark__V1__Error error = SPARK__V1__ERROR__INIT;
        char text[512];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        error.code = SPARK__V1__ERROR_CODE__BUSY;
        error.retry_after_ms = retry_after_ms;
        fail_with(c, &error, text);
}

void connection_kill(struct connection *c) {
        c->state = CONNECTION_DEAD;
        connection_dirty(c);
}

int connection_send(struct connection *c, const Spark__V1__ServerFrame *frame) {
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
        else if (r == 0)
                connection_note_output(c);
        return r == CHANNEL_E_OVERSIZE ? r : 0;
}

void connection_send_error(struct connection *c, uint64_t id, Spark__V1__Error *error) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;

        frame.id = id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_ERROR;
        frame.error = error;
        (void)connection_send(c, &frame);
}

void connection_refuse(struct connection *c, uint64_t id, Spark__V1__ErrorCode code, const char *fmt, ...) {
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

void connection_send_done(struct connection *c, uint64_t id, const Spark__V1__Done *done) {
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

struct stream *stream_find(struct connection *c, uint64_t id) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &c->streams) {
                struct stream *s = LIST_ENTRY(pos, struct stream, link);

                if (s->id == id)
                        return s;
        }
        return NULL;
}

struct stream *stream_new(struct connection *c, uint64_t id) {
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

void stream_free(struct stream *s) {
        s->connection->n_streams--;
        list_remove(&s->link);
        pending_deinit(&s->pending);
        free(s);
}

void stream_send_pending(struct stream *s) {
        Spark__V1__Token token;

        if (pending_is_empty(&s->pending))
                return;
        pending_fill(&s->pending, &token);
        connection_send_token(s->connection, s->id, &token);
        pending_clear(&s->pending);
        request_note_queued(s->request);
}

static void on_token(void *userdata, struct request *r, const Spark__V1__Token *token) {
        struct stream *s = userdata;
        struct connection *c = s->connection;
        int e;

        if (!connection_is_open(c))
                return;
        if (!c->blocked && pending_is_empty(&s->pending) && c->channel.out_frames < COALESCE_FRAMES) {
                connection_send_token(c, s->id, token);
                request_note_tokens(r, token, false);
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
        else
                request_note_tokens(r, token, true);
        connection_dirty(c);
}

static void on_progress(void *userdata, struct request *r, const Spark__V1__Progress *progress) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        struct stream *s = userdata;
        struct connection *c = s->connection;

        if ((c->blocked || c->channel.out_frames >= COALESCE_FRAMES) && !request_holds_lease(r)) /* the next one will do */
                return; /* but what a lease got is told once only */
        if (!c->prefill_progress && (r->kind == REQUEST_GENERATE || r->kind == REQUEST_CHAT) &&
            strcmp(progress->stage, "prefill") == 0)
                return;
        frame.id = s->id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_PROGRESS;
        frame.progress = (Spark__V1__Progress *)progress;
        (void)connection_send(c, &frame);
}

/* Who may look once may look again: what watches asks every second, and nobody types a password so often. To do something is another
 * matter: that is asked about each time. */
static void note_granted(struct connection *c, const struct request *r) {
        uint32_t granted = r->origin.granted & RIGHT_BIT(RIGHT_OBSERVE_OTHERS) & ~c->rights;

        if (!granted)
                return;
        c->rights |= granted;
        connection_note_all(c);
}

static void on_done(void *userdata, struct request *r, const Spark__V1__Done *done) {
        struct stream *s = userdata;

        stream_send_pending(s);
        note_granted(s->connection, r);
        connection_send_done(s->connection, s->id, done);
        stream_free(s);
}

static void on_error(void *userdata, struct request *r, const Spark__V1__Error *error) {
        struct stream *s = userdata;

        stream_send_pending(s);
        connection_send_error(s->connection, s->id, (Spark__V1__Error *)error);
        stream_free(s);
}

const struct request_sink stream_sink = {
        .token = on_token, .progress = on_progress, .done = on_done, .error = on_error
};
