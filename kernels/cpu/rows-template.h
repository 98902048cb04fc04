/* SPDX-License-Identifier: Apache-2.0 */

/* Operations on single rows: quantizing activations, RMS norm, gated activations. rows-ISA.c is this and a vec-ISA.h. */

#include <math.h>

#include "kernels.h"
#include "vec-math.h"

/* Below this a block counts as zeros, so that 127 / amax stays finite. */
#define QUANT_SMALLEST 1e-30f
#define FLOAT_INFINITE 0x7f800000

static inline void quantize_block(const float *x, struct act_block *dst) {
        vf a = vf_load(x), b = vf_load(x + 16);
        vi magnitude = vi_set1(0x7fffffff), ia = vi_zero(), ib = vi_zero();
        /* As integers magnitudes have the same order, and infinity and not-a-number stand above all others. */
        int32_t top = vi_top(vi_max(vi_and(vi_bits(a), magnitude), vi_and(vi_bits(b), magnitude)));
        float amax, scale = 0.0f;
        int32_t sum_a, sum_b;

        memcpy(&amax, &top, sizeof(amax));
        if (top >= FLOAT_INFINITE) {
                scale = NAN; /* shows in every output of the row */
        } else if (amax >= QUANT_SMALLEST) {
                vf inverse = vf_set1(127.0f / amax), magic = vf_set1(ROUND_MAGIC);

                scale = amax / 127.0f;
                ia = vi_sub(vi_bits(vf_fma(a, inverse, magic)), vi_set1(ROUND_MAGIC_BITS));
                ib = vi_sub(vi_bits(vf_fma(b, inverse, magic)), vi_set1(ROUND_MAGIC_BITS));
        }
        sum_a = vi_sum(ia);
        sum_b = vi_sum(ib);
        vi_store_i8(dst->q, ia);
        vi_store_i8(dst->q + 16, ib);
        dst->scale = scale;
        dst->sum = (float)(sum_a + sum_b);
        dst->minus8 = -8 * (sum_a + sum_b);
        dst->minus16 = -16 * (sum_a + sum_b);
        dst->minus128 = -128 * (sum_a + sum_b);
        dst->minus32[0] = -32 * sum_a;
        dst->minus32[1] = -32 * sum_b;
        dst->zero = 0;
}

static void quantize(const float *x, size_t n_blocks, size_t stride, struct act_block *dst) {
        for (size_t b = 0; b < n_blocks; b++)
                quantize_block(x + b * ACT_BLOCK, dst + b * stride);
}

/* The sum of squares has 16 chains, element i in chain i % 16, added up as a tree. */
static void rmsnorm(const float *x, const float *weight, float eps, size_t dim, float *out) {
        size_t whole = dim / 16 * 16, rest = dim - whole;
        vf sum = vf_zero(), scale;

        for (size_t i = 0; i < whole; i += 16)
                sum = vf_fma(vf_load(x + i), vf_load(x + i), sum);
        if (rest > 0) {
                vf v = vf_load_n(x + whole, rest);

                sum = vf_fma(v, v, sum);
        }
        scale = vf_set1(1.0f / sqrtf(vf_sum(sum) / (float)dim + eps));
        for (size_t i = 0; i < whole; i += 16)
                vf_store(out + i, vf_mul(vf_mul(vf_load(x + i), scale), vf_load(weight + i)));
        if (rest > 0)
                vf_store_n(out + whole,
                           vf_mul(vf_mul(vf_load_n(x + whole, rest), scale), vf_load_n(weight + whole, rest)), rest);
}

/* x / (1 + e^-x); gelu's tanh form is the same with 2 sqrt(2 / pi) (x + 0.044715 x^3) in the exponent. */
static ALWAYS_INLINE vf activate(const enum activation act, vf x) {
        vf z = x;

        if (act == ACT_GELU_TANH) {
                vf cube = vf_mul(vf_mul(x, x), x);

                z = vf_mul(vf_set1(1.59576912f), vf_fma(vf_set1(0.044715f), cube, x));
        }
        return vf_div(x, vf_add(vf_set1(1.0f), vf_exp(vf_sub(vf_zero(), z))));
}

static ALWAYS_INLINE void gate_row(const enum activation act, const float *g, const float *up, size_t n, float *out) {
        size_t i = 0;

        for (; i + 16 <= n; i += 16)
                vf_store(out + i, vf_mul(activate(act, vf_load(g + i)), vf_load(up + i)));
        if (i < n)
                vf_store_n(out + i, vf_mul(activate(act, vf_load_n(g + i, n - i)), vf_load_n(up + i, n - i)), n - i);
}

static void gate(enum activation act, const float *g, const float *up, size_t n, float *out) {
        if (act == ACT_SILU)
                gate_row(ACT_SILU, g, up, n, out);
        else
                gate_row(ACT_GELU_TANH, g, up, n, out);
}

static void exps(const float *x, size_t n, float *out) {
        size_t i = 0;

        for (; i + 16 <= n; i += 16)
                vf_store(out + i, vf_exp(vf_load(x + i)));
        if (i < n)
                vf_store_n(out + i, vf_exp(vf_load_n(x + i, n - i)), n - i);
}

static void to_f16(const float *x, size_t n, void *out) {
        size_t i = 0;

        for (; i + 16 <= n; i += 16)
                vf_store_f16((uint8_t *)out + 2 * i, vf_load(x + i));
        if (i < n) {
                uint16_t h[16];

                vf_store_f16(h, vf_load_n(x + i, n - i));
                memcpy((uint8_t *)out + 2 * i, h, 2 * (n - i));
        }
}

const struct row_kernels VEC(row_kernels) = {
        .quantize = quantize,
        .rmsnorm = rmsnorm,
        .gate = gate,
        .exp = exps,
        .to_f16 = to_f16,
};
