/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A step as it is recorded, between begin() and end(): operations as the arguments of their kernels, checked. A call that fails
 * has written nothing down.
 */

#include "kernels/backend.h"

#include "plan.h"

/* Where top()'s results go. */
struct cuda_top_result {
        struct backend_top *rows;
        float *values;
        int32_t *ids;
};

/* A step as it is recorded. */
struct cuda_recorder {
        const struct batch *batch; /* NULL: not between begin() and end() */
        struct kv_cache *kv;
        uint32_t *gather; /* rows */
        size_t gather_allocated;
        bool gathered;
        uint32_t n_gathered;
        struct cuda_ops list;
        struct cuda_needs needs;
        struct cuda_top_result tops[CUDA_TOPS];
};

/* record.c: the vtable's operations, as kernels/backend.h has them */

int cuda_record_begin(struct backend *base, const struct batch *batch, struct kv_cache *kv);
void cuda_record_close(struct cuda_backend *be);
/* Room for the rows of a gather(). */
int cuda_record_take_gather(struct cuda_recorder *rec, uint32_t n);
int cuda_record_embed(struct backend *base, const struct weight *w, const struct batch *batch, float scale, float *out);
int cuda_record_rmsnorm(struct backend *base, const float *x, const float *weight, float eps, uint32_t n, uint32_t dim,
                        float *out);
int cuda_record_rope_kv(struct backend *base, const struct rope *rope, struct kv_cache *kv, uint32_t layer,
                        const struct batch *batch, uint32_t n_heads, float *q, float *k, const float *v);
int cuda_record_attention(struct backend *base, const struct attention *a, const struct kv_cache *kv,
                          const struct batch *batch, const float *q, float *out);
int cuda_record_gate(struct backend *base, enum activation act, const float *gate, const float *up, uint32_t n_rows,
                     uint32_t dim, float *out);
int cuda_record_softcap(struct backend *base, float scale, float cap, uint32_t n_rows, uint32_t dim, float *x);
int cuda_record_add(struct backend *base, const float *x, float scale, uint32_t n_rows, uint32_t dim, float *out);
int cuda_record_slice(struct backend *base, const float *x, size_t x_stride, uint32_t first, uint32_t n_rows,
                      uint32_t dim, float *out);
int cuda_record_gather(struct backend *base, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim, float *out);
int cuda_record_top(struct backend *base, const float *logits, uint32_t n, uint32_t dim, uint32_t k,
                    struct backend_top *rows, float *values, int32_t *ids);

/* record-mm.c: and those with matrices */

int cuda_record_matmul(struct backend *base, const struct matmul *products, size_t n, const float *x, size_t x_stride,
                       uint32_t n_rows);
int cuda_record_route(struct backend *base, const struct routing *routing, const float *logits, uint32_t n_rows,
                      uint32_t *experts, float *weights);
int cuda_record_experts(struct backend *base, const struct matmul *products, size_t n, const struct chosen *chosen,
                        const float *x, bool x_per_row);
int cuda_record_combine(struct backend *base, const struct chosen *chosen, const float *x, uint32_t dim, bool accumulate,
                        float *out);
/* 0: *ret has the span of so many rows in this step; BACKEND_E_UNSUPPORTED between steps; or what was lost. */
int cuda_record_span(struct cuda_backend *be, uint32_t n, struct cuda_span *ret);
int cuda_record_op(struct cuda_backend *be, enum cuda_op_kind kind, struct cuda_span span, struct cuda_op **ret);
