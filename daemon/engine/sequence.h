/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A request while the engine holds it: its tokens, its KV pages, its output. Private to the engine core.
 */

#include "base/list.h"
#include "engine.h"
#include "kv.h"

#define SEQUENCE_GROWTH 1024u /* tokens by which an open-ended request's reservation grows */

enum sequence_state {
        SEQUENCE_WAITING,
        SEQUENCE_RUNNING,
        SEQUENCE_DRAINING, /* computed to its end; chunks wait for credit */
};

struct sequence {
        struct list link;
        struct request *request;
        enum sequence_state state;
        struct kv_table kv;
        int32_t *tokens; /* prompt and output; Score: the window */
        size_t n_tokens, cap;
        uint32_t n_past;   /* positions that the KV cache holds */
        uint32_t n_prompt;
        uint32_t n_replay; /* output tokens that were delivered before */
        uint32_t limit;    /* most output tokens */
        bool started;      /* its output was set up: false until first admitted */
        uint64_t sent;     /* tokens sent, against request->granted */
        struct output output;
        struct output_chunk outbox[OUTPUT_CHUNKS_MAX];
        unsigned n_outbox, outbox_pos;
        Spark__V1__FinishReason reason;
        uint64_t first_step_us, first_token_us;
        /* Score */
        size_t next;       /* in request->tokens: where the next window begins */
        uint64_t scored;
        double nll_sum;
};

/* Takes n_prompt and limit (and Score's window, where left open) from the request, checked against the context. 0, REQUEST_E_FAILED, -ENOMEM. */
int sequence_new(struct sequence **ret, struct request *r, uint32_t context, bool has_bos, struct failure *f);
struct sequence *sequence_free(struct sequence *s, struct kv_pool *pool);

/* KV positions to reserve before it runs. */
uint64_t sequence_first_reservation(const struct sequence *s, uint32_t context);
/* Reserves more where the next rows need it. False: the pool has none left now. */
bool sequence_has_room(struct sequence *s, struct kv_pool *pool, uint32_t context);

int sequence_append(struct sequence *s, int32_t token); /* 0 or -ENOMEM */
/* Sets up tokens and output, replayed tokens included. 0, -ENOMEM, or -EINVAL. */
int sequence_start(struct sequence *s, const struct tokenizer *t);
/* Score: loads the next window; false when there is none left. */
bool sequence_next_window(struct sequence *s, int32_t bos);
/* Rows it could use now. */
uint32_t sequence_want(const struct sequence *s);
bool sequence_has_credit(const struct sequence *s);
