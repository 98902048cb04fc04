/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Vectors of 16 lanes with NEON and its dot product (Armv8.2): four registers each. See vec-avx512.h for what the
 * names mean. Weights without sign have at most 6 bits, so products of signed bytes do for all formats: those of mixed
 * signs (i8mm's usdot) would save nothing. For its matrix products see vec-i8mm.h.
 */

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define VEC(name) name##_neon
#define VEC_TILE 4
#define VEC_ROWS 4
#define VEC_PAIR 0
#define VEC_I8_SHIFTED 0
#define VEC_PAIRS 0

typedef float32x4x4_t vf;
typedef int32x4x4_t vi;

#define QUADS(type, expr)                         \
        type r_;                                  \
        _Pragma("GCC unroll 4")                   \
        for (unsigned i = 0; i < 4; i++)          \
                r_.val[i] = (expr);               \
        return r_

static inline vf vf_set1(float f) { QUADS(vf, vdupq_n_f32(f)); }
static inline vf vf_zero(void) { return vf_set1(0.0f); }
static inline vf vf_load(const float *p) { QUADS(vf, vld1q_f32(p + 4 * i)); }
static inline vf vf_load_f16(const void *p) {
        const uint16_t *h = p;

        QUADS(vf, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(h + 4 * i))));
}
static inline vf vf_load_bf16(const void *p) {
        const uint16_t *h = p;

        QUADS(vf, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(h + 4 * i), 16)));
}
static inline void vf_store(float *p, vf a) {
        for (unsigned i = 0; i < 4; i++)
                vst1q_f32(p + 4 * i, a.val[i]);
}
static inline void vf_store_f16(void *p, vf a) {
        for (unsigned i = 0; i < 4; i++)
                vst1_u16((uint16_t *)p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.val[i])));
}
static inline vf vf_add(vf a, vf b) { QUADS(vf, vaddq_f32(a.val[i], b.val[i])); }
static inline vf vf_sub(vf a, vf b) { QUADS(vf, vsubq_f32(a.val[i], b.val[i])); }
static inline vf vf_mul(vf a, vf b) { QUADS(vf, vmulq_f32(a.val[i], b.val[i])); }
static inline vf vf_div(vf a, vf b) { QUADS(vf, vdivq_f32(a.val[i], b.val[i])); }
static inline vf vf_fma(vf a, vf b, vf c) { QUADS(vf, vfmaq_f32(c.val[i], a.val[i], b.val[i])); }
static inline vf vf_if_less(vf a, vf b, vf yes, vf no) {
        QUADS(vf, vbslq_f32(vcltq_f32(a.val[i], b.val[i]), yes.val[i], no.val[i]));
}
/* As x86 has them: the second operand where one is not a number. */
static inline vf vf_max(vf a, vf b) { return vf_if_less(b, a, a, b); }
static inline vf vf_min(vf a, vf b) { return vf_if_less(a, b, a, b); }
static inline vf vf_if_nan(vf a, vf b) {
        QUADS(vf, vbslq_f32(vceqq_f32(a.val[i], a.val[i]), b.val[i], a.val[i]));
}
static inline vf vf_from_vi(vi a) { QUADS(vf, vcvtq_f32_s32(a.val[i])); }
static inline vf vf_bits(vi a) { QUADS(vf, vreinterpretq_f32_s32(a.val[i])); }
static inline vi vi_bits(vf a) { QUADS(vi, vreinterpretq_s32_f32(a.val[i])); }

