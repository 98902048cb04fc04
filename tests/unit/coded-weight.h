/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A matrix, or several, of BF16 numbers twice: in plain panels, and losslessly coded. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "kernels/format.h"
#include "kernels/half.h"
#include "kernels/lossless.h"

struct coded_pair {
        struct weight plain, coded;
        uint16_t *numbers; /* [matrix][n_out][n_in] */
        void *panels, *data;
        uint64_t wide;     /* units whose escapes have a byte each */
        uint64_t escapes;  /* bytes of them */
};

typedef uint16_t (*number_fn)(uint32_t matrix, uint32_t row, uint32_t k);

/* Codes what panels there are at p->data; the escapes stand one after another. */
static inline void coded_pair_encode(struct coded_pair *p, uint32_t n, uint32_t n_out, uint32_t n_in, const struct lossless_parts *parts) {
        uint8_t *data = p->data;
        uint64_t at = 0;

        for (uint64_t panel = 0; panel < (uint64_t)n * parts->panels; panel++) {
                uint32_t first = (uint32_t)(panel % parts->panels) * WEIGHT_PANEL;
                const uint16_t *src = p->numbers + ((panel / parts->panels) * n_out + first) * n_in;
                unsigned rows = MIN(n_out - first, WEIGHT_PANEL);
                uint8_t *columns = data + panel * (n_in / LOSSLESS_COLUMN) * LOSSLESS_COLUMN_BYTES;

                at += lossless_encode(src, n_in * sizeof(*src), rows, n_in, at, columns,
                                      data + parts->index + panel * parts->units * sizeof(uint64_t), data + parts->escapes);
        }
        for (uint64_t i = 0; i < parts->n_entries; i++) {
                uint64_t entry;

                memcpy(&entry, data + parts->index + i * sizeof(entry), sizeof(entry));
                p->wide += (entry & LOSSLESS_WIDE) != 0;
        }
        assert_int_equal(at, p->escapes);
        assert_true(lossless_index_valid(data + parts->index, parts->n_entries, at + LOSSLESS_SLACK));
}

/* n_experts as in struct weight. */
static inline void coded_pair_make(struct coded_pair *p, uint32_t n_experts, uint32_t n_out, uint32_t n_in, number_fn number) {
        uint32_t n = MAX(n_experts, 1u);
        size_t each = (size_t)n_out * n_in;
        struct lossless_parts parts;
        uint64_t bytes;

        *p = (struct coded_pair){ 0 };
        assert_true(lossless_layout(n, n_out, n_in, &parts));
        assert_true(weight_bytes(fmt_info(FMT_BF16), WEIGHT_PANELS, n_out, n_in, &bytes));
        p->numbers = malloc(n * each * sizeof(*p->numbers));
        p->panels = malloc(n * bytes);
        assert_true(p->numbers && p->panels);
        for (uint32_t m = 0; m < n; m++) {
                for (uint32_t r = 0; r < n_out; r++)
                        for (uint32_t k = 0; k < n_in; k++)
                                p->numbers[m * each + (size_t)r * n_in + k] = number(m, r, k);
                weight_pack(fmt_info(FMT_BF16), n_out, n_in, 0, n_out, p->numbers + m * each, (uint8_t *)p->panels + m * bytes);
                for (uint32_t r = 0; r < n_out; r += WEIGHT_PANEL)
                        p->escapes += lossless_measure(p->numbers + m * each + (size_t)r * n_in, n_in * sizeof(*p->numbers),
                                                       MIN(n_out - r, WEIGHT_PANEL), n_in);
        }
        p->data = malloc(parts.least + p->escapes);
        assert_non_null(p->data);
        memset(p->data, 0xa5, parts.least + p->escapes);
        coded_pair_encode(p, n, n_out, n_in, &parts);
        p->plain = (struct weight){ .info = fmt_info(FMT_BF16), .layout = WEIGHT_PANELS, .n_out = n_out, .n_in = n_in,
                                    .data = p->panels, .n_experts = n_experts };
        p->coded = p->plain;
        p->coded.info = fmt_info(FMT_BF16_LL);
        p->coded.data = p->data;
        p->coded.tail = parts.least + p->escapes - parts.index;
}

static inline void coded_pair_free(struct coded_pair *p) {
        free(p->numbers);
        free(p->panels);
        free(p->data);
}

/* The same bits, or no number both: which one's payload a sum of several keeps, processors decide. */
static inline bool same_sums(const float *a, const float *b, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (memcmp(a + i, b + i, sizeof(*a)) != 0 && !(a[i] != a[i] && b[i] != b[i]))
                        return false;
        return true;
}
