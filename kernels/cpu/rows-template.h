/* SPDX-License-Identifier: Apache-2.0 */

/* Operations on single rows: quantizing activations and KV, RMS norm, gated activations. rows-ISA.c is this and a
 * vec-ISA.h. */

#include <math.h>

#include "kernels.h"
#include "kernels/half.h"
#include "vec-math.h"

/* Below this a block counts as zeros, so that 127 / amax stays finite. */
#define QUANT_SMALLEST 1e-30f
#define FLOAT_INFINITE 0x7f800000
#define HALF_LARGEST 65504.0f
#define HALF_NAN 0x7e00u

/* The largest magnitude of 32, as an integer: these have the same order, and infinity and not-a-number stand above all
 * others. */
static inline int32_t largest(vf a, vf b) {
        vi magnitude = vi_set1(0x7fffffff);

        return vi_top(vi_max(vi_and(vi_bits(a), magnitude), vi_and(vi_bits(b), magnitude)));
}

/* The nearest integers of x * inverse, which must be small. The product is rounded, then the sum: not fused, because the
 * programs that models are compared with round twice as well, and each integer that differs shows. */
static inline vi scaled_integers(vf x, float inverse) {
        vf scaled = vf_mul(x, vf_set1(inverse));

        return vi_sub(vi_bits(vf_add(scaled, vf_set1(ROUND_MAGIC))), vi_set1(ROUND_MAGIC_BITS));
}

/* Minus the sums of bytes 4i and 4i + 1, and of bytes 4i + 2 and 4i + 3, of 16. */
static inline void negative_pair(const int8_t *q, int16_t *pair) {
        int low = 0, high = 0;

        for (unsigned i = 0; i < 16; i += 4) {
                low += q[i] + q[i + 1];
                high += q[i + 2] + q[i + 3];
        }
        pair[0] = (int16_t)-low;
        pair[1] = (int16_t)-high;
}

/* To the 11 bits that a binary16 has, though not to its range: as good as exact beside the rounding of the integers, but
 * what other implementations of the formats do, so that the errors are the same ones. */
static inline float rounded_scale(float scale) {
        uint32_t u;

        memcpy(&u, &scale, sizeof(u));
        u = (u + 0xfffu + (u >> 13 & 1u)) & ~0x1fffu;
        memcpy(&scale, &u, sizeof(u));
        return scale;
}

static inline void quantize_block(const float *x, struct act_block *dst) {
        vf a = vf_load(x), b = vf_load(x + 16);
        vi ia = vi_zero(), ib = vi_zero();
        int32_t top = largest(a, b), sum_a, sum_b;
        float amax, exact = 0.0f, scale = 0.0f;

        memcpy(&amax, &top, sizeof(amax));
        if (top >= FLOAT_INFINITE) {
                scale = NAN; /* shows in every output of the row */
        } else if (amax >= QUANT_SMALLEST) {
                exact = amax / 127.0f;
                scale = rounded_scale(exact);
                ia = scaled_integers(a, 127.0f / amax);
                ib = scaled_integers(b, 127.0f / amax);
        }
        sum_a = vi_sum(ia);
        sum_b = vi_sum(ib);
        vi_store_i8(dst->q, ia);
        vi_store_i8(dst->q + 16, ib);
        dst->scale = scale;
        dst->sum = exact > 0.0f ? rounded_scale(exact * (float)(sum_a + sum_b)) / scale : 0.0f;
        dst->minus128 = -128 * (sum_a + sum_b);
        for (unsigned half = 0; half < 2; half++) {
                dst->half_minus128[half] = -128 * (half ? sum_b : sum_a);
                negative_pair(dst->q + 16 * half, dst->half_pair[half]);
        }
        for (unsigned i = 0; i < 2; i++)
                dst->pair[i] = (int16_t)(dst->half_pair[0][i] + dst->half_pair[1][i]);
}

static void quantize(const float *x, size_t n_blocks, size_t stride, struct act_block *dst) {
        for (size_t b = 0; b < n_blocks; b++)
                quantize_block(x + b * ACT_BLOCK, dst + b * stride);
}

/* The largest magnitude becomes 127, and the scale is the reciprocal of what was multiplied with. (Q8_K's may be
 * negative, and its integers with it: that makes no difference.) */
static inline void quantize_256(const float *x, struct act_super *dst) {
        vi tops = vi_zero();
        float amax, inverse = 0.0f;
        int32_t top;

        for (unsigned i = 0; i < ACT_SUPER; i += 16)
                tops = vi_max(tops, vi_and(vi_bits(vf_load(x + i)), vi_set1(0x7fffffff)));
        top = vi_top(tops);
        memcpy(&amax, &top, sizeof(amax));
        if (top < FLOAT_INFINITE && amax >= QUANT_SMALLEST)
                inverse = 127.0f / amax;
        for (unsigned i = 0; i < ACT_SUPER / 16; i++) {
                vi q = vi_zero();

                if (inverse > 0.0f)
                        q = scaled_integers(vf_load(x + 16 * i), inverse);
                vi_store_i8(dst->q + 16 * i, q);
                negative_pair(dst->q + 16 * i, dst->pair32[i]);
                dst->sum16[i] = (int16_t)(-dst->pair32[i][0] - dst->pair32[i][1]);
                for (unsigned k = 0; k < 2; k++)
                        dst->pair32[i][k] = (int16_t)(32 * dst->pair32[i][k]);
        }
        for (unsigned i = 0; i < ACT_SUPER / 32; i++)
                dst->sum32[i] = (int16_t)(dst->sum16[2 * i] + dst->sum16[2 * i + 1]);
        dst->scale = top >= FLOAT_INFINITE ? NAN : inverse > 0.0f ? 1.0f / inverse : 0.0f;
        memset(dst->zero, 0, sizeof(dst->zero));
}

