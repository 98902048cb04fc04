/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The kernel of matrix products, for a format F (mm-format.cuh) and a shape of tile V; mm.cu chooses.
 *
 * A block computes a tile of 16 outputs times `panels` and 8 rows times `tiles`. Its warps are warps_m x warps_n: each has
 * V::panels panels of outputs and V::tiles tiles of rows in registers. K goes by in steps of k_step elements: packed x of the
 * block's rows, and chunks of its panels, come through rings in shared memory, filled by asynchronous copies V::stages - 1
 * steps ahead. A chunk of weights may be as long as several steps, where a format's block is; it is fetched with the first of
 * them. Each warp fetches one panel, and all of them x. There is one barrier a step: it tells that what all threads have
 * waited for is there, and that the stage in front, which is filled next, is read no more.
 *
 * Per 32 elements of K (mm_multiply()) a warp decodes A fragments of its panels once and multiplies them with each tile.
 *
 * Slices of K (mm.h) are either blocks of their own (gridDim.z), which leave their sums in scratch for the last of them to add
 * up, or are gone through by one block.
 */

#include "mm-format.cuh"
#include "pack.cuh"

#define MM_WARP 32u
#define MM_NO_ROW UINT32_MAX
#define MM_SHARED_MAX 101376u /* bytes that every GPU lends to a block */
#define MM_SHARED_TWO 50176u  /* with so many, two blocks are on an SM of the smallest kind */
#define MM_SLICE 256u         /* slices begin at multiples of this */
#define MM_GATE_STRIDE 20u    /* floats between rows of 16 outputs in shared memory: fewer bank conflicts than 16 */

struct mm_args {
        struct cuda_mm mm;
        const void *x; /* in the form that the kernel reads */
        uint32_t n_panels[CUDA_MM_PRODUCTS];
        uint32_t slices[CUDA_MM_PRODUCTS];
        uint32_t first_tile[CUDA_MM_PRODUCTS + 1]; /* of each product in gridDim.y; gated ones share theirs */
        uint32_t k32;                              /* steps of 32 in a row of x */
        uint32_t max_slices;
        uint32_t group_tiles;                      /* in gridDim.x, for each group of slots */
        bool split;                                /* slices are blocks */
};

template <uint32_t warps_m_, uint32_t warps_n_, uint32_t panels_, uint32_t tiles_, uint32_t k_step_, uint32_t stages_>
struct mm_shape {
        static constexpr uint32_t warps_m = warps_m_, warps_n = warps_n_, panels = panels_, tiles = tiles_;
        static constexpr uint32_t k_step = k_step_, stages = stages_;
};

/* Sizes that follow from a format and a shape. */
template <typename F, typename V> struct mm_layout {
        static constexpr uint32_t warps = V::warps_m * V::warps_n, threads = warps * MM_WARP;
        static constexpr uint32_t panels = V::warps_m * V::panels, tiles = V::warps_n * V::tiles, rows = tiles * CUDA_TILE_ROWS;
        static constexpr uint32_t sums = V::panels * V::tiles * 4; /* of a thread */
        /* Whether there are registers for what slices before the present one came to. */
        static constexpr bool totals = V::panels * V::tiles <= 4;
        /* With so many registers there can't be two blocks on an SM. */
        static constexpr bool alone = V::panels > 1 || ((F::low || F::many) && V::tiles > 4);
        static constexpr uint32_t k_step = V::k_step < F::chunk ? V::k_step : F::chunk, steps = k_step / 32;
        /* Steps that are computed side by side: with more tiles there is enough to do, and no register left. */
        static constexpr uint32_t unroll = F::coded ? steps : V::tiles == 1 ? 4 : V::tiles == 2 ? 2 : 1;
        static constexpr uint32_t k_chunk = k_step < F::block ? F::block : k_step, chunk_steps = k_chunk / k_step;
        static constexpr uint32_t panel_bytes = k_chunk / F::block * F::column, chunk_bytes = panels * panel_bytes;
        static constexpr uint32_t x_bytes = tiles * steps * 512;
        static constexpr uint32_t x_sums_bytes = F::minimum ? rows * steps * 8 : 0;
        static constexpr uint32_t x_stage_bytes = x_bytes + x_sums_bytes;
        static constexpr uint32_t table_bytes = 2 * rows * 4;

        static constexpr uint32_t chunks_of(uint32_t stages) {
                return (stages - 1 + chunk_steps - 1) / chunk_steps + 1;
        }

        static constexpr uint32_t bytes_of(uint32_t stages) {
                return table_bytes + stages * x_stage_bytes + chunks_of(stages) * chunk_bytes;
        }

        /* As many stages as fit: with at least three, and room for a second block, or else as many as can be. */
        static constexpr uint32_t fitting(uint32_t stages, uint32_t least, uint32_t bytes) {
                return bytes_of(stages) <= bytes ? stages : stages > least ? fitting(stages - 1, least, bytes) : 0;
        }

        static constexpr uint32_t stages_for_two = alone ? 0 : fitting(V::stages, 3, MM_SHARED_TWO);
        static constexpr uint32_t stages = stages_for_two ? stages_for_two : fitting(V::stages, 2, MM_SHARED_MAX);
        static constexpr uint32_t chunks = chunks_of(stages);
        static constexpr uint32_t blocks = alone ? 1 : 512 / threads; /* that an SM must have registers for */
        static constexpr uint32_t gate_bytes = table_bytes + panels * rows * MM_GATE_STRIDE * 4;
        static constexpr uint32_t shared_bytes = bytes_of(stages) > gate_bytes ? bytes_of(stages) : gate_bytes;

        static_assert(stages >= 2, "stages");
        static_assert(F::block > 1 || panel_bytes % 512 == 0, "zeros are filled in to the end of a chunk");
        static_assert(panels == warps, "a warp fetches a panel");
        static_assert(MM_SLICE % k_chunk == 0, "slices are whole chunks");
        static_assert(k_step % 64 == 0 || !F::minimum, "sums come by two steps");
        static_assert(shared_bytes <= MM_SHARED_MAX, "shared memory");
};

