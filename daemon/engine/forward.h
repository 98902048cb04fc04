/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The forward pass: a batch of rows through the model's blocks, logits of the rows that need them. Owns the
 * activations. One step at a time, on the step thread.
 */

#include <stdint.h>

#include "model.h"

struct forward;

/* Room for steps of max_rows rows, of which max_logits get logits. 0, BACKEND_E_*, or negative. */
int forward_new(struct forward **ret, const struct lm *m, struct kv_cache *kv, uint32_t max_rows,
                uint32_t max_logits);
struct forward *forward_free(struct forward *f);
DEFINE_CLEANUP(struct forward *, forward_free)
/* Bytes of activations that forward_new() takes. */
uint64_t forward_bytes(const struct model_shape *s, uint32_t max_rows, uint32_t max_logits);

/* What forward_reserve() has found. */
struct forward_reserve {
        uint32_t sequences, context; /* of steps that come */
        uint32_t top;                /* the largest k */
        uint64_t bytes;              /* out: what the backend takes for steps, or lacks */
};

/* Has the backend take all memory that any step may need. 0, BACKEND_E_*, or negative. */
int forward_reserve(struct forward *f, struct forward_reserve *reserve);

/* The k best logits of each row, where the backend finds them: backend.h, top. */
struct forward_top {
        struct backend_top *rows; /* [n] */
        float *values;            /* [n][k] */
        int32_t *ids;             /* [n][k] */
        uint32_t k;               /* 0 = not asked for */
};

/* Runs the batch. logit_rows: rows of the batch whose logits are wanted, n of them; they stay with the backend until the next
 * step. top: may be NULL; its k is 0 where the backend has no top(). 0, or negative: the backend is lost. */
int forward_run(struct forward *f, const struct batch *batch, const uint32_t *logit_rows, uint32_t n,
                const struct forward_top *top);
/* Fetches n of those rows of logits from `first` on to out [n][n_vocab] (host). As above. */
int forward_logits(struct forward *f, uint32_t first, uint32_t n, float *out);
