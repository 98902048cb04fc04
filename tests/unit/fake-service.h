/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A service for tests of clients: a thread that speaks the public protocol as a script tells it, rightly or wrongly. It
 * serves one connection after another at a path, or the one over a socketpair. Scripts report what they find wrong in
 * `fault`, which the test checks after fake_stop(): cmocka's assertions belong to the test's own thread.
 */

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "channel.h"
#include "listener.h"
#include "message.h"
#include "spark.pb-c.h"

struct fake {
        struct channel c;
        pthread_t thread;
        void (*script)(struct fake *f);
        void *data;
        struct listener listener;
        atomic_bool stop;
        atomic_uint connections;
        char fault[256];
};

#define FAKE_TIMEOUT_MS 20000

__attribute__((format(printf, 2, 3), unused)) static void fake_fault(struct fake *f, const char *fmt, ...) {
        va_list ap;

        if (f->fault[0])
                return;
        va_start(ap, fmt);
        (void)vsnprintf(f->fault, sizeof(f->fault), fmt, ap);
        va_end(ap);
}

/* The next frame, NULL when the client has gone. Free with message_free(&frame->base). */
__attribute__((unused)) static Spark__V1__ClientFrame *fake_receive(struct fake *f) {
        struct channel_frame frame;
        ProtobufCMessage *m = NULL;
        int r;

        while ((r = channel_next(&f->c, &frame)) == 0) {
                struct pollfd p = { .fd = f->c.fd, .events = POLLIN };

                if (poll(&p, 1, FAKE_TIMEOUT_MS) <= 0) {
                        fake_fault(f, "the client sent nothing");
                        return NULL;
                }
                r = channel_read(&f->c);
                if (r == CHANNEL_E_EOF)
                        return NULL;
                if (r != 1 && r != 0) {
                        fake_fault(f, "reading: %d", r);
                        return NULL;
                }
        }
        if (r != 1 || message_unpack(&spark__v1__client_frame__descriptor, frame.data, frame.size, &m, NULL) != 0) {
                fake_fault(f, "the client's frame is malformed");
                return NULL;
        }
        return (Spark__V1__ClientFrame *)m;
}

/* The next frame, of this kind. */
__attribute__((unused)) static Spark__V1__ClientFrame *fake_expect(struct fake *f, int body) {
        Spark__V1__ClientFrame *m = fake_receive(f);

        if (m && (int)m->body_case != body)
                fake_fault(f, "expected body %d, got %d", body, (int)m->body_case);
        if (!m && !f->fault[0])
                fake_fault(f, "expected body %d, the client went", body);
        return m;
}

/* As above, when only the id matters. 0 when it didn't come. */
__attribute__((unused)) static uint64_t fake_expect_id(struct fake *f, int body) {
        Spark__V1__ClientFrame *m = fake_expect(f, body);
        uint64_t id = m ? m->id : 0;

        if (m)
                (void)message_free(&m->base);
        return id;
}

__attribute__((unused)) static void fake_flush(struct fake *f) {
        while (channel_flush(&f->c) == 0) {
                struct pollfd p = { .fd = f->c.fd, .events = POLLOUT };

                if (poll(&p, 1, FAKE_TIMEOUT_MS) <= 0) {
                        fake_fault(f, "the client doesn't read");
                        return;
                }
        }
}

__attribute__((unused)) static void fake_send(struct fake *f, const Spark__V1__ServerFrame *frame) {
        int r = message_queue(&f->c, &frame->base);

        if (r)
                fake_fault(f, "queueing: %d", r);
        fake_flush(f);
}

__attribute__((unused)) static void fake_send_raw(struct fake *f, const void *data, size_t n) {
        fake_flush(f);
        if (send(f->c.fd, data, n, MSG_NOSIGNAL) != (ssize_t)n)
                fake_fault(f, "sending raw bytes");
}

__attribute__((unused)) static void fake_send_hello(struct fake *f) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__Hello hello = SPARK__V1__HELLO__INIT;

        hello.protocol_version = 1;
        hello.software = (char *)"fake 1.0";
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_HELLO;
        frame.hello = &hello;
        fake_send(f, &frame);
}

__attribute__((unused)) static void fake_greet(struct fake *f) {
        (void)fake_expect_id(f, SPARK__V1__CLIENT_FRAME__BODY_HELLO);
        fake_send_hello(f);
}

