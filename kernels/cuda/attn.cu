/* SPDX-License-Identifier: Apache-2.0 */

/* Attention: which kernels do it. */

#include "attn-kernels.cuh"

bool cuda_attn_has(const struct kv_config *kv, uint32_t n_heads) {
        return (kv->format == KV_F16 || kv->format == KV_F32 || kv->format == KV_Q8_0) && kv->head_dim > 0 &&
               kv->head_dim <= 256 && kv->head_dim % 8 == 0 && kv->page_tokens >= 16 &&
               (kv->page_tokens & (kv->page_tokens - 1)) == 0 && kv->n_kv_heads > 0 && n_heads > 0 &&
               n_heads % kv->n_kv_heads == 0;
}

uint32_t cuda_attn_tile_rows(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim) {
        uint32_t group = n_heads / n_kv_heads, queries = attn_many_queries(head_dim);

        if (head_dim % 16 != 0)
                return 0;
        return group < queries ? queries / group : 1;
}

cudaError_t cuda_attn(const struct cuda_launch *l, const struct cuda_attn *a) {
        cudaError_t e = cudaSuccess;

        if (a->kv.format == KV_F32)
                return attn_f32(l, a);
        if (a->max_items > 0)
                e = attn_few(l, a);
        return e == cudaSuccess && a->max_tiles > 0 ? attn_many(l, a) : e;
}

cudaError_t cuda_attn_prepare(void) {
        cudaError_t e = attn_few_prepare();

        return e != cudaSuccess ? e : attn_many_prepare();
}
