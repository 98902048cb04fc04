/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* An engine behind its socketpair, all three threads, with the null backend, and control's end of it. */

#include <setjmp.h>
#include <stdarg.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/log.h"
#include "daemon/engine/link.h"
#include "message.h"

#define PATIENCE_MS 20000

typedef Spark__Engine__V1__EngineFrame EngineFrame;
typedef Spark__Engine__V1__ControlFrame ControlFrame;

static const struct channel_limits limits = {
        .frame_max = CHANNEL_FRAME_MAX_PRIVATE, .out_frames = 100000, .out_bytes = 256u << 20, .in_fds = 64,
};

struct fixture {
        struct channel control, engine_end;
        pthread_t thread;
        struct engine_config config;
        unsigned step_us;
        bool counts_kv; /* a position's KV is told as the 8 bytes that it takes; else as none */
        int result;
        EngineFrame *last; /* freed with the next one */
};

static inline int count_kv(struct host *host, const struct host_config *config, struct link *l, struct failure *f) {
        struct model_shape *shape = &host->model->shape;

        host->engine = engine_free(host->engine);
        shape->n_layer = shape->n_head_kv = 1;
        shape->head_dim = 2;
        return engine_new(&host->engine, host->model, host->tokenizer, &config->engine, &link_events, l, f);
}

static inline void *engine_main(void *userdata) {
        struct fixture *x = userdata;
        struct host_config config = {
                .backend = "null", .be = { .isa = "auto", .null_step_us = x->step_us }, .engine = x->config,
        };
        struct host host = HOST_NULL;
        struct link *l = NULL;
        struct failure f = { .text = "" };
        bool stuck;

        x->result = link_new(&l, &x->engine_end, 512);
        if (x->result == 0)
                x->result = host_open(&host, &config, NULL, 0, &link_events, l, &f);
        if (x->result == 0 && x->counts_kv)
                x->result = count_kv(&host, &config, l, &f);
        if (x->result == 0)
                x->result = link_run(l, &host, &stuck);
        host_close(&host);
        (void)link_free(l);
        return NULL;
}

static inline void start(struct fixture *x) {
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        assert_int_equal(channel_init(&x->control, fds[0], &limits), 0);
        assert_int_equal(channel_init(&x->engine_end, fds[1], &limits), 0);
        x->last = NULL;
        assert_int_equal(pthread_create(&x->thread, NULL, engine_main, x), 0);
}

/* Closes control's end: the engine must end by itself. */
static inline void stop(struct fixture *x, int expected) {
        (void)shutdown(x->control.fd, SHUT_RDWR);
        assert_int_equal(pthread_join(x->thread, NULL), 0);
        assert_int_equal(x->result, expected);
        if (x->last)
                (void)message_free(&x->last->base);
        channel_deinit(&x->control);
        channel_deinit(&x->engine_end);
}

static inline void send_frame(struct fixture *x, const ControlFrame *m, const int *fds, size_t n_fds) {
        assert_int_equal(message_queue_fds(&x->control, &m->base, fds, n_fds), 0);
        while (channel_flush(&x->control) == 0) {
                struct pollfd p = { .fd = x->control.fd, .events = POLLOUT };

                assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
        }
}

static inline void submit(struct fixture *x, Spark__Engine__V1__Submit *s, const int *fds, size_t n_fds) {
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;

        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT;
        m.submit = s;
        send_frame(x, &m, fds, n_fds);
}

static inline void send_cancel(struct fixture *x, uint64_t key) {
        Spark__Engine__V1__CancelRequest c = SPARK__ENGINE__V1__CANCEL_REQUEST__INIT;
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;

        c.key = key;
        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CANCEL;
        m.cancel = &c;
        send_frame(x, &m, NULL, 0);
}

static inline void send_window(struct fixture *x, uint64_t key, uint32_t tokens) {
        Spark__Engine__V1__Window w = SPARK__ENGINE__V1__WINDOW__INIT;
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;

        w.key = key;
        w.tokens = tokens;
        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_WINDOW;
        m.window = &w;
        send_frame(x, &m, NULL, 0);
}

static inline void send_ping(struct fixture *x, uint64_t cookie) {
        Spark__Engine__V1__Ping ping = SPARK__ENGINE__V1__PING__INIT;
        ControlFrame m = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;

        ping.cookie = cookie;
        m.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_PING;
        m.ping = &ping;
        send_frame(x, &m, NULL, 0);
}

