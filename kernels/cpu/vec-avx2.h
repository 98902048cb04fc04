/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Vectors of 16 lanes with AVX2, FMA and F16C: two registers each. See vec-avx512.h for what the names mean.
 *
 * Without VNNI a dot product is maddubs (u8 x i8, pairs added with saturation at 16 bits) and madd with ones. Six bits
 * times 127 twice stays below 2^15; for i8 weights the sign moves to the activations, and 2 x 128 x 127 just fits.
 */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define VEC(name) name##_avx2
#define VEC_TILE 8
#define VEC_ROWS 4
#define VEC_PAIR 0
#define VEC_I8_SHIFTED 0
#define VEC_PAIRS 1

typedef struct { __m256 a, b; } vf;
typedef struct { __m256i a, b; } vi;

#define VF(x, y) ((vf){ (x), (y) })
#define VI(x, y) ((vi){ (x), (y) })

static inline vf vf_zero(void) { return VF(_mm256_setzero_ps(), _mm256_setzero_ps()); }
static inline vf vf_set1(float f) { return VF(_mm256_set1_ps(f), _mm256_set1_ps(f)); }
static inline vf vf_load(const float *p) { return VF(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
static inline vf vf_load_f16(const void *p) {
        const __m128i *h = p;

        return VF(_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1)));
}
/* Two BF16 of 32 bits by a shift and a mask: lanes are in an order of their own, 0 2 4 ... 14 and 1 3 5 ... 15, which
 * vf_store_from_bf16() undoes. */
#define VEC_BF16_ORDER 1
static inline vf vf_load_bf16(const void *p) {
        __m256i v = _mm256_loadu_si256(p);

        return VF(_mm256_castsi256_ps(_mm256_slli_epi32(v, 16)),
                  _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int32_t)0xffff0000))));
}
static inline void vf_store_from_bf16(float *p, vf x) {
        __m256 low = _mm256_unpacklo_ps(x.a, x.b), high = _mm256_unpackhi_ps(x.a, x.b);

        _mm256_storeu_ps(p, _mm256_permute2f128_ps(low, high, 0x20));
        _mm256_storeu_ps(p + 8, _mm256_permute2f128_ps(low, high, 0x31));
}
static inline void vf_store(float *p, vf x) {
        _mm256_storeu_ps(p, x.a);
        _mm256_storeu_ps(p + 8, x.b);
}
static inline void vf_store_f16(void *p, vf x) {
        __m128i *h = p;

        _mm_storeu_si128(h, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
        _mm_storeu_si128(h + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
static inline vf vf_add(vf x, vf y) { return VF(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
static inline vf vf_sub(vf x, vf y) { return VF(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
static inline vf vf_mul(vf x, vf y) { return VF(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
static inline vf vf_div(vf x, vf y) { return VF(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
static inline vf vf_fma(vf x, vf y, vf z) {
        return VF(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}
static inline vf vf_max(vf x, vf y) { return VF(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
static inline vf vf_min(vf x, vf y) { return VF(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
static inline vf vf_if_less(vf x, vf y, vf yes, vf no) {
        return VF(_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
                  _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)));
}
static inline vf vf_if_nan(vf x, vf y) {
        return VF(_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q)),
                  _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q)));
}
static inline vf vf_from_vi(vi x) { return VF(_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)); }
static inline vf vf_bits(vi x) { return VF(_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)); }
static inline vi vi_bits(vf x) { return VI(_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)); }

static inline vi vi_zero(void) { return VI(_mm256_setzero_si256(), _mm256_setzero_si256()); }
static inline vi vi_set1(int32_t v) { return VI(_mm256_set1_epi32(v), _mm256_set1_epi32(v)); }
static inline vi vi_load(const void *p) {
        const __m256i *q = p;

        return VI(_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1));
}
static inline void vi_store(void *p, vi x) {
        __m256i *q = p;

        _mm256_storeu_si256(q, x.a);
        _mm256_storeu_si256(q + 1, x.b);
}
static inline vi vi_load_u8(const uint8_t *p) {
        __m128i v = _mm_loadu_si128((const void *)p);

        return VI(_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)));
}
static inline vi vi_load_i8(const void *p) {
        __m128i v = _mm_loadu_si128(p);

        return VI(_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)));
}
static inline void vi_store_i8(void *p, vi x) {
        __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);

        _mm_storeu_si128(p, _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}
static inline vi vi_and(vi x, vi y) { return VI(_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)); }
static inline vi vi_or(vi x, vi y) { return VI(_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)); }
static inline vi vi_xor(vi x, vi y) { return VI(_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)); }
static inline vi vi_add(vi x, vi y) { return VI(_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)); }
static inline vi vi_sub(vi x, vi y) { return VI(_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)); }
static inline vi vi_max(vi x, vi y) { return VI(_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)); }
#define vi_shl(x, n) VI(_mm256_slli_epi32((x).a, n), _mm256_slli_epi32((x).b, n))
#define vi_shr(x, n) VI(_mm256_srli_epi32((x).a, n), _mm256_srli_epi32((x).b, n))
static inline vi vi_shr_by(vi x, unsigned n) {
        __m128i by = _mm_cvtsi32_si128((int)n);

        return VI(_mm256_srl_epi32(x.a, by), _mm256_srl_epi32(x.b, by));
}
static inline int32_t vi_sum(vi x) {
        __m256i v = _mm256_add_epi32(x.a, x.b);
        __m128i h = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

        h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
        return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}
