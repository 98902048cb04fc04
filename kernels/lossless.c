/* SPDX-License-Identifier: Apache-2.0 */

/* BF16, losslessly coded: see lossless.h. */

#include "lossless.h"

#include <string.h>

#include "base/checked.h"
#include "base/macro.h"
#include "format-family.h"
#include "half.h"

const struct fmt_family fmt_families_lossless[1] = {
        { .info = { FMT_BF16_LL, "BF16_LL", LOSSLESS_COLUMN, LOSSLESS_COLUMN_BYTES / WEIGHT_PANEL, LOSSLESS_COLUMN_BYTES } },
};

bool lossless_layout(uint64_t n_matrices, uint64_t n_out, uint64_t n_in, struct lossless_parts *ret) {
        uint64_t panels = n_out / WEIGHT_PANEL + (n_out % WEIGHT_PANEL != 0), units = n_in / LOSSLESS_UNIT + (n_in % LOSSLESS_UNIT != 0);
        uint64_t columns, bytes;

        if (n_matrices == 0 || n_out == 0 || n_in == 0 || n_in % LOSSLESS_COLUMN != 0 || panels > UINT32_MAX || units > UINT32_MAX)
                return false;
        if (!checked_mul(n_matrices, panels, &ret->n_entries) || !checked_mul(ret->n_entries, n_in / LOSSLESS_COLUMN, &columns) ||
            !checked_mul(columns, LOSSLESS_COLUMN_BYTES, &bytes) || !checked_align(bytes, 64, &ret->index) ||
            !checked_mul(ret->n_entries, units, &ret->n_entries) || !checked_mul(ret->n_entries, sizeof(uint64_t), &bytes) ||
            !checked_add(ret->index, bytes, &bytes) || !checked_align(bytes, 64, &ret->escapes) ||
            !checked_add(ret->escapes, LOSSLESS_SLACK, &ret->least))
                return false;
        ret->units = (uint32_t)units;
        ret->panels = (uint32_t)panels;
        return true;
}

/* How a unit's exponents are coded. */
struct choice {
        unsigned base;
        bool wide;
        uint64_t bytes; /* of escapes */
};

static unsigned exponent_of(const uint8_t *number) {
        return (unsigned)(load_u16(number) >> 7 & 0xff);
}

static const uint8_t *number_at(const void *src, size_t stride, unsigned row, uint64_t k) {
        return (const uint8_t *)src + row * stride + 2 * k;
}

/* Of escaped exponents, which can be had in four bits: the first code for each, or 16. */
static unsigned escape_code(unsigned base, unsigned exponent) {
        unsigned n = 0;

        while (n < 16 && lossless_escape(base, n) != exponent)
                n++;
        return n;
}

static struct choice choose(const uint32_t counts[256]) {
        struct choice best = { .bytes = UINT64_MAX };

        for (unsigned base = 0; base <= LOSSLESS_BASE_MAX; base++) {
                uint64_t n = 0, far = 0, bytes;

                for (unsigned e = 0; e < 256; e++) {
                        if (counts[e] == 0 || (e >= base && e < base + LOSSLESS_ESCAPE))
                                continue;
                        n += counts[e];
                        far += escape_code(base, e) == 16;
                }
                bytes = far ? n : (n + 1) / 2;
                if (bytes < best.bytes)
                        best = (struct choice){ base, far > 0, bytes };
        }
        return best;
}

static struct choice choose_unit(const void *src, size_t stride, unsigned n_rows, uint64_t first, uint64_t n) {
        uint32_t counts[256] = { 0 };

        for (unsigned row = 0; row < n_rows; row++)
                for (uint64_t k = first; k < first + n; k++)
                        counts[exponent_of(number_at(src, stride, row, k))]++;
        return choose(counts);
}

static uint64_t unit_length(uint64_t first, uint64_t n_in) {
        return MIN(n_in - first, (uint64_t)LOSSLESS_UNIT);
}

uint64_t lossless_measure(const void *src, size_t stride, unsigned n_rows, uint64_t n_in) {
        uint64_t bytes = 0;

        for (uint64_t k = 0; k < n_in; k += LOSSLESS_UNIT)
                bytes += choose_unit(src, stride, n_rows, k, unit_length(k, n_in)).bytes;
        return bytes;
}

static void put_escape(const struct choice *c, uint64_t number, unsigned exponent, uint8_t *escapes) {
        unsigned code = escape_code(c->base, exponent);

        if (c->wide)
                escapes[number] = (uint8_t)exponent;
        else if (number % 2 == 0)
                escapes[number / 2] = (uint8_t)code;
        else
                escapes[number / 2] |= (uint8_t)(code << 4);
}

/* Codes number (k, row); k is within the panel. True: it is an escape. */
static bool put_number(uint8_t *columns, uint64_t k, unsigned row, unsigned base, unsigned number) {
        uint8_t *column = columns + k / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES;
        unsigned in = (unsigned)(k % LOSSLESS_COLUMN), exponent = number >> 7 & 0xff, code;

        code = exponent >= base && exponent < base + LOSSLESS_ESCAPE ? exponent - base : LOSSLESS_ESCAPE;
        column[in * WEIGHT_PANEL + row] = (uint8_t)((number >> 8 & 0x80) | (number & 0x7f));
        column[LOSSLESS_LOW + in / 4 * WEIGHT_PANEL + row] |= (uint8_t)((code & 3) << 2 * (in % 4));
        column[LOSSLESS_HIGH + in / 8 * WEIGHT_PANEL + row] |= (uint8_t)(code >> 2 << in % 8);
        return code == LOSSLESS_ESCAPE;
}

