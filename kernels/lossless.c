/* SPDX-License-Identifier: Apache-2.0 */

/* BF16, losslessly coded: see lossless.h. */

#include "lossless.h"

#include <string.h>

#include "base/checked.h"
#include "base/macro.h"
#include "format-family.h"
#include "half.h"
#include "lossless-kernels.h"

#define BASES (LOSSLESS_BASE_MAX + 1)
#define BELOW 13u /* exponents in front of the codes' ones that escapes of four bits reach, and behind them */
#define ABOVE 2u

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


const struct lossless_kernels *const lossless_kernels[] = {
#if defined(__x86_64__)
        &lossless_avx2,
#endif
        &lossless_vec,
        &lossless_plain,
};
const size_t lossless_kernels_n = ARRAY_SIZE(lossless_kernels);

static const struct lossless_kernels *kernels_find(void) {
        for (size_t i = 0; i < lossless_kernels_n; i++)
                if (lossless_kernels[i]->usable())
                        return lossless_kernels[i];
        return &lossless_plain;
}

/* --- how a unit is coded ----------------------------------------------------------------------------------------- */

struct unit_code {
        uint8_t base;
        bool wide;
        uint32_t bytes; /* of its escapes */
};

/* The fewest bytes; of several such codes a narrow one, then the one with the smallest base. Escapes of four bits reach 22 exponents
 * in a row, with those of codes among them, and zero. */
static struct unit_code choose_code(const uint16_t *count, uint16_t total) {
        uint16_t sum[BELOW + LOSSLESS_EXPONENTS + ABOVE], cost[BASES], least = UINT16_MAX; /* twice the bytes, and one more for wide */
        unsigned base = 0;

        sum[0] = 0; /* how many are below exponent i - BELOW, counted from -BELOW, which is modulo 256 like all of them */
        for (unsigned i = 0; i + 1 < ARRAY_SIZE(sum); i++)
                sum[i + 1] = (uint16_t)(sum[i] + count[(i - BELOW) % LOSSLESS_EXPONENTS]);
        for (unsigned b = 0; b < BASES; b++) {
                uint16_t zeros = b > BELOW && b + LOSSLESS_ESCAPE + ABOVE <= LOSSLESS_EXPONENTS ? count[0] : 0;
                uint16_t near = (uint16_t)(sum[b + BELOW + LOSSLESS_ESCAPE + ABOVE] - sum[b] + zeros);
                uint16_t escapes = (uint16_t)(total - (sum[b + BELOW + LOSSLESS_ESCAPE] - sum[b + BELOW]));

                cost[b] = (uint16_t)(near < total ? 2 * escapes + 1 : (escapes + 1) / 2 * 2);
                least = cost[b] < least ? cost[b] : least;
        }
        while (cost[base] != least)
                base++;
        return (struct unit_code){ .base = (uint8_t)base, .wide = least % 2, .bytes = least / 2 };
}

static struct unit_code unit_code(const struct lossless_kernels *kernels, const uint8_t *src, size_t stride, unsigned n_rows,
                                  unsigned n) {
        uint16_t count[LOSSLESS_EXPONENTS];

        kernels->count(src, stride, n_rows, n, count);
        return choose_code(count, (uint16_t)(n_rows * n));
}

uint64_t lossless_measure(const void *src, size_t stride, unsigned n_rows, uint64_t n_in) {
        const struct lossless_kernels *kernels = kernels_find();
        uint64_t bytes = 0;

        for (uint64_t k = 0; k < n_in; k += LOSSLESS_UNIT)
                bytes += unit_code(kernels, (const uint8_t *)src + 2 * k, stride, n_rows,
                                   (unsigned)MIN(n_in - k, LOSSLESS_UNIT)).bytes;
        return bytes;
}

/* --- coding ------------------------------------------------------------------------------------------------------ */

/* Of several escapes that stand for an exponent, the smallest. The last byte's upper half is 0 where it is not needed. */
static void write_narrow(const uint8_t *exponents, size_t n, uint8_t base, uint8_t *dst) {
        uint8_t narrow[LOSSLESS_EXPONENTS] = { 0 };

        for (unsigned i = 16; i-- > 0;)
                narrow[lossless_escape(base, i)] = (uint8_t)i;
        for (size_t i = 0; i + 1 < n; i += 2)
                dst[i / 2] = (uint8_t)(narrow[exponents[i]] | narrow[exponents[i + 1]] << 4);
        if (n % 2 != 0)
                dst[n / 2] = narrow[exponents[n - 1]];
}

/* The unit's rows are copied first: where they are apart by a power of two, they would drive each other out of the cache. */
static struct unit_code encode_unit(const struct lossless_kernels *kernels, const uint8_t *src, size_t stride, unsigned n_rows,
                                    unsigned n, uint8_t *column, uint8_t *escapes) {
        uint8_t found[LOSSLESS_UNIT_MAX + LOSSLESS_AHEAD], *end = found;
        uint16_t rows[WEIGHT_PANEL][LOSSLESS_UNIT];
        struct unit_code code;

        for (unsigned row = 0; row < WEIGHT_PANEL; row++) {
                const uint8_t *from = src + (row < n_rows ? row : 0) * stride;

                lossless_prefetch(from, 2 * n);
                memcpy(rows[row], from, 2 * (size_t)n);
        }
        code = unit_code(kernels, (const uint8_t *)rows, sizeof(rows[0]), n_rows, n);
        for (unsigned row = n_rows; row < WEIGHT_PANEL; row++)
                for (unsigned k = 0; k < n; k++)
                        rows[row][k] = (uint16_t)(code.base << 7);
        for (unsigned k = 0; k < n; k += LOSSLESS_COLUMN, column += LOSSLESS_COLUMN_BYTES)
                end = kernels->encode((const uint8_t *)&rows[0][k], sizeof(rows[0]), code.base, column, end);
        if (code.wide)
                memcpy(escapes, found, (size_t)(end - found));
        else
                write_narrow(found, (size_t)(end - found), code.base, escapes);
        return code;
}

