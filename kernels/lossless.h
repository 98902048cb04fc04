/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * BF16 losslessly coded (FMT_BF16_LL): the bits of BF16 in about 11.15 instead of 16. Sign and the seven bits of a
 * significand are noise in trained weights and kept as they are; exponents crowd together, and take three bits each. docs/lossless.md
 * compares this with other codes.
 *
 * A tensor in an image, of n_matrices x n_out x n_in elements, n_in a multiple of LOSSLESS_COLUMN:
 *
 *   columns   [matrix][panel][n_in / 64][LOSSLESS_COLUMN_BYTES]: panels of WEIGHT_PANEL rows, as all formats have them
 *   index     [matrix][panel][unit] uint64_t, little-endian, at a multiple of 64; a unit is LOSSLESS_UNIT elements of K of a
 *             panel, the last one of a row may have fewer
 *   escapes   bytes, at a multiple of 64; ends with LOSSLESS_SLACK unused ones, so that codes that lie lead nowhere
 *
 * A column is 64 elements k of K of 16 rows p:
 *
 *   signs     1024 bytes [k][p]: sign (bit 7) and significand (bits 0-6)
 *   low       256 bytes [k / 4][p]: bits 2 (k % 4), 2 (k % 4) + 1 are bits 0, 1 of the code
 *   high      128 bytes [k / 8][p]: bit k % 8 is bit 2 of the code
 *
 * A code c below LOSSLESS_ESCAPE is the exponent base + c; base is the unit's. LOSSLESS_ESCAPE: the exponent is the next one of the
 * unit's escapes, which are in the order of k / 4, then p, then k % 4 (the order of the bytes of low, and of the codes in a byte).
 * An escape takes four bits, low half of a byte first, and stands for lossless_escape(base, n); in units where that is not enough for
 * all of them (LOSSLESS_WIDE), it is the exponent in a byte. Rows beyond n_out have code 0 and sign byte 0.
 *
 * An index entry: bits 0-39 where the unit's escapes begin, in bytes from the escapes' begin; bits 40-47 base, at most
 * LOSSLESS_BASE_MAX; bit 48 LOSSLESS_WIDE; the others 0.
 *
 * So everything but escapes has its place whatever the values are, tiles are independent, loads are of 128 bits, and what has to be
 * counted to find an escape are the escapes of some bytes before it, which a vector or a warp does in a few steps.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus /* CUDA C */
extern "C" {
#endif

#define LOSSLESS_COLUMN 64u        /* elements of K */
#define LOSSLESS_UNIT 256u
#define LOSSLESS_COLUMN_BYTES 1408u
#define LOSSLESS_LOW 1024u         /* where it begins in a column */
#define LOSSLESS_HIGH 1280u
#define LOSSLESS_ESCAPE 7u
#define LOSSLESS_BASE_MAX 248u
#define LOSSLESS_SLACK 4160u       /* a unit's escapes at most (16 x 256), and a vector */
#define LOSSLESS_OFFSET_MASK ((1ull << 40) - 1)
#define LOSSLESS_BASE_SHIFT 40
#define LOSSLESS_WIDE (1ull << 48)

/* Bits of escapes that 2^20 Gaussian numbers take, averaged over the fraction of the binary logarithm of their deviation, which is
 * all that matters of it (89,000 to 125,000): for plans of models whose values are not there. */
#define LOSSLESS_GAUSSIAN_BITS 104000u

/* The exponent that an escape of four bits stands for: 0-12 are below the codes' ones, 13 and 14 above, 15 is zero (of numbers: that
 * and what is subnormal). All modulo 256. */
static inline uint8_t lossless_escape(unsigned base, unsigned n) {
        return (uint8_t)(n < 13 ? base - 1 - n : n < 15 ? base + n - 6 : 0);
}

/* Where a coded tensor's parts begin, in bytes from its data. */
struct lossless_parts {
        uint64_t index, escapes;
        uint64_t n_entries;  /* of the index */
        uint64_t least;      /* bytes of a tensor without an escape */
        uint32_t units;      /* of a panel */
        uint32_t panels;     /* of a matrix */
};

/* False where n_in is not possible, or a number would not fit. */
bool lossless_layout(uint64_t n_matrices, uint64_t n_out, uint64_t n_in, struct lossless_parts *ret);

/* A panel: n_rows (1 to 16) rows of n_in BF16 numbers at src, stride bytes apart. Bytes that its escapes take; what
 * lossless_encode() returns for it. */
uint64_t lossless_measure(const void *src, size_t stride, unsigned n_rows, uint64_t n_in);
/* Codes a panel: its columns, its index entries, and its escapes, which begin `at` bytes behind `escapes`. Returns their bytes.
 * Different panels may be coded in parallel. */
uint64_t lossless_encode(const void *src, size_t stride, unsigned n_rows, uint64_t n_in, uint64_t at, void *columns,
                         void *index, void *escapes);
/* The rows of a panel as they were: n_rows of them, stride bytes apart. Reads nothing but the panel and what its index entries
 * lead to, at most LOSSLESS_SLACK bytes from each. */
void lossless_decode(const void *columns, const void *index, const void *escapes, unsigned n_rows, uint64_t n_in,
                     void *dst, size_t stride);
/* One row of it: n_in BF16 numbers. */
void lossless_decode_row(const void *columns, const void *index, const void *escapes, unsigned row, uint64_t n_in, void *dst);
/* Whether decoding is the source again, bit by bit. */
bool lossless_verify(const void *columns, const void *index, const void *escapes, const void *src, size_t stride,
                     unsigned n_rows, uint64_t n_in);
/* Whether all of n index entries lead to escapes that are followed by LOSSLESS_SLACK - 1 bytes or more within `bytes`, and have
 * bases and flags as they should be. What this accepts is safe to compute with, whatever its codes are. */
bool lossless_index_valid(const void *index, uint64_t n, uint64_t bytes);

#ifdef __cplusplus
}
#endif
