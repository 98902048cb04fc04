/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Attention of a few queries over one chunk of up to 64 positions. Scores have positions in the lanes (K is kept
 * transposed in groups of 16) and add up over the elements of a head; the weighted sum of V has elements in the lanes
 * and adds up over positions. Both run in order, one fused multiply-add at a time, whatever the number of queries.
 * attn-ISA.c is this and a vec-ISA.h.
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

static ALWAYS_INLINE void scores(const enum fmt fmt, const unsigned n, const struct attn_chunk *c, vf *s) {
        for (unsigned g = 0; g < c->n_groups; g++) {
                vf acc[TILE_MAX];

                UNROLL for (unsigned r = 0; r < n; r++)
                        acc[r] = vf_zero();
                vf_products(fmt, n, 1, acc, c->k[g], 0, fmt == FMT_F32 ? 64 : 32, c->q, c->q_stride, c->head_dim);
                UNROLL for (unsigned r = 0; r < n; r++)
                        s[r * ATTN_GROUPS + g] = acc[r];
        }
}

/* weights: [position][query] */
static ALWAYS_INLINE void weigh(const enum fmt fmt, const unsigned n, const struct attn_chunk *c, const float *weights,
                                const float *shrink) {
        const size_t size = fmt == FMT_F32 ? 4 : 2, row = c->head_dim * size;

        for (uint32_t d = 0; d < c->head_dim; d += 16) {
                vf acc[TILE_MAX];

                UNROLL for (unsigned r = 0; r < n; r++)
                        acc[r] = vf_mul(vf_load(c->acc + r * c->acc_stride + d), vf_set1(shrink[r]));
                for (unsigned g = 0; g < c->n_groups; g++) {
                        unsigned base = g * ATTN_GROUP, from = c->first > base ? c->first - base : 0;
                        unsigned to = c->end < base + ATTN_GROUP ? c->end - base : ATTN_GROUP;

                        if (c->end <= base || from >= to)
                                continue;
                        vf_products(fmt, n, 1, acc, (const uint8_t *)c->v[g] + d * size + from * row, 0, row,
                                    weights + (base + from) * n, n, to - from);
                }
                UNROLL for (unsigned r = 0; r < n; r++)
                        vf_store(c->acc + r * c->acc_stride + d, acc[r]);
        }
}

static ALWAYS_INLINE void attend(const enum fmt fmt, const unsigned n, const struct attn_chunk *c) {
        vf s[TILE_MAX * ATTN_GROUPS];
        float weights[ATTN_CHUNK * TILE_MAX], shrink[TILE_MAX];

        scores(fmt, n, c, s);
        for (unsigned r = 0; r < n; r++) {
                float t[ATTN_CHUNK];

                shrink[r] = soft_max(c, s + r * ATTN_GROUPS, c->state + r);
                for (unsigned g = 0; g < c->n_groups; g++)
                        vf_store(t + g * ATTN_GROUP, s[r * ATTN_GROUPS + g]);
                for (unsigned i = 0; i < c->n_groups * ATTN_GROUP; i++)
                        weights[i * n + r] = t[i];
        }
        weigh(fmt, n, c, weights, shrink);
}

#define ATTN_FN(name, n, fmt)                                   \
        static void name##_##n(const struct attn_chunk *c) {    \
                attend(fmt, n, c);                              \
        }

TILE_FNS(ATTN_FN, attend_f16, FMT_F16)
TILE_FNS(ATTN_FN, attend_f32, FMT_F32)

const struct attn_kernels VEC(attn_kernels) = {
        .f16 = TILE_TABLE(attend_f16),
        .f32 = TILE_TABLE(attend_f32),
};
