/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Attention of a few queries over one chunk of up to 64 positions. Scores have positions in the lanes (K is kept
 * transposed in groups of 16) and add up over the elements of a head; the weighted sum of V has elements in the lanes
 * and adds up over positions. Both run in order, one fused multiply-add at a time, whatever the number of queries.
 * attn-ISA.c is this and a vec-ISA.h.
 *
 * KV_Q8_0: a block's integers become floats and are multiplied as such, so that queries and weights lose nothing. The
 * scales have positions in the lanes for K and V alike. For K one more multiply-add per block and query takes the
 * block's own sum times them; for V they are multiplied into the weights, once per block and query. Integer dot
 * products, with queries in 8 bits, would take fewer instructions for K and a second rounding in every score; not
 * tried, because decoding is faster than over KV_F16 as it is.
 *
 * Weights as [query][position] instead of [position][query] (no transposing by hand) made no difference that could be
 * told from noise, and is what scaling them by vectors needs.
 */

#include <math.h>

#include "kernels.h"
#include "vec-math.h"

/* tanh(x) = 1 - 2 / (1 + e^2x) */
static inline vf soft_cap(vf s, float cap) {
        vf e = vf_exp(vf_mul(s, vf_set1(2.0f / cap)));
        vf t = vf_sub(vf_set1(1.0f), vf_div(vf_set1(2.0f), vf_add(e, vf_set1(1.0f))));

        return vf_mul(t, vf_set1(cap));
}

/* Positions outside of [first, end) weigh nothing. */
static inline vf mask_lanes(vf s, unsigned group, unsigned first, unsigned end) {
        float t[16];
        unsigned base = group * ATTN_GROUP;

        if (first <= base && end >= base + ATTN_GROUP)
                return s;
        vf_store(t, s);
        for (unsigned i = 0; i < ATTN_GROUP; i++)
                if (base + i < first || base + i >= end)
                        t[i] = -INFINITY;
        return vf_load(t);
}

/* One query's weights of the chunk from its scores [group][lane], in place; returns what the sums so far shrink by. */
static inline float soft_max(const struct attn_chunk *c, vf *s, struct attn_state *state) {
        vf top = vf_set1(state->top), sum;
        float new_top, shrink;

        for (unsigned g = 0; g < c->n_groups; g++) {
                s[g] = vf_mul(s[g], vf_set1(c->scale));
                if (c->softcap > 0.0f)
                        s[g] = soft_cap(s[g], c->softcap);
                s[g] = mask_lanes(s[g], g, c->first, c->end);
                top = vf_max(top, s[g]);
        }
        new_top = vf_top(top);
        {
                float t[16];

                vf_store(t, vf_exp(vf_set1(state->top - new_top)));
                shrink = t[0];
        }
        sum = vf_mul(vf_load(state->sum), vf_set1(shrink));
        for (unsigned g = 0; g < c->n_groups; g++) {
                s[g] = vf_exp(vf_sub(s[g], vf_set1(new_top)));
                sum = vf_add(sum, s[g]);
        }
        state->top = new_top;
        vf_store(state->sum, sum);
        return shrink;
}

static ALWAYS_INLINE size_t element_bytes(const enum fmt fmt) {
        return fmt == FMT_F32 ? 4 : fmt == FMT_F16 ? 2 : 1;
}

/* A group's scores in a format with blocks: each block by itself, from zero, then times its scale. */
static ALWAYS_INLINE void block_scores(const unsigned n, const struct attn_chunk *c, const uint8_t *k, vf *acc) {
        const float *q = c->q;

        for (uint32_t left = c->head_dim, size; left > 0; left -= size) {
                vf scale = vf_load_f16(k), part[TILE_MAX];

                size = left < KV_BLOCK ? left : KV_BLOCK;
                k += ATTN_GROUP * sizeof(uint16_t);
                UNROLL for (unsigned r = 0; r < n; r++)
                        part[r] = vf_zero();
                vf_products(FMT_Q8_0, n, 1, part, k, 0, ATTN_GROUP, q, c->q_stride, 1, size);
                UNROLL for (unsigned r = 0; r < n; r++)
                        acc[r] = vf_fma(part[r], scale, acc[r]);
                k += size * ATTN_GROUP;
                q += size * c->q_stride;
        }
}

static ALWAYS_INLINE void scores(const enum fmt fmt, const unsigned n, const struct attn_chunk *c, vf *s) {
        for (unsigned g = 0; g < c->n_groups; g++) {
                vf acc[TILE_MAX];

                UNROLL for (unsigned r = 0; r < n; r++)
                        acc[r] = vf_zero();
                if (fmt == FMT_Q8_0)
                        block_scores(n, c, c->k[g], acc);
                else
                        vf_products(fmt, n, 1, acc, c->k[g], 0, ATTN_GROUP * element_bytes(fmt), c->q, c->q_stride, 1,
                                    c->head_dim);
                UNROLL for (unsigned r = 0; r < n; r++)
                        s[r * ATTN_GROUPS + g] = acc[r];
        }
}

