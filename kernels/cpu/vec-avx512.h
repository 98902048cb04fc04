/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Vectors of 16 lanes with AVX-512 (F, BW, VL, DQ, VNNI). The same names exist for every instruction set (vec-avx2.h,
 * vec-neon.h, vec-c.h), and every function gives the same bits in each: the kernels' templates are written with them.
 *
 * vf: 16 floats, vi: 16 int32 or 64 bytes. Loads and stores need no alignment.
 */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define VEC(name) name##_avx512
#define VEC_TILE 8
#define VEC_ROWS 8        /* of a tile at a time, for there are no more registers */
#define VEC_PAIR 1        /* two panels at a time in float products */

/* i8 weights are multiplied as u8, shifted by 128; the accumulator starts with the difference. */
#define VEC_I8_SHIFTED 1
#define VEC_PAIRS 0

typedef __m512 vf;
typedef __m512i vi;

static inline vf vf_zero(void) { return _mm512_setzero_ps(); }
static inline vf vf_set1(float f) { return _mm512_set1_ps(f); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline vf vf_load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
static inline vf vf_load_bf16(const void *p) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
static inline void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline void vf_store_f16(void *p, vf a) {
        _mm256_storeu_si256(p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
/* a < b ? yes : no, per lane */
static inline vf vf_if_less(vf a, vf b, vf yes, vf no) {
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
/* a where it is not a number, b elsewhere */
static inline vf vf_if_nan(vf a, vf b) {
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), b, a);
}
static inline vf vf_from_vi(vi a) { return _mm512_cvtepi32_ps(a); }
static inline vf vf_bits(vi a) { return _mm512_castsi512_ps(a); }
static inline vi vi_bits(vf a) { return _mm512_castps_si512(a); }

static inline vi vi_zero(void) { return _mm512_setzero_si512(); }
static inline vi vi_set1(int32_t v) { return _mm512_set1_epi32(v); }
static inline vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
static inline void vi_store(void *p, vi a) { _mm512_storeu_si512(p, a); }
static inline vi vi_load_u8(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)); }
static inline vi vi_load_i8(const void *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128(p)); }
static inline void vi_store_i8(void *p, vi a) { _mm_storeu_si128(p, _mm512_cvtepi32_epi8(a)); }
static inline vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
static inline vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
static inline vi vi_xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
static inline vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
static inline vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
static inline vi vi_max(vi a, vi b) { return _mm512_max_epi32(a, b); }
#define vi_shl(a, n) _mm512_slli_epi32(a, n)
#define vi_shr(a, n) _mm512_srli_epi32(a, n)
static inline vi vi_shr_by(vi a, unsigned n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128((int)n)); }
static inline int32_t vi_sum(vi a) { return _mm512_reduce_add_epi32(a); }
static inline int32_t vi_top(vi a) { return _mm512_reduce_max_epi32(a); }

/* Adds the products of four bytes per lane: w has at most 6 bits, unsigned; a is i8. */
static inline vi vi_dot_u6(vi acc, vi w, vi a) { return _mm512_dpbusd_epi32(acc, w, a); }
/* The same for w of i8, prepared by vi_i8(). */
static inline vi vi_i8(vi w) { return _mm512_xor_si512(w, _mm512_set1_epi8(-128)); }
static inline vi vi_dot_i8(vi acc, vi w, vi a) { return _mm512_dpbusd_epi32(acc, w, a); }

/* A table of 16 bytes, and the entries that the bytes of codes (0 to 15) stand for. */
typedef __m512i vt;

static inline vt vt_load(const int8_t *p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)p)); }
static inline vi vi_lut(vt table, vi codes) { return _mm512_shuffle_epi8(table, codes); }

/*
 * Sums of dot products of w, small and unsigned, and a, of i8. Where VEC_PAIRS is 1 they are pairs of 16 bits per lane,
 * and the template says how many fit (matmul-k-template.h, matmul-quant-template.h); here they are plain sums. The start
 * is `times` a struct act_block's or act_super's pair. vi_pairs_scaled() brings them to 32 bits, times a scale of
 * vi_scale_i8(). _i8: for w of i8, prepared by vi_i8(); where VEC_PAIRS is 1 only one of these fits.
 */
static inline vi vi_pairs_start(const int16_t *pair, const int times) { return vi_set1((pair[0] + pair[1]) * times); }
static inline vi vi_pairs_shifted(const int16_t *pair, const int right) { return vi_set1((pair[0] + pair[1]) / (1 << right)); }
static inline vi vi_pairs_dot(vi acc, vi w, vi a) { return _mm512_dpbusd_epi32(acc, w, a); }
static inline vi vi_pairs_i8(vi acc, vi w, vi a) { return _mm512_dpbusd_epi32(acc, w, a); }
static inline vi vi_pairs_add(vi sum, vi pairs) { return vi_add(sum, pairs); }
static inline vi vi_pairs_scaled(vi sum, vi pairs, vi scale) { return vi_add(sum, _mm512_mullo_epi32(pairs, scale)); }
static inline vi vi_scale_i8(const uint8_t *p) { return vi_load_i8(p); }
/* Bytes l and 16 + l in lane l, and the sum of their products with two numbers. */
static inline vi vi_two_u8(const uint8_t *p) { return vi_or(vi_load_u8(p), vi_shl(vi_load_u8(p + 16), 16)); }
static inline vi vi_two_madd(vi sum, vi two, const int16_t *n) {
        int32_t both;

        memcpy(&both, n, sizeof(both));
        return vi_add(sum, _mm512_madd_epi16(two, vi_set1(both)));
}

/* 16 numbers of E4M3, times E4M3_LOADED: what they are when their bits are read as those of a binary16. */
#define E4M3_LOADED 0x1p-8f
static inline vf vf_load_e4m3(const void *p) {
        __m256i c = _mm256_cvtepu8_epi16(_mm_loadu_si128(p)), magnitude = _mm256_and_si256(c, _mm256_set1_epi16(0x7f));
        __m256i nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f));
        __m256i h = _mm256_or_si256(_mm256_slli_epi16(magnitude, 7), _mm256_and_si256(nan, _mm256_set1_epi16(0x7c00)));

        return _mm512_cvtph_ps(_mm256_or_si256(h, _mm256_slli_epi16(_mm256_srli_epi16(c, 7), 15)));
}
