/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The best logits (ops.h). */

#include "ops.h"

/*
 * The best of each row's logits [rows][dim]: the k <= CUDA_TOP_MAX highest, best first, of equal ones the lowest id first, and
 * what is needed to know probabilities: the largest logit and the sum of e^(x - largest) over all, in double, added up in an
 * order fixed by dim. bad: 1 where a logit is NaN or +infinity, or all are -infinity.
 */
#define CUDA_TOP_MAX 256u
#define CUDA_TOP_PIECE 8192u /* logits of a block; also at most so many of all pieces' highest */

struct cuda_top_row {
        double sum;
        float largest;
        uint32_t bad;
};

struct cuda_top {
        struct cuda_rows rows;
        uint32_t dim, k;
        const float *logits;
        float *values;  /* [rows][k] */
        int32_t *ids;   /* [rows][k] */
        struct cuda_top_row *row; /* [rows] */
        void *scratch;  /* cuda_top_scratch_bytes() */
};

static inline size_t cuda_top_scratch_bytes(uint32_t max_rows, uint32_t dim) {
        return (size_t)max_rows * ((dim + CUDA_TOP_PIECE - 1) / CUDA_TOP_PIECE) * (CUDA_TOP_MAX * 8u + sizeof(struct cuda_top_row));
}

/* Whether that can be done: 256 of up to 262144 logits, fewer of more. */
static inline bool cuda_top_has(uint32_t dim, uint32_t k) {
        return k >= 1 && k <= CUDA_TOP_MAX && k <= dim && (dim - 1) / CUDA_TOP_PIECE + 1 <= CUDA_TOP_PIECE / k;
}

CUDA_API cudaError_t cuda_top(const struct cuda_launch *l, const struct cuda_top *a);
