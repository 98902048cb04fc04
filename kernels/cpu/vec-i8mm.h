/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * NEON with matrix products of bytes (Armv8.6's i8mm): vec-neon.h, and what multiplies eight elements of two outputs by
 * those of two rows. Two groups of a panel, zipped, have the eight elements of an output side by side, for all rows of
 * a tile; sums of two rows are mixed until they are complete. A single row is multiplied as vec-neon.h does it.
 */

#include "vec-neon.h"

#undef VEC
#define VEC(name) name##_i8mm
#define VEC_MMLA

/* Lanes of a and b in turns, from the lower or the upper half of each register; and taken apart again. */
static inline vi vi_zip_low(vi a, vi b) { QUADS(vi, vzip1q_s32(a.val[i], b.val[i])); }
static inline vi vi_zip_high(vi a, vi b) { QUADS(vi, vzip2q_s32(a.val[i], b.val[i])); }
static inline vi vi_even(vi a, vi b) { QUADS(vi, vuzp1q_s32(a.val[i], b.val[i])); }
static inline vi vi_odd(vi a, vi b) { QUADS(vi, vuzp2q_s32(a.val[i], b.val[i])); }

/* Eight activations of two rows. */
static inline int8x16_t two_rows(const int8_t *a, const int8_t *b) { return vcombine_s8(vld1_s8(a), vld1_s8(b)); }
/* acc: output 0 with row 0, with row 1, output 1 with row 0, with row 1; w has the eight elements of either output. */
static inline vi vi_mmla(vi acc, vi w, int8x16_t a) {
        QUADS(vi, vmmlaq_s32(acc.val[i], vreinterpretq_s8_s32(w.val[i]), a));
}