/* The next frame, or NULL when none comes within ms. */
static inline EngineFrame *receive_within(struct fixture *x, int ms) {
        struct channel_frame frame;
        int r;

        if (x->last)
                (void)message_free(&x->last->base);
        x->last = NULL;
        while ((r = channel_next(&x->control, &frame)) == 0) {
                struct pollfd p = { .fd = x->control.fd, .events = POLLIN };

                if (poll(&p, 1, ms) != 1)
                        return NULL;
                assert_int_equal(channel_read(&x->control), 1);
        }
        assert_int_equal(r, 1);
        assert_int_equal(message_unpack(&spark__engine__v1__engine_frame__descriptor, frame.data, frame.size,
                                        (ProtobufCMessage **)&x->last, NULL), 0);
        return x->last;
}

static inline EngineFrame *receive(struct fixture *x) {
        EngineFrame *m = receive_within(x, PATIENCE_MS);

        assert_non_null(m);
        return m;
}

struct generate {
        Spark__V1__Sampling sampling;
        Spark__V1__Generate generate;
        Spark__Engine__V1__Submit submit;
};

static inline void generate_init(struct generate *g, uint64_t key, const char *prompt, uint32_t max_tokens,
                                 uint32_t credit) {
        spark__v1__sampling__init(&g->sampling);
        spark__v1__generate__init(&g->generate);
        spark__engine__v1__submit__init(&g->submit);
        g->sampling.has_max_tokens = true;
        g->sampling.max_tokens = max_tokens;
        g->sampling.has_seed = true;
        g->sampling.seed = key;
        g->generate.prompt.data = (uint8_t *)prompt;
        g->generate.prompt.len = strlen(prompt);
        g->generate.sampling = &g->sampling;
        g->submit.key = key;
        g->submit.credit = credit;
        g->submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_GENERATE;
        g->submit.generate = &g->generate;
}

struct stream {
        bool accepted;
        uint32_t n; /* tokens */
        size_t n_text;
        char text[4096];
        bool finished;
        Spark__V1__FinishReason reason;
        uint32_t completion;
        Spark__V1__ErrorCode code;
        char message[256];
        uint64_t have, max;
};

static inline void take_chunks(const EngineFrame *m, struct stream *streams, size_t n, uint64_t first) {
        for (size_t i = 0; i < m->tokens->n_chunks; i++) {
                const Spark__Engine__V1__TokenChunk *c = m->tokens->chunks[i];
                struct stream *s = &streams[c->key - first];

                assert_in_range(c->key, first, first + n - 1);
                assert_true(s->accepted && !s->finished);
                assert_int_equal(c->token->index, s->n);
                assert_int_equal(c->token->n_ids, 1);
                s->n++;
                if (s->n_text + c->token->text.len < sizeof(s->text))
                        memcpy(s->text + s->n_text, c->token->text.data, c->token->text.len);
                s->n_text += c->token->text.len;
        }
}

/* Sorts one frame into the streams of keys [first, first + n). True when it ended one. */
static inline bool take(const EngineFrame *m, struct stream *streams, size_t n, uint64_t first) {
        struct stream *s;

        switch (m->body_case) {
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_ACCEPTED:
                streams[m->accepted->key - first].accepted = true;
                return false;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_TOKENS:
                take_chunks(m, streams, n, first);
                return false;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FINISHED:
                s = &streams[m->finished->key - first];
                assert_false(s->finished);
                s->finished = true;
                s->reason = m->finished->done->finish_reason;
                s->completion = m->finished->done->usage ? m->finished->done->usage->completion_tokens : 0;
                return true;
        case SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FAILED:
                s = &streams[m->failed->key - first];
                assert_false(s->finished);
                s->finished = true;
                s->code = m->failed->error->code;
                (void)snprintf(s->message, sizeof(s->message), "%s", m->failed->error->message);
                s->have = m->failed->error->have;
                s->max = m->failed->error->max;
                return true;
        default:
                return false;
        }
}

static inline void collect(struct fixture *x, struct stream *streams, size_t n, uint64_t first, size_t ends) {
        while (ends > 0)
                ends -= take(receive(x), streams, n, first);
}
