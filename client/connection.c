/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The connection: one dispatcher at a time reads frames and delivers events; everybody may send. The descriptor that
 * callers poll is an epoll set of the socket (for writing only while something waits to be written) and an eventfd that
 * tells of the connection's failure, so that every thread that polls notices.
 *
 * What the service may not do (an answer to a request that is not open, a second greeting, arrays that don't fit) ends
 * the connection with SPARK_PROTOCOL: after that nothing it says can be trusted.
 */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "internal.h"
#include "message.h"

struct request *connection_find(struct spark *s, uint64_t id) {
        struct list *head = &s->buckets[id % CLIENT_BUCKETS], *pos, *tmp;

        LIST_FOREACH(pos, tmp, head) {
                struct request *q = LIST_ENTRY(pos, struct request, link);

                if (q->id == id)
                        return q;
        }
        return NULL;
}

/* ---- sending ---- */

static void output_stop(struct spark *s) {
        s->output_dead = true;
        /* what was queued can't be sent; the dispatcher still reads what the service said before it went */
        (void)shutdown(s->channel.fd, SHUT_WR);
}

static void connection_watch(struct spark *s) {
        uint32_t events = EPOLLIN;
        struct epoll_event e;

        if (s->failed)
                return;
        if (!s->output_dead && !connect_is_open(s) && channel_wants_write(&s->channel))
                events |= EPOLLOUT;
        if (events == s->epoll_events)
                return;
        e = (struct epoll_event){ .events = events };
        if (epoll_ctl(s->epoll_fd, EPOLL_CTL_MOD, s->channel.fd, &e) == 0)
                s->epoll_events = events;
}

void connection_flush(struct spark *s) {
        int r;

        if (s->failed || s->output_dead || connect_is_open(s))
                return;
        r = channel_flush(&s->channel);
        if (r < 0 || r == CHANNEL_E_EOF)
                output_stop(s);
        connection_watch(s);
}

int connection_send(struct spark *s, const Spark__V1__ClientFrame *frame, const int *fds, size_t n_fds, size_t out_max) {
        int r;

        if (s->failed || s->output_dead)
                return -ENOTCONN;
        s->channel.limits.out_bytes = out_max;
        r = message_queue_fds(&s->channel, &frame->base, fds, n_fds);
        switch (r) {
        case CHANNEL_E_FULL:
                return -ENOBUFS;
        case CHANNEL_E_OVERSIZE:
                return -EMSGSIZE;
        default:
                return r;
        }
}

/* ---- birth and death ---- */

static void spark_destroy(struct spark *s) {
        for (size_t i = 0; i < CLIENT_BUCKETS; i++)
                while (!list_empty(&s->buckets[i]))
                        (void)request_free(LIST_ENTRY(s->buckets[i].next, struct request, link));
        channel_deinit(&s->channel);
        (void)fd_close(s->epoll_fd);
        (void)fd_close(s->failed_fd);
        connect_deinit(s);
        buf_deinit(&s->text);
        free(s->server_software);
        (void)pthread_cond_destroy(&s->dispatch_ended);
        (void)pthread_mutex_destroy(&s->lock);
        free(s);
}

struct spark *spark_ref(struct spark *s) {
        if (s)
                (void)atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
        return s;
}

struct spark *spark_unref(struct spark *s) {
        if (s && atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) == 1)
                spark_destroy(s);
        return NULL;
}

/* ---- events ---- */

/* Calls a callback with the lock released. */
static int call(struct spark *s, const struct request *q, const struct spark_event *event) {
        spark_event_fn fn = q->fn;
        void *userdata = q->userdata;
        int r;

        pthread_mutex_unlock(&s->lock);
        r = fn(s, event, userdata);
        pthread_mutex_lock(&s->lock);
        return r;
}

static void waiters_notify(struct spark *s, uint64_t id, int code) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &s->waiters) {
                struct waiter *w = LIST_ENTRY(pos, struct waiter, link);

                if (w->id != id || w->done)
                        continue;
                w->done = true;
                w->code = code;
                (void)eventfd_write(w->event_fd, 1);
        }
}

/* Ends a request: the last event, or the result that waits to be taken. Takes over reply (NULL: out of memory). */
static void request_end(struct spark *s, struct request *q, struct reply *reply) {
        static const struct spark_error no_memory = { .code = SPARK_INTERNAL, .message = "Out of memory." };
        const struct spark_error *error = !reply ? &no_memory : reply->error.code ? &reply->error : NULL;
        const struct spark_event event = {
                .type = error ? SPARK_EVENT_ERROR : SPARK_EVENT_DONE,
                .id = q->id,
                .done = error ? NULL : &reply->done,
                .error = error,
                .load = error && reply ? reply->refused : NULL,
        };
        int code = error ? error->code : 0;
        uint64_t id = q->id;

        q->ended = true;
        if (q->forgotten || q->fn || !reply) {
                /* out of the table first: nobody else can reach it while the callback runs */
                list_remove(&q->link);
                if (q->fn && !q->forgotten)
                        (void)call(s, q, &event);
                (void)reply_free(reply);
                (void)request_free(q);
        } else {
                q->reply = reply;
        }
        waiters_notify(s, id, code);
}

