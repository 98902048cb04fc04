/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The transport to a server that speaks HTTP/1.1 with server-sent events, as llama-server does: POST /completion with
 * "stream", POST /tokenize. For comparing on one machine, so only loopback addresses are taken. A request under way has
 * a connection of its own, which the client keeps for its next one; a request is cancelled by closing its connection.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/list.h"
#include "base/macro.h"
#include "client/spark.h"
#include "daemon/text/jinja/json.h"
#include "load-http-reply.h"
#include "load-transport.h"
#include "measure.h"

#define REQUEST_MAX ((size_t)64 << 20)
#define ARENA_MAX ((size_t)64 << 20)
#define JSON_DEPTH 32u
#define READS_PER_TURN 4
#define TOKENIZE_TIMEOUT_US 60e6

enum conn_state {
        CONN_CLOSED,
        CONN_CONNECTING,
        CONN_IDLE, /* may carry a request */
        CONN_BUSY, /* carries one: sends it, reads the answer */
};

struct conn {
        struct list in_link;
        struct load_watch watch;
        struct load_timer closing; /* a cancelled request ends outside of the run's call */
        struct load_link *link;
        enum conn_state state;
        int fd;
        uint64_t id;    /* of the request */
        void *request;  /* NULL: none; for the link's first connection and for tokenize */
        bool reused;    /* carried another request before: may turn out to be closed */
        bool cancelled;
        bool complete;  /* the answer's last event has come */
        struct buf out;
        size_t sent;
        struct http_reply reply;
        uint64_t tokens; /* received */
        struct load_outcome outcome;
        char message[256];
};

struct load_link {
        const struct load_context *context;
        void *client; /* NULL: the link of tokenize */
        struct list conns;
        struct sockaddr_storage address;
        socklen_t address_size;
        char host[64]; /* the Host header */
        uint64_t next_id;
        bool greeted;
        int tokenize_code; /* positive: enum spark_code */
        uint32_t *tokenize_ret;
        bool tokenize_done;
};

static int on_event(void *userdata, const char *data, size_t n);
static void on_ready(struct load_watch *w, uint32_t events);
static void on_closing(struct load_timer *t, double now_us);
static int conn_connect(struct conn *c);

/* "127.0.0.1:8080", "[::1]:8080", "localhost:8080". */
static int parse_address(struct load_link *l, const char *text) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&l->address;
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&l->address;
        const char *colon = strrchr(text, ':');
        char host[64], *end;
        unsigned long port;
        size_t n;

        if (!colon || (size_t)(colon - text) >= sizeof(host) || strlen(text) >= sizeof(l->host))
                return -EINVAL;
        n = (size_t)(colon - text);
        memcpy(host, text, n);
        host[n] = 0;
        errno = 0;
        port = strtoul(colon + 1, &end, 10);
        if (errno || end == colon + 1 || *end || port == 0 || port > 65535)
                return -EINVAL;
        (void)strcpy(l->host, text);
        if (strcmp(host, "localhost") == 0)
                (void)strcpy(host, "127.0.0.1");
        if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
                v4->sin_family = AF_INET;
                v4->sin_port = htons((uint16_t)port);
                l->address_size = sizeof(*v4);
                return ntohl(v4->sin_addr.s_addr) >> 24 == 127 ? 0 : -EADDRNOTAVAIL;
        }
        if (strcmp(host, "[::1]") == 0) {
                v6->sin6_family = AF_INET6;
                v6->sin6_addr = in6addr_loopback;
                v6->sin6_port = htons((uint16_t)port);
                l->address_size = sizeof(*v6);
                return 0;
        }
        return -EADDRNOTAVAIL;
}

/* ---- connections ---- */

static struct conn *conn_free(struct conn *c) {
        if (!c)
                return NULL;
        list_remove(&c->in_link);
        load_loop_unwatch(c->link->context->loop, &c->watch);
        load_loop_clear(c->link->context->loop, &c->closing);
        c->fd = fd_close(c->fd);
        buf_deinit(&c->out);
        http_reply_deinit(&c->reply);
        free(c);
        return NULL;
}

