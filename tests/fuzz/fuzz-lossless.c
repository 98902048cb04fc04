/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Losslessly coded BF16. An odd first byte: the rest is BF16, which must come back as it was. An even one: the rest is a coded panel,
 * its index entries made valid, and decoding it stays within. The second byte is the size.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/format.h"
#include "kernels/half.h"
#include "kernels/lossless.h"

#define COLUMNS_MAX 6u
#define ENTRY 8u /* bytes of an index entry */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct panel {
        unsigned n_rows, n_columns, n_units;
        size_t n_in;
        uint8_t *columns, *index, *escapes; /* of exactly their sizes, so that a sanitizer sees one byte too many */
        uint16_t *numbers, *back;
};

static void panel_free(struct panel *p) {
        free(p->columns);
        free(p->index);
        free(p->escapes);
        free(p->numbers);
        free(p->back);
}

/* Its memory, but for escapes; false where there is none. */
static bool panel_new(struct panel *p, uint8_t shape) {
        p->n_rows = 1 + shape % WEIGHT_PANEL;
        p->n_columns = 1 + shape / WEIGHT_PANEL % COLUMNS_MAX;
        p->n_in = (size_t)p->n_columns * LOSSLESS_COLUMN;
        p->n_units = (p->n_columns * LOSSLESS_COLUMN + LOSSLESS_UNIT - 1) / LOSSLESS_UNIT;
        p->columns = calloc(p->n_columns, LOSSLESS_COLUMN_BYTES);
        p->index = calloc(p->n_units, ENTRY);
        p->numbers = calloc(p->n_rows * p->n_in, sizeof(uint16_t));
        p->back = calloc(p->n_rows * p->n_in, sizeof(uint16_t));
        return p->columns && p->index && p->numbers && p->back;
}

static size_t take(void *dst, size_t n, const uint8_t **data, size_t *size) {
        n = n < *size ? n : *size;
        memcpy(dst, *data, n);
        *data += n;
        *size -= n;
        return n;
}

static void there_and_back(struct panel *p, const uint8_t *data, size_t size) {
        const size_t stride = p->n_in * sizeof(uint16_t);
        uint64_t bytes;

        (void)take(p->numbers, p->n_rows * stride, &data, &size);
        bytes = lossless_measure(p->numbers, stride, p->n_rows, p->n_in);
        p->escapes = calloc(1, bytes + LOSSLESS_SLACK);
        if (!p->escapes)
                return;
        if (lossless_encode(p->numbers, stride, p->n_rows, p->n_in, 0, p->columns, p->index, p->escapes) != bytes ||
            !lossless_index_valid(p->index, p->n_units, bytes + LOSSLESS_SLACK) ||
            !lossless_verify(p->columns, p->index, p->escapes, p->numbers, stride, p->n_rows, p->n_in))
                abort();
        lossless_decode(p->columns, p->index, p->escapes, p->n_rows, p->n_in, p->back, stride);
        if (memcmp(p->back, p->numbers, p->n_rows * stride) != 0)
                abort();
}

static void decode_any(struct panel *p, const uint8_t *data, size_t size) {
        const size_t stride = p->n_in * sizeof(uint16_t);
        uint64_t bytes;

        (void)take(p->index, p->n_units * ENTRY, &data, &size);
        (void)take(p->columns, (size_t)p->n_columns * LOSSLESS_COLUMN_BYTES, &data, &size);
        bytes = size + LOSSLESS_SLACK;
        p->escapes = calloc(1, bytes);
        if (!p->escapes)
                return;
        (void)take(p->escapes, size, &data, &size);
        for (unsigned i = 0; !lossless_index_valid(p->index, p->n_units, bytes) && i < p->n_units; i++) {
                uint8_t *entry = p->index + i * ENTRY;
                uint64_t v = load_u64(entry), base = (v >> LOSSLESS_BASE_SHIFT) % (LOSSLESS_BASE_MAX + 1);

                store_u64(entry, (v & LOSSLESS_OFFSET_MASK) % (bytes - LOSSLESS_SLACK + 1) | base << LOSSLESS_BASE_SHIFT |
                                         (v & LOSSLESS_WIDE));
        }
        if (!lossless_index_valid(p->index, p->n_units, bytes))
                abort();
        lossless_decode(p->columns, p->index, p->escapes, p->n_rows, p->n_in, p->back, stride);
        for (unsigned row = 0; row < p->n_rows; row++) {
                lossless_decode_row(p->columns, p->index, p->escapes, row, p->n_in, p->numbers);
                if (memcmp(p->numbers, p->back + row * p->n_in, stride) != 0)
                        abort();
        }
        if (!lossless_verify(p->columns, p->index, p->escapes, p->back, stride, p->n_rows, p->n_in))
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct panel p = { 0 };

        if (size >= 2 && panel_new(&p, data[1])) {
                if (data[0] % 2)
                        there_and_back(&p, data + 2, size - 2);
                else
                        decode_any(&p, data + 2, size - 2);
        }
        panel_free(&p);
        return 0;
}
