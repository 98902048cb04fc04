/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Vectors of 16 lanes in plain C: the reference that the others are held against, and what runs where nothing else
 * does. See vec-avx512.h for what the names mean. fmaf() is a true fused multiply-add everywhere, if a slow one.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/half.h"

#define VEC(name) name##_c
#define VEC_TILE 1
#define VEC_ROWS 1
#define VEC_PAIR 0
#define VEC_I8_SHIFTED 0
#define VEC_PAIRS 0

typedef struct { float v[16]; } vf;
typedef struct { int32_t v[16]; } vi;

#define EACH(type, expr)                          \
        type r_;                                  \
        for (unsigned i = 0; i < 16; i++)         \
                r_.v[i] = (expr);                 \
        return r_

static inline vf vf_set1(float f) { EACH(vf, f); }
static inline vf vf_zero(void) { return vf_set1(0.0f); }
static inline vf vf_load(const float *p) { EACH(vf, p[i]); }
static inline vf vf_load_f16(const void *p) { EACH(vf, load_f16((const uint8_t *)p + 2 * i)); }
static inline vf vf_load_bf16(const void *p) { EACH(vf, bf16_to_float(load_u16((const uint8_t *)p + 2 * i))); }
static inline void vf_store(float *p, vf a) { memcpy(p, a.v, sizeof(a.v)); }
static inline void vf_store_f16(void *p, vf a) {
        for (unsigned i = 0; i < 16; i++)
                store_f16((uint8_t *)p + 2 * i, a.v[i]);
}
static inline vf vf_add(vf a, vf b) { EACH(vf, a.v[i] + b.v[i]); }
static inline vf vf_sub(vf a, vf b) { EACH(vf, a.v[i] - b.v[i]); }
static inline vf vf_mul(vf a, vf b) { EACH(vf, a.v[i] * b.v[i]); }
static inline vf vf_div(vf a, vf b) { EACH(vf, a.v[i] / b.v[i]); }
static inline vf vf_fma(vf a, vf b, vf c) { EACH(vf, fmaf(a.v[i], b.v[i], c.v[i])); }
static inline vf vf_max(vf a, vf b) { EACH(vf, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline vf vf_min(vf a, vf b) { EACH(vf, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
static inline vf vf_if_less(vf a, vf b, vf yes, vf no) { EACH(vf, a.v[i] < b.v[i] ? yes.v[i] : no.v[i]); }
static inline vf vf_if_nan(vf a, vf b) { EACH(vf, a.v[i] != a.v[i] ? a.v[i] : b.v[i]); }
static inline vf vf_from_vi(vi a) { EACH(vf, (float)a.v[i]); }
static inline vf vf_bits(vi a) { EACH(vf, float_from_bits((uint32_t)a.v[i])); }
static inline vi vi_bits(vf a) { EACH(vi, (int32_t)float_bits(a.v[i])); }

static inline vi vi_set1(int32_t v) { EACH(vi, v); }
static inline vi vi_zero(void) { return vi_set1(0); }
static inline vi vi_load(const void *p) {
        vi r;

        memcpy(r.v, p, sizeof(r.v));
        return r;
}
static inline void vi_store(void *p, vi a) { memcpy(p, a.v, sizeof(a.v)); }
static inline vi vi_load_u8(const uint8_t *p) { EACH(vi, p[i]); }
static inline vi vi_load_i8(const void *p) { EACH(vi, ((const int8_t *)p)[i]); }
static inline void vi_store_i8(void *p, vi a) {
        for (unsigned i = 0; i < 16; i++)
                ((int8_t *)p)[i] = (int8_t)a.v[i];
}
static inline vi vi_and(vi a, vi b) { EACH(vi, a.v[i] & b.v[i]); }
static inline vi vi_or(vi a, vi b) { EACH(vi, a.v[i] | b.v[i]); }
static inline vi vi_xor(vi a, vi b) { EACH(vi, a.v[i] ^ b.v[i]); }
static inline vi vi_add(vi a, vi b) { EACH(vi, (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i])); }
static inline vi vi_sub(vi a, vi b) { EACH(vi, (int32_t)((uint32_t)a.v[i] - (uint32_t)b.v[i])); }
static inline vi vi_max(vi a, vi b) { EACH(vi, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline vi vi_shl(vi a, int n) { EACH(vi, (int32_t)((uint32_t)a.v[i] << n)); }
static inline vi vi_shr(vi a, int n) { EACH(vi, (int32_t)((uint32_t)a.v[i] >> n)); }
static inline vi vi_shr_by(vi a, unsigned n) { EACH(vi, (int32_t)((uint32_t)a.v[i] >> n)); }
static inline int32_t vi_sum(vi a) {
        int32_t s = 0;

        for (unsigned i = 0; i < 16; i++)
                s += a.v[i];
        return s;
}
static inline int32_t vi_top(vi a) {
        int32_t top = a.v[0];

        for (unsigned i = 1; i < 16; i++)
                top = a.v[i] > top ? a.v[i] : top;
        return top;
}

static inline int32_t dot4(uint32_t w, uint32_t a) {
        int32_t s = 0;

        for (unsigned b = 0; b < 32; b += 8)
                s += (int8_t)(uint8_t)(w >> b) * (int8_t)(uint8_t)(a >> b);
        return s;
}
static inline vi vi_i8(vi w) { return w; }
static inline vi vi_dot_i8(vi acc, vi w, vi a) { EACH(vi, acc.v[i] + dot4((uint32_t)w.v[i], (uint32_t)a.v[i])); }
static inline vi vi_dot_u6(vi acc, vi w, vi a) { return vi_dot_i8(acc, w, a); }

typedef struct { int8_t v[16]; } vt;

static inline vt vt_load(const int8_t *p) {
        vt r;

        memcpy(r.v, p, sizeof(r.v));
        return r;
}
static inline vi vi_lut(vt table, vi codes) {
        uint8_t b[64];
        vi r;

        memcpy(b, codes.v, sizeof(b));
        for (unsigned i = 0; i < 64; i++)
                b[i] = (uint8_t)table.v[b[i]];
        memcpy(r.v, b, sizeof(b));
        return r;
}

static inline vi vi_pairs_start(const int16_t *pair, const int times) { return vi_set1((pair[0] + pair[1]) * times); }
static inline vi vi_pairs_shifted(const int16_t *pair, const int right) { return vi_set1((pair[0] + pair[1]) / (1 << right)); }
static inline vi vi_pairs_dot(vi acc, vi w, vi a) { return vi_dot_i8(acc, w, a); }
static inline vi vi_pairs_i8(vi acc, vi w, vi a) { return vi_dot_i8(acc, w, a); }
static inline vi vi_pairs_add(vi sum, vi pairs) { return vi_add(sum, pairs); }
static inline vi vi_pairs_scaled(vi sum, vi pairs, vi scale) {
        EACH(vi, (int32_t)((uint32_t)sum.v[i] + (uint32_t)pairs.v[i] * (uint32_t)scale.v[i]));
}
static inline vi vi_scale_i8(const uint8_t *p) { return vi_load_i8(p); }
static inline vi vi_two_u8(const uint8_t *p) { return vi_or(vi_load_u8(p), vi_shl(vi_load_u8(p + 16), 16)); }
static inline vi vi_two_madd(vi sum, vi two, const int16_t *n) {
        sum = vi_pairs_scaled(sum, vi_and(two, vi_set1(0xffff)), vi_set1(n[0]));
        return vi_pairs_scaled(sum, vi_shr(two, 16), vi_set1(n[1]));
}

#define E4M3_LOADED 0x1p-8f
static inline float load_e4m3(const uint8_t *p) {
        unsigned magnitude = *p & 0x7fu, h = magnitude << 7 | (*p & 0x80u) << 8;

        return f16_to_float((uint16_t)(magnitude == 0x7f ? h | 0x7c00u : h));
}
static inline vf vf_load_e4m3(const void *p) { EACH(vf, load_e4m3((const uint8_t *)p + i)); }
