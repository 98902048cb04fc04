/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the templates share beyond single instructions; to be included after a vec-ISA.h.
 *
 * exp: x = n ln 2 + r, a polynomial of degree 7 for e^r (the coefficients interpolate (e^r - 1 - r) / r^2 at Chebyshev
 * nodes on [-0.3473, 0.3473]), times 2^n. Largest error found over all floats: 1 ulp. Below -87.33 the result is 0,
 * above 88.37 it stays at 2.4e38; not-a-number stays what it is.
 */

/* Rows of a tile that are done at a time. */
#define ROWS_OF(tile) ((tile) < VEC_ROWS ? (tile) : VEC_ROWS)

#define ALWAYS_INLINE inline __attribute__((always_inline))
/* Where vectors are registers, loops over rows and panels must unroll, or they would live in memory. Not so under a
 * sanitizer, where each load is a page of code. */
#if VEC_TILE > 1 && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL
#endif

/* Defines a kernel for each number of rows in a tile, and the table of them. fn takes lower-case name and number. */
#define TILE_TABLE_1(name) name##_1
#define TILE_TABLE_4(name) TILE_TABLE_1(name), name##_2, name##_4
#define TILE_TABLE_8(name) TILE_TABLE_4(name), name##_8
#define TILE_FNS_1(fn, name, ...) fn(name, 1, __VA_ARGS__)
#define TILE_FNS_4(fn, name, ...) TILE_FNS_1(fn, name, __VA_ARGS__) fn(name, 2, __VA_ARGS__) fn(name, 4, __VA_ARGS__)
#define TILE_FNS_8(fn, name, ...) TILE_FNS_4(fn, name, __VA_ARGS__) fn(name, 8, __VA_ARGS__)
#if VEC_TILE == 8
#define TILE_TABLE(name) { TILE_TABLE_8(name) }
#define TILE_FNS TILE_FNS_8
#elif VEC_TILE == 4
#define TILE_TABLE(name) { TILE_TABLE_4(name) }
#define TILE_FNS TILE_FNS_4
#else
#define TILE_TABLE(name) { TILE_TABLE_1(name) }
#define TILE_FNS TILE_FNS_1
#endif

/* Adding 1.5 * 2^23 leaves a small number's nearest integer in the low bits. */
#define ROUND_MAGIC 12582912.0f
#define ROUND_MAGIC_BITS 0x4b400000

#define EXP_LOWEST -87.33f
#define EXP_HIGHEST 88.37f

static inline vf vf_exp(vf x) {
        vf in = vf_min(vf_max(x, vf_set1(EXP_LOWEST)), vf_set1(EXP_HIGHEST));
        vf magic = vf_fma(in, vf_set1(0x1.715476p+0f), vf_set1(ROUND_MAGIC));
        vf n = vf_sub(magic, vf_set1(ROUND_MAGIC));
        vf r = vf_fma(n, vf_set1(0x1.bd0106p-13f), vf_fma(n, vf_set1(-0x1.63p-1f), in));
        vf p = vf_set1(0x1.a125f6p-13f), power;

        p = vf_fma(p, r, vf_set1(0x1.6d444ap-10f));
        p = vf_fma(p, r, vf_set1(0x1.1110e0p-7f));
        p = vf_fma(p, r, vf_set1(0x1.5554e8p-5f));
        p = vf_fma(p, r, vf_set1(0x1.555556p-3f));
        p = vf_fma(p, r, vf_set1(0.5f));
        p = vf_fma(p, r, vf_set1(1.0f));
        p = vf_fma(p, r, vf_set1(1.0f));
        power = vf_bits(vi_shl(vi_add(vi_sub(vi_bits(magic), vi_set1(ROUND_MAGIC_BITS)), vi_set1(127)), 23));
        p = vf_mul(p, power);
        return vf_if_nan(x, vf_if_less(x, vf_set1(EXP_LOWEST), vf_zero(), p));
}

/* Sum of the lanes, as a fixed tree. */
static inline float vf_sum(vf a) {
        float t[16];

        vf_store(t, a);
        for (unsigned step = 8; step > 0; step /= 2)
                for (unsigned i = 0; i < step; i++)
                        t[i] += t[i + step];
        return t[0];
}

static inline float vf_top(vf a) {
        float t[16];

        vf_store(t, a);
        for (unsigned step = 8; step > 0; step /= 2)
                for (unsigned i = 0; i < step; i++)
                        t[i] = t[i] > t[i + step] ? t[i] : t[i + step];
        return t[0];
}

/* The first n lanes; the others are 0, or left alone. */
static inline vf vf_load_n(const float *p, size_t n) {
        float t[16] = { 0 };

        memcpy(t, p, n * sizeof(*p));
        return vf_load(t);
}

static inline void vf_store_n(float *p, vf a, size_t n) {
        float t[16];

        vf_store(t, a);
        memcpy(p, t, n * sizeof(*p));
}

/* One group of four activations in every lane. */
static inline vi vi_set1_load(const void *p) {
        int32_t v;

        memcpy(&v, p, sizeof(v));
        return vi_set1(v);
}

static ALWAYS_INLINE vf vf_load_fmt(const enum fmt fmt, const void *p) {
        switch (fmt) {
        case FMT_F32: return vf_load(p);
        case FMT_F16: return vf_load_f16(p);
        case FMT_Q8_0: return vf_from_vi(vi_load_i8(p)); /* the integers alone */
        default: return vf_load_bf16(p);
        }
}

/* Stores what was computed with lanes of vf_load_fmt(). */
static ALWAYS_INLINE void vf_store_fmt(const enum fmt fmt, float *p, vf x) {
#ifdef VEC_BF16_ORDER
        if (fmt == FMT_BF16) {
                vf_store_from_bf16(p, x);
                return;
        }
#endif
        vf_store(p, x);
}

/* acc[panel][row] += sum over k of w[panel][k] x[k][row], one fused multiply-add after the other in the order of k.
 * A step of w is w_step bytes, a panel is panel_stride bytes from the next; x has its k x_stride floats apart and its
 * rows x_row floats. */
static ALWAYS_INLINE void vf_products(const enum fmt fmt, const unsigned rows, const unsigned panels, vf *acc,
                                      const uint8_t *w, size_t panel_stride, size_t w_step, const float *x,
                                      size_t x_stride, const size_t x_row, size_t n) {
        for (size_t k = 0; k < n; k++, w += w_step, x += x_stride) {
                vf v[4];

                UNROLL for (unsigned p = 0; p < panels; p++)
                        v[p] = vf_load_fmt(fmt, w + p * panel_stride);
                UNROLL for (unsigned r = 0; r < rows; r++) {
                        vf a = vf_set1(x[r * x_row]);

                        UNROLL for (unsigned p = 0; p < panels; p++)
                                acc[p * rows + r] = vf_fma(v[p], a, acc[p * rows + r]);
                }
        }
}
