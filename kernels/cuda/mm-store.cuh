/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What becomes of a block's sums (mm-core.cuh): slices are added up, and stored, or gated and packed for the next product. */

#include "act.cuh"
#include "mm-core.cuh"

/* Where element i of the sums of a thread's panel and tile is. Row in the block; output in the matrix. */
template <typename F, typename V> struct mm_element {
        uint32_t row;
        uint32_t in_panel;
};

template <typename F, typename V>
DEVICE struct mm_element<F, V> mm_element_of(uint32_t warp_n, uint32_t tile, uint32_t lane, uint32_t i) {
        struct mm_element<F, V> e;

        e.row = (warp_n * V::tiles + tile) * CUDA_TILE_ROWS + lane % 4 * 2 + i % 2;
        e.in_panel = F::pairs ? lane / 4 * 2 + i / 2 : lane / 4 + i / 2 * 8;
        return e;
}

DEVICE float mm_scale(const struct cuda_mm_product &p, uint32_t expert) {
        float scale = p.scales ? p.scales[expert] : p.scale;

        return scale != 0.0f ? scale : 1.0f;
}

/* What the first slice is added to. */
DEVICE float mm_initial_of(const struct cuda_mm_product &p, uint32_t expert, uint32_t row, uint32_t o, bool accumulate) {
        float v = accumulate ? p.out[row * p.out_stride + o] : 0.0f;

        return p.bias ? v + p.bias[(size_t)expert * p.n_out + o] : v;
}

template <typename F, typename V>
DEVICE void mm_initial(const struct mm_args &a, const struct mm_block &b, const uint32_t *table, uint32_t warp, uint32_t lane,
                       float total[V::panels][V::tiles][4]) {
        using L = mm_layout<F, V>;

#pragma unroll
        for (uint32_t p = 0; p < V::panels; p++) {
                struct mm_panel panel = mm_panel_of<L>(a, b, warp / V::warps_n * V::panels + p);
                const struct cuda_mm_product &product = a.mm.product[panel.product];
                bool accumulate = product.accumulate && !a.mm.is_gated;

#pragma unroll
                for (uint32_t i = 0; i < V::tiles * 4; i++) {
                        struct mm_element<F, V> e = mm_element_of<F, V>(warp % V::warps_n, i / 4, lane, i % 4);
                        uint32_t row = table[L::rows + e.row], o = panel.panel * WEIGHT_PANEL + e.in_panel;

                        total[p][i / 4][i % 4] = 0.0f;
                        if (row != MM_NO_ROW && o < product.n_out)
                                total[p][i / 4][i % 4] = mm_initial_of(product, b.expert, row, o, accumulate);
                }
        }
}

template <typename F, typename V>
DEVICE void mm_store(const struct mm_args &a, const struct mm_block &b, const uint32_t *table, uint32_t warp, uint32_t lane,
                     const float total[V::panels][V::tiles][4]) {
        using L = mm_layout<F, V>;

#pragma unroll
        for (uint32_t p = 0; p < V::panels; p++) {
                struct mm_panel panel = mm_panel_of<L>(a, b, warp / V::warps_n * V::panels + p);
                const struct cuda_mm_product &product = a.mm.product[panel.product];

#pragma unroll
                for (uint32_t i = 0; i < V::tiles * 4; i++) {
                        struct mm_element<F, V> e = mm_element_of<F, V>(warp % V::warps_n, i / 4, lane, i % 4);
                        uint32_t row = table[L::rows + e.row], o = panel.panel * WEIGHT_PANEL + e.in_panel;

                        if (row != MM_NO_ROW && o < product.n_out)
                                product.out[row * product.out_stride + o] = total[p][i / 4][i % 4];
                }
        }
}

/* total += acc * scale, and acc begins anew. */
template <typename F, typename V>
DEVICE void mm_add_slice(const struct mm_args &a, const struct mm_block &b, uint32_t warp, float acc[V::panels][V::tiles][4],
                         float total[V::panels][V::tiles][4]) {
        using L = mm_layout<F, V>;

#pragma unroll
        for (uint32_t p = 0; p < V::panels; p++) {
                struct mm_panel panel = mm_panel_of<L>(a, b, warp / V::warps_n * V::panels + p);
                float scale = mm_scale(a.mm.product[panel.product], b.expert);

#pragma unroll
                for (uint32_t i = 0; i < V::tiles * 4; i++) {
                        total[p][i / 4][i % 4] += acc[p][i / 4][i % 4] * scale;
                        acc[p][i / 4][i % 4] = 0.0f;
                }
        }
}

/* The same in out itself, which belongs to this block until its end. first: out has nothing yet. */
template <typename F, typename V>
DEVICE void mm_put_slice(const struct mm_args &a, const struct mm_block &b, const uint32_t *table, uint32_t warp, uint32_t lane,
                         bool first, float acc[V::panels][V::tiles][4]) {
        using L = mm_layout<F, V>;

#pragma unroll
        for (uint32_t p = 0; p < V::panels; p++) {
                struct mm_panel panel = mm_panel_of<L>(a, b, warp / V::warps_n * V::panels + p);
                const struct cuda_mm_product &product = a.mm.product[panel.product];
                float scale = mm_scale(product, b.expert);

#pragma unroll
                for (uint32_t i = 0; i < V::tiles * 4; i++) {
                        struct mm_element<F, V> e = mm_element_of<F, V>(warp % V::warps_n, i / 4, lane, i % 4);
                        uint32_t row = table[L::rows + e.row], o = panel.panel * WEIGHT_PANEL + e.in_panel;

                        if (row != MM_NO_ROW && o < product.n_out) {
                                float *out = product.out + row * product.out_stride + o;
                                float v = first ? mm_initial_of(product, b.expert, row, o, product.accumulate) : *out;

                                *out = v + acc[p][i / 4][i % 4] * scale;
                        }
                        acc[p][i / 4][i % 4] = 0.0f;
                }
        }
}

