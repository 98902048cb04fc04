/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The operations of a step as record.c writes them down, and what each reads and writes. plan.h says what becomes of a list. */

#include "attn.h"
#include "mm.h"
#include "top.h"

struct cuda_backend;

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

/* plan.c */

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
