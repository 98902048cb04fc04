/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A request while the engine holds it: its tokens, its KV pages, its output. Private to the engine core.
 */

#include "base/list.h"
#include "engine.h"
#include "prefix.h"
#include "schedule.h"

enum sequence_state {
        SEQUENCE_WAITING,
        SEQUENCE_RUNNING,
        SEQUENCE_PAUSED,   /* without credit */
        SEQUENCE_DRAINING, /* computed to its end; chunks wait for credit */
};

struct sequence {
        struct list link;
        struct schedule_request turn;
        struct request *request;
        enum sequence_state state;
        struct kv_table kv;
        struct prefix_path path; /* Score: always the root */
        uint32_t n_counted;      /* of its pages: in turn.user->pages */
        uint32_t n_charged;      /* of these, not in the prefix cache: charged there */
        int32_t *tokens; /* prompt and output; Score: the window */
        size_t n_tokens, cap;
        uint32_t n_past;   /* positions that the KV cache holds */
        uint32_t n_computed; /* the most that these ever were */
        uint32_t n_prompt;
        uint32_t n_replay; /* output tokens that were delivered before */
        uint32_t n_cached; /* of the prompt: found in the prefix cache when it first ran */
        uint32_t limit;    /* most output tokens */
        bool started;      /* its output was set up: false until it first gets a slot */
        uint64_t sent;     /* tokens sent, against request->granted */
        struct output output;
        struct output_chunk outbox[OUTPUT_CHUNKS_MAX];
        unsigned n_outbox, outbox_pos;
        Spark__V1__FinishReason reason;
        uint64_t first_step_us, first_token_us;
        /* Score */
        size_t next;            /* in request->tokens: where the next window begins */
        size_t n_opening;       /* tokens that every window begins with */
        uint32_t window_scored; /* positions of the window that were scored, should it be read again */
        uint64_t scored;
        double nll_sum;
};

static inline struct sequence *sequence_of(struct schedule_request *turn) {
        return CONTAINER_OF(turn, struct sequence, turn);
}

/* Takes n_prompt and limit (and Score's window, where left open) from the request, checked against the context and the
 * user's KV limit, both in tokens. 0, REQUEST_E_FAILED, -ENOMEM. */
int sequence_new(struct sequence **ret, struct request *r, uint32_t context, uint64_t kv_tokens, size_t n_opening,
                 struct failure *f);
/* Holds no pages any more. */
struct sequence *sequence_free(struct sequence *s);

int sequence_append(struct sequence *s, int32_t token); /* 0 or -ENOMEM */
/* Sets up tokens and output, replayed tokens included. 0, -ENOMEM, or -EINVAL. */
int sequence_start(struct sequence *s, const struct tokenizer *t);
/* Score: loads the next window, which begins with the n_opening tokens; false when there is none left. */
bool sequence_next_window(struct sequence *s, const int32_t *opening);
/* Rows it could use now. */
uint32_t sequence_want(const struct sequence *s);
bool sequence_has_credit(const struct sequence *s);
/* Without credit, or with chunks that wait for some. */
bool sequence_is_stalled(const struct sequence *s);
/* Positions that need a page before it can go on, some for growing included. */
uint64_t sequence_room(const struct sequence *s);
