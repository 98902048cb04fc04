/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The KV cache and attention over its pages.
 *
 * A page is [layer][KV head][K, then V][position][head_dim]: F16 or F32 elements. KV_Q8_0: [position][head_dim] signed bytes,
 * then [position][ceil(head_dim / 32)] binary16 scales, for K and for V (the bytes that kv_position_bytes() counts). Pages
 * follow each other; page_bytes is a multiple of 16.
 *
 * Order of sums: positions in splits at fixed places, from position 0 of the sequence (not of the window) on: CUDA_ATTN_SPLIT
 * long at first, CUDA_ATTN_SPLIT_LONG from position CUDA_ATTN_SHORT on. In a split tiles of CUDA_ATTN_TILE positions, an online
 * softmax from tile to tile; splits are combined in order. A row alone and a row in a prompt of thousands go through the same
 * instructions in the same order: the kernel for few rows does a split per warp and combines in a second kernel, that for many
 * keeps the running sums itself and combines at each split's end, by the same function. KV_F16 and KV_Q8_0 use m16n8k16 with
 * queries, (dequantized) keys, weights and values in half precision and sums in single; KV_F32 is all in single precision, one
 * sum over all positions.
 */

#include "ops.h"

#define CUDA_ATTN_SPLIT 256u
#define CUDA_ATTN_SPLIT_LONG 1024u
#define CUDA_ATTN_SHORT 16384u /* positions in splits of CUDA_ATTN_SPLIT: a multiple of both */
#define CUDA_ATTN_TILE 64u

#ifdef __CUDACC__
#define CUDA_BOTH __host__ __device__
#else
#define CUDA_BOTH
#endif

/* The split that a position is in, and the first position of a split. */
CUDA_BOTH static inline uint32_t cuda_attn_split_of(uint32_t pos) {
        return pos < CUDA_ATTN_SHORT ? pos / CUDA_ATTN_SPLIT
                                     : CUDA_ATTN_SHORT / CUDA_ATTN_SPLIT + (pos - CUDA_ATTN_SHORT) / CUDA_ATTN_SPLIT_LONG;
}

CUDA_BOTH static inline uint32_t cuda_attn_split_first(uint32_t split) {
        return split < CUDA_ATTN_SHORT / CUDA_ATTN_SPLIT
                       ? split * CUDA_ATTN_SPLIT
                       : CUDA_ATTN_SHORT + (split - CUDA_ATTN_SHORT / CUDA_ATTN_SPLIT) * CUDA_ATTN_SPLIT_LONG;
}

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
 * be columns of one product; q is written in place where it is (f32), k and v are only read. NULL norms: none. Angles and
 * rounding are those of kernels/cpu/kv.c.
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
 * row by row: one for each split that the row sees. Items have partial results in memory, which may be bounded: shorter runs, but
 * for single rows, are tiles too, in order, once there would be more than max_items. Nothing of a row's result depends on where it is
 * served.
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

/* Followed by three arrays; where they start is in bytes from the plan's own start, so that one graph serves every plan. */
struct cuda_attn_plan {
        uint32_t n_items, n_rows, n_tiles, n_partials;
        uint32_t items_at, rows_at, tiles_at, bytes;
};

/* Host: exact bytes of a batch's plan, and making it at `ret`. tile_rows: cuda_attn_tile_rows(); max_items: UINT32_MAX = any. */
CUDA_API size_t cuda_attn_plan_bytes(const struct batch *batch, uint32_t window, uint32_t tile_rows, uint32_t max_items);
CUDA_API void cuda_attn_plan_make(const struct batch *batch, uint32_t window, uint32_t tile_rows, uint32_t max_items,
                                  struct cuda_attn_plan *ret);
/* Rows of a tile for so many query heads per KV head; 0: all rows are items (heads that are not whole 16, whose packed forms only
 * a whole row's heads together can make). */
CUDA_API uint32_t cuda_attn_tile_rows(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim);
CUDA_API size_t cuda_attn_partial_bytes(uint32_t n_partials, uint32_t n_heads, uint32_t head_dim);

/* At worst, for so many rows of sequences of so many positions. */
static inline uint32_t cuda_attn_partials_max(uint32_t max_rows, uint32_t max_positions) {
        return max_rows * (max_positions > 0 ? cuda_attn_split_of(max_positions - 1) + 1 : 0);
}

/* At worst, for one row of each of so many sequences, with a window. */
static inline uint32_t cuda_attn_items_max(uint32_t n_sequences, uint32_t max_positions, uint32_t window) {
        uint32_t all = cuda_attn_partials_max(1, max_positions), seen = window / CUDA_ATTN_SPLIT + 2;

        return n_sequences * (window > 0 && seen < all ? seen : all);
}

static inline uint32_t cuda_attn_tiles_max(uint32_t max_rows, uint32_t tile_rows) {
        return tile_rows > 0 ? max_rows / 2 + max_rows / tile_rows : 0; /* a run has two rows at least */
}

static inline size_t cuda_attn_plan_bytes_max(uint32_t max_rows, uint32_t max_positions, uint32_t tile_rows) {
        return sizeof(struct cuda_attn_plan) +
               cuda_attn_partials_max(max_rows, max_positions) * sizeof(struct cuda_attn_item) +
               max_rows * sizeof(struct cuda_attn_row) + cuda_attn_tiles_max(max_rows, tile_rows) * sizeof(struct cuda_attn_tile);
}

/* q, and out.f32 where wanted, are aligned to 16 bytes, q_stride is a multiple of 4. KV_F32 looks at no plan: it may be NULL. */
struct cuda_attn {
        struct cuda_rows rows;
        struct cuda_batch batch;
        struct cuda_kv kv;
        struct attention attention; /* sinks: device */
        const float *q;
        size_t q_stride;
        const struct cuda_attn_plan *plan; /* device */
        uint32_t max_items, max_rows, max_tiles; /* that a plan may have; of items or tiles 0: no kernel for them is started */
        uint32_t grid_items; /* cuda_attn_grid_items(): blocks of the kernel for few rows, which loop over the items */
        float *partials;     /* cuda_attn_partial_bytes() */
        struct cuda_packed out; /* n_in = n_heads * head_dim */
};

CUDA_API cudaError_t cuda_attn(const struct cuda_launch *l, const struct cuda_attn *a);
/* Shapes that are computed: heads of up to 256 elements, in whole 8, and pages of at least 16 positions. */
CUDA_API bool cuda_attn_has(const struct kv_config *kv, uint32_t n_heads);
/* As many blocks of the kernel for few rows as so many SMs hold at a time. */
CUDA_API uint32_t cuda_attn_grid_items(enum kv_format format, uint32_t head_dim, uint32_t n_sms);
/* Once per process and device: allows the kernels their shared memory. */
CUDA_API cudaError_t cuda_attn_prepare(void);
