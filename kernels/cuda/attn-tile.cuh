/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Attention of 16 queries (the rows of m16n8k16) by one warp: scores of a tile of positions, their weights, and the weighted sum
 * of V. A query is a head of a row; which of the 16 it is makes no difference to its bits. Both kernels are made
 * of these functions. A thread with lane = 4 g + t has the queries g and g + 8, everywhere [0] and [1].
 *
 * Scores are kept in units of ln 2, so that weights are powers of two. Where a query sees nothing of a tile all its weights
 * are zero and what it has so far is multiplied by one; a zero that has become negative is made positive when splits are
 * combined. K and V that nobody sees are zeros in shared memory, not whatever the page held.
 */

#include "attn-sums.cuh"

#define ATTN_BLOCKS (CUDA_ATTN_TILE / 8u) /* of 8 positions: a product's columns */
#define ATTN_GROUP 16u                    /* positions that are loaded together, and K of a product with V */
#define ATTN_GROUPS (CUDA_ATTN_TILE / ATTN_GROUP)
#define ATTN_HALF_MAX 65504.0f

/* Sizes by D, the length of a head in whole steps; what a head lacks of it is zeros. */
template <int D> struct attn_shape {
        static constexpr uint32_t stride = 2 * D + 16; /* bytes of a position in shared memory: rows of 8 hit all banks */
        static constexpr bool wide = D > 128;          /* queries and totals don't fit in registers */
        static constexpr uint32_t warps = wide ? 2 : 4;
        static constexpr int unroll = wide ? 2 : 16; /* of what has many addresses at a time */
        static constexpr uint32_t query_bytes = wide ? 16 * stride : 0; /* of a warp */
};

/* The first position that a query sees which sees none from `to` on. */
DEVICE uint32_t attn_from(uint32_t window, uint32_t to) {
        return window > 0 && to > window ? to - window : 0;
}

/* What the scores of a warp's queries need to become weights. A query sees positions up to `to`, from attn_from() on; low and high
 * are the lowest and the highest `to` of the warp's. Queries that there are none of see nothing. */
struct attn_scorer {
        float scale; /* with softcap: of the argument of 2^x, see attn_score() */
        float cap;   /* in units of ln 2, 0 = none */
        uint32_t window;
        uint32_t to[2], low, high;
};

DEVICE attn_scorer attn_scorer_make(const struct attention &a) {
        attn_scorer c = {};

        c.window = a.window;
        c.scale = a.scale * ATTN_LOG2E;
        if (a.softcap > 0.0f) {
                c.scale = 2.0f * ATTN_LOG2E * (a.scale / a.softcap);
                c.cap = a.softcap * ATTN_LOG2E;
        }
        return c;
}

/* Whether any query of the warp sees any of the tile at `base`, and whether all see all of it. */
DEVICE bool attn_sees_any(const attn_scorer &c, uint32_t base) {
        return base < c.high && base + CUDA_ATTN_TILE > attn_from(c.window, c.low);
}

DEVICE bool attn_sees_all(const attn_scorer &c, uint32_t base) {
        return base + CUDA_ATTN_TILE <= c.low && base >= attn_from(c.window, c.high);
}

/* A scaled score: cap tanh(x) = cap (1 - 2 / (1 + e^2x)) where there is a cap. */
DEVICE float attn_softcap(const attn_scorer &c, float s) {
        return c.cap * (1.0f - 2.0f / (1.0f + fast_exp2(s)));
}

DEVICE float attn_score(const attn_scorer &c, float s) {
        return c.cap > 0.0f ? attn_softcap(c, s * c.scale) : s * c.scale;
}

/* --- queries --- */

/* Fragments of the 16 queries, or where they lie in shared memory. */
template <int D> struct attn_query {
        uint32_t fragment[attn_shape<D>::wide ? 1 : D / 16][4];
        const uint8_t *row; /* the lane's for ldmatrix */
};

/* Largest of half precision instead of infinity; what is not a number stays so. */
DEVICE float attn_saturate(float x) {
        return fabsf(x) > ATTN_HALF_MAX ? copysignf(ATTN_HALF_MAX, x) : x;
}

DEVICE uint32_t attn_query_pair(const float *q, uint32_t d, uint32_t head_dim) {
        float2 v;

        if (!q || d >= head_dim)
                return 0;
        v = *(const float2 *)(q + d);
        return f16x2(attn_saturate(v.x), attn_saturate(v.y));
}

/* q: the heads of the thread's two queries, NULL for none. shared: query_bytes of the warp's own. */
template <int D> DEVICE void attn_query_load(attn_query<D> &ret, const float *const q[2], uint32_t head_dim, uint8_t *shared) {
        uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;

#pragma unroll
        for (uint32_t k = 0; k < D / 16; k++)
#pragma unroll
                for (uint32_t i = 0; i < 4; i++) {
                        uint32_t d = 16 * k + i / 2 * 8 + 2 * t, pair = attn_query_pair(q[i % 2], d, head_dim);

                        if (attn_shape<D>::wide)
                                *(uint32_t *)(shared + (g + i % 2 * 8) * attn_shape<D>::stride + 2 * d) = pair;
                        else
                                ret.fragment[attn_shape<D>::wide ? 0 : k][i] = pair;
                }
        ret.row = shared + lane % 16 * attn_shape<D>::stride + lane / 16 * 16;
        __syncwarp();
}