/* What a block has to do. */
struct mm_block {
        uint32_t product, tile;  /* tile of that product */
        uint32_t k_first, k_end; /* elements of K */
        uint32_t slice, slices;  /* first one, and all */
        uint32_t expert;
        uint32_t n_rows;
};

DEVICE uint32_t mm_slice_begin(uint32_t slice, uint32_t slices, uint32_t n_in) {
        uint32_t units = (n_in + MM_SLICE - 1) / MM_SLICE, k = units * slice / slices * MM_SLICE;

        return k < n_in ? k : n_in;
}

DEVICE struct mm_block mm_block_of(const struct mm_args &a) {
        struct mm_block b = {};

        while (!a.mm.is_gated && b.product + 1 < a.mm.n_products && blockIdx.y >= a.first_tile[b.product + 1])
                b.product++;
        b.tile = blockIdx.y - a.first_tile[b.product];
        b.slices = a.slices[b.product];
        b.slice = a.split ? blockIdx.z : 0;
        b.k_first = a.split ? mm_slice_begin(b.slice, b.slices, a.mm.n_in) : 0;
        b.k_end = a.split ? mm_slice_begin(b.slice + 1, b.slices, a.mm.n_in) : a.mm.n_in;
        return b;
}

/* A panel of a block: in gated products, every other one is the gate's, followed by up's. */
struct mm_panel {
        uint32_t product, panel;
};

template <typename L> DEVICE struct mm_panel mm_panel_of(const struct mm_args &a, const struct mm_block &b, uint32_t i) {
        struct mm_panel r;

        r.product = a.mm.is_gated ? i % 2 : b.product;
        r.panel = a.mm.is_gated ? b.tile * (L::panels / 2) + i / 2 : b.tile * L::panels + i;
        return r;
}

/* The block's rows: where they are in x, and then in out. Returns how many. */
template <typename L> DEVICE uint32_t mm_rows(const struct mm_args &a, uint32_t *table) {
        uint32_t end = rows_count(a.mm.rows), first = blockIdx.x * L::rows, n = first < end ? end - first : 0;

        for (uint32_t i = threadIdx.x; i < L::rows; i += L::threads)
                table[i] = table[L::rows + i] = i < n ? first + i : MM_NO_ROW;
        return n < L::rows ? n : L::rows;
}

