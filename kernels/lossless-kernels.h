/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inside of lossless.c: what codes and decodes a column (64 elements of K of 16 rows), once per width of vectors and once in plain
 * C, which the others are compared with. All give the same bytes.
 */

#include "format.h"
#include "half.h"
#include "lossless.h"

#define LOSSLESS_EXPONENTS 256u
#define LOSSLESS_UNIT_MAX (LOSSLESS_UNIT * WEIGHT_PANEL) /* elements */
#define LOSSLESS_AHEAD 8u /* bytes that encode() may write behind the escapes that it found */

/* A unit being decoded. It has as many escapes as elements at most, whatever its codes are. */
struct lossless_unit {
        const uint8_t *escapes;
        uint32_t next; /* escape */
        uint8_t base;
        bool wide;
        uint8_t narrow[16]; /* what escapes of four bits stand for */
};

static inline uint8_t lossless_next(struct lossless_unit *unit) {
        uint32_t i = unit->next++;

        return unit->wide ? unit->escapes[i] : unit->narrow[unit->escapes[i / 2] >> 4 * (i % 2) & 15u];
}

/* Of the next unit, what lies behind n bytes of a row: rows are far apart, and those who fetch ahead by themselves lose track. */
static inline void lossless_prefetch(const uint8_t *row, unsigned n) {
        for (unsigned i = 0; i < n; i += 64)
                __builtin_prefetch(row + 2 * LOSSLESS_UNIT + i);
}

struct lossless_kernels {
        const char *name;
        bool (*usable)(void);
        /* How often each exponent is there in n_rows rows of n (a multiple of LOSSLESS_COLUMN) elements, stride bytes apart. */
        void (*count)(const uint8_t *src, size_t stride, unsigned n_rows, unsigned n, uint16_t count[LOSSLESS_EXPONENTS]);
        /* Codes a column of 16 rows, and appends the exponents of its escapes at `found`, in their order. Returns their end. */
        uint8_t *(*encode)(const uint8_t *rows, size_t stride, uint8_t base, uint8_t *column, uint8_t *found);
        /* [row][LOSSLESS_COLUMN] numbers of a column. */
        void (*decode)(const uint8_t *column, struct lossless_unit *unit, uint16_t *rows);
        /* One row's. */
        void (*decode_row)(const uint8_t *column, struct lossless_unit *unit, unsigned row, uint16_t *dst);
};

/* Best first; ends with plain C, which is always usable. */
extern const struct lossless_kernels *const lossless_kernels[];
extern const size_t lossless_kernels_n;

extern const struct lossless_kernels lossless_plain, lossless_vec;
#if defined(__x86_64__)
extern const struct lossless_kernels lossless_avx2;
#endif
