/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How requests reach a server: a const table of operations, so that one run drives sparkd through libspark
 * (load-spark.c) and, for comparison, a server that speaks HTTP (load-http.c), with the same prompts at the same times.
 *
 * A link is what one client has: a connection, or over HTTP one per request under way. The listener is called from the
 * loop, never from within a call that the run makes.
 */

#include <stddef.h>
#include <stdint.h>

#include "load-loop.h"

struct load_link;

/* What to talk to. */
struct load_target {
        const char *socket; /* libspark: path, NULL = its default */
        const char *http;   /* "HOST:PORT", NULL = libspark */
        const char *model;  /* NULL = the default one */
        float temperature;
};

struct load_ask {
        const char *prompt;
        size_t prompt_size;
        uint32_t tokens; /* exactly so many are generated: the end of the text does not end the answer */
        uint64_t seed;
        uint32_t priority;
        uint32_t window;     /* tokens that may be under way unread; 0 = the default */
        bool manual_credit;  /* further ones are granted with credit() */
};

/* How a request ended. */
struct load_outcome {
        int code; /* 0 = answered, else enum spark_code */
        const char *message;
        uint32_t retry_after_ms;
        uint32_t prompt_tokens;
        uint32_t cached_tokens;
        double queue_ms; /* negative: not known */
};

/* What the run is told; `client` and `request` are what it gave along. */
struct load_listener {
        void (*connected)(void *client);
        void (*lost)(void *client, int code, const char *message); /* after the end of its requests */
        void (*tokens)(void *request, size_t n, const char *text, size_t text_size);
        void (*ended)(void *request, const struct load_outcome *outcome); /* last word on a request */
};

struct load_context {
        struct load_loop *loop;
        const struct load_target *target;
        const struct load_listener *listener;
};

struct load_transport {
        const char *name;
        bool credit;   /* can hold a server back */
        bool identity; /* has users and priorities */

        /* Begins to connect, over fd where it is not negative (taken over when it succeeds). 0 or -errno; -EAGAIN: too
         * many wait to be let in, try again. */
        int (*link_new)(struct load_link **ret, const struct load_context *c, void *client, int fd);
        struct load_link *(*link_free)(struct load_link *l);
        /* Sends a request; *ret_id names it for the next two. 0 or -errno. */
        int (*ask)(struct load_link *l, const struct load_ask *ask, void *request, uint64_t *ret_id);
        void (*cancel)(struct load_link *l, uint64_t id);
        void (*credit_grant)(struct load_link *l, uint64_t id, uint32_t tokens);
        /* Waits for the number of tokens of each text, with what is put in front of a prompt. 0, -errno, or a positive
         * enum spark_code. */
        int (*tokenize)(const struct load_context *c, const char *const *texts, size_t n, uint32_t *ret);
};

extern const struct load_transport load_transport_spark;
extern const struct load_transport load_transport_http;