__attribute__((unused)) static void fake_send_tokens(struct fake *f, uint64_t id, const uint32_t *ids, size_t n,
                                                     uint32_t index, const char *text) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__Token t = SPARK__V1__TOKEN__INIT;

        t.ids = (uint32_t *)ids;
        t.n_ids = n;
        t.index = index;
        t.text = (ProtobufCBinaryData){ .data = (uint8_t *)text, .len = strlen(text) };
        frame.id = id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_TOKEN;
        frame.token = &t;
        fake_send(f, &frame);
}

__attribute__((unused)) static void fake_send_token(struct fake *f, uint64_t id, uint32_t index, const char *text) {
        fake_send_tokens(f, id, (uint32_t[]){ 100 + index }, 1, index, text);
}

__attribute__((unused)) static void fake_send_done_message(struct fake *f, uint64_t id, Spark__V1__Done *done) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;

        frame.id = id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_DONE;
        frame.done = done;
        fake_send(f, &frame);
}

__attribute__((unused)) static void fake_send_done(struct fake *f, uint64_t id, uint32_t n_tokens) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__Usage usage = SPARK__V1__USAGE__INIT;
        Spark__V1__Timing timing = SPARK__V1__TIMING__INIT;

        usage.prompt_tokens = 7;
        usage.cached_tokens = 2;
        usage.completion_tokens = n_tokens;
        timing.queue_ms = 0.5f;
        timing.prefill_ms = 1.5f;
        timing.decode_ms = 2.5f;
        done.finish_reason = SPARK__V1__FINISH_REASON__STOP;
        done.usage = &usage;
        done.timing = &timing;
        done.seed = 0xfedcba9876543210u;
        fake_send_done_message(f, id, &done);
}

__attribute__((unused)) static void fake_send_error(struct fake *f, uint64_t id, int code, const char *message,
                                                    uint64_t have, uint64_t max, uint32_t retry_ms) {
        Spark__V1__ServerFrame frame = SPARK__V1__SERVER_FRAME__INIT;
        Spark__V1__Error e = SPARK__V1__ERROR__INIT;

        e.code = (Spark__V1__ErrorCode)code;
        e.message = (char *)message;
        e.have = have;
        e.max = max;
        e.retry_after_ms = retry_ms;
        frame.id = id;
        frame.body_case = SPARK__V1__SERVER_FRAME__BODY_ERROR;
        frame.error = &e;
        fake_send(f, &frame);
}

static int fake_serve(struct fake *f, int fd) {
        const struct channel_limits limits = { .frame_max = CHANNEL_FRAME_MAX_PRIVATE, .out_frames = 1u << 20,
                                               .out_bytes = 64u << 20, .in_fds = 4 };
        int r = channel_init(&f->c, fd, &limits);

        if (r < 0)
                return r;
        (void)atomic_fetch_add(&f->connections, 1);
        f->script(f);
        channel_deinit(&f->c);
        return 0;
}

static void *fake_run_pair(void *p) {
        struct fake *f = p;

        (void)fake_serve(f, f->c.fd);
        return NULL;
}

static void *fake_run_listener(void *p) {
        struct fake *f = p;

        while (!atomic_load(&f->stop)) {
                struct pollfd pfd = { .fd = f->listener.fd, .events = POLLIN };
                int fd;

                if (poll(&pfd, 1, 20) > 0 && listener_accept(&f->listener, &fd) == 1)
                        (void)fake_serve(f, fd);
        }
        return NULL;
}

/* Starts a service over a socketpair. The client's end or -1. */
__attribute__((unused)) static int fake_start(struct fake *f, void (*script)(struct fake *f), void *data) {
        int sv[2];

        *f = (struct fake){ .script = script, .data = data, .listener = LISTENER_NULL };
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
                return -1;
        f->c.fd = sv[0];
        if (pthread_create(&f->thread, NULL, fake_run_pair, f) != 0)
                return -1;
        return sv[1];
}

/* Starts a service at a path, for any number of connections, one after another. */
__attribute__((unused)) static int fake_start_at(struct fake *f, const char *path, void (*script)(struct fake *f),
                                                 void *data) {
        *f = (struct fake){ .script = script, .data = data };
        if (listener_init(&f->listener, path, 0600, (gid_t)-1) != 0)
                return -1;
        return pthread_create(&f->thread, NULL, fake_run_listener, f) == 0 ? 0 : -1;
}

__attribute__((unused)) static void fake_stop(struct fake *f) {
        atomic_store(&f->stop, true);
        (void)pthread_join(f->thread, NULL);
        if (f->listener.fd >= 0 && f->listener.path[0])
                listener_deinit(&f->listener);
}