static uint64_t encode_unit(const void *src, size_t stride, unsigned n_rows, uint64_t first, uint64_t n, const struct choice *c,
                            uint8_t *columns, uint8_t *escapes) {
        uint64_t count = 0;

        for (uint64_t k = first; k < first + n; k += 4)
                for (unsigned row = 0; row < n_rows; row++)
                        for (unsigned i = 0; i < 4; i++) {
                                unsigned number = load_u16(number_at(src, stride, row, k + i));

                                if (put_number(columns, k + i, row, c->base, number))
                                        put_escape(c, count++, number >> 7 & 0xff, escapes);
                        }
        return c->wide ? count : (count + 1) / 2;
}

uint64_t lossless_encode(const void *src, size_t stride, unsigned n_rows, uint64_t n_in, uint64_t at, void *columns,
                         void *index, void *escapes) {
        uint64_t begin = at;

        memset(columns, 0, n_in / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES);
        for (uint64_t k = 0; k < n_in; k += LOSSLESS_UNIT) {
                struct choice c = choose_unit(src, stride, n_rows, k, unit_length(k, n_in));
                uint64_t entry = at | (uint64_t)c.base << LOSSLESS_BASE_SHIFT | (c.wide ? LOSSLESS_WIDE : 0);

                memcpy((uint8_t *)index + k / LOSSLESS_UNIT * sizeof(entry), &entry, sizeof(entry));
                at += encode_unit(src, stride, n_rows, k, unit_length(k, n_in), &c, columns, (uint8_t *)escapes + at);
        }
        return at - begin;
}

static unsigned code_at(const uint8_t *columns, uint64_t k, unsigned row) {
        const uint8_t *column = columns + k / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES;
        unsigned in = (unsigned)(k % LOSSLESS_COLUMN);

        return (column[LOSSLESS_LOW + in / 4 * WEIGHT_PANEL + row] >> 2 * (in % 4) & 3u) |
               (column[LOSSLESS_HIGH + in / 8 * WEIGHT_PANEL + row] >> in % 8 & 1u) << 2;
}

static unsigned get_escape(uint64_t entry, uint64_t number, const uint8_t *escapes) {
        unsigned base = (unsigned)(entry >> LOSSLESS_BASE_SHIFT & 0xff);

        if (entry & LOSSLESS_WIDE)
                return escapes[number];
        return lossless_escape(base, escapes[number / 2] >> 4 * (number % 2) & 15u);
}

/* Rows [first_row, end_row) of a panel go to dst. */
static void decode_rows(const void *columns, const void *index, const void *escapes, unsigned first_row, unsigned end_row,
                        uint64_t n_in, uint8_t *dst, size_t stride) {
        uint64_t entry = 0, count = 0;

        for (uint64_t k = 0; k < n_in; k += 4) {
                if (k % LOSSLESS_UNIT == 0) {
                        memcpy(&entry, (const uint8_t *)index + k / LOSSLESS_UNIT * sizeof(entry), sizeof(entry));
                        count = 0;
                }
                for (unsigned row = 0; row < WEIGHT_PANEL; row++)
                        for (unsigned i = 0; i < 4; i++) {
                                unsigned code = code_at(columns, k + i, row), exponent = code + (unsigned)(entry >> LOSSLESS_BASE_SHIFT & 0xff);
                                unsigned sign = ((const uint8_t *)columns)[(k + i) / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES +
                                                                           (k + i) % LOSSLESS_COLUMN * WEIGHT_PANEL + row];

                                if (code == LOSSLESS_ESCAPE)
                                        exponent = get_escape(entry, count++, (const uint8_t *)escapes + (entry & LOSSLESS_OFFSET_MASK));
                                if (row >= first_row && row < end_row)
                                        store_u16(dst + (row - first_row) * stride + 2 * (k + i),
                                                  (uint16_t)((sign & 0x80) << 8 | exponent << 7 | (sign & 0x7f)));
                        }
        }
}

void lossless_decode(const void *columns, const void *index, const void *escapes, unsigned n_rows, uint64_t n_in, void *dst,
                     size_t stride) {
        decode_rows(columns, index, escapes, 0, n_rows, n_in, dst, stride);
}

void lossless_decode_row(const void *columns, const void *index, const void *escapes, unsigned row, uint64_t n_in, void *dst) {
        decode_rows(columns, index, escapes, row, row + 1, n_in, dst, 0);
}

bool lossless_verify(const void *columns, const void *index, const void *escapes, const void *src, size_t stride,
                     unsigned n_rows, uint64_t n_in) {
        uint8_t row_bytes[2 * LOSSLESS_UNIT * WEIGHT_PANEL];
        const uint64_t *entries = index;

        for (uint64_t k = 0; k < n_in; k += LOSSLESS_UNIT) {
                uint64_t n = unit_length(k, n_in);

                decode_rows((const uint8_t *)columns + k / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES, entries + k / LOSSLESS_UNIT, escapes,
                            0, n_rows, n, row_bytes, 2 * LOSSLESS_UNIT);
                for (unsigned row = 0; row < n_rows; row++)
                        if (memcmp(row_bytes + row * 2 * LOSSLESS_UNIT, number_at(src, stride, row, k), 2 * n) != 0)
                                return false;
        }
        return true;
}

bool lossless_index_valid(const void *index, uint64_t n, uint64_t bytes) {
        for (uint64_t i = 0; i < n; i++) {
                uint64_t entry, offset;

                memcpy(&entry, (const uint8_t *)index + i * sizeof(entry), sizeof(entry));
                offset = entry & LOSSLESS_OFFSET_MASK;
                if (entry >> 49 || (entry >> LOSSLESS_BASE_SHIFT & 0xff) > LOSSLESS_BASE_MAX || bytes < LOSSLESS_SLACK ||
                    offset > bytes - LOSSLESS_SLACK)
                        return false;
        }
        return true;
}
