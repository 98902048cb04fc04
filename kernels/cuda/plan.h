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

#include "attn.h"
#include "mm.h"
#include "top.h"

struct cuda_backend;
struct cuda_recorder;

/* What the rows of an operation are multiples of. */
enum cuda_base {
        CUDA_ROWS = 0, /* of the batch */
        CUDA_GATHERED, /* what gather() took */
        CUDA_FIXED,    /* of nothing: the span says how many */
        CUDA_BASES,
};

struct cuda_span {
        enum cuda_base base;
        uint32_t per;
};

enum cuda_op_kind {
        CUDA_OP_NONE = 0, /* taken over by another one */
        CUDA_OP_EMBED,
        CUDA_OP_NORM,
        CUDA_OP_MM,
        CUDA_OP_ROPE_KV,
        CUDA_OP_ATTN,
        CUDA_OP_GATE,
        CUDA_OP_SOFTCAP,
        CUDA_OP_ADD,
        CUDA_OP_SLICE,
        CUDA_OP_ROUTE,
        CUDA_OP_COMBINE,
        CUDA_OP_GATHER,
        CUDA_OP_TOP,
        CUDA_OP_PACK,
};

/* Operations whose launch functions take no struct. */
struct cuda_softcap_args {
        float scale, cap;
        uint32_t dim;
        float *x;
};

struct cuda_add_args {
        const float *x;
        float scale;
        uint32_t dim;
        float *out;
};

struct cuda_slice_args {
        const float *x;
        size_t x_stride;
        uint32_t first, dim;
        float *out;
};

struct cuda_combine_args {
        uint32_t n_used;
        const float *weights, *x;
        uint32_t dim;
        bool accumulate;
        float *out;
};

struct cuda_gather_args {
        const float *x;
        uint32_t dim;
        float *out;
};

/* With x of products as it was given, dense or not. */
struct cuda_mm_args {
        struct cuda_mm mm;
        const float *x;
        size_t x_stride;
        struct cuda_span x_span;
};

/* The kernels' structs have no rows, batch, packed forms and scratch yet: those are filled in at the launch. Compared as bytes:
 * an op is zeroed before it is filled in. Numbers count from 1, 0 is none. */
struct cuda_op {
        enum cuda_op_kind kind;
        struct cuda_span span;
        uint32_t in, out; /* packed values that are read and written */
        uint32_t index;   /* of needs: an attention's window, a choice (of a route and of experts' products), a top() */
        union {
                struct cuda_embed embed;
                struct cuda_norm norm;
                struct cuda_mm_args mm;
                struct cuda_rope_kv rope;
                struct cuda_attn attn;
                struct cuda_gate gate;
                struct cuda_softcap_args softcap;
                struct cuda_add_args add;
                struct cuda_slice_args slice;
                struct cuda_route route;
                struct cuda_combine_args combine;
                struct cuda_gather_args gather;
                struct cuda_top top;
                struct cuda_pack pack;
        };
};

struct cuda_ops {
        struct cuda_op *ops;
        size_t n, allocated;
};

/* A new one at the end, zeroed; NULL: no memory. */
struct cuda_op *cuda_ops_add(struct cuda_ops *list);

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

/* A buffer that an operation reads or writes, from `at` on dim floats for each row: all of them where it writes (0: only parts),
 * at most where it reads. */
struct cuda_use {
        const void *at;
        struct cuda_span span;
        uint32_t dim;
        bool write;
};

#define CUDA_USES 12u

size_t cuda_op_uses(const struct cuda_op *op, struct cuda_use uses[CUDA_USES]);
bool cuda_span_equal(struct cuda_span a, struct cuda_span b);
/* Whether two addresses may be parts of the same memory: of one buffer, or equal. */
bool cuda_ops_overlap(const struct cuda_backend *be, const void *a, const void *b);
/* Whether rows of dim floats at p are read by an operation after `from` before they are all written anew. */
bool cuda_ops_read_later(const struct cuda_backend *be, const struct cuda_ops *list, size_t from, const void *p,
                         struct cuda_span span, uint32_t dim);

/* fuse.c: joins operations in place; leaves CUDA_OP_NONE behind. */
void cuda_fuse(const struct cuda_backend *be, struct cuda_ops *list);

/* packing.c: plan->list of the fused operations: inserts what packs, decides who writes what and where. */
int cuda_pack_plan(const struct cuda_backend *be, const struct cuda_ops *fused, struct cuda_plan *p);