template <int D> DEVICE void attn_query_fragment(const attn_query<D> &q, uint32_t k, uint32_t a[4]) {
        if (attn_shape<D>::wide) {
                ldmatrix_x4(a, q.row + 32 * k);
        } else {
#pragma unroll
                for (uint32_t i = 0; i < 4; i++)
                        a[i] = q.fragment[attn_shape<D>::wide ? 0 : k][i];
        }
}

/* --- a tile --- */

/* Scores of 16 positions, whose K lies at `keys`: s[0] of the first 8, s[1] of the others. */
template <int D> DEVICE void attn_scores(const attn_query<D> &q, const uint8_t *keys, float (*s)[4]) {
        uint32_t lane = threadIdx.x % WARP;
        const uint8_t *row = keys + (lane / 16 * 8 + lane % 8) * attn_shape<D>::stride + lane / 8 % 2 * 16;

#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
                s[i / 4][i % 4] = 0.0f;
#pragma unroll
        for (uint32_t k = 0; k < D / 16; k++) {
                uint32_t a[4], b[4];

                attn_query_fragment(q, k, a);
                ldmatrix_x4(b, row + 32 * k);
                mma_f16(s[0], a, b);
                mma_f16(s[1], a, b + 2);
        }
}

/* A softmax that is kept running (Milakov and Gimelshein 2018). sum is the thread's own share of it. */
struct attn_state {
        float top[2], sum[2];
};

DEVICE attn_state attn_state_new(void) {
        attn_state st;

        st.top[0] = st.top[1] = -attn_infinity();
        st.sum[0] = st.sum[1] = 0.0f;
        return st;
}

/* Over the four threads that share queries; all get the same. */
DEVICE float attn_quad_max(float x) {
        x = fmaxf(x, __shfl_xor_sync(WARP_ALL, x, 1));
        return fmaxf(x, __shfl_xor_sync(WARP_ALL, x, 2));
}

DEVICE float attn_quad_sum(float x) {
        x += __shfl_xor_sync(WARP_ALL, x, 1);
        return x + __shfl_xor_sync(WARP_ALL, x, 2);
}

/* Products of queries and keys of the tile at `base` become scores, -infinity where a query does not see the position. What only
 * some tiles or models need is a loop of its own: a jump over it costs less than one for each score. */
DEVICE void attn_score_tile(const attn_scorer &c, uint32_t base, float s[ATTN_BLOCKS][4]) {
        uint32_t first = base + threadIdx.x % 4 * 2;

#pragma unroll
        for (uint32_t i = 0; i < 4 * ATTN_BLOCKS; i++)
                s[i / 4][i % 4] *= c.scale;
        if (c.cap > 0.0f) {
#pragma unroll
                for (uint32_t i = 0; i < 4 * ATTN_BLOCKS; i++)
                        s[i / 4][i % 4] = attn_softcap(c, s[i / 4][i % 4]);
        }
        if (!attn_sees_all(c, base)) {
#pragma unroll
                for (uint32_t i = 0; i < 4 * ATTN_BLOCKS; i++) {
                        uint32_t pos = first + i / 4 * 8 + i % 2, to = c.to[i % 4 / 2];

                        if (pos >= to || pos < attn_from(c.window, to))
                                s[i / 4][i % 4] = -attn_infinity();
                }
        }
}

/* Scores become weights. shrink: what the sums so far are multiplied by. */
DEVICE void attn_weigh(float s[ATTN_BLOCKS][4], attn_state &st, float shrink[2]) {
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
                float top = -attn_infinity(), sum = 0.0f;

#pragma unroll
                for (uint32_t i = 0; i < ATTN_BLOCKS; i++)
                        top = fmaxf(top, fmaxf(s[i][2 * r], s[i][2 * r + 1]));
                top = fmaxf(attn_quad_max(top), st.top[r]);
                shrink[r] = attn_ratio(st.top[r], top);
                st.top[r] = top;
                top = top == -attn_infinity() ? 0.0f : top;
#pragma unroll
                for (uint32_t i = 0; i < ATTN_BLOCKS; i++) {
                        float *v = s[i] + 2 * r;

                        v[0] = fast_exp2(v[0] - top);
                        v[1] = fast_exp2(v[1] - top);
                        sum += v[0] + v[1];
                }
                st.sum[r] = fmaf(st.sum[r], shrink[r], sum);
        }
}

template <int D> DEVICE void attn_shrink(const float shrink[2], float acc[D / 8][4]) {
        if (shrink[0] == 1.0f && shrink[1] == 1.0f)
                return;
#pragma unroll
        for (uint32_t i = 0; i < D / 8; i++)
#pragma unroll
                for (uint32_t j = 0; j < 4; j++)
                        acc[i][j] *= shrink[j / 2];
}

/* Adds 16 positions' V at `values`, by their weights s[0], s[1]. */
template <int D> DEVICE void attn_values(const float (*s)[4], const uint8_t *values, float acc[D / 8][4]) {
        uint32_t lane = threadIdx.x % WARP;
        const uint8_t *row = values + lane % 16 * attn_shape<D>::stride + lane / 16 * 16;
        uint32_t a[4] = { f16x2(s[0][0], s[0][1]), f16x2(s[0][2], s[0][3]), f16x2(s[1][0], s[1][1]), f16x2(s[1][2], s[1][3]) };

#pragma unroll
        for (uint32_t i = 0; i < D / 16; i++) {
                uint32_t b[4];

                ldmatrix_x4_trans(b, row + 32 * i);
                mma_f16(acc[2 * i], a, b);
                mma_f16(acc[2 * i + 1], a, b + 2);
        }
}