uint64_t lossless_encode(const void *src, size_t stride, unsigned n_rows, uint64_t n_in, uint64_t at, void *columns, void *index,
                         void *escapes) {
        const struct lossless_kernels *kernels = kernels_find();
        uint8_t *column = columns, *entry = index;
        uint64_t bytes = 0;

        for (uint64_t k = 0; k < n_in; k += LOSSLESS_UNIT, entry += sizeof(uint64_t)) {
                unsigned n = (unsigned)MIN(n_in - k, LOSSLESS_UNIT);
                struct unit_code code = encode_unit(kernels, (const uint8_t *)src + 2 * k, stride, n_rows, n, column,
                                                    (uint8_t *)escapes + at + bytes);

                store_u64(entry, (at + bytes) | (uint64_t)code.base << LOSSLESS_BASE_SHIFT | (code.wide ? LOSSLESS_WIDE : 0));
                column += n / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES;
                bytes += code.bytes;
        }
        return bytes;
}

/* --- and back ---------------------------------------------------------------------------------------------------- */

/* A panel on the way: which column is next. */
struct panel {
        const struct lossless_kernels *kernels;
        const uint8_t *column, *entry, *escapes;
        struct lossless_unit unit;
};

static void start_unit(struct panel *p) {
        uint64_t entry = load_u64(p->entry);

        p->entry += sizeof(entry);
        p->unit = (struct lossless_unit){ .escapes = p->escapes + (entry & LOSSLESS_OFFSET_MASK),
                                          .base = (uint8_t)(entry >> LOSSLESS_BASE_SHIFT), .wide = entry & LOSSLESS_WIDE };
        for (unsigned i = 0; i < ARRAY_SIZE(p->unit.narrow); i++)
                p->unit.narrow[i] = lossless_escape(p->unit.base, i);
}

/* The column at k, which is the next one. */
static const uint8_t *next_column(struct panel *p, uint64_t k) {
        const uint8_t *column = p->column;

        if (k % LOSSLESS_UNIT == 0)
                start_unit(p);
        p->column += LOSSLESS_COLUMN_BYTES;
        return column;
}

void lossless_decode(const void *columns, const void *index, const void *escapes, unsigned n_rows, uint64_t n_in, void *dst,
                     size_t stride) {
        struct panel p = { .kernels = kernels_find(), .column = columns, .entry = index, .escapes = escapes };
        uint16_t rows[WEIGHT_PANEL][LOSSLESS_COLUMN];

        for (uint64_t k = 0; k < n_in; k += LOSSLESS_COLUMN) {
                p.kernels->decode(next_column(&p, k), &p.unit, rows[0]);
                for (unsigned row = 0; row < n_rows; row++)
                        memcpy((uint8_t *)dst + row * stride + 2 * k, rows[row], sizeof(rows[row]));
        }
}

void lossless_decode_row(const void *columns, const void *index, const void *escapes, unsigned row, uint64_t n_in, void *dst) {
        struct panel p = { .kernels = kernels_find(), .column = columns, .entry = index, .escapes = escapes };
        uint16_t numbers[LOSSLESS_COLUMN];

        for (uint64_t k = 0; k < n_in; k += LOSSLESS_COLUMN) {
                p.kernels->decode_row(next_column(&p, k), &p.unit, row, numbers);
                memcpy((uint8_t *)dst + 2 * k, numbers, sizeof(numbers));
        }
}

static bool same(const uint8_t *a, const uint8_t *b) {
        uint64_t differ = 0;

        for (unsigned i = 0; i < 2 * LOSSLESS_COLUMN; i += sizeof(differ))
                differ |= load_u64(a + i) ^ load_u64(b + i);
        return differ == 0;
}

bool lossless_verify(const void *columns, const void *index, const void *escapes, const void *src, size_t stride, unsigned n_rows,
                     uint64_t n_in) {
        struct panel p = { .kernels = kernels_find(), .column = columns, .entry = index, .escapes = escapes };
        uint16_t rows[WEIGHT_PANEL][LOSSLESS_COLUMN];

        for (uint64_t k = 0; k < n_in; k += LOSSLESS_COLUMN) {
                p.kernels->decode(next_column(&p, k), &p.unit, rows[0]);
                for (unsigned row = 0; row < n_rows; row++)
                        lossless_prefetch((const uint8_t *)src + row * stride + 2 * k, 2 * LOSSLESS_COLUMN);
                for (unsigned row = 0; row < n_rows; row++)
                        if (!same((const uint8_t *)src + row * stride + 2 * k, (const uint8_t *)rows[row]))
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