static void quantize_super(const float *x, size_t n_blocks, size_t stride, struct act_super *dst) {
        for (size_t b = 0; b < n_blocks; b++)
                quantize_256(x + b * ACT_SUPER, dst + b * stride);
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

/* x / (1 + e^-z); z = x is silu. */
static inline vf swish(vf x, vf z) {
        return vf_div(x, vf_add(vf_set1(1.0f), vf_exp(vf_sub(vf_zero(), z))));
}

static inline vf round_f16(vf x) {
        uint16_t half[16];

        vf_store_f16(half, x);
        return vf_load_f16(half);
}

/* The tanh form of gelu is swish with 2 sqrt(2 / pi) (x + 0.044715 x^3) in the exponent. Argument and result are rounded to
 * half precision between -10 and 10 and nothing is computed beyond, because the programs that models are compared with look
 * it up in a table of that precision. */
static inline vf gelu(vf x) {
        vf h = round_f16(x), cube = vf_mul(vf_mul(h, h), h);
        vf y = round_f16(swish(h, vf_mul(vf_set1(1.59576912f), vf_fma(vf_set1(0.044715f), cube, h))));

        return vf_if_less(x, vf_set1(10.0f), vf_if_less(vf_set1(-10.0f), x, y, vf_zero()), x);
}

static ALWAYS_INLINE vf activate(const enum activation act, vf x) {
        return act == ACT_GELU_TANH ? gelu(x) : swish(x, x);
}

#define CLAMP_ALPHA 1.702f
#define CLAMP_LIMIT 7.0f

static ALWAYS_INLINE vf gate_one(const enum activation act, vf g, vf up) {
        vf one = vf_set1(1.0f), limit = vf_set1(CLAMP_LIMIT);

        if (act != ACT_SILU_CLAMPED)
                return vf_mul(activate(act, g), up);
        g = vf_min(g, limit);
        up = vf_max(vf_min(up, limit), vf_set1(-CLAMP_LIMIT));
        g = vf_div(g, vf_add(one, vf_exp(vf_mul(g, vf_set1(-CLAMP_ALPHA)))));
        return vf_mul(g, vf_add(up, one));
}

static ALWAYS_INLINE void gate_row(const enum activation act, const float *g, const float *up, size_t n, float *out) {
        size_t i = 0;

        for (; i + 16 <= n; i += 16)
                vf_store(out + i, gate_one(act, vf_load(g + i), vf_load(up + i)));
        if (i < n)
                vf_store_n(out + i, gate_one(act, vf_load_n(g + i, n - i), vf_load_n(up + i, n - i)), n - i);
}

static void gate(enum activation act, const float *g, const float *up, size_t n, float *out) {
        if (act == ACT_SILU)
                gate_row(ACT_SILU, g, up, n, out);
        else if (act == ACT_GELU_TANH)
                gate_row(ACT_GELU_TANH, g, up, n, out);
        else
                gate_row(ACT_SILU_CLAMPED, g, up, n, out);
}

/* tanh x = 1 - 2 / (e^2x + 1) */
static ALWAYS_INLINE vf softcap_one(vf x, float twice, float cap) {
        vf e = vf_exp(vf_mul(x, vf_set1(twice)));

        return vf_mul(vf_sub(vf_set1(1.0f), vf_div(vf_set1(2.0f), vf_add(e, vf_set1(1.0f)))), vf_set1(cap));
}

static void softcap(const float *x, float scale, float cap, size_t n, float *out) {
        float twice = 2.0f * scale / cap;
        size_t i = 0;

        for (; i + 16 <= n; i += 16)
                vf_store(out + i, softcap_one(vf_load(x + i), twice, cap));
        if (i < n)
                vf_store_n(out + i, softcap_one(vf_load_n(x + i, n - i), twice, cap), n - i);
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

static inline vi clamp_i8(vi x) {
        vi low = vi_set1(-127);

        return vi_sub(vi_zero(), vi_max(vi_sub(vi_zero(), vi_max(x, low)), low));
}

/* The scale is rounded first and the integers are taken from what it became: its error is no error of the values. */
static inline void kv_block(vf a, vf b, struct kv_block *dst) {
        vi ia = vi_zero(), ib = vi_zero();
        int32_t top = largest(a, b);
        float amax, scale;

        memcpy(&amax, &top, sizeof(amax));
        dst->scale = f16_from_float(amax / 127.0f);
        scale = f16_to_float(dst->scale);
        if (top >= FLOAT_INFINITE || scale > HALF_LARGEST) {
                dst->scale = HALF_NAN; /* shows in every row that looks at it */
        } else if (scale > 0.0f) {
                ia = clamp_i8(scaled_integers(a, 1.0f / scale));
                ib = clamp_i8(scaled_integers(b, 1.0f / scale));
        }
        vi_store_i8(dst->q, ia);
        vi_store_i8(dst->q + 16, ib);
}

static void to_q8_0(const float *x, size_t n, struct kv_block *out) {
        for (; n >= KV_BLOCK; n -= KV_BLOCK, x += KV_BLOCK)
                kv_block(vf_load(x), vf_load(x + 16), out++);
        if (n > 16)
                kv_block(vf_load(x), vf_load_n(x + 16, n - 16), out);
        else if (n > 0)
                kv_block(vf_load_n(x, n), vf_zero(), out);
}

const struct row_kernels VEC(row_kernels) = {
        .quantize = quantize,
        .quantize_super = quantize_super,
        .rmsnorm = rmsnorm,
        .gate = gate,
        .exp = exps,
        .softcap = softcap,
        .to_f16 = to_f16,
        .to_q8_0 = to_q8_0,
};
