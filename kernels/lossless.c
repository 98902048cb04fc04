/* SPDX-License-Identifier: Apache-2.0 */

/* BF16, losslessly coded: see lossless.h. */

#include "lossless.h"

#include <string.h>

#include "base/checked.h"
#include "base/macro.h"
#include "format-family.h"
#include "half.h"

#define EXPONENTS 256u
#define UNIT_COLUMNS (LOSSLESS_UNIT / LOSSLESS_COLUMN)
#define NARROW 16u /* what an escape of four bits may be */

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

/* --- how a unit is coded ----------------------------------------------------------------------------------------- */

struct unit_code {
        unsigned base;
        bool wide;
        uint32_t bytes; /* of its escapes */
};

static inline unsigned exponent(uint16_t v) {
        return v >> 7 & 0xffu;
}

static void count_exponents(const uint8_t *src, size_t stride, unsigned n_rows, unsigned n, uint32_t *count) {
        for (unsigned row = 0; row < n_rows; row++)
                for (unsigned k = 0; k < n; k++)
                        count[exponent(load_u16(src + row * stride + 2 * k))]++;
}

/* What of the unit's numbers an escape of four bits stands for, besides codes themselves: 22 exponents in a row with the seven of
 * codes among them, and zero. */
static uint32_t count_narrow(const uint32_t *count, unsigned base) {
        bool zero = false;
        uint32_t n = 0;

        for (unsigned e = base - 13; e != base + LOSSLESS_ESCAPE + 2; e++) {
                n += count[e % EXPONENTS];
                zero |= e % EXPONENTS == 0;
        }
        return n + (zero ? 0 : count[0]);
}

/* The fewest bytes; of several such codes the narrow one, then the one with the smallest base. */
static struct unit_code choose_code(const uint32_t *count, uint32_t total) {
        struct unit_code best = { .bytes = UINT32_MAX };

        for (unsigned base = 0; base <= LOSSLESS_BASE_MAX; base++) {
                uint32_t escapes = total, bytes;
                bool wide;

                for (unsigned c = 0; c < LOSSLESS_ESCAPE; c++)
                        escapes -= count[base + c];
                wide = count_narrow(count, base) < total;
                bytes = wide ? escapes : (escapes + 1) / 2;
                if (bytes < best.bytes || (bytes == best.bytes && best.wide && !wide))
                        best = (struct unit_code){ .base = base, .wide = wide, .bytes = bytes };
        }
        return best;
}

static struct unit_code unit_code(const uint8_t *src, size_t stride, unsigned n_rows, unsigned n) {
        uint32_t count[EXPONENTS] = { 0 };

        count_exponents(src, stride, n_rows, n, count);
        return choose_code(count, (uint32_t)n_rows * n);
}

uint64_t lossless_measure(const void *src, size_t stride, unsigned n_rows, uint64_t n_in) {
        uint64_t bytes = 0;

        for (uint64_t k = 0; k < n_in; k += LOSSLESS_UNIT)
                bytes += unit_code((const uint8_t *)src + 2 * k, stride, n_rows, (unsigned)MIN(n_in - k, LOSSLESS_UNIT)).bytes;
        return bytes;
}

/* --- coding ------------------------------------------------------------------------------------------------------ */

struct escape_sink {
        uint8_t *to;
        uint32_t n;
        bool wide;
        uint8_t narrow[EXPONENTS]; /* the escape that stands for an exponent; of several the smallest */
};

static void start_sink(struct escape_sink *sink, const struct unit_code *code, uint8_t *to) {
        sink->to = to;
        sink->n = 0;
        sink->wide = code->wide;
        for (unsigned i = NARROW; i-- > 0;)
                sink->narrow[lossless_escape(code->base, i)] = (uint8_t)i;
}

static void put_escape(struct escape_sink *sink, unsigned e) {
        if (sink->wide)
                sink->to[sink->n] = (uint8_t)e;
        else if (sink->n % 2 == 0)
                sink->to[sink->n / 2] = sink->narrow[e];
        else
                sink->to[sink->n / 2] |= (uint8_t)(sink->narrow[e] << 4);
        sink->n++;
}

