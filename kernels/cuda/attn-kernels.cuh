/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Attention's kernels as attn.cu knows them, and choosing an instance of a template by a cache's format and length of heads:
 * a head is filled up with zeros to the next length that there is.
 */

#include "attn.h"

cudaError_t attn_few(const struct cuda_launch *l, const struct cuda_attn *a);
cudaError_t attn_few_prepare(void);
cudaError_t attn_many(const struct cuda_launch *l, const struct cuda_attn *a);
cudaError_t attn_many_prepare(void);
cudaError_t attn_f32(const struct cuda_launch *l, const struct cuda_attn *a);
/* Queries of a tile. */
uint32_t attn_many_queries(uint32_t head_dim);

/* work.run<D, q8>() */
template <typename W> static inline cudaError_t attn_each_shape(enum kv_format format, uint32_t head_dim, const W &work) {
        bool q8 = format == KV_Q8_0;

        if (head_dim <= 64)
                return q8 ? work.template run<64, true>() : work.template run<64, false>();
        if (head_dim <= 96)
                return q8 ? work.template run<96, true>() : work.template run<96, false>();
        if (head_dim <= 128)
                return q8 ? work.template run<128, true>() : work.template run<128, false>();
        return q8 ? work.template run<256, true>() : work.template run<256, false>();
}

template <typename W> static inline cudaError_t attn_all_shapes(const W &work) {
        static const uint32_t dims[] = { 64, 96, 128, 256 };
        cudaError_t e = cudaSuccess;

        for (uint32_t i = 0; e == cudaSuccess && i < 2 * sizeof(dims) / sizeof(dims[0]); i++)
                e = attn_each_shape(i % 2 ? KV_Q8_0 : KV_F16, dims[i / 2], work);
        return e;
}
