/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The engine core's state, shared by its steps (engine.c) and its birth and death (engine-new.c). */

#include <stdatomic.h>

#include "engine.h"
#include "forward.h"
#include "sampler.h"
#include "schedule.h"
#include "sequence.h"

struct engine {
        struct lm *model;               /* borrowed */
        const struct tokenizer *tokenizer; /* borrowed */
        struct engine_config config;
        struct engine_events events;
        void *userdata;
        int32_t bos; /* -1 where the model wants none */
        struct kv_pool pool;
        struct kv_cache *kv;
        uint64_t page_bytes;
        struct forward *forward;
        struct sampler sampler;
        uint32_t max_logits;

        struct list waiting, running, draining;
        uint32_t n_waiting, n_running;
        uint64_t steps, tokens;
        size_t turn;            /* where the round of prompts begins */
        double us_per_row;      /* of prompts, as measured lately */
        double us_per_request;  /* for telling when to try again */
        bool gave_up; /* a sequence gave up its pages in this step: others may go on with them */
        atomic_bool noticed;

        /* one step's arrays */
        struct sequence **seqs;          /* [max_sequences] */
        struct schedule_entry *entries;  /* [max_sequences] */
        const uint32_t **tables;         /* [max_sequences] */
        int32_t *row_token;              /* [max_rows] */
        uint32_t *row_pos, *row_seq;     /* [max_rows] */
        uint32_t *logit_row, *logit_seq; /* [max_logits] */
        float *logits;                   /* [max_logits][n_vocab] */
        struct schedule_waiting *candidates; /* [max_queued] */
        uint64_t *clients;               /* [max_sequences] */
};

/* No rows for it now: no credit, or chunks that wait for some. */
static inline bool engine_is_paused(const struct sequence *s) {
        return s->state == SEQUENCE_DRAINING || sequence_want(s) == 0;
}