static inline int32_t vi_top(vi x) {
        __m256i v = _mm256_max_epi32(x.a, x.b);
        __m128i h = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

        h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
        return _mm_cvtsi128_si32(_mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}

static inline __m256i dot_u6(__m256i acc, __m256i w, __m256i a) {
        return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
}
static inline vi vi_dot_u6(vi acc, vi w, vi a) { return VI(dot_u6(acc.a, w.a, a.a), dot_u6(acc.b, w.b, a.b)); }
static inline vi vi_i8(vi w) { return w; }
static inline vi vi_dot_i8(vi acc, vi w, vi a) {
        return VI(dot_u6(acc.a, _mm256_abs_epi8(w.a), _mm256_sign_epi8(a.a, w.a)),
                  dot_u6(acc.b, _mm256_abs_epi8(w.b), _mm256_sign_epi8(a.b, w.b)));
}

typedef __m256i vt;

static inline vt vt_load(const int8_t *p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)p)); }
static inline vi vi_lut(vt table, vi codes) {
        return VI(_mm256_shuffle_epi8(table, codes.a), _mm256_shuffle_epi8(table, codes.b));
}

/* Two sums of 16 bits per lane. What overflows on the way comes back in the end, if the end fits: 8 x 2 x 15 x 127,
 * 4 x 2 x 31 x 127, and with a start that brings weights to both sides of zero 4 x 2 x 32 x 127 and 8 x 2 x 16 x 127. */
static inline vi vi_pairs_start(const int16_t *pair, const int times) {
        int32_t both;
        __m256i v;

        memcpy(&both, pair, sizeof(both));
        v = _mm256_mullo_epi16(_mm256_set1_epi32(both), _mm256_set1_epi16((int16_t)times));
        return VI(v, v);
}
/* The start from a pair that is multiplied already, by 1 << right too much. */
static inline vi vi_pairs_shifted(const int16_t *pair, const int right) {
        int32_t both;
        __m256i v;

        memcpy(&both, pair, sizeof(both));
        v = _mm256_srai_epi16(_mm256_set1_epi32(both), right);
        return VI(v, v);
}
/* Adds where it stands, in place: gcc puts off additions of integers, and keeps all of their terms in memory meanwhile;
 * told not to, it wants a register more than there are. */