/* The same of an expert's slots; after grid_wait(). */
template <typename L> DEVICE uint32_t mm_slots(const struct mm_args &a, struct mm_block *b, uint32_t *table) {
        const struct cuda_slots &s = a.mm.slots;
        uint32_t before = blockIdx.x % a.group_tiles * L::rows, n;
        struct cuda_group group = { 0, 0, 0 };

        if (blockIdx.x / a.group_tiles < *s.n_groups)
                group = s.groups[blockIdx.x / a.group_tiles];
        n = before < group.n ? group.n - before : 0;
        b->expert = group.expert;
        for (uint32_t i = threadIdx.x; i < L::rows; i += L::threads) {
                uint32_t x = MM_NO_ROW, out = MM_NO_ROW;

                if (i < n) {
                        out = s.slot[group.first + before + i];
                        x = a.mm.x_per_row ? s.row[group.first + before + i] : out;
                }
                table[i] = x;
                table[L::rows + i] = out;
        }
        return n < L::rows ? n : L::rows;
}

/* Where a warp's panel is; NULL beyond the last one. */
template <typename F, typename L>
DEVICE const uint8_t *mm_weights(const struct mm_args &a, const struct mm_block &b, uint32_t warp) {
        struct mm_panel p = mm_panel_of<L>(a, b, warp);
        uint32_t n = a.n_panels[p.product];

        if (p.panel >= n)
                return NULL;
        return (const uint8_t *)a.mm.product[p.product].w + ((size_t)b.expert * n + p.panel) * (a.mm.n_in / F::block) * F::column;
}

/* The states of a warp's panels at the begin of K, where the format has any. */
template <typename F, typename V>
DEVICE void mm_begin_states(const struct mm_args &a, const struct mm_block &b, uint32_t warp, uint32_t lane,
                            typename F::state states[V::panels]) {
        using L = mm_layout<F, V>;

        if constexpr (F::coded) {
                uint32_t units = (a.mm.n_in + MM_SLICE - 1) / MM_SLICE;

#pragma unroll
                for (uint32_t i = 0; i < V::panels; i++) {
                        struct mm_panel p = mm_panel_of<L>(a, b, warp / V::warps_n * V::panels + i);
                        uint32_t n = a.n_panels[p.product];

                        F::begin(a.mm.product[p.product].coded, (size_t)b.expert * n + p.panel, units, p.panel < n, b.k_first, b.k_end,
                                 lane, states[i]);
                }
        }
}

/* A warp's panel of the chunk at k. Zeros beyond K, where that may be within a step. */
template <typename F, typename L>
DEVICE void mm_fetch_weights(const struct mm_block &b, const uint8_t *panel, uint32_t k, uint8_t *to, uint32_t lane) {
        uint32_t left = (b.k_end - k) / F::block, valid = left * F::column;
        const uint8_t *from = panel + (size_t)(k / F::block) * F::column;

        if (left >= L::k_chunk / F::block)
                valid = L::panel_bytes;
#pragma unroll
        for (uint32_t i = 0; i < (L::panel_bytes + 511) / 512; i++) {
                uint32_t at = i * 512 + lane * 16;

                if (F::block == 1)
                        cp_async_16_zfill(to + F::swizzle(at), at < valid ? from + at : panel, at < valid);
                else if (at < valid)
                        cp_async_16(to + F::swizzle(at), from + at);
        }
}

/* 32 elements of a tile's rows, a row and 16 bytes for each thread. Zeros where a row is none. */
DEVICE void mm_fetch_x_tile(const struct mm_args &a, uint32_t row, uint32_t k32, uint32_t end, uint8_t *to, uint32_t lane) {
        bool valid = row != MM_NO_ROW && k32 < end;
        size_t at = ((size_t)(row / CUDA_TILE_ROWS) * a.k32 + k32) * 512 + row % CUDA_TILE_ROWS * 64 + lane % 4 * 16;

        cp_async_16_zfill(to + lane * 16, (const uint8_t *)a.x + (valid ? at : 0), valid);
}

/* x of the step at k: [tile][step][thread]. */
template <typename L>
DEVICE void mm_fetch_x(const struct mm_args &a, const uint32_t *table, uint32_t k, uint32_t k_end, uint8_t *to, uint32_t warp,
                       uint32_t lane) {
        constexpr uint32_t n = L::tiles * L::steps;

#pragma unroll
        for (uint32_t round = 0; round < (n + L::warps - 1) / L::warps; round++) {
                uint32_t i = round * L::warps + warp;

                if (n % L::warps == 0 || i < n)
                        mm_fetch_x_tile(a, table[i / L::steps * CUDA_TILE_ROWS + lane / 4], k / 32 + i % L::steps,
                                        (k_end + 31) / 32, to + i * 512, lane);
        }
}

