/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inside of the formats: what a family file (format-float.c, format-q.c, format-k.c ...) says of each of its formats, and
 * format.c and pack.c work with.
 *
 * A block is described as a list of fields. In a panel's block column the fields follow each other in the order of
 * the list, and within a field unit u of all 16 rows stands together: [field][unit][row]. So a column holds exactly
 * the bytes of its 16 blocks, and packing is a transposition of units.
 */

#include <math.h>

#include "format.h"

#define FMT_FIELDS_MAX 51u
#define FMT_BLOCK_BYTES_MAX 256u /* of one block in file order */

struct fmt_field {
        uint16_t offset; /* in the file-order block */
        uint8_t units;
        uint8_t unit; /* bytes: 1, 2 or 4; 0 ends the list */
        bool spread;  /* a u32 of bits 4g + b is stored with bit 8b + g: see spread_bits() in pack.c */
};

#define FMT_UNITS(o, n, bytes) { .offset = (o), .units = (n), .unit = (bytes) }
#define FMT_FIFTH_BITS(o) { .offset = (o), .units = 1, .unit = 4, .spread = true }

struct fmt_family {
        struct fmt_info info;
        void (*decode)(const void *src, size_t n_blocks, float *dst); /* NULL: coded */
        void (*encode)(const float *src, size_t n_blocks, void *dst); /* may be NULL */
        struct fmt_field fields[FMT_FIELDS_MAX];
};

extern const struct fmt_family fmt_families_float[4];
extern const struct fmt_family fmt_families_q[5];
extern const struct fmt_family fmt_families_k[3];
extern const struct fmt_family fmt_families_k_low[2];
extern const struct fmt_family fmt_families_lut[4];
extern const struct fmt_family fmt_families_lossless[1];

/* NULL when not known. */
const struct fmt_family *fmt_family(uint32_t fmt);

/* What encoders share. */

/* The nearest integer to x * inverse + offset in [lowest, highest]; lowest for what is not a number. */
static inline int fmt_quant(float x, float inverse, float offset, int lowest, int highest) {
        return (int)fminf(fmaxf(roundf(x * inverse + offset), (float)lowest), (float)highest);
}

/* The one of n values that is furthest from zero, with its sign. */
static inline float fmt_extreme(const float *x, unsigned n) {
        float top = x[0];

        for (unsigned i = 1; i < n; i++)
                top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
        return top;
}

static inline float fmt_inverse(float x) {
        return x != 0.0f ? 1.0f / x : 0.0f;
}
