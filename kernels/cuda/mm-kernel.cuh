/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The kernel of matrix products (mm-core.cuh) and the table of its shapes for a format; mm-*.cu are instances. */

#include "mm-store.cuh"
#include "mm-table.h"

/* Rings in shared memory: stages of x and its sums, chunks of weights, and the tables of rows. */
template <typename F, typename V> struct mm_rings {
        using L = mm_layout<F, V>;

        uint8_t *x, *weights;
        uint32_t *table;
};

template <typename F, typename V> DEVICE struct mm_rings<F, V> mm_rings_at(uint8_t *shared) {
        using L = mm_layout<F, V>;
        struct mm_rings<F, V> r;

        r.table = (uint32_t *)shared;
        r.x = shared + L::table_bytes;
        r.weights = r.x + L::stages * L::x_stage_bytes;
        return r;
}

/* Fetches step number `step` of x. */
template <typename F, typename V>
DEVICE void mm_fetch_stage(const struct mm_args &a, const struct mm_block &b, const struct mm_rings<F, V> &r, uint32_t step,
                           uint32_t warp, uint32_t lane) {
        using L = mm_layout<F, V>;
        uint32_t k = b.k_first + step * L::k_step;
        uint8_t *to = r.x + step % L::stages * L::x_stage_bytes;

        if (k >= b.k_end)
                return;
        mm_fetch_x<L>(a, r.table, k, b.k_end, to, warp, lane);
        if (F::minimum)
                mm_fetch_sums<L>(a, r.table, k, b.k_end, (float *)(to + L::x_bytes));
}

/* Fetches the chunk of weights that begins with step number `step`. */
template <typename F, typename V>
DEVICE void mm_fetch_chunk(const struct mm_block &b, const struct mm_rings<F, V> &r, const uint8_t *panel, uint32_t step,
                           uint32_t warp, uint32_t lane) {
        using L = mm_layout<F, V>;
        uint32_t k = b.k_first + step * L::k_step, chunk = step / L::chunk_steps;

        if (step % L::chunk_steps == 0 && k < b.k_end && panel)
                mm_fetch_weights<F, L>(b, panel, k, r.weights + chunk % L::chunks * L::chunk_bytes + warp * L::panel_bytes, lane);
}

/* Step number `step`, whose data is there. */
template <typename F, typename V>
DEVICE void mm_compute_stage(const struct mm_block &b, const struct mm_rings<F, V> &r, uint32_t step, uint32_t warp,
                             uint32_t lane, typename F::state states[V::panels], float acc[V::panels][V::tiles][4]) {
        using L = mm_layout<F, V>;
        uint32_t left = (b.k_end - b.k_first - step * L::k_step + 31) / 32, n = F::coded ? L::steps : left < L::steps ? left : L::steps;
        uint32_t in_chunk = step % L::chunk_steps * L::steps;
        const uint8_t *x = r.x + step % L::stages * L::x_stage_bytes;
        const float *sums = (const float *)(x + L::x_bytes) + warp % V::warps_n * V::tiles * CUDA_TILE_ROWS * 4;
        const uint8_t *weights = r.weights + step / L::chunk_steps % L::chunks * L::chunk_bytes;

        x += warp % V::warps_n * V::tiles * L::steps * 512;
        weights += warp / V::warps_n * V::panels * L::panel_bytes;
#pragma unroll L::unroll
        for (uint32_t i = 0; i < n; i++)
                mm_step_of<F, V>(acc, states, weights, in_chunk + i, x, sums, i, lane);
}

/* Begins with the first stages. Each is a commit of its own, which is all that its step waits for, unless their weights are on their
 * way already (fetched): then the first one has all of these. */
template <typename F, typename V>
DEVICE void mm_begin(const struct mm_args &a, const struct mm_block &b, const struct mm_rings<F, V> &r, const uint8_t *panel,
                     bool fetched) {
        uint32_t warp = threadIdx.x / MM_WARP, lane = threadIdx.x % MM_WARP;

        for (uint32_t s = 0; s < mm_layout<F, V>::stages - 1; s++) {
                if (!fetched)
                        mm_fetch_chunk<F, V>(b, r, panel, s, warp, lane);
                mm_fetch_stage<F, V>(a, b, r, s, warp, lane);
                cp_async_commit();
        }
}

/* All of the block's K: leaves its last slice's sums in acc, those of slices before in total or, without registers for these, in
 * out. */
