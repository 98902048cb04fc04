/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inside of the formats: what a family file (format-float.c, format-q.c, format-k.c) says of each of its formats, and
 * format.c and pack.c work with.
 *
 * A block is described as a list of fields. In a panel's block column the fields follow each other in the order of
 * the list, and within a field unit u of all 16 rows stands together: [field][unit][row]. So a column holds exactly
 * the bytes of its 16 blocks, and packing is a transposition of units.
 */

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
        void (*decode)(const void *src, size_t n_blocks, float *dst);
        void (*encode)(const float *src, size_t n_blocks, void *dst); /* may be NULL */
        struct fmt_field fields[FMT_FIELDS_MAX];
};

extern const struct fmt_family fmt_families_float[3];
extern const struct fmt_family fmt_families_q[5];
extern const struct fmt_family fmt_families_k[3];

/* NULL when not known. */
const struct fmt_family *fmt_family(uint32_t fmt);