/* Ends everything. Called by the dispatcher. */
static void connection_fail(struct spark *s, int code, const char *text) {
        if (s->failed)
                return;
        s->failed = true;
        s->failed_code = code;
        (void)snprintf(s->failed_text, sizeof(s->failed_text), "%s", text);
        (void)epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, s->channel.fd, NULL);
        (void)eventfd_write(s->failed_fd, 1);
        (void)shutdown(s->channel.fd, SHUT_RDWR);
        waiters_notify(s, 0, code);
        for (size_t i = 0; i < CLIENT_BUCKETS; i++) {
                struct list *head = &s->buckets[i];
                bool again = true;

                /* from the start after each: the callback released the lock */
                while (again) {
                        struct list *pos, *tmp;

                        again = false;
                        LIST_FOREACH(pos, tmp, head) {
                                struct request *q = LIST_ENTRY(pos, struct request, link);
                                struct reply *reply = NULL;

                                if (q->ended)
                                        continue;
                                (void)reply_new_error(&reply, code, s->failed_text);
                                request_end(s, q, reply);
                                again = true;
                                break;
                        }
                }
        }
}

static int on_hello(struct spark *s, const Spark__V1__ServerFrame *frame) {
        if (s->server_software || frame->id != 0)
                return SPARK_PROTOCOL;
        s->max_priority = (int)frame->hello->max_priority;
        for (size_t i = 0; i < frame->hello->n_features; i++)
                s->authorization |= strcmp(frame->hello->features[i], CLIENT_FEATURE_AUTHORIZATION) == 0;
        s->server_software = strdup(frame->hello->software);
        if (!s->server_software)
                return -ENOMEM;
        waiters_notify(s, 0, 0);
        connect_end(s);
        connection_flush(s);
        return 0;
}

/* Gives back the credit for what was consumed, in halves of the window so that the stream never runs dry. */
static int consumed(struct spark *s, struct request *q, size_t n) {
        int r;

        if (q->manual_credit || q->ended)
                return 0;
        q->consumed += (uint32_t)MIN(n, (size_t)(UINT32_MAX - q->consumed));
        if (q->consumed < MAX(q->window / 2, 1u))
                return 0;
        r = request_grant(s, q, q->consumed);
        if (r == -ENOTCONN)
                return 0;
        q->consumed = 0;
        connection_flush(s);
        return r;
}

static int on_token(struct spark *s, struct request *q, const Spark__V1__Token *token) {
        struct spark_tokens tokens;
        struct spark_event event = { .type = SPARK_EVENT_TOKEN, .id = q->id, .tokens = &tokens };
        int r;

        if (!q->streams)
                return SPARK_PROTOCOL;
        r = reply_show_tokens(token, &s->text, &tokens);
        if (r)
                return r;
        if (q->forgotten)
                return 0;
        if (!q->fn)
                r = collected_add(&q->collected, &tokens);
        else if (call(s, q, &event) != 0)
                (void)request_send_cancel(s, q->id);
        if (r == 0)
                r = consumed(s, q, tokens.n);
        return r == BUF_E_LIMIT ? -ENOMEM : r;
}

static void on_progress(struct spark *s, struct request *q, const Spark__V1__Progress *p) {
        const struct spark_progress progress = { .stage = p->stage, .done = p->done, .total = p->total,
                                                 .bytes_per_second = p->bytes_per_second, .eta_ms = p->eta_ms };
        const struct spark_event event = { .type = SPARK_EVENT_PROGRESS, .id = q->id, .progress = &progress };

        if (q->fn && !q->forgotten && call(s, q, &event) != 0)
                (void)request_send_cancel(s, q->id);
}

/* An error that concerns the connection. The service closes after it. */
static void on_connection_error(struct spark *s, const Spark__V1__Error *e) {
        char text[256];

        (void)snprintf(text, sizeof(text), "%s", e->message[0] ? e->message : "The service ended the connection.");
        connection_fail(s, error_code(e, SPARK_DISCONNECTED), text);
}

/* Takes over the frame. 0, SPARK_PROTOCOL, or -ENOMEM. */
static int on_frame(struct spark *s, Spark__V1__ServerFrame *frame) {
        struct reply *reply = NULL;
        struct request *q;
        int r = 0;

        if (frame->id == 0 && frame->body_case == SPARK__V1__SERVER_FRAME__BODY_ERROR) {
                on_connection_error(s, frame->error);
                goto out;
        }
        if (frame->body_case == SPARK__V1__SERVER_FRAME__BODY_HELLO) {
                r = on_hello(s, frame);
                goto out;
        }
        q = connection_find(s, frame->id);
        if (!s->server_software || !q || q->ended) {
                r = SPARK_PROTOCOL;
                goto out;
        }
        switch (frame->body_case) {
        case SPARK__V1__SERVER_FRAME__BODY_TOKEN:
                r = on_token(s, q, frame->token);
                break;
        case SPARK__V1__SERVER_FRAME__BODY_PROGRESS:
                on_progress(s, q, frame->progress);
                break;
        case SPARK__V1__SERVER_FRAME__BODY_DONE:
        case SPARK__V1__SERVER_FRAME__BODY_ERROR:
                if (reply_new(&reply, frame) == 0)
                        frame = NULL;
                request_end(s, q, reply);
                break;
        default: /* a kind of frame from a newer service */
                break;
        }
out:
        if (frame)
                (void)message_free(&frame->base);
        return r;
}

