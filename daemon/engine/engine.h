/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The engine's heart, without sockets and threads: requests in, steps, events out. The link's step thread drives it,
 * and so do spark-bench and the tests, in their own process.
 *
 * A step takes rows of several requests at once (schedule.h): one of each that decodes, chunks of prompts beside them.
 * A request waits for its turn (schedule.h says whose it is), runs, may be parked for others or for want of KV, is paused
 * while it has no credit, and ends with exactly one of finished() or failed(). KV is taken as it grows; what one request
 * computed is found by the next one of the same user that begins alike (prefix.h); one that lost its pages computes them
 * again: by design promise 1 nothing of that shows in anybody's tokens.
 *
 * All calls from one thread, but for engine_notice(). Errors: negative = the backend is lost, end the process.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/image/scratch.h"
#include "daemon/text/tokenizer.h"
#include "model.h"
#include "output.h"
#include "request.h"
#include "watchdog.h"

#define ENGINE_SEQUENCES IMAGE_STEP_SEQUENCES
#define ENGINE_QUEUED 1024u
#define ENGINE_PAGE_TOKENS 32u

enum {
        ENGINE_E_FAILED = 1, /* see struct failure */
};

/* Zero means the default everywhere. */
struct engine_config {
        uint64_t kv_bytes; /* 0 = max_sequences times the context */
        enum kv_format kv_format;
        uint32_t max_rows;
        uint32_t max_sequences;
        uint32_t max_queued;
        uint32_t context;        /* 0 = the model's */
        uint32_t step_target_us; /* wanted gap between two tokens of a running stream; 0 = no limit */
        struct watchdog *watchdog; /* borrowed: told of calls that may hang; NULL = nobody watches */
        uint64_t quantum;        /* units of service by which a user may be ahead of one that waits; for tests */
};

struct engine_done {
        Spark__V1__FinishReason reason;
        uint32_t prompt_tokens;
        uint32_t cached_tokens; /* of the prompt: their KV was there */
        uint32_t completion_tokens;
        float queue_ms, prefill_ms, decode_ms;
        uint64_t seed;
        uint64_t scored; /* Score: tokens */
        double nll;      /* ... their mean */
};

/* What happens to requests, called from engine_submit() and engine_step(). Chunks are valid during the call. After
 * finished() or failed() the engine has let go of the request. */
struct engine_events {
        void (*accepted)(void *userdata, struct request *r);
        void (*token)(void *userdata, struct request *r, const struct output_chunk *chunk);
        void (*progress)(void *userdata, struct request *r, uint64_t done, uint64_t total);
        void (*finished)(void *userdata, struct request *r, const struct engine_done *done);
        void (*failed)(void *userdata, struct request *r, const struct failure *failure);
};

struct engine_stats {
        uint64_t steps;
        uint64_t tokens;
        uint32_t running, queued, paused;
        uint64_t kv_used_bytes;   /* held by requests */
        uint64_t kv_cached_bytes; /* held by the prefix cache alone */
        uint64_t kv_bytes;        /* of the cache, all in all, and as far as it may be used: */
        uint64_t kv_limit_bytes;
        uint64_t kv_resident_bytes; /* memory of the host's that it takes now */
        uint64_t other_bytes; /* activations, logits, tables */
        uint64_t scratch_bytes; /* of other_bytes: in the backend's memory */
        uint32_t context;
};

struct engine;

/* model and tokenizer are borrowed. 0, ENGINE_E_FAILED, or negative. */
int engine_new(struct engine **ret, struct lm *model, const struct tokenizer *tokenizer,
               const struct engine_config *config, const struct engine_events *events, void *userdata,
               struct failure *f);
struct engine *engine_free(struct engine *e);
DEFINE_CLEANUP(struct engine *, engine_free)

/* A step of one token, twice: finite logits, equal bits. At the start, or between any two steps: it leaves no trace. 0,
 * ENGINE_E_FAILED, or negative. */
int engine_self_test(struct engine *e, struct failure *f);

/* Takes a request: accepted(), or failed() at once. 0 or negative. */
int engine_submit(struct engine *e, struct request *r);
/* One step. 1 = there may be more to do, 0 = nothing to do until the next submit or notice, negative: lost. */
int engine_step(struct engine *e);
/* In the place of a step, where none is to be made: what was cancelled ends, bounds are kept. */
void engine_rest(struct engine *e);
/* From any thread: some request's `cancelled` or `granted` has changed; the second one is for `granted` alone. */
void engine_notice(struct engine *e);
void engine_notice_credit(struct engine *e);
/* Drops what the prefix cache has of a user, or of everybody. */
void engine_forget(struct engine *e, uint32_t uid);
void engine_forget_all(struct engine *e);
/* Between two steps: so many rows a step has from now on at most, and half as many sequences, so that what decodes leaves room for
 * prompts; 0 = as many as configured. Those that run and are too many wait, with their pages. Returns how many rows. */
uint32_t engine_cap_batch(struct engine *e, uint32_t rows);
/* Bounds the memory of KV from now on (engine-room.c): of the prefix cache, and of all; UINT64_MAX = as much as there is. What is
 * beyond is given up at once, and what is free given back to the system: the prefix cache first, then requests that hold pages
 * without running, then running ones, the one furthest ahead first. They wait and go on when there is room. Returns how many
 * bytes of the host's memory were given back. */
uint64_t engine_resize(struct engine *e, uint64_t cache_bytes, uint64_t kv_bytes);

/* Pages of the prefix cache in and out, for keeping a text's KV elsewhere (engine-pages.c). A page is engine_page_bytes()
 * bytes in the backend's own layout. Counts are of whole pages from the text's beginning. */
size_t engine_page_bytes(const struct engine *e);
uint32_t engine_cached_pages(struct engine *e, uint32_t uid, const int32_t *tokens, size_t n);
/* Copies cached pages [first, first + most) of the text to data [most][page bytes]. How many there were, or negative. */
int engine_export_pages(struct engine *e, uint32_t uid, const int32_t *tokens, size_t n, uint32_t first, uint32_t most,
                        void *data);
/* Puts pages [first, first + n) of the text into the user's cache, where those before are there and room can be had
 * without disturbing anybody's request. How many of them are there now, or negative. */
int engine_import_pages(struct engine *e, uint32_t uid, const int32_t *tokens, uint32_t first, uint32_t n,
                        const void *data);

void engine_get_stats(const struct engine *e, struct engine_stats *ret);

/* What a user has here. */
struct engine_user {
        uint32_t uid;
        uint32_t running, queued;
        uint64_t kv_used_bytes, kv_cached_bytes;
};

/* Users with anything; at most max. Returns how many. */
size_t engine_list_users(const struct engine *e, struct engine_user *users, size_t max);
/* Keys of the requests that wait, and of those that are paused; at most max of each. Returns how many. */
size_t engine_list_queued(const struct engine *e, uint64_t *keys, size_t max);
size_t engine_list_paused(const struct engine *e, uint64_t *keys, size_t max);

/* Runs one sequence of tokens and hands out every row's logits [n_vocab] in order (spark-bench logits, tests). No
 * request may be running. 0, ENGINE_E_FAILED, negative, or what `row` returned where that is not 0. */
int engine_run_logits(struct engine *e, const int32_t *tokens, size_t n,
                      int (*row)(void *userdata, size_t pos, const float *logits), void *userdata, struct failure *f);
