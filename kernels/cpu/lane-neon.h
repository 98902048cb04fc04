/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Lanes with NEON: one panel. See lane-c.h for what the names mean. */

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define LANES 1u
#define LANE_ROWS 2u

typedef uint8x16_t lb;
typedef float32x4_t lf;

static inline lb lb_load(const uint8_t *const *p, size_t at) { return vld1q_u8(p[0] + at); }
static inline lb lb_load8(const uint8_t *const *p) { return vcombine_u8(vld1_u8(p[0]), vcreate_u8(0)); }
static inline lb lb_table(const uint8_t *p) { return vld1q_u8(p); }
static inline lb lb_set1(uint8_t v) { return vdupq_n_u8(v); }
static inline lb lb_set(const uint8_t *v) { return vdupq_n_u8(v[0]); }
static inline lb lb_set_u64(const uint64_t *v) { return vcombine_u8(vcreate_u8(v[0]), vcreate_u8(0)); }
static inline lb lb_and(lb x, lb y) { return vandq_u8(x, y); }
static inline lb lb_or(lb x, lb y) { return vorrq_u8(x, y); }
static inline lb lb_add(lb x, lb y) { return vaddq_u8(x, y); }
static inline lb lb_sub(lb x, lb y) { return vsubq_u8(x, y); }
#define lb_shr(x, n) vshrq_n_u8(x, n)
#define lb_shl(x, n) vshlq_n_u8(x, n)
static inline lb lb_index(lb x) { return vandq_u8(x, vdupq_n_u8(0x0f)); }
static inline lb lb_lut(lb table, lb index) { return vqtbl1q_u8(table, index); }
static inline lb lb_pick(lb table, lb index) { return vqtbl1q_u8(table, index); }
static inline lb lb_select(lb mask, lb x, lb y) { return vbslq_u8(mask, x, y); }
static inline lb lb_if(lb mask, lb x, lb y) { return vbslq_u8(mask, x, y); }
static inline lb lb_halves(lb x, lb y) { return vcombine_u8(vget_low_u8(x), vget_high_u8(y)); }
static inline lb lb_zip(lb x, lb y) { return vzip1q_u8(x, y); }
static inline lb lb_pairs(lb x) { return vreinterpretq_u8_u16(vmulq_n_u16(vreinterpretq_u16_u8(x), 0x0101)); }
static inline void lb_exchange(lb x, lb *low, lb *high) {
        *high = vbslq_u8(vdupq_n_u8(0x7f), x, *low);
        *low = vbslq_u8(vdupq_n_u8(0x7f), *low, x);
}
static inline void lb_last(lb x, uint8_t *ret) { ret[0] = vgetq_lane_u8(x, 15); }

static inline lf lf_zero(void) { return vdupq_n_f32(0); }
static inline lf lf_set1(float x) { return vdupq_n_f32(x); }
static inline lf lf_fma(lf x, lf y, lf z) { return vfmaq_f32(z, x, y); }
static inline lb lb_words(lb low, lb high, const unsigned half) { return half ? vzip2q_u8(low, high) : vzip1q_u8(low, high); }
static inline lf lf_words(lb words, const unsigned part) {
        uint16x8_t w = vreinterpretq_u16_u8(words);

        return vreinterpretq_f32_u32(vshll_n_u16(part ? vget_high_u16(w) : vget_low_u16(w), 16));
}
static inline void lf_store(float *const *out, const lf *x) {
        for (unsigned i = 0; i < 4; i++)
                vst1q_f32(out[0] + 4 * i, x[i]);
}
