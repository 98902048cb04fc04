/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The engine core's state, shared by its steps (engine.c), by who comes, waits and makes room (engine-admit.c), and by its
 * birth and death (engine-new.c). */

#include <stdatomic.h>

#include "engine.h"
#include "forward.h"
#include "prefix.h"
#include "sampler.h"
#include "schedule.h"
#include "sequence.h"

struct engine {
        struct lm *model;               /* borrowed */
        const struct tokenizer *tokenizer; /* borrowed */
        struct engine_config config;
        struct engine_events events;
        void *userdata;
        const int32_t *opening; /* of a text, mostly BOS; the tokenizer's */
        size_t n_opening;
        struct kv_pool pool;
        struct prefix_cache *prefix;
        struct kv_cache *kv;
        uint64_t page_bytes;
        uint32_t cache_limit; /* pages that the prefix cache alone may hold; UINT32_MAX = all that are free */
        struct forward *forward;
        struct sampler sampler;
        uint32_t max_logits;
        uint32_t batch; /* rows of a step at the moment; at most max_rows */

        struct schedule schedule;
        struct schedule_pace pace;
        struct list waiting, running, paused, draining;
        uint32_t n_draining;
        uint64_t steps, tokens;
        double us_per_request;  /* for telling when to try again */
        atomic_bool noticed, noticed_credit;

        /* one step's arrays */
        struct sequence **seqs;          /* [max_sequences] */
        const uint32_t **tables;         /* [max_sequences] */
        int32_t *row_token;              /* [max_rows] */
        uint32_t *row_pos, *row_seq;     /* [max_rows] */
        uint32_t *logit_row, *logit_seq; /* [max_logits] */
        float *logits;                   /* [max_logits][n_vocab] */
        struct forward_top top;          /* [max_logits][SAMPLER_TOP_MAX]; NULLs where the backend has no top() */
};

/* forward_run() and forward_logits(), watched; the latter to e->logits. 0 or negative. */
int engine_run(struct engine *e, const struct batch *batch, const uint32_t *logit_rows, uint32_t n,
               const struct forward_top *top);
int engine_fetch_logits(struct engine *e, uint32_t first, uint32_t n);

/* --- ends (engine.c) --- */

/* Takes it out of its list and gives its pages back at once. */
void engine_detach(struct engine *e, struct sequence *s);
void engine_fail(struct engine *e, struct sequence *s, Spark__V1__ErrorCode code, const char *text);
/* Sends what waits, as far as its credit goes. True when nothing waits any more. */
bool engine_drain(struct engine *e, struct sequence *s);
/* Computed to its end: the pages go at once, the last chunks may have to wait for credit. */
void engine_finish(struct engine *e, struct sequence *s, Spark__V1__FinishReason reason);

/* What changed in requests since the last time: cancelled ones end, credit is used. */
void engine_handle_notices(struct engine *e);

/* --- coming, waiting, room (engine-admit.c) --- */

/* Gives slots and pages to those whose turn it is. 0 or negative. */
int engine_admit(struct engine *e);
/* Room for the tokens that running sequences have; parks some where there isn't any. 1 where it did that, 0, or negative. */
int engine_grow(struct engine *e);
/* Takes the pages of one that does not run, of this user or of any (NULL); not those of `keep`. False where none has any. */
bool engine_release_one(struct engine *e, const struct schedule_user *user, const struct sequence *keep);
/* A running one waits again, without its pages. */
void engine_park(struct engine *e, struct schedule_request *running);
/* Gives up its pages; those that are complete stay in the prefix cache. */
void engine_release(struct engine *e, struct sequence *s);
/* What a step completed goes to the prefix cache. 0 or negative. */
int engine_store(struct engine *e, struct sequence *s);

/* --- memory (engine-room.c) --- */

/* Between two steps, while KV is bounded: what the bounds do not leave is given up, and memory of free pages given back to the
 * system; all of it with `idle`. */
void engine_keep_bounds(struct engine *e, bool idle);
/* A page for a use that ends before anybody else can take one: free, or page 0, whose content is kept in *ret_kept (else
 * NULL) until engine_return_page(). 0 or negative. */
int engine_borrow_page(struct engine *e, uint32_t *ret_page, void **ret_kept);
int engine_return_page(struct engine *e, uint32_t page, void *kept);