/* Adds 16 elements of V, those at v[group] + offset and row bytes on, to the accumulators from element d on.
 * weights: [query][position] */
static ALWAYS_INLINE void weigh_elements(const enum fmt fmt, const unsigned n, const struct attn_chunk *c,
                                         const float *weights, const float *shrink, uint32_t d, size_t offset,
                                         size_t row) {
        vf acc[TILE_MAX];

        UNROLL for (unsigned r = 0; r < n; r++)
                acc[r] = vf_mul(vf_load(c->acc + r * c->acc_stride + d), vf_set1(shrink[r]));
        for (unsigned g = 0; g < c->n_groups; g++) {
                unsigned base = g * ATTN_GROUP, from = c->first > base ? c->first - base : 0;
                unsigned to = c->end < base + ATTN_GROUP ? c->end - base : ATTN_GROUP;

                if (c->end <= base || from >= to)
                        continue;
                vf_products(fmt, n, 1, acc, (const uint8_t *)c->v[g] + offset + from * row, 0, row,
                            weights + base + from, 1, ATTN_CHUNK, to - from);
        }
        UNROLL for (unsigned r = 0; r < n; r++)
                vf_store(c->acc + r * c->acc_stride + d, acc[r]);
}

/* In a format with blocks: the scales have positions in the lanes as the weights do, so they go into these. */
static ALWAYS_INLINE void weigh_blocks(const unsigned n, const struct attn_chunk *c, const float *weights,
                                       const float *shrink) {
        float scaled[TILE_MAX * ATTN_CHUNK];
        size_t column = 0;

        for (uint32_t d = 0; d < c->head_dim; d += KV_BLOCK) {
                uint32_t size = c->head_dim - d < KV_BLOCK ? c->head_dim - d : KV_BLOCK;

                for (unsigned g = 0; g < c->n_groups; g++) {
                        vf scale = vf_load_f16((const uint8_t *)c->v[g] + column);

                        UNROLL for (unsigned r = 0; r < n; r++) {
                                size_t at = r * ATTN_CHUNK + g * ATTN_GROUP;

                                vf_store(scaled + at, vf_mul(vf_load(weights + at), scale));
                        }
                }
                column += ATTN_GROUP * sizeof(uint16_t);
                for (uint32_t i = 0; i < size; i += 16)
                        weigh_elements(FMT_Q8_0, n, c, scaled, shrink, d + i, column + i, size);
                column += size * ATTN_GROUP;
        }
}

static ALWAYS_INLINE void weigh(const enum fmt fmt, const unsigned n, const struct attn_chunk *c, const float *weights,
                                const float *shrink) {
        const size_t size = element_bytes(fmt);

        if (fmt == FMT_Q8_0) {
                weigh_blocks(n, c, weights, shrink);
                return;
        }
        for (uint32_t d = 0; d < c->head_dim; d += 16)
                weigh_elements(fmt, n, c, weights, shrink, d, d * size, c->head_dim * size);
}

static ALWAYS_INLINE void attend(const enum fmt fmt, const unsigned n, const struct attn_chunk *c) {
        float weights[TILE_MAX * ATTN_CHUNK], shrink[TILE_MAX];
        vf s[TILE_MAX * ATTN_GROUPS];

        scores(fmt, n, c, s);
        for (unsigned r = 0; r < n; r++) {
                shrink[r] = soft_max(c, s + r * ATTN_GROUPS, c->state + r);
                for (unsigned g = 0; g < c->n_groups; g++)
                        vf_store(weights + r * ATTN_CHUNK + g * ATTN_GROUP, s[r * ATTN_GROUPS + g]);
        }
        weigh(fmt, n, c, weights, shrink);
}

#define ATTN_FN(name, n, fmt)                                   \
        static void name##_##n(const struct attn_chunk *c) {    \
                attend(fmt, n, c);                              \
        }

TILE_FNS(ATTN_FN, attend_f16, FMT_F16)
TILE_FNS(ATTN_FN, attend_f32, FMT_F32)
TILE_FNS(ATTN_FN, attend_q8_0, FMT_Q8_0)

const struct attn_kernels VEC(attn_kernels) = {
        .f16 = TILE_TABLE(attend_f16),
        .f32 = TILE_TABLE(attend_f32),
        .q8_0 = TILE_TABLE(attend_q8_0),
};