static struct conn *conn_new(struct load_link *l) {
        struct conn *c = calloc(1, sizeof(*c));

        if (!c)
                return NULL;
        c->watch = (struct load_watch){ -1, on_ready };
        c->closing.fn = on_closing;
        c->link = l;
        c->fd = -1;
        c->out = BUF_NULL(REQUEST_MAX);
        http_reply_init(&c->reply, on_event, c);
        list_append(&l->conns, &c->in_link);
        return c;
}

static void conn_close(struct conn *c) {
        load_loop_unwatch(c->link->context->loop, &c->watch);
        c->fd = fd_close(c->fd);
        c->state = CONN_CLOSED;
}

/* Ends the request that c carries, if any. The connection is closed unless it can be used again. */
static void conn_end(struct conn *c, int code, const char *message) {
        const struct load_context *context = c->link->context;
        void *request = c->request;
        bool keep = code == 0 && c->reply.keep_alive && c->reply.state == HTTP_ENDED;

        load_loop_clear(context->loop, &c->closing);
        c->request = NULL;
        c->id = 0;
        if (!keep)
                conn_close(c);
        else
                c->state = CONN_IDLE;
        c->reused = keep;
        if (!c->link->client) {
                c->link->tokenize_done = true;
                c->link->tokenize_code = code;
        } else if (request) {
                c->outcome.code = code;
                c->outcome.message = message;
                context->listener->ended(request, &c->outcome);
        } else if (!c->link->greeted) {
                context->listener->lost(c->link->client, code, message);
        }
}

static int set_events(struct conn *c, uint32_t events) {
        return load_loop_change(c->link->context->loop, &c->watch, events);
}

/* Sends what is left of the request. 0 or -errno. */
static int conn_send(struct conn *c) {
        while (c->sent < c->out.len) {
                ssize_t n = send(c->fd, c->out.data + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);

                if (n < 0 && errno == EAGAIN)
                        return set_events(c, EPOLLIN | EPOLLOUT);
                if (n < 0)
                        return -errno;
                c->sent += (size_t)n;
        }
        return set_events(c, EPOLLIN);
}

/* A server may close a connection that it kept, just when it is used again: then it is tried once more on a new one. */
static bool conn_retry(struct conn *c) {
        if (!c->reused || c->reply.state != HTTP_STATUS || c->reply.line.len > 0)
                return false;
        conn_close(c);
        c->reused = false;
        c->sent = 0;
        http_reply_reset(&c->reply);
        return conn_connect(c) == 0;
}

static void conn_fail(struct conn *c, const char *message) {
        if (c->state == CONN_BUSY && conn_retry(c))
                return;
        conn_end(c, SPARK_DISCONNECTED, message);
}

/* Connected: the first one of a client tells so, any other goes on with its request. */
static void conn_connected(struct conn *c) {
        struct load_link *l = c->link;
        int error = 0;
        socklen_t size = sizeof(error);

        if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error != 0) {
                conn_end(c, SPARK_DISCONNECTED, "The server cannot be reached.");
                return;
        }
        c->state = c->out.len > 0 ? CONN_BUSY : CONN_IDLE;
        if (set_events(c, EPOLLIN) < 0 || (c->state == CONN_BUSY && conn_send(c) < 0)) {
                conn_fail(c, "The server closed the connection.");
                return;
        }
        if (!l->greeted && l->client) {
                l->greeted = true;
                l->context->listener->connected(l->client);
        }
}

