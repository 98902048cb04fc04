/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Mixtures of experts: which expert does what for whom, and what comes of it (ops.h). */

#include "ops.h"

/*
 * The experts of each row (backend.h, route), and the slots in the order of their experts: groups of at most group_rows slots
 * of one expert each, experts ascending, slots ascending within. from[p] is the row of x of place p: s / n_used where x has a
 * row per row (for_rows), and to[p] = s its slot. n_groups is written, 0 where there are no rows.
 */
struct cuda_group {
        uint32_t expert;
        uint32_t first; /* place */
        uint32_t n;
};

struct cuda_slots {
        uint32_t *row, *slot;      /* [max slots]: by place */
        struct cuda_group *groups; /* [cuda_groups_max()] */
        uint32_t *n_groups;
        uint32_t group_rows;
        uint32_t max_groups;
};

static inline uint32_t cuda_groups_max(uint32_t max_slots, uint32_t n_experts, uint32_t group_rows) {
        uint32_t most = n_experts + max_slots / group_rows;

        return most < max_slots ? most : max_slots;
}

#define CUDA_ROUTE_EXPERTS 512u /* at most; and of the others */
#define CUDA_ROUTE_USED 32u
#define CUDA_ROUTE_SLOTS (1u << 19)
#define CUDA_ROUTE_ROWS 65536u /* what of an expert's is in front of other slots of it fits 16 bits */

struct cuda_route {
        struct cuda_rows rows;
        struct routing routing;
        const float *logits;
        uint32_t *experts; /* [rows][n_used] */
        float *weights;
        struct cuda_slots slots;
};

CUDA_API cudaError_t cuda_route(const struct cuda_launch *l, const struct cuda_route *a);

/* out[r] (+)= sum over slots of x[slot] * weight, in their order. */
CUDA_API cudaError_t cuda_combine(const struct cuda_launch *l, struct cuda_rows rows, uint32_t n_used, const float *weights,
                                  const float *x, uint32_t dim, bool accumulate, float *out);