/* ---- processing ---- */

static void dispatch_frames(struct spark *s) {
        struct channel_frame f;
        int r;

        while (!s->failed && (r = channel_next(&s->channel, &f)) != 0) {
                ProtobufCMessage *m = NULL;
                struct message_fault fault;

                if (r == CHANNEL_E_TRUNCATED && connect_is_open(s))
                        return;
                if (r != 1) {
                        connection_fail(s, r == CHANNEL_E_TRUNCATED ? SPARK_DISCONNECTED : SPARK_PROTOCOL,
                                        r == CHANNEL_E_TRUNCATED ? "The service closed the connection within a frame."
                                                                 : "The service sent a frame of impossible length.");
                        return;
                }
                r = message_unpack(&spark__v1__server_frame__descriptor, f.data, f.size, &m, &fault);
                if (r == 0)
                        r = on_frame(s, (Spark__V1__ServerFrame *)m);
                if (r == -ENOMEM)
                        connection_fail(s, SPARK_INTERNAL, "Out of memory.");
                else if (r == -ENOBUFS)
                        connection_fail(s, SPARK_DISCONNECTED, "The service does not read what it is sent.");
                else if (r != 0)
                        connection_fail(s, SPARK_PROTOCOL, "The service sent a message that makes no sense here.");
        }
}

/* One turn. Called by the dispatcher with the lock held. */
static int dispatch(struct spark *s) {
        int r;

        connection_flush(s);
        r = connect_turn(s);
        if (r == 0)
                return 0;
        if (r == 1)
                r = channel_read(&s->channel);
        dispatch_frames(s);
        if (s->failed)
                return 1;
        if (r == CHANNEL_E_EOF && connect_again(s))
                return 1;
        if (r == CHANNEL_E_EOF)
                connection_fail(s, SPARK_DISCONNECTED, "The service closed the connection.");
        else if (r == CHANNEL_E_FDS)
                connection_fail(s, SPARK_PROTOCOL, "The service sent descriptors that nobody asked for.");
        else if (r < 0)
                connection_fail(s, SPARK_DISCONNECTED, strerror(-r));
        return r != 0;
}

/* Becomes the dispatcher, waits for another one until deadline (-1: for ever). */
static int dispatch_begin(struct spark *s, int64_t deadline) {
        while (s->dispatching) {
                struct timespec ts = { .tv_sec = (time_t)(deadline / 1000), .tv_nsec = (deadline % 1000) * 1000000 };
                int r = 0;

                if (pthread_equal(s->dispatcher, pthread_self()))
                        return -EDEADLK;
                if (deadline < 0)
                        (void)pthread_cond_wait(&s->dispatch_ended, &s->lock);
                else
                        r = pthread_cond_timedwait(&s->dispatch_ended, &s->lock, &ts);
                if (r == ETIMEDOUT)
                        return -ETIMEDOUT;
        }
        s->dispatching = true;
        s->dispatcher = pthread_self();
        return 0;
}

static void dispatch_end(struct spark *s) {
        s->dispatching = false;
        (void)pthread_cond_broadcast(&s->dispatch_ended);
}

int connection_process(struct spark *s, int64_t deadline) {
        int r;

        pthread_mutex_lock(&s->lock);
        r = dispatch_begin(s, deadline);
        if (r == 0) {
                r = s->failed ? -ENOTCONN : dispatch(s);
                if (s->failed)
                        r = -ENOTCONN;
                dispatch_end(s);
        }
        pthread_mutex_unlock(&s->lock);
        return r;
}

int spark_process(struct spark *s) {
        _cleanup_(spark_unrefp) _unused_ struct spark *keep = spark_ref(s);

        return connection_process(s, -1);
}

int spark_fd(struct spark *s) {
        return s->epoll_fd;
}

int spark_events(struct spark *s) {
        return POLLIN;
}

const char *spark_server_software(struct spark *s) {
        const char *software;

        pthread_mutex_lock(&s->lock);
        software = s->server_software;
        pthread_mutex_unlock(&s->lock);
        return software;
}

int spark_max_priority(struct spark *s) {
        int priority;

        pthread_mutex_lock(&s->lock);
        priority = s->max_priority;
        pthread_mutex_unlock(&s->lock);
        return priority;
}

int spark_failed(struct spark *s, struct spark_error *ret_error) {
        bool failed;

        pthread_mutex_lock(&s->lock);
        failed = s->failed;
        if (failed && ret_error)
                *ret_error = (struct spark_error){ .code = s->failed_code, .message = s->failed_text };
        pthread_mutex_unlock(&s->lock);
        return failed;
}
