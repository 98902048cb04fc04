/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inside of the CPU backend: its state, and the operations that live in files of their own. Device memory is host
 * memory, so upload and download are copies and bind has nothing to do.
 */

#include "kernels/backend.h"

#include "kernels.h"
#include "pool.h"

/* Memory that grows on demand and is kept for the next time. Owned by the backend. */
struct scratch {
        void *data;
        size_t bytes;
};

struct cpu_backend {
        struct backend base;
        const struct cpu_kernels *kernels;
        struct pool *pool;
        struct scratch tiles[ACT_FORMS]; /* activations as the matmul kernels take them */
        struct scratch local;            /* per worker */
        struct scratch order;            /* of slots by expert */
        unsigned clocks;                 /* percent that threads are capped at; 0 = not */
        char description[64];
};

/* Positions are kept in pages as the kernels read them. Per page, layer and KV head: K, then V, each in groups of 16
 * positions. A group of K is [head_dim][16], one of V [16][head_dim]. In KV_Q8_0 either consists of columns, one for
 * each block of elements: half-precision scales [16], then integers, K [block][16], V [16][block]. */
struct kv_cache {
        struct kv_config config;
        size_t group_bytes;      /* K, or V, of 16 positions of a head */
        size_t head_bytes;       /* K and V of a head, page_tokens in whole groups */
        size_t page_bytes;
        size_t mapped;
        uint8_t *data;
};

static inline struct cpu_backend *cpu_of(struct backend *be) {
        return (struct cpu_backend *)be;
}

/* clocks.c: of the calling thread, percent of the highest ones; 100 = no cap. 0, or -errno: -EPERM, or the kernel can't. */
int cpu_cap_clocks(unsigned percent);
void cpu_cap(struct backend *be, const struct backend_caps *caps, struct backend_capped *ret);
/* At least `bytes`, aligned to a cache line; the old content is lost. BACKEND_E_NO_MEMORY leaves all as it was. */
int scratch_reserve(struct scratch *s, size_t bytes);
/* A pool's job, or a plain loop where `work` (multiply-adds or the like) is too little to share. */
void cpu_run(struct cpu_backend *cpu, uint64_t work, uint32_t n_items, pool_fn fn, void *context);

/* Where K and V of a slot's group lie in a page. */
uint8_t *kv_keys(const struct kv_cache *kv, uint32_t page, uint32_t layer, uint32_t head, uint32_t slot);
uint8_t *kv_values(const struct kv_cache *kv, uint32_t page, uint32_t layer, uint32_t head, uint32_t slot);

int cpu_kv_new(struct backend *be, const struct kv_config *config, struct kv_cache **ret);
struct kv_cache *cpu_kv_free(struct backend *be, struct kv_cache *kv);
int cpu_kv_copy(struct backend *be, struct kv_cache *kv, uint32_t from, uint32_t to);
size_t cpu_kv_page_bytes(const struct backend *be, const struct kv_cache *kv);
int cpu_kv_export(struct backend *be, const struct kv_cache *kv, uint32_t page, void *host);
int cpu_kv_import(struct backend *be, struct kv_cache *kv, uint32_t page, const void *host);
int cpu_kv_discard(struct backend *be, struct kv_cache *kv, uint32_t first, uint32_t n, uint64_t *ret_bytes);
int cpu_matmul(struct backend *be, const struct matmul *products, size_t n, const float *x, size_t x_stride,
               uint32_t n_rows);
int cpu_rope_kv(struct backend *be, const struct rope *rope, struct kv_cache *kv, uint32_t layer,
                const struct batch *batch, uint32_t n_heads, float *q, float *k, const float *v);
int cpu_attention(struct backend *be, const struct attention *a, const struct kv_cache *kv,
                  const struct batch *batch, const float *q, float *out);
int cpu_embed(struct backend *be, const struct weight *w, const struct batch *batch, float scale, float *out);
int cpu_rmsnorm(struct backend *be, const float *x, const float *weight, float eps, uint32_t n, uint32_t dim,
                float *out);
int cpu_gate(struct backend *be, enum activation act, const float *gate, const float *up, uint32_t n_rows,
             uint32_t dim, float *out);
int cpu_softcap(struct backend *be, float scale, float cap, uint32_t n_rows, uint32_t dim, float *x);
int cpu_add(struct backend *be, const float *x, float scale, uint32_t n_rows, uint32_t dim, float *out);
int cpu_slice(struct backend *be, const float *x, size_t x_stride, uint32_t first, uint32_t n_rows, uint32_t dim,
              float *out);
int cpu_route(struct backend *be, const struct routing *routing, const float *logits, uint32_t n_rows, uint32_t *experts,
              float *weights);
int cpu_experts(struct backend *be, const struct matmul *products, size_t n, const struct chosen *chosen, const float *x,
                bool x_per_row);
int cpu_combine(struct backend *be, const struct chosen *chosen, const float *x, uint32_t dim, bool accumulate,
                float *out);
int cpu_gather(struct backend *be, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim, float *out);