static inline vi vi_set1(int32_t v) { QUADS(vi, vdupq_n_s32(v)); }
static inline vi vi_zero(void) { return vi_set1(0); }
static inline vi vi_load(const void *p) { QUADS(vi, vreinterpretq_s32_u8(vld1q_u8((const uint8_t *)p + 16 * i))); }
static inline void vi_store(void *p, vi a) {
        for (unsigned i = 0; i < 4; i++)
                vst1q_u8((uint8_t *)p + 16 * i, vreinterpretq_u8_s32(a.val[i]));
}
static inline vi vi_load_u8(const uint8_t *p) {
        uint8x16_t v = vld1q_u8(p);
        uint16x8_t low = vmovl_u8(vget_low_u8(v)), high = vmovl_u8(vget_high_u8(v));

        return (vi){ { vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
                       vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low))),
                       vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
                       vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high))) } };
}
static inline vi vi_load_i8(const void *p) {
        int8x16_t v = vld1q_s8(p);
        int16x8_t low = vmovl_s8(vget_low_s8(v)), high = vmovl_s8(vget_high_s8(v));

        return (vi){ { vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
                       vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high)) } };
}
static inline void vi_store_i8(void *p, vi a) {
        int16x8_t low = vcombine_s16(vmovn_s32(a.val[0]), vmovn_s32(a.val[1]));
        int16x8_t high = vcombine_s16(vmovn_s32(a.val[2]), vmovn_s32(a.val[3]));

        vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
static inline vi vi_and(vi a, vi b) { QUADS(vi, vandq_s32(a.val[i], b.val[i])); }
static inline vi vi_or(vi a, vi b) { QUADS(vi, vorrq_s32(a.val[i], b.val[i])); }
static inline vi vi_xor(vi a, vi b) { QUADS(vi, veorq_s32(a.val[i], b.val[i])); }
static inline vi vi_add(vi a, vi b) { QUADS(vi, vaddq_s32(a.val[i], b.val[i])); }
static inline vi vi_sub(vi a, vi b) { QUADS(vi, vsubq_s32(a.val[i], b.val[i])); }
static inline vi vi_max(vi a, vi b) { QUADS(vi, vmaxq_s32(a.val[i], b.val[i])); }
static inline vi vi_shl(vi a, int n) { QUADS(vi, vshlq_s32(a.val[i], vdupq_n_s32(n))); }
static inline vi vi_shr(vi a, int n) {
        QUADS(vi, vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a.val[i]), vdupq_n_s32(-n))));
}
static inline vi vi_shr_by(vi a, unsigned n) {
        QUADS(vi, vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a.val[i]), vdupq_n_s32(-(int)n))));
}
static inline int32_t vi_sum(vi a) {
        return vaddvq_s32(vaddq_s32(vaddq_s32(a.val[0], a.val[1]), vaddq_s32(a.val[2], a.val[3])));
}
static inline int32_t vi_top(vi a) {
        return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.val[0], a.val[1]), vmaxq_s32(a.val[2], a.val[3])));
}

static inline vi vi_i8(vi w) { return w; }
static inline vi vi_dot_i8(vi acc, vi w, vi a) {
        QUADS(vi, vdotq_s32(acc.val[i], vreinterpretq_s8_s32(w.val[i]), vreinterpretq_s8_s32(a.val[i])));
}
static inline vi vi_dot_u6(vi acc, vi w, vi a) { return vi_dot_i8(acc, w, a); }

typedef int8x16_t vt;

static inline vt vt_load(const int8_t *p) { return vld1q_s8(p); }
static inline vi vi_lut(vt table, vi codes) {
        QUADS(vi, vreinterpretq_s32_s8(vqtbl1q_s8(table, vreinterpretq_u8_s32(codes.val[i]))));
}

static inline vi vi_pairs_start(const int16_t *pair, const int times) { return vi_set1((pair[0] + pair[1]) * times); }
static inline vi vi_pairs_shifted(const int16_t *pair, const int right) { return vi_set1((pair[0] + pair[1]) / (1 << right)); }
static inline vi vi_pairs_dot(vi acc, vi w, vi a) { return vi_dot_i8(acc, w, a); }
static inline vi vi_pairs_i8(vi acc, vi w, vi a) { return vi_dot_i8(acc, w, a); }
static inline vi vi_pairs_add(vi sum, vi pairs) { return vi_add(sum, pairs); }
static inline vi vi_pairs_scaled(vi sum, vi pairs, vi scale) {
        QUADS(vi, vmlaq_s32(sum.val[i], pairs.val[i], scale.val[i]));
}
static inline vi vi_scale_i8(const uint8_t *p) { return vi_load_i8(p); }
static inline vi vi_two_u8(const uint8_t *p) { return vi_or(vi_load_u8(p), vi_shl(vi_load_u8(p + 16), 16)); }
static inline vi vi_two_madd(vi sum, vi two, const int16_t *n) {
        sum = vi_pairs_scaled(sum, vi_and(two, vi_set1(0xffff)), vi_set1(n[0]));
        return vi_pairs_scaled(sum, vi_shr(two, 16), vi_set1(n[1]));
}

#define E4M3_LOADED 0x1p-8f
static inline uint16x8_t e4m3_halves(uint8x8_t codes) {
        uint16x8_t c = vmovl_u8(codes), magnitude = vandq_u16(c, vdupq_n_u16(0x7f));
        uint16x8_t nan = vandq_u16(vceqq_u16(magnitude, vdupq_n_u16(0x7f)), vdupq_n_u16(0x7c00));

        return vorrq_u16(vorrq_u16(vshlq_n_u16(magnitude, 7), nan), vshlq_n_u16(vshrq_n_u16(c, 7), 15));
}
static inline vf vf_load_e4m3(const void *p) {
        uint8x16_t c = vld1q_u8(p);
        uint16x8_t low = e4m3_halves(vget_low_u8(c)), high = e4m3_halves(vget_high_u8(c));

        return (vf){ { vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(low))),
                       vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(low))),
                       vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(high))),
                       vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(high))) } };
}
