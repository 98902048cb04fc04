/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Lanes in plain C. What matmul-lossless-template.h is written with exists for every instruction set: registers of LANES lanes
 * of 16 bytes, each of a panel of its own, because what is counted and looked up stays within 16 bytes there.
 *
 * lb: LANES x 16 bytes, lf: LANES x 4 floats. After a shift, bits that came from another byte are not defined; lb_lut() takes
 * indices of which bits 4-6 are not either, if lb_index() has seen them, and gives 0 where bit 7 is set.
 */

#include <stdint.h>
#include <string.h>

#include "kernels/half.h"

#define LANES 1u
#define LANE_ROWS 1u /* rows of a tile whose sums stay in registers */

typedef struct { uint8_t v[16]; } lb;
typedef struct { float v[4]; } lf;

#define LANE_BYTES(expr)                          \
        lb r_;                                    \
        for (unsigned i = 0; i < 16; i++)         \
                r_.v[i] = (uint8_t)(expr);        \
        return r_

/* Bytes at + 0 ... 15 from each lane's address. */
static inline lb lb_load(const uint8_t *const *p, size_t at) { LANE_BYTES(p[0][at + i]); }
/* Bytes 0-7 from there; the others are not defined. */
static inline lb lb_load8(const uint8_t *const *p) { LANE_BYTES(i < 8 ? p[0][i] : 0); }
/* The same 16 bytes, the same byte, a byte, eight bytes and as many zeros in each lane. */
static inline lb lb_table(const uint8_t *p) { LANE_BYTES(p[i]); }
static inline lb lb_set1(uint8_t v) { LANE_BYTES(v); }
static inline lb lb_set(const uint8_t *v) { LANE_BYTES(v[0]); }
static inline lb lb_set_u64(const uint64_t *v) { LANE_BYTES(i < 8 ? v[0] >> 8 * i : 0); }
static inline lb lb_and(lb x, lb y) { LANE_BYTES(x.v[i] & y.v[i]); }
static inline lb lb_or(lb x, lb y) { LANE_BYTES(x.v[i] | y.v[i]); }
static inline lb lb_add(lb x, lb y) { LANE_BYTES(x.v[i] + y.v[i]); }
static inline lb lb_sub(lb x, lb y) { LANE_BYTES(x.v[i] - y.v[i]); }
static inline lb lb_shr(lb x, const int n) { LANE_BYTES(x.v[i] >> n); }
static inline lb lb_shl(lb x, const int n) { LANE_BYTES(x.v[i] << n); }
static inline lb lb_index(lb x) { return x; }
static inline lb lb_lut(lb table, lb index) { LANE_BYTES(index.v[i] & 0x80 ? 0 : table.v[index.v[i] & 15]); }
/* The same for any index: 0 above 15. */
static inline lb lb_pick(lb table, lb index) { LANE_BYTES(index.v[i] > 15 ? 0 : table.v[index.v[i]]); }
/* Bits of x where the mask has them, those of y elsewhere. */
static inline lb lb_select(lb mask, lb x, lb y) { LANE_BYTES((x.v[i] & mask.v[i]) | (y.v[i] & ~mask.v[i])); }
/* Bytes of x where the mask is 0xff, of y where it is 0. */
static inline lb lb_if(lb mask, lb x, lb y) { return lb_select(mask, x, y); }
/* Bytes 0-7 of x and 8-15 of y; bytes 0-7 of both in turns. */
static inline lb lb_halves(lb x, lb y) { LANE_BYTES(i < 8 ? x.v[i] : y.v[i]); }
static inline lb lb_zip(lb x, lb y) { LANE_BYTES(i % 2 ? y.v[i / 2] : x.v[i / 2]); }
/* To the bytes 1, 3 ..., the byte before. */
static inline lb lb_pairs(lb x) { LANE_BYTES(i % 2 ? x.v[i] + x.v[i - 1] : x.v[i]); }
/* high: bit 7 of low, bits 0-6 of x; low: the others. */
static inline void lb_exchange(lb x, lb *low, lb *high) {
        *high = lb_select(lb_set1(0x7f), x, *low);
        *low = lb_select(lb_set1(0x7f), *low, x);
}
/* The last byte of each lane. */
static inline void lb_last(lb x, uint8_t *ret) { ret[0] = x.v[15]; }

static inline lf lf_zero(void) { return (lf){ 0 }; }
static inline lf lf_set1(float x) { return (lf){ { x, x, x, x } }; }
static inline lf lf_fma(lf x, lf y, lf z) {
        for (unsigned i = 0; i < 4; i++)
                z.v[i] = fmaf(x.v[i], y.v[i], z.v[i]);
        return z;
}
/* BF16 numbers from their low and high bytes: words of bytes 0-7 or 8-15. Then the eight as floats, four by four, in an order
 * that lf_store() undoes: a lane's sixteen, from the four parts, to where that lane's go. */
static inline lb lb_words(lb low, lb high, const unsigned half) {
        LANE_BYTES(i % 2 ? high.v[8 * half + i / 2] : low.v[8 * half + i / 2]);
}
static inline lf lf_words(lb words, const unsigned part) {
        lf r;

        for (unsigned i = 0; i < 4; i++)
                r.v[i] = bf16_to_float(load_u16(words.v + 8 * part + 2 * i));
        return r;
}
static inline void lf_store(float *const *out, const lf *x) { memcpy(out[0], x, 4 * sizeof(*x)); }