static void encode_column(const uint8_t *src, size_t stride, unsigned n_rows, unsigned base, struct escape_sink *sink,
                          uint8_t *column) {
        memset(column, 0, LOSSLESS_COLUMN_BYTES);
        for (unsigned group = 0; group < LOSSLESS_COLUMN / 4; group++)
                for (unsigned row = 0; row < n_rows; row++)
                        for (unsigned k = 4 * group; k < 4 * group + 4; k++) {
                                uint16_t v = load_u16(src + row * stride + 2 * k);
                                unsigned c = exponent(v) - base;

                                if (c >= LOSSLESS_ESCAPE) {
                                        c = LOSSLESS_ESCAPE;
                                        put_escape(sink, exponent(v));
                                }
                                column[k * WEIGHT_PANEL + row] = (uint8_t)((v >> 8 & 0x80u) | (v & 0x7fu));
                                column[LOSSLESS_LOW + k / 4 * WEIGHT_PANEL + row] |= (uint8_t)((c & 3) << 2 * (k % 4));
                                column[LOSSLESS_HIGH + k / 8 * WEIGHT_PANEL + row] |= (uint8_t)(c >> 2 << k % 8);
                        }
}

uint64_t lossless_encode(const void *src, size_t stride, unsigned n_rows, uint64_t n_in, uint64_t at, void *columns, void *index,
                         void *escapes) {
        uint8_t *column = columns, *entry = index;
        struct escape_sink sink;
        uint64_t bytes = 0;

        for (uint64_t k = 0; k < n_in; k += LOSSLESS_UNIT, entry += sizeof(uint64_t)) {
                const uint8_t *from = (const uint8_t *)src + 2 * k;
                unsigned n = (unsigned)MIN(n_in - k, LOSSLESS_UNIT);
                struct unit_code code = unit_code(from, stride, n_rows, n);

                store_u64(entry, (at + bytes) | (uint64_t)code.base << LOSSLESS_BASE_SHIFT | (code.wide ? LOSSLESS_WIDE : 0));
                start_sink(&sink, &code, (uint8_t *)escapes + at + bytes);
                for (unsigned i = 0; i < n; i += LOSSLESS_COLUMN, column += LOSSLESS_COLUMN_BYTES)
                        encode_column(from + 2 * i, stride, n_rows, code.base, &sink, column);
                bytes += code.bytes;
        }
        return bytes;
}

/* --- and back ---------------------------------------------------------------------------------------------------- */

/* A unit that is decoded, and its next escape. It has as many escapes as numbers at most, whatever its codes are. */
struct unit {
        const uint8_t *escapes;
        uint32_t next;
        unsigned base;
        bool wide;
};

static struct unit open_unit(const uint8_t *entry, const uint8_t *escapes) {
        uint64_t v = load_u64(entry);

        return (struct unit){ .escapes = escapes + (v & LOSSLESS_OFFSET_MASK), .base = v >> LOSSLESS_BASE_SHIFT & 0xffu,
                              .wide = v & LOSSLESS_WIDE };
}

static unsigned get_escape(struct unit *unit) {
        uint32_t i = unit->next++;

        return unit->wide ? unit->escapes[i] : lossless_escape(unit->base, unit->escapes[i / 2] >> 4 * (i % 2) & 15u);
}

static unsigned code_at(const uint8_t *column, unsigned row, unsigned k) {
        return (column[LOSSLESS_LOW + k / 4 * WEIGHT_PANEL + row] >> 2 * (k % 4) & 3u) |
               (column[LOSSLESS_HIGH + k / 8 * WEIGHT_PANEL + row] >> k % 8 & 1u) << 2;
}

