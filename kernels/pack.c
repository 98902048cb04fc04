/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The panel layout: 16 rows interleaved. A panel is a run of block columns along K; a column holds the blocks of 16
 * rows, cut into units of 1, 2 or 4 bytes and transposed ([field][unit][row], see format-family.h). Scales of the 16
 * rows are one vector load then, and four quants of each of the 16 rows another one, as integer dot products want it.
 */

#include <string.h>

#include "format-family.h"
#include "half.h"
#include "lossless.h"

/* Bit 4g + b of v moves to bit 8b + g: the fifth bits of the four elements of group g are then g-th in four bytes,
 * and one shift and one mask bring them above a vector of nibbles. */
static uint32_t spread_bits(uint32_t v) {
        uint32_t r = 0;

        for (unsigned g = 0; g < 8; g++)
                for (unsigned b = 0; b < 4; b++)
                        r |= (v >> (4 * g + b) & 1u) << (8 * b + g);
        return r;
}

static uint32_t gather_bits(uint32_t v) {
        uint32_t r = 0;

        for (unsigned g = 0; g < 8; g++)
                for (unsigned b = 0; b < 4; b++)
                        r |= (v >> (8 * b + g) & 1u) << (4 * g + b);
        return r;
}

/* Units of `unit` bytes of up to 16 rows that are `stride` bytes apart. Constant arguments, so that the loops unroll. */
static inline __attribute__((always_inline)) void transpose(const unsigned unit, const uint8_t *src, size_t stride,
                                                            size_t n_units, unsigned n_rows, uint8_t *dst) {
        for (size_t u = 0; u < n_units; u++)
                for (unsigned r = 0; r < n_rows; r++)
                        memcpy(dst + (u * WEIGHT_PANEL + r) * unit, src + r * stride + u * unit, unit);
}

static void transpose_units(unsigned unit, const uint8_t *src, size_t stride, size_t n_units, unsigned n_rows,
                            uint8_t *dst) {
        if (n_rows == WEIGHT_PANEL && unit == 4)
                transpose(4, src, stride, n_units, WEIGHT_PANEL, dst);
        else if (n_rows == WEIGHT_PANEL && unit == 2)
                transpose(2, src, stride, n_units, WEIGHT_PANEL, dst);
        else if (n_rows == WEIGHT_PANEL)
                transpose(1, src, stride, n_units, WEIGHT_PANEL, dst);
        else
                transpose(unit, src, stride, n_units, n_rows, dst);
}

static void pack_column(const struct fmt_family *family, const uint8_t *src, size_t stride, unsigned n_rows,
                        uint8_t *dst) {
        for (const struct fmt_field *f = family->fields; f < family->fields + FMT_FIELDS_MAX && f->unit > 0; f++) {
                transpose_units(f->unit, src + f->offset, stride, f->units, n_rows, dst);
                for (unsigned r = 0; f->spread && r < n_rows; r++)
                        store_u32(dst + 4 * r, spread_bits(load_u32(dst + 4 * r)));
                dst += (size_t)f->units * f->unit * WEIGHT_PANEL;
        }
}

static void pack_panel(const struct fmt_family *family, uint64_t n_in, const uint8_t *src, unsigned n_rows,
                       uint8_t *dst) {
        const struct fmt_info *info = &family->info;
        size_t n_blocks = n_in / info->block, stride = n_blocks * info->bytes;

        if (n_rows < WEIGHT_PANEL)
                memset(dst, 0, n_blocks * info->panel_bytes);
        if (info->block == 1) { /* one field of one unit: the whole row is a run of units */
                transpose_units(info->bytes, src, stride, n_blocks, n_rows, dst);
                return;
        }
        for (size_t b = 0; b < n_blocks; b++)
                pack_column(family, src + b * info->bytes, stride, n_rows, dst + b * info->panel_bytes);
}

