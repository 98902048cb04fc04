/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Lanes with AVX2: two panels, each in half of a register. See lane-c.h for what the names mean.
 *
 * Shifts are of 16 bits, so bits cross from one byte to the next. Floats: 0 2 4 6 and 1 3 5 7 of each eight, by a shift and a
 * mask.
 */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 2u
#define LANE_ROWS 2u

typedef __m256i lb;
typedef __m256 lf;

static inline __m128i lane_load(const uint8_t *p) { return _mm_loadu_si128((const void *)p); }
/* Of what was loaded: any unit can blend, where only one inserts. */
static inline lb lane_join(__m128i low, __m256i high) { return _mm256_blend_epi32(_mm256_castsi128_si256(low), high, 0xf0); }
static inline lb lb_load(const uint8_t *const *p, size_t at) {
        return lane_join(lane_load(p[0] + at), _mm256_broadcastsi128_si256(lane_load(p[1] + at)));
}
static inline lb lb_load8(const uint8_t *const *p) {
        int64_t high;

        memcpy(&high, p[1], sizeof(high));
        return lane_join(_mm_loadl_epi64((const void *)p[0]), _mm256_set1_epi64x(high));
}
static inline lb lb_table(const uint8_t *p) { return _mm256_broadcastsi128_si256(lane_load(p)); }
static inline lb lb_set1(uint8_t v) { return _mm256_set1_epi8((char)v); }
static inline lb lb_set(const uint8_t *v) {
        return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_set1_epi8((char)v[0])), _mm_set1_epi8((char)v[1]), 1);
}
static inline lb lb_set_u64(const uint64_t *v) {
        return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_cvtsi64_si128((long long)v[0])),
                                       _mm_cvtsi64_si128((long long)v[1]), 1);
}
static inline lb lb_and(lb x, lb y) { return _mm256_and_si256(x, y); }
static inline lb lb_or(lb x, lb y) { return _mm256_or_si256(x, y); }
static inline lb lb_add(lb x, lb y) { return _mm256_add_epi8(x, y); }
static inline lb lb_sub(lb x, lb y) { return _mm256_sub_epi8(x, y); }
#define lb_shr(x, n) _mm256_srli_epi16(x, n)
#define lb_shl(x, n) _mm256_slli_epi16(x, n)
static inline lb lb_lut(lb table, lb index) { return _mm256_shuffle_epi8(table, index); }
static inline lb lb_index(lb x) { return x; }
static inline lb lb_pick(lb table, lb index) { return _mm256_shuffle_epi8(table, _mm256_adds_epu8(index, _mm256_set1_epi8(0x70))); }
static inline lb lb_select(lb mask, lb x, lb y) {
        return _mm256_xor_si256(_mm256_and_si256(_mm256_xor_si256(x, y), mask), y);
}
static inline lb lb_if(lb mask, lb x, lb y) { return _mm256_blendv_epi8(y, x, mask); }
static inline lb lb_halves(lb x, lb y) { return _mm256_blend_epi32(x, y, 0xcc); }
static inline lb lb_zip(lb x, lb y) { return _mm256_unpacklo_epi8(x, y); }
static inline lb lb_pairs(lb x) { return _mm256_mullo_epi16(x, _mm256_set1_epi16(0x0101)); }
static inline void lb_exchange(lb x, lb *low, lb *high) {
        lb differ = _mm256_xor_si256(x, *low);

        *high = _mm256_xor_si256(_mm256_and_si256(differ, _mm256_set1_epi8(0x7f)), *low);
        *low = _mm256_xor_si256(differ, *high);
}
/* By way of memory, which takes no shuffles; written out, because what the compiler makes of it waits for its stores. */
static inline void lb_last(lb x, uint8_t *ret) {
        uint8_t bytes[32];

        __asm__("vmovdqu %1, %0" : "=m"(bytes) : "x"(x));
        ret[0] = bytes[15];
        ret[1] = bytes[31];
}

static inline lf lf_zero(void) { return _mm256_setzero_ps(); }
static inline lf lf_set1(float x) { return _mm256_set1_ps(x); }
static inline lf lf_fma(lf x, lf y, lf z) { return _mm256_fmadd_ps(x, y, z); }
static inline lb lb_words(lb low, lb high, const unsigned half) {
        return half ? _mm256_unpackhi_epi8(low, high) : _mm256_unpacklo_epi8(low, high);
}
static inline lf lf_words(lb words, const unsigned part) {
        return _mm256_castsi256_ps(part ? _mm256_and_si256(words, _mm256_set1_epi32((int32_t)0xffff0000)) :
                                          _mm256_slli_epi32(words, 16));
}
static inline void lf_store(float *const *out, const lf *x) {
        for (unsigned half = 0; half < 2; half++) {
                lf low = _mm256_unpacklo_ps(x[2 * half], x[2 * half + 1]), high = _mm256_unpackhi_ps(x[2 * half], x[2 * half + 1]);

                _mm_storeu_ps(out[0] + 8 * half, _mm256_castps256_ps128(low));
                _mm_storeu_ps(out[0] + 8 * half + 4, _mm256_castps256_ps128(high));
                _mm_storeu_ps(out[1] + 8 * half, _mm256_extractf128_ps(low, 1));
                _mm_storeu_ps(out[1] + 8 * half + 4, _mm256_extractf128_ps(high, 1));
        }
}
