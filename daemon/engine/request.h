/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A request as the engine works on it: a plain struct, checked, without any protocol in it. Made by whoever submits
 * (the link's prep thread, spark-bench, tests), lent to the engine from engine_submit() to its last event.
 *
 * Two fields are shared between threads: `cancelled` and `granted`. Whoever changes them calls engine_notice() after.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macro.h"
#include "sampler.h"
#include "schedule.h"
#include "spark.pb-c.h"
#include "stop.h"

#define REQUEST_BIAS_MAX 1024u
#define REQUEST_WINDOW_MAX 4096u
#define REQUEST_ENDLESS UINT32_MAX /* max_tokens: up to the end of the context */

enum {
        REQUEST_E_FAILED = 1, /* the request's fault or fate; see struct failure */
};

/* Why a request ends without Done. */
struct failure {
        Spark__V1__ErrorCode code;
        char text[384];
        uint64_t have, max;
        uint32_t retry_after_ms;
};

/* Fills *f and returns REQUEST_E_FAILED. */
int failure_set(struct failure *f, Spark__V1__ErrorCode code, const char *format, ...) _printf_(3, 4);

enum request_kind {
        REQUEST_GENERATE, /* and Chat, once it is a prompt */
        REQUEST_SCORE,
        REQUEST_PREWARM, /* computes the prompt's KV for the prefix cache, and no more */
        /* Not for engine_submit(): the link's step thread sees to these. */
        REQUEST_FORGET,
        REQUEST_SPILL,
        REQUEST_RESTORE,
};

struct request {
        uint64_t key;
        uint64_t client;
        uint32_t uid;           /* whose share, KV and prefix cache it is */
        uint32_t weight;        /* of the user's share; 0 = 1 */
        enum schedule_class class;
        /* What the user may have at most; 0 = no limit. */
        uint32_t running_limit; /* requests; more wait */
        uint32_t queued_limit;  /* waiting requests; more are refused */
        uint64_t kv_limit;      /* bytes of KV in use; more wait, and a request that needs more alone is refused */
        enum request_kind kind;
        int32_t *tokens; /* the prompt; Score: the text */
        size_t n_tokens;
        int32_t *generated; /* replay: what was delivered already */
        size_t n_generated;
        bool replay; /* an engine that is gone had accepted it: no queue is too long for it */
        struct sampler_params sampling; /* its bias points to `bias` */
        struct logit_bias *bias;
        struct stop_string stop[STOP_STRINGS_MAX]; /* their text lies in stop_text */
        size_t n_stop;
        char *stop_text;
        uint32_t max_tokens;
        bool ignore_eos;
        bool raw_bytes;
        bool share;             /* Prewarm: for every user. Forget: of every user */
        uint32_t window; /* Score: tokens per window, 0 = the context */
        uint64_t arrived_us; /* CLOCK_MONOTONIC */
        /* What was done for it so far; the engine's to write. Tokens of the prompt that were found or computed, of these:
         * found in the prefix cache, and generated ones. */
        struct {
                uint32_t prompt, cached, completion;
        } so_far;

        atomic_bool cancelled;
        _Atomic uint64_t granted; /* tokens that may be sent, all in all */
};

/* Frees what the fields hold, not the struct. */
void request_deinit(struct request *r);

/* Sampling out of the protocol, with its defaults (NULL: all of them). seed: for where none is given.
 * 0, REQUEST_E_FAILED (the sentence names the field), or -ENOMEM. */
int request_set_sampling(struct request *r, const Spark__V1__Sampling *sampling, uint32_t n_vocab, uint64_t seed,
                         struct failure *f);
/* Token ids out of the protocol; `field` names them in the sentence. */
int request_copy_tokens(const uint32_t *ids, size_t n, uint32_t n_vocab, const char *field, int32_t **ret,
                        struct failure *f);
