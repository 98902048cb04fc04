/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The KV cache and attention over its pages.
 *
 * A page is [layer][KV head][K, then V][position][head_dim]: F16 or F32 elements. KV_Q8_0: [position][head_dim] signed bytes,
 * then [position][ceil(head_dim / 32)] binary16 scales, for K and for V (the bytes that kv_position_bytes() counts). Pages
 * follow each other; page_bytes is a multiple of 16.
 *
 * Order of sums: positions in splits of CUDA_ATTN_SPLIT, from position 0 of the sequence (not of the window) on; in a split
 * tiles of CUDA_ATTN_TILE positions, an online softmax from tile to tile; splits are combined in order. A row alone and a row
 * in a prompt of thousands go through the same instructions in the same order: the kernel for few rows does a split per warp and
 * combines in a second kernel, that for many keeps the running sums itself and combines at each split's end, by the same
 * function. KV_F16 and KV_Q8_0 use m16n8k16 with queries, (dequantized) keys, weights and values in half precision and sums in
 * single; KV_F32 is all in single precision.
 */

#include "ops.h"

#define CUDA_ATTN_SPLIT 512u
#define CUDA_ATTN_TILE 64u

struct cuda_kv {
        enum kv_format format;
        uint32_t n_layers, n_kv_heads, head_dim, page_tokens, n_pages;
        uint64_t page_bytes;
        uint8_t *data;
};

static inline uint64_t cuda_kv_page_bytes(const struct kv_config *c) {
        uint64_t n = (uint64_t)c->n_layers * c->n_kv_heads * c->page_tokens * kv_position_bytes(c->format, c->head_dim);

        return (n + 127) & ~(uint64_t)127;
}

/* Bytes of K (or V) of one layer and head in a page. */
static inline uint64_t cuda_kv_part_bytes(const struct kv_config *c) {
        return (uint64_t)c->page_tokens * kv_position_bytes(c->format, c->head_dim) / 2;
}

/*
 * Norms of heads (or of the width of all heads), rotation, and K and V into the cache. q, k and v with strides, so that they may
 * be columns of one product; q is written in place where it is (f32), k and v are only read. NULL norms: none.
 */
struct cuda_rope_kv {
        struct cuda_rows rows;
        struct cuda_batch batch;
        struct cuda_kv kv;
        uint32_t layer;
        uint32_t n_heads;
        float *q;
        const float *k, *v;
        size_t q_stride, k_stride, v_stride;
        const float *q_norm, *k_norm; /* [head_dim], or [heads * head_dim] where norm_width */
        bool norm_width;
        float norm_eps;
        struct rope rope; /* inv_freq: device */
};

CUDA_API cudaError_t cuda_rope_kv(const struct cuda_launch *l, const struct cuda_rope_kv *a);

/*
 * Who computes what in a step, for one window: made on the host from a batch, copied to the device. Runs of at least
 * CUDA_ATTN_RUN rows of a sequence are cut into tiles for the kernel for many rows; all other rows are items of the kernel for few,
 * row by row: one for each split that the row sees.
 */
#define CUDA_ATTN_RUN 16u

struct cuda_attn_item {
        uint32_t row;
        uint32_t split;   /* number of the split in the sequence */
        uint32_t partial; /* where its partial result goes (times heads); consecutive for a row */
};

struct cuda_attn_row {
        uint32_t row, first_partial, n_partials; /* of the rows of items */
};

struct cuda_attn_tile {
        uint32_t first, n; /* rows */
};

struct cuda_attn_plan {
        uint32_t n_items, n_rows, n_tiles, n_partials;
        /* followed in memory by these, n of each: item, row, tile */
};

/* Host: bytes of a plan with its arrays for a batch at worst, and making one at `ret`. tile_rows: rows of a tile. */
CUDA_API size_t cuda_attn_plan_bytes(const struct batch *batch, uint32_t window, uint32_t tile_rows);
CUDA_API void cuda_attn_plan_make(const struct batch *batch, uint32_t window, uint32_t tile_rows, struct cuda_attn_plan *ret);
/* Rows of a tile for so many query heads per KV head. */
CUDA_API uint32_t cuda_attn_tile_rows(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim);
CUDA_API size_t cuda_attn_partial_bytes(uint32_t n_partials, uint32_t n_heads, uint32_t head_dim);

struct cuda_attn {
        struct cuda_rows rows;
        struct cuda_batch batch;
        struct cuda_kv kv;
        struct attention attention; /* sinks: device */
        const float *q;
        size_t q_stride;
        const struct cuda_attn_plan *plan; /* device, arrays behind it at the offsets of max_* */
        uint32_t max_items, max_rows, max_tiles; /* room of the arrays; 0: no kernel of that kind is started */
        uint32_t grid_items; /* blocks of the kernel for few rows, which loop over the items: some per SM */
        float *partials;     /* cuda_attn_partial_bytes() */
        struct cuda_packed out; /* n_in = n_heads * head_dim */
};

CUDA_API cudaError_t cuda_attn(const struct cuda_launch *l, const struct cuda_attn *a);
CUDA_API bool cuda_attn_has(const struct kv_config *kv, uint32_t n_heads);
CUDA_API cudaError_t cuda_attn_prepare(void);