/* Sums of x: [pair of steps][row][4]. Rows of an odd number of steps are not aligned for copies. */
template <typename L>
DEVICE void mm_fetch_sums(const struct mm_args &a, const uint32_t *table, uint32_t k, uint32_t k_end, float *to) {
        uint32_t end = (k_end + 31) / 32;

#pragma unroll
        for (uint32_t i = threadIdx.x; i < L::rows * L::steps / 2; i += L::threads) {
                uint32_t row = table[i % L::rows], k32 = k / 32 + i / L::rows * 2;
                const float *from = a.mm.x.sums + ((size_t)row * a.k32 + k32) * 2;

                if (row == MM_NO_ROW || k32 >= end)
                        continue;
                if (a.k32 % 2 == 0) {
                        cp_async_16(to + 4 * i, from);
                } else {
                        *(float2 *)(to + 4 * i) = *(const float2 *)from;
                        if (k32 + 1 < end)
                                *(float2 *)(to + 4 * i + 2) = *(const float2 *)(from + 2);
                }
        }
}

/* acc += scale * (product of one or both halves) */
template <typename F>
DEVICE void mm_scaled(float acc[4], const struct mm_step &w, const uint32_t x[4], uint32_t first, uint32_t n) {
        float sum[4] = { 0.0f, 0.0f, 0.0f, 0.0f };

#pragma unroll
        for (uint32_t h = first; h < first + n; h++)
                mma_bf16(sum, w.a[h], x + 2 * h);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
                acc[i] = fmaf(w.scale[first][i / 2], sum[i], acc[i]);
}

/* One panel times one tile: 32 elements of K. This is the order of sums, in whatever company. */
template <typename F>
DEVICE void mm_multiply(float acc[4], const struct mm_step &w, const uint32_t x[4], const float sums[2][2]) {
        if constexpr (F::eight) {
                mma_e2m1_e4m3(acc, w.a[0], x, w.power, x[2]);
        } else if (F::scale == 32) {
                mm_scaled<F>(acc, w, x, 0, 2);
        } else if (F::scale == 16) {
                mm_scaled<F>(acc, w, x, 0, 1);
                mm_scaled<F>(acc, w, x, 1, 1);
        } else {
#pragma unroll
                for (uint32_t h = 0; h < 2; h++) {
                        mma_bf16(acc, w.a[h], x + 2 * h);
                        if (F::low)
                                mma_bf16(acc, w.low[h], x + 2 * h);
                }
        }
        if (F::minimum == 32) {
#pragma unroll
                for (uint32_t i = 0; i < 4; i++)
                        acc[i] = fmaf(-w.min[0][i / 2], sums[i % 2][0] + sums[i % 2][1], acc[i]);
        } else if (F::minimum == 16) {
#pragma unroll
                for (uint32_t i = 0; i < 8; i++)
                        acc[i % 4] = fmaf(-w.min[i / 4][i % 4 / 2], sums[i % 2][i / 4], acc[i % 4]);
        }
}

/* A warp's panels times its tiles, step `step` of a stage. */
template <typename F, typename V>
DEVICE void mm_step_of(float acc[V::panels][V::tiles][4], typename F::state states[V::panels], const uint8_t *weights,
                       uint32_t chunk_step, const uint8_t *x, const float *x_sums, uint32_t step, uint32_t lane) {
        using L = mm_layout<F, V>;
        struct mm_step w[V::panels];

#pragma unroll
        for (uint32_t p = 0; p < V::panels; p++) {
                if constexpr (F::coded)
                        F::load(weights + p * L::panel_bytes, chunk_step, lane, states[p], w[p]);
                else
                        F::load(weights + p * L::panel_bytes, chunk_step, lane, w[p]);
        }
#pragma unroll
        for (uint32_t t = 0; t < V::tiles; t++) {
                uint4 v = *(const uint4 *)(x + (t * L::steps + step) * 512 + lane * 16);
                const uint32_t b[4] = { v.x, v.y, v.z, v.w };
                float sums[2][2] = {};

                if (F::minimum) {
#pragma unroll
                        for (uint32_t c = 0; c < 2; c++) {
                                uint32_t row = t * CUDA_TILE_ROWS + lane % 4 * 2 + c;
                                float2 s = *(const float2 *)(x_sums + (step / 2 * L::rows + row) * 4 + step % 2 * 2);

                                sums[c][0] = s.x;
                                sums[c][1] = s.y;
                        }
                }
#pragma unroll
                for (uint32_t p = 0; p < V::panels; p++)
                        mm_multiply<F>(acc[p][t], w[p], b, sums);
        }
}