static inline __m256i add_16(__m256i acc, __m256i x) {
        acc = _mm256_add_epi16(acc, x);
        __asm__("" : "+x"(acc));
        return acc;
}
static inline __m256i add_32(__m256i acc, __m256i x) {
        __asm__("vpaddd %1, %0, %0" : "+x"(acc) : "x"(x));
        return acc;
}
static inline vi vi_pairs_dot(vi acc, vi w, vi a) {
        return VI(add_16(acc.a, _mm256_maddubs_epi16(w.a, a.a)), add_16(acc.b, _mm256_maddubs_epi16(w.b, a.b)));
}
static inline vi vi_pairs_i8(vi acc, vi w, vi a) {
        return VI(add_16(acc.a, _mm256_maddubs_epi16(_mm256_abs_epi8(w.a), _mm256_sign_epi8(a.a, w.a))),
                  add_16(acc.b, _mm256_maddubs_epi16(_mm256_abs_epi8(w.b), _mm256_sign_epi8(a.b, w.b))));
}
static inline vi vi_pairs_scaled(vi sum, vi pairs, vi scale) {
        return VI(add_32(sum.a, _mm256_madd_epi16(pairs.a, scale.a)),
                  add_32(sum.b, _mm256_madd_epi16(pairs.b, scale.b)));
}
static inline vi vi_pairs_add(vi sum, vi pairs) {
        return vi_pairs_scaled(sum, pairs, VI(_mm256_set1_epi16(1), _mm256_set1_epi16(1)));
}
/* Twice in each lane, for either sum. */
static inline vi vi_scale_i8(const uint8_t *p) {
        __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)p));
        __m256i first = _mm256_setr_epi8(-1, 0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3,
                                         -1, 4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7);
        __m256i second = _mm256_or_si256(first, _mm256_set1_epi16(0x0800));

        return VI(_mm256_srai_epi16(_mm256_shuffle_epi8(v, first), 8),
                  _mm256_srai_epi16(_mm256_shuffle_epi8(v, second), 8));
}

/* Half of a vector, for products whose sums would not fit the registers otherwise: of 4 rows, 16-bit and 32-bit ones. */
#define VEC_HALVES 2
typedef __m256i vh;
static inline vh vh_zero(void) { return _mm256_setzero_si256(); }
static inline vh vh_load(const void *p) { return _mm256_loadu_si256(p); }
static inline vh vh_set1_load(const int8_t *p) {
        int32_t four;

        memcpy(&four, p, sizeof(four));
        return _mm256_set1_epi32(four);
}
static inline vh vh_of(vi v, const unsigned half) { return half ? v.b : v.a; }
static inline vi vi_of(vh a, vh b) { return VI(a, b); }
static inline vh vh_pairs_dot(vh acc, vh w, vh a) { return add_16(acc, _mm256_maddubs_epi16(w, a)); }
static inline vh vh_pairs_i8(vh acc, vh w, vh a) {
        return add_16(acc, _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w)));
}
static inline vh vh_pairs_scaled(vh sum, vh pairs, vh scale) { return add_32(sum, _mm256_madd_epi16(pairs, scale)); }

static inline vi vi_two_u8(const uint8_t *p) {
        __m128i x = _mm_loadu_si128((const void *)p), y = _mm_loadu_si128((const void *)(p + 16));

        return VI(_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(x, y)), _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(x, y)));
}
static inline vi vi_two_madd(vi sum, vi two, const int16_t *n) {
        int32_t both;

        memcpy(&both, n, sizeof(both));
        return VI(add_32(sum.a, _mm256_madd_epi16(two.a, _mm256_set1_epi32(both))),
                  add_32(sum.b, _mm256_madd_epi16(two.b, _mm256_set1_epi32(both))));
}

#define E4M3_LOADED 0x1p-8f
static inline vf vf_load_e4m3(const void *p) {
        __m256i c = _mm256_cvtepu8_epi16(_mm_loadu_si128(p)), magnitude = _mm256_and_si256(c, _mm256_set1_epi16(0x7f));
        __m256i nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f));
        __m256i h = _mm256_or_si256(_mm256_slli_epi16(magnitude, 7), _mm256_and_si256(nan, _mm256_set1_epi16(0x7c00)));

        h = _mm256_or_si256(h, _mm256_slli_epi16(_mm256_srli_epi16(c, 7), 15));
        return VF(_mm256_cvtph_ps(_mm256_castsi256_si128(h)), _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)));
}