/* Leaves this block's slice in scratch. The last block of a tile to come here takes all slices, in order, and returns true. */
template <typename F, typename V>
DEVICE bool mm_join_slices(const struct mm_args &a, const struct mm_block &b, uint32_t warp, uint32_t *flag,
                           float acc[V::panels][V::tiles][4], float total[V::panels][V::tiles][4]) {
        using L = mm_layout<F, V>;
        uint32_t unit = blockIdx.x * gridDim.y + blockIdx.y;
        float *scratch = a.mm.scratch + (size_t)unit * a.max_slices * L::sums * L::threads + threadIdx.x;
        float *own = scratch + (size_t)b.slice * L::sums * L::threads;

#pragma unroll
        for (uint32_t i = 0; i < L::sums; i++)
                own[i * L::threads] = acc[i / 4 / V::tiles][i / 4 % V::tiles][i % 4];
        __syncthreads();
        if (threadIdx.x == 0) {
                *flag = counter_next(a.mm.tickets + unit) + 1 == b.slices;
                if (*flag)
                        a.mm.tickets[unit] = 0;
        }
        __syncthreads();
        if (!*flag)
                return false;
        for (uint32_t s = 0; s < b.slices; s++, scratch += L::sums * L::threads) {
#pragma unroll
                for (uint32_t i = 0; i < L::sums; i++)
                        acc[i / 4 / V::tiles][i / 4 % V::tiles][i % 4] = __ldcg(scratch + i * L::threads);
                mm_add_slice<F, V>(a, b, warp, acc, total);
        }
        return true;
}

/* --- gated products --- */

DEVICE float mm_gate(enum activation act, float gate, float up) {
        if (act == ACT_SILU)
                return act_gate<ACT_SILU>(gate, up);
        if (act == ACT_GELU_TANH)
                return act_gate<ACT_GELU_TANH>(gate, up);
        return act_gate<ACT_SILU_CLAMPED>(gate, up);
}

/* Four outputs of a row from the sums of gate and up. Where sums of packed elements are wanted, leaves these at `gate`. */
DEVICE void mm_gate_four(const struct mm_args &a, uint32_t row, uint32_t o, float *gate, const float *up) {
        const struct cuda_packed &to = a.mm.gated;
        uint32_t k32 = (to.n_in + 31) / 32, two[2];
        float v[4];

#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
                v[i] = o + i < to.n_in ? mm_gate(a.mm.act, gate[i], up[i]) : 0.0f;
                if (to.f32 && o + i < to.n_in)
                        to.f32[(size_t)row * to.n_in + o + i] = v[i];
        }
        two[0] = bf16x2(v[0], v[1]);
        two[1] = bf16x2(v[2], v[3]);
        if (to.x && o < k32 * 32)
                *(uint2 *)(to.x + (((size_t)(row / CUDA_TILE_ROWS) * k32 + o / 32) * 32 + row % CUDA_TILE_ROWS * 4 + o % 16 / 4) * 8 +
                           o % 32 / 16 * 4) = make_uint2(two[0], two[1]);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
                gate[i] = __uint_as_float(i % 2 ? two[i / 2] & 0xffff0000u : two[i / 2] << 16);
}

/* Exchanged through shared memory, [panel][row][16 of MM_GATE_STRIDE]: gate and up are with different warps. */
template <typename F, typename V>
DEVICE void mm_store_gated(const struct mm_args &a, const struct mm_block &b, const uint32_t *table, float *exchange, uint32_t warp,
                           uint32_t lane, const float total[V::panels][V::tiles][4]) {
        using L = mm_layout<F, V>;
        const uint32_t *rows = table + L::rows, stride = L::rows * MM_GATE_STRIDE;
        uint32_t first = b.tile * (L::panels / 2), k16 = (a.mm.gated.n_in + 31) / 32 * 2;

#pragma unroll
        for (uint32_t i = 0; i < L::sums; i++) {
                struct mm_element<F, V> e = mm_element_of<F, V>(warp % V::warps_n, i / 4 % V::tiles, lane, i % 4);
                uint32_t panel = warp / V::warps_n * V::panels + i / 4 / V::tiles;

                exchange[panel * stride + e.row * MM_GATE_STRIDE + e.in_panel] = total[i / 4 / V::tiles][i / 4 % V::tiles][i % 4];
        }
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < L::panels / 2 * L::rows * 4; i += L::threads) {
                uint32_t panel = i / 4 / L::rows, row = i / 4 % L::rows;
                float *gate = exchange + 2 * panel * stride + row * MM_GATE_STRIDE + i % 4 * 4;

                if (rows[row] != MM_NO_ROW)
                        mm_gate_four(a, rows[row], (first + panel) * WEIGHT_PANEL + i % 4 * 4, gate, gate + stride);
        }
        if (!a.mm.gated.sums)
                return;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < L::panels / 2 * L::rows; i += L::threads) {
                uint32_t panel = i / L::rows, row = i % L::rows;
                const float *packed = exchange + 2 * panel * stride + row * MM_GATE_STRIDE;
                float sum = 0.0f;

                if (rows[row] == MM_NO_ROW || first + panel >= k16)
                        continue;
                for (uint32_t k = 0; k < 16; k++)
                        sum += packed[k];
                a.mm.gated.sums[(size_t)rows[row] * k16 + first + panel] = sum;
        }
}