/* All rows of a column: [row][LOSSLESS_COLUMN]. */
static void decode_column(const uint8_t *column, struct unit *unit, uint16_t *dst) {
        for (unsigned group = 0; group < LOSSLESS_COLUMN / 4; group++)
                for (unsigned row = 0; row < WEIGHT_PANEL; row++)
                        for (unsigned k = 4 * group; k < 4 * group + 4; k++) {
                                unsigned c = code_at(column, row, k), sign = column[k * WEIGHT_PANEL + row];
                                unsigned e = c == LOSSLESS_ESCAPE ? get_escape(unit) : unit->base + c;

                                dst[row * LOSSLESS_COLUMN + k] = (uint16_t)((sign & 0x80u) << 8 | e << 7 | (sign & 0x7fu));
                        }
}

void lossless_decode(const void *columns, const void *index, const void *escapes, unsigned n_rows, uint64_t n_in, void *dst,
                     size_t stride) {
        const uint8_t *column = columns, *entry = index;
        uint16_t rows[WEIGHT_PANEL * LOSSLESS_COLUMN];
        struct unit unit = { 0 };

        for (uint64_t k = 0; k < n_in; k += LOSSLESS_COLUMN, column += LOSSLESS_COLUMN_BYTES) {
                if (k % LOSSLESS_UNIT == 0)
                        unit = open_unit(entry + k / LOSSLESS_UNIT * sizeof(uint64_t), escapes);
                decode_column(column, &unit, rows);
                for (unsigned row = 0; row < n_rows; row++)
                        memcpy((uint8_t *)dst + row * stride + 2 * k, rows + (size_t)row * LOSSLESS_COLUMN, 2 * LOSSLESS_COLUMN);
        }
}

void lossless_decode_row(const void *columns, const void *index, const void *escapes, unsigned row, uint64_t n_in, void *dst) {
        const uint8_t *column = columns, *entry = index;
        uint16_t rows[WEIGHT_PANEL * LOSSLESS_COLUMN];
        struct unit unit = { 0 };

        for (uint64_t k = 0; k < n_in; k += LOSSLESS_COLUMN, column += LOSSLESS_COLUMN_BYTES) {
                if (k % LOSSLESS_UNIT == 0)
                        unit = open_unit(entry + k / LOSSLESS_UNIT * sizeof(uint64_t), escapes);
                decode_column(column, &unit, rows);
                memcpy((uint8_t *)dst + 2 * k, rows + (size_t)row * LOSSLESS_COLUMN, 2 * LOSSLESS_COLUMN);
        }
}

bool lossless_verify(const void *columns, const void *index, const void *escapes, const void *src, size_t stride, unsigned n_rows,
                     uint64_t n_in) {
        const uint8_t *column = columns, *entry = index;
        uint16_t rows[WEIGHT_PANEL * LOSSLESS_COLUMN];
        struct unit unit = { 0 };

        for (uint64_t k = 0; k < n_in; k += LOSSLESS_COLUMN, column += LOSSLESS_COLUMN_BYTES) {
                if (k % LOSSLESS_UNIT == 0)
                        unit = open_unit(entry + k / LOSSLESS_UNIT * sizeof(uint64_t), escapes);
                decode_column(column, &unit, rows);
                for (unsigned row = 0; row < n_rows; row++)
                        if (memcmp((const uint8_t *)src + row * stride + 2 * k, rows + (size_t)row * LOSSLESS_COLUMN,
                                   2 * LOSSLESS_COLUMN) != 0)
                                return false;
        }
        return true;
}

bool lossless_index_valid(const void *index, uint64_t n, uint64_t bytes) {
        const uint64_t known = LOSSLESS_OFFSET_MASK | 0xffull << LOSSLESS_BASE_SHIFT | LOSSLESS_WIDE;

        if (bytes < LOSSLESS_SLACK)
                return n == 0;
        for (uint64_t i = 0; i < n; i++) {
                uint64_t v = load_u64((const uint8_t *)index + i * sizeof(v));

                if ((v & ~known) != 0 || (v >> LOSSLESS_BASE_SHIFT & 0xffu) > LOSSLESS_BASE_MAX ||
                    (v & LOSSLESS_OFFSET_MASK) > bytes - LOSSLESS_SLACK)
                        return false;
        }
        return true;
}