void weight_pack(const struct fmt_info *info, uint64_t n_out, uint64_t n_in, uint64_t first, uint64_t n,
                 const void *src, void *dst) {
        const struct fmt_family *family = fmt_family(info->fmt);
        uint64_t row_bytes = fmt_row_bytes(info, n_in), end = first + n < n_out ? first + n : n_out;

        for (uint64_t row = first; row < end; row += WEIGHT_PANEL) {
                unsigned n_rows = end - row < WEIGHT_PANEL ? (unsigned)(end - row) : WEIGHT_PANEL;

                pack_panel(family, n_in, (const uint8_t *)src + (row - first) * row_bytes, n_rows,
                           (uint8_t *)dst + row * row_bytes);
        }
}

void weight_pack_columns(const struct fmt_info *info, uint64_t n_out, uint64_t n_in, uint64_t first, uint64_t n, uint64_t step,
                         const void *src, void *dst) {
        uint64_t unit = info->bytes;

        for (uint64_t row = 0; row < n_out; row += WEIGHT_PANEL) {
                uint64_t n_rows = n_out - row < WEIGHT_PANEL ? n_out - row : WEIGHT_PANEL;
                uint8_t *to = (uint8_t *)dst + (row * n_in + first * WEIGHT_PANEL) * unit;

                for (uint64_t k = 0; k < n; k++, to += WEIGHT_PANEL * unit)
                        for (uint64_t r = 0; r < n_rows; r++)
                                memcpy(to + r * unit, (const uint8_t *)src + (k * n_out + row + r) * step * unit, unit);
        }
}

/* One row's block of a column, back in file order. */
static void unpack_block(const struct fmt_family *family, const uint8_t *column, unsigned row, uint8_t *block) {
        for (const struct fmt_field *f = family->fields; f < family->fields + FMT_FIELDS_MAX && f->unit > 0; f++) {
                for (unsigned u = 0; u < f->units; u++)
                        memcpy(block + f->offset + u * f->unit, column + (u * WEIGHT_PANEL + row) * f->unit, f->unit);
                if (f->spread)
                        store_u32(block + f->offset, gather_bits(load_u32(block + f->offset)));
                column += (size_t)f->units * f->unit * WEIGHT_PANEL;
        }
}

/* By way of the upper half of dst, where a number is read before its place is written. */
static void decode_coded_row(const struct weight *w, uint32_t row, float *dst) {
        uint8_t *numbers = (uint8_t *)(dst + w->n_in) - (size_t)w->n_in * 2;
        const uint8_t *data = w->data;
        size_t panel = row / WEIGHT_PANEL;
        struct lossless_parts parts;

        if (!lossless_layout(w->n_experts > 0 ? w->n_experts : 1, w->n_out, w->n_in, &parts))
                return;
        lossless_decode_row(data + panel * (w->n_in / LOSSLESS_COLUMN) * LOSSLESS_COLUMN_BYTES,
                            data + parts.index + panel * parts.units * sizeof(uint64_t), data + parts.escapes, row % WEIGHT_PANEL,
                            w->n_in, numbers);
        for (uint32_t i = 0; i < w->n_in; i++)
                dst[i] = bf16_to_float(load_u16(numbers + 2 * (size_t)i));
}

static void decode_row(const struct weight *w, uint32_t row, float *dst) {
        const struct fmt_family *family = fmt_family(w->info->fmt);
        const uint8_t *src = w->data;
        size_t n_blocks = w->n_in / w->info->block, row_bytes = n_blocks * w->info->bytes;
        uint8_t block[FMT_BLOCK_BYTES_MAX];

        if (fmt_is_coded(w->info)) {
                decode_coded_row(w, row, dst);
                return;
        }
        if (w->layout == WEIGHT_ROWS) {
                family->decode(src + row * row_bytes, n_blocks, dst);
                return;
        }
        src += (size_t)(row / WEIGHT_PANEL) * WEIGHT_PANEL * row_bytes;
        for (size_t b = 0; b < n_blocks; b++) {
                unpack_block(family, src + b * w->info->panel_bytes, row % WEIGHT_PANEL, block);
                family->decode(block, 1, dst + b * w->info->block);
        }
}

void weight_decode_row(const struct weight *w, uint32_t row, float *dst) {
        decode_row(w, row, dst);
        for (uint32_t i = 0; w->scale != 0.0f && i < w->n_in; i++)
                dst[i] *= w->scale;
}