static int conn_connect(struct conn *c) {
        const struct load_link *l = c->link;
        int one = 1, r;

        c->fd = socket(l->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (c->fd < 0)
                return -errno;
        (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        r = connect(c->fd, (const struct sockaddr *)&l->address, l->address_size) < 0 ? -errno : 0;
        if (r == 0 || r == -EINPROGRESS)
                r = load_loop_watch(l->context->loop, &c->watch, c->fd, EPOLLOUT);
        if (r < 0) {
                c->fd = fd_close(c->fd);
                return r;
        }
        c->state = CONN_CONNECTING; /* also where it is done: the loop tells */
        return 0;
}

/* Our name for a refusal. */
static int refusal_code(int status, const char *body) {
        if (status == 503 || status == 429)
                return SPARK_BUSY;
        if (status == 400 && strstr(body, "exceed_context_size"))
                return SPARK_CONTEXT_OVERFLOW;
        return status >= 400 && status < 500 ? SPARK_INVALID_ARGUMENT : SPARK_INTERNAL;
}

/* The whole answer is there, or as much as there will be. */
static void conn_complete(struct conn *c) {
        const char *body = c->reply.body.data ? c->reply.body.data : "";

        if (c->reply.status != 200) {
                (void)snprintf(c->message, sizeof(c->message), "HTTP %d: %.200s", c->reply.status, body);
                conn_end(c, refusal_code(c->reply.status, body), c->message);
                return;
        }
        /* what is no stream is one event */
        if (!c->reply.event_stream)
                (void)on_event(c, body, c->reply.body.len);
        if (c->complete)
                conn_end(c, 0, NULL);
        else
                conn_end(c, SPARK_PROTOCOL, c->message[0] ? c->message : "The answer ended before its last event.");
}

static void conn_read(struct conn *c) {
        char chunk[16384];

        for (unsigned i = 0; i < READS_PER_TURN && c->state == CONN_BUSY; i++) {
                ssize_t n = recv(c->fd, chunk, sizeof(chunk), 0);
                int r;

                if (n < 0 && errno == EAGAIN)
                        return;
                if (n <= 0) {
                        if (n == 0 && http_reply_eof(&c->reply) == HTTP_E_DONE)
                                conn_complete(c);
                        else
                                conn_fail(c, "The server closed the connection.");
                        return;
                }
                r = http_reply_feed(&c->reply, chunk, (size_t)n);
                if (c->cancelled)
                        return;
                if (r == HTTP_E_DONE) {
                        conn_complete(c);
                        return;
                }
                if (r != 0) {
                        conn_end(c, SPARK_PROTOCOL, c->message[0] ? c->message : "The answer is malformed.");
                        return;
                }
                if ((size_t)n < sizeof(chunk))
                        return;
        }
}

static void on_ready(struct load_watch *w, uint32_t events) {
        struct conn *c = CONTAINER_OF(w, struct conn, watch);

        if (c->cancelled)
                return;
        switch (c->state) {
        case CONN_CONNECTING:
                conn_connected(c);
                break;
        case CONN_IDLE: /* nothing is due: closed by the server */
                conn_close(c);
                break;
        case CONN_BUSY:
                if ((events & EPOLLOUT) && conn_send(c) < 0)
                        conn_fail(c, "The server closed the connection.");
                else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                        conn_read(c);
                break;
        case CONN_CLOSED:
                break;
        }
}

static void on_closing(struct load_timer *t, double now_us) {
        struct conn *c = CONTAINER_OF(t, struct conn, closing);

        c->cancelled = false;
        conn_end(c, SPARK_CANCELLED, "The connection was closed.");
}

/* ---- what the server says ---- */

static uint64_t member_u64(const struct json *object, const char *name, uint64_t otherwise) {
        const struct json *v = json_get(object, name);

        return v && v->kind == JSON_INT && v->integer >= 0 ? (uint64_t)v->integer : otherwise;
}

/* One event of a completion. The running count of tokens tells how many are new: characters that are not whole yet are
 * held back, and with them the event. */
static void take_completion(struct conn *c, const struct json *event) {
        const struct json *content = json_get(event, "content"), *stop = json_get(event, "stop");
        uint64_t predicted = member_u64(event, "tokens_predicted", c->tokens);
        bool last = stop && stop->kind == JSON_BOOL && stop->boolean;

        if (last) {
                uint64_t cached = member_u64(json_get(event, "timings"), "cache_n", 0);

                c->outcome.prompt_tokens = (uint32_t)MIN(member_u64(event, "tokens_evaluated", 0), UINT32_MAX);
                c->outcome.cached_tokens = (uint32_t)MIN(cached, UINT32_MAX);
                c->complete = true;
        }
        if (predicted > c->tokens && predicted - c->tokens <= UINT32_MAX) {
                size_t n = (size_t)(predicted - c->tokens);
                bool text = content && content->kind == JSON_STRING;

                c->tokens = predicted;
                if (c->request)
                        c->link->context->listener->tokens(c->request, n, text ? content->text : "",
                                                           text ? content->n : 0);
        }
}

static int on_event(void *userdata, const char *data, size_t n) {
        struct arena arena = ARENA_NULL(ARENA_MAX);
        struct json_error error;
        struct conn *c = userdata;
        const struct json *tokens;
        struct json event;
        int r = 0;

        if (c->cancelled || c->complete || (n == 6 && memcmp(data, "[DONE]", 6) == 0))
                return 0;
        if (json_parse(&arena, data, n, JSON_DEPTH, &event, &error) != 0) {
                (void)snprintf(c->message, sizeof(c->message), "An event is no JSON: %s", error.text);
                r = HTTP_E_MALFORMED;
        } else if (json_get(&event, "error")) {
                (void)snprintf(c->message, sizeof(c->message), "The server reports: %.*s", (int)MIN(n, (size_t)200),
                               data);
                r = HTTP_E_MALFORMED;
        } else if (!c->link->client) {
                tokens = json_get(&event, "tokens");
                c->complete = tokens && tokens->kind == JSON_ARRAY;
                if (c->complete)
                        *c->link->tokenize_ret = (uint32_t)MIN(tokens->n, (size_t)UINT32_MAX);
        } else {
                take_completion(c, &event);
        }
        arena_deinit(&arena);
        return r;
}

/* ---- the transport ---- */

static struct load_link *link_free(struct load_link *l) {
        if (!l)
                return NULL;
        while (!list_empty(&l->conns))
                (void)conn_free(LIST_ENTRY(l->conns.next, struct conn, in_link));
        free(l);
        return NULL;
}
DEFINE_CLEANUP(struct load_link *, link_free)

static int link_init(struct load_link **ret, const struct load_context *context, void *client) {
        _cleanup_(link_freep) struct load_link *l = calloc(1, sizeof(*l));
        int r;

        if (!l)
                return -ENOMEM;
        l->context = context;
        l->client = client;
        l->next_id = 1;
        list_init(&l->conns);
        r = parse_address(l, context->target->http);
        if (r < 0)
                return r;
        *ret = steal_ptr(&l);
        return 0;
}

static int link_new(struct load_link **ret, const struct load_context *context, void *client, int fd) {
        _cleanup_(link_freep) struct load_link *l = NULL;
        struct conn *c;
        int r;

        if (fd >= 0)
                return -EINVAL;
        r = link_init(&l, context, client);
        if (r < 0)
                return r;
        c = conn_new(l);
        r = c ? conn_connect(c) : -ENOMEM;
        if (r < 0)
                return r;
        *ret = steal_ptr(&l);
        return 0;
}

/* A connection that is free: an idle one, a closed one to open again, or a new one. */
static struct conn *link_conn(struct load_link *l) {
        struct list *pos, *tmp;
        struct conn *closed = NULL;

        LIST_FOREACH(pos, tmp, &l->conns) {
                struct conn *c = LIST_ENTRY(pos, struct conn, in_link);

                if (c->state == CONN_IDLE)
                        return c;
                if (c->state == CONN_CLOSED)
                        closed = c;
        }
        return closed ? closed : conn_new(l);
}

/* Puts the head in front of a body in c->out and sends it, or connects first. 0 or -errno. */
static int conn_post(struct conn *c, const char *path, const struct buf *body) {
        int r;

        buf_clear(&c->out);
        r = buf_printf(&c->out,
                       "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                       path, c->link->host, body->len);
        if (r == 0)
                r = buf_append(&c->out, body->data, body->len);
        if (r != 0)
                return r < 0 ? r : -EMSGSIZE;
        c->sent = 0;
        c->tokens = 0;
        c->complete = c->cancelled = false;
        c->outcome = (struct load_outcome){ .queue_ms = -1 };
        c->message[0] = 0;
        http_reply_reset(&c->reply);
        if (c->state == CONN_CLOSED)
                return conn_connect(c);
        c->state = CONN_BUSY;
        /* by the loop: it is writable at once, and a failure is told from there */
        return set_events(c, EPOLLIN | EPOLLOUT);
}

static int link_ask(struct load_link *l, const struct load_ask *ask, void *request, uint64_t *ret_id) {
        struct buf body = BUF_NULL(REQUEST_MAX);
        struct conn *c = link_conn(l);
        int r;

        if (!c)
                return -ENOMEM;
        r = buf_append_str(&body, "{\"prompt\":");
        if (r == 0)
                r = json_append_string(&body, ask->prompt, ask->prompt_size);
        if (r == 0)
                r = buf_printf(&body,
                               ",\"n_predict\":%u,\"temperature\":%.3f,\"seed\":%u,\"ignore_eos\":true,"
                               "\"cache_prompt\":true,\"stream\":true}",
                               ask->tokens, (double)l->context->target->temperature, (unsigned)(ask->seed & 0x7fffffff));
        if (r == 0)
                r = conn_post(c, "/completion", &body);
        if (r == 0) {
                c->request = request;
                *ret_id = c->id = l->next_id++;
        }
        buf_deinit(&body);
        return r > 0 ? -EMSGSIZE : r;
}

static void link_cancel(struct load_link *l, uint64_t id) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &l->conns) {
                struct conn *c = LIST_ENTRY(pos, struct conn, in_link);

                if (c->id != id || c->cancelled)
                        continue;
                c->cancelled = true;
                load_loop_at(l->context->loop, &c->closing, measure_now_us());
        }
}

static void on_timeout(struct load_timer *t, double now_us) {
}

/* One after another, in a loop that runs until the answer is there. */
static int tokenize(const struct load_context *context, const char *const *texts, size_t n, uint32_t *ret) {
        _cleanup_(link_freep) struct load_link *l = NULL;
        struct load_timer timeout = { .fn = on_timeout };
        struct buf body = BUF_NULL(REQUEST_MAX);
        int r = link_init(&l, context, NULL);

        for (size_t i = 0; i < n && r == 0; i++) {
                double end = measure_now_us() + TOKENIZE_TIMEOUT_US;
                struct conn *c = link_conn(l);

                buf_clear(&body);
                l->tokenize_ret = &ret[i];
                l->tokenize_done = false;
                r = c ? buf_append_str(&body, "{\"add_special\":true,\"content\":") : -ENOMEM;
                if (r == 0)
                        r = json_append_string(&body, texts[i], strlen(texts[i]));
                if (r == 0)
                        r = buf_append_str(&body, "}");
                if (r == 0)
                        r = conn_post(c, "/tokenize", &body);
                load_loop_at(context->loop, &timeout, end);
                while (r == 0 && !l->tokenize_done) {
                        r = load_loop_turn(context->loop);
                        if (r == 0 && measure_now_us() > end)
                                r = -ETIMEDOUT;
                }
                if (r == 0)
                        r = l->tokenize_code;
        }
        load_loop_clear(context->loop, &timeout);
        buf_deinit(&body);
        return r;
}

const struct load_transport load_transport_http = {
        .name = "http",
        .link_new = link_new,
        .link_free = link_free,
        .ask = link_ask,
        .cancel = link_cancel,
        .tokenize = tokenize,
};
