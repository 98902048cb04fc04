/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * From operations to launches. record.c writes down each operation of a step as the arguments of the kernel that does it;
 * fuse.c makes a plan of the list: joins what belongs together, and finds who writes the packed forms that products take. run.c
 * puts a step's rows into fixed device memory and launches a plan, directly or as a graph (graph.c).
 *
 * Nothing here depends on the number of rows: a list of operations names rows as multiples of the step's, and the same list makes
 * the same plan for one row and for thousands, so that a row's bits are the same (design promise 1).
 *
 * What an operation of the step has read and a later one does not is dead: after end() it may never have been written.
 */

#include "operation.h"

struct cuda_recorder;

/* Rows in packed forms, and in which physical buffer they are while they are needed. */
struct cuda_value {
        struct cuda_span span;
        uint32_t n_in;
        bool x, x8, sums, f32;
        uint32_t buffer;
};

#define CUDA_WINDOWS 4u /* different plans of attention in a step */
#define CUDA_ROUTES 4u  /* choices of experts at a time */
#define CUDA_TOPS 4u
#define CUDA_BUFFERS 8u /* packed values at a time */

/* One plan of attention for all operations that are alike in this. */
struct cuda_window {
        uint32_t window, tile_rows, n_heads, head_dim;
};

/* A choice of experts, named by where it is written. */
struct cuda_choice {
        const uint32_t *experts;
        struct cuda_span span; /* of rows */
        uint32_t n_experts, n_used;
};

struct cuda_top_shape {
        struct cuda_span span;
        uint32_t dim, k;
};

/* What a list of operations needs besides itself. */
struct cuda_needs {
        struct cuda_window windows[CUDA_WINDOWS];
        struct cuda_choice choices[CUDA_ROUTES];
        bool stale[CUDA_ROUTES]; /* choices that another one was written over */
        struct cuda_top_shape tops[CUDA_TOPS];
        uint32_t n_windows, n_choices, n_tops;
};

struct cuda_graph;

/* What is launched for a list of operations. */
struct cuda_plan {
        struct cuda_ops key; /* the list */
        struct cuda_ops list;
        struct cuda_value *values; /* number i at i - 1 */
        size_t n_values, values_allocated;
        uint32_t n_buffers;
        struct cuda_needs needs;
        struct cuda_graph *graphs; /* latest first */
        uint32_t sized[CUDA_BASES]; /* the rows that scratch memory was reserved for last, */
        uint64_t sized_generation;  /* and when */
        struct cuda_plan *next;
};

/* plan.c */

int cuda_plan_new(const struct cuda_backend *be, const struct cuda_recorder *rec, struct cuda_plan **ret);
/* Its graphs are gone already. */
struct cuda_plan *cuda_plan_free(struct cuda_plan *p);

/* fuse.c: joins operations in place; leaves CUDA_OP_NONE behind. */
void cuda_fuse(const struct cuda_backend *be, struct cuda_ops *list);

/* packing.c: plan->list of the fused operations: inserts what packs, decides who writes what and where. */
int cuda_pack_plan(const struct cuda_backend *be, const struct cuda_ops *fused, struct cuda_plan *p);