template <typename F, typename V>
DEVICE void mm_loop(const struct mm_args &a, const struct mm_block &b, const struct mm_rings<F, V> &r, const uint8_t *panel,
                    typename F::state states[V::panels], float acc[V::panels][V::tiles][4], float total[V::panels][V::tiles][4]) {
        using L = mm_layout<F, V>;
        uint32_t warp = threadIdx.x / MM_WARP, lane = threadIdx.x % MM_WARP, slice = b.slice;
        uint32_t slice_end = mm_slice_begin(slice + 1, b.slices, a.mm.n_in);
        uint32_t n_steps = (b.k_end - b.k_first + L::k_step - 1) / L::k_step;

        for (uint32_t s = 0; s < n_steps; s++) {
                if (b.k_first + s * L::k_step == slice_end) {
                        if (L::totals)
                                mm_add_slice<F, V>(a, b, warp, acc, total);
                        else
                                mm_put_slice<F, V>(a, b, r.table, warp, lane, slice == 0, acc);
                        slice_end = mm_slice_begin(++slice + 1, b.slices, a.mm.n_in);
                }
                cp_async_wait<L::stages - 2>();
                __syncthreads();
                mm_fetch_chunk<F, V>(b, r, panel, s + L::stages - 1, warp, lane);
                mm_fetch_stage<F, V>(a, b, r, s + L::stages - 1, warp, lane);
                cp_async_commit();
                mm_compute_stage<F, V>(b, r, s, warp, lane, states, acc);
        }
}

template <typename F, typename V>
__global__ void __launch_bounds__(mm_layout<F, V>::threads, mm_layout<F, V>::blocks) mm_kernel(struct mm_args a) {
        using L = mm_layout<F, V>;
        struct mm_rings<F, V> r = mm_rings_at<F, V>(shared_memory());
        uint32_t warp = threadIdx.x / MM_WARP, lane = threadIdx.x % MM_WARP;
        float acc[V::panels][V::tiles][4] = {}, total[V::panels][V::tiles][4];
        struct mm_block b = mm_block_of(a);
        typename F::state states[V::panels];
        const uint8_t *panel = NULL;
        bool early = !a.mm.slots.groups && gridDim.x == 1 && b.slice < b.slices;

        grid_launch_dependents();
        if (early) {
                panel = mm_weights<F, L>(a, b, warp);
                for (uint32_t s = 0; s < L::stages - 1; s++)
                        mm_fetch_chunk<F, V>(b, r, panel, s, warp, lane);
                mm_begin_states<F, V>(a, b, warp, lane, states);
        }
        if (!a.mm.slots.groups)
                b.n_rows = mm_rows<L>(a, r.table);
        grid_wait();
        if (a.mm.slots.groups)
                b.n_rows = mm_slots<L>(a, &b, r.table);
        if (b.n_rows == 0 || b.slice >= b.slices) { /* shared memory goes to the next block when all copies have come */
                cp_async_commit();
                cp_async_wait<0>();
                return;
        }
        if (!early) {
                panel = mm_weights<F, L>(a, b, warp);
                mm_begin_states<F, V>(a, b, warp, lane, states);
        }
        __syncthreads();
        mm_begin<F, V>(a, b, r, panel, early);
        if (L::totals)
                mm_initial<F, V>(a, b, r.table, warp, lane, total);
        mm_loop<F, V>(a, b, r, panel, states, acc, total);
        if (!L::totals && b.slices > 1 && !a.split) {
                mm_put_slice<F, V>(a, b, r.table, warp, lane, false, acc);
                return;
        }
        if (!L::totals)
                mm_initial<F, V>(a, b, r.table, warp, lane, total);
        if (!a.split || b.slices == 1)
                mm_add_slice<F, V>(a, b, warp, acc, total);
        else if (!mm_join_slices<F, V>(a, b, warp, (uint32_t *)r.weights, acc, total))
                return;
        if (a.mm.is_gated) {
                __syncthreads();
                mm_store_gated<F, V>(a, b, r.table, (float *)(r.x), warp, lane, total);
        } else {
                mm_store<F, V>(a, b, r.table, warp, lane, total);
        }
}

template <typename F, typename V> constexpr struct mm_variant mm_variant_of(void) {
        using L = mm_layout<F, V>;

        return { mm_kernel<F, V>, L::threads, L::shared_bytes, L::panels, L::rows, L::sums, L::totals };
}

/* Rows of a tile: 8, 16, 32, 64 (a block reads all rows, so that weights are read once), 128. warps_m, warps_n, panels, tiles,
 * elements of K in a step, stages. */
using mm_shape_8 = mm_shape<4, 1, 1, 1, 128, 6>;
using mm_shape_16 = mm_shape<4, 1, 1, 2, 128, 6>;
using mm_shape_32 = mm_shape<4, 1, 1, 4, 64, 6>;
using mm_shape_64 = mm_shape<8, 1, 1, 8, 64, 5>;
using mm_shape_128 = mm_shape<4, 2, 2, 8, 64, 3>;

/* Defines a table entry of a format, with its struct. */
#define MM_FORMAT_AS(name, fmt, F)                                                     \
        extern const struct mm_format_entry name;                                      \
        const struct mm_format_entry name = { fmt, F::minimum != 0,                    \
                { mm_variant_of<F, mm_shape_8>(), mm_variant_of<F, mm_shape_16>(),     \
                  mm_variant_of<F, mm_shape_32>(), mm_variant_of<F, mm_shape_64>(),    \
                  mm_variant_of<F, mm_shape_128>() } };

#define MM_FORMAT(name, fmt) MM_FORMAT_AS(name, fmt, mm_format<fmt>)
