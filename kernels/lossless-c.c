/* SPDX-License-Identifier: Apache-2.0 */

/* Coding and decoding in plain C, as lossless.h says it, element by element. */

#include <string.h>

#include "lossless-kernels.h"

static bool usable(void) {
        return true;
}

static void count(const uint8_t *src, size_t stride, unsigned n_rows, unsigned n, uint16_t counts[LOSSLESS_EXPONENTS]) {
        memset(counts, 0, LOSSLESS_EXPONENTS * sizeof(*counts));
        for (unsigned row = 0; row < n_rows; row++)
                for (unsigned k = 0; k < n; k++)
                        counts[load_u16(src + row * stride + 2 * k) >> 7 & 0xff]++;
}

static uint8_t *encode(const uint8_t *rows, size_t stride, uint8_t base, uint8_t *column, uint8_t *found) {
        memset(column, 0, LOSSLESS_COLUMN_BYTES);
        for (unsigned group = 0; group < LOSSLESS_COLUMN / 4; group++)
                for (unsigned row = 0; row < WEIGHT_PANEL; row++)
                        for (unsigned k = 4 * group; k < 4 * group + 4; k++) {
                                unsigned v = load_u16(rows + row * stride + 2 * k), exponent = v >> 7 & 0xffu, code = exponent - base;

                                if (code >= LOSSLESS_ESCAPE) {
                                        code = LOSSLESS_ESCAPE;
                                        *found++ = (uint8_t)exponent;
                                }
                                column[k * WEIGHT_PANEL + row] = (uint8_t)((v >> 8 & 0x80u) | (v & 0x7fu));
                                column[LOSSLESS_LOW + k / 4 * WEIGHT_PANEL + row] |= (uint8_t)((code & 3) << 2 * (k % 4));
                                column[LOSSLESS_HIGH + k / 8 * WEIGHT_PANEL + row] |= (uint8_t)(code >> 2 << k % 8);
                        }
        return found;
}

static unsigned code_at(const uint8_t *column, unsigned row, unsigned k) {
        return (column[LOSSLESS_LOW + k / 4 * WEIGHT_PANEL + row] >> 2 * (k % 4) & 3u) |
               (column[LOSSLESS_HIGH + k / 8 * WEIGHT_PANEL + row] >> k % 8 & 1u) << 2;
}

static void decode(const uint8_t *column, struct lossless_unit *unit, uint16_t *rows) {
        for (unsigned group = 0; group < LOSSLESS_COLUMN / 4; group++)
                for (unsigned row = 0; row < WEIGHT_PANEL; row++)
                        for (unsigned k = 4 * group; k < 4 * group + 4; k++) {
                                unsigned code = code_at(column, row, k), sign = column[k * WEIGHT_PANEL + row];
                                unsigned exponent = code == LOSSLESS_ESCAPE ? lossless_next(unit) : unit->base + code;

                                rows[row * LOSSLESS_COLUMN + k] =
                                        (uint16_t)((sign & 0x80u) << 8 | exponent << 7 | (sign & 0x7fu));
                        }
}

static void decode_row(const uint8_t *column, struct lossless_unit *unit, unsigned row, uint16_t *dst) {
        uint16_t rows[WEIGHT_PANEL * LOSSLESS_COLUMN];

        decode(column, unit, rows);
        memcpy(dst, rows + (size_t)row * LOSSLESS_COLUMN, LOSSLESS_COLUMN * sizeof(*dst));
}

const struct lossless_kernels lossless_plain = {
        .name = "c", .usable = usable, .count = count, .encode = encode, .decode = decode, .decode_row = decode_row
};
