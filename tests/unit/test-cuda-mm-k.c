/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Decoders of the CUDA matrix product for the two-level formats and those whose codes are looked up, on the emulated device:
 * every element of panels of random bits, in which every code of a scale comes up, is what weight_decode_row() says.
 */

#include <stdio.h>

#include "cuda-mm-fixture.h"

struct coded {
        enum fmt fmt;
        unsigned halves; /* how many binary16 numbers of each row a column begins with */
};

static const struct coded formats[] = {
        { FMT_Q2_K, 2 },   { FMT_Q3_K, 1 },   { FMT_Q4_K, 2 },  { FMT_Q5_K, 2 },  { FMT_Q6_K, 1 },
        { FMT_IQ4_NL, 1 }, { FMT_IQ4_XS, 1 }, { FMT_MXFP4, 0 }, { FMT_NVFP4, 0 },
};

/* One panel of so many columns. Scales in binary16 are made numbers, and those of MXFP4 powers of two: 255 is none. */
static struct weight coded_new(const struct coded *c, uint32_t columns) {
        const struct fmt_info *info = fmt_info(c->fmt);
        struct weight w = { .info = info, .layout = WEIGHT_PANELS, .n_out = WEIGHT_PANEL, .n_in = columns * info->block };
        uint8_t *data = device_new((size_t)columns * info->panel_bytes);

        for (uint32_t i = 0; i < columns; i++) {
                uint8_t *column = data + (size_t)i * info->panel_bytes;

                for (uint32_t b = 0; b < info->panel_bytes; b++)
                        column[b] = (uint8_t)(int)(noise() * 128.0f + 128.0f);
                for (uint32_t b = 0; b < c->halves * WEIGHT_PANEL; b++)
                        store_f16(column + 2 * b, noise() * 0.1f);
                for (uint32_t b = 0; c->fmt == FMT_MXFP4 && b < WEIGHT_PANEL; b++)
                        column[b] = (uint8_t)(column[b] == 255 ? i : column[b]);
        }
        w.data = data;
        return w;
}

/* Rows of a unit matrix: row i is 1 at element i. */
static struct cuda_packed units_new(uint32_t n) {
        struct cuda_packed x = packed_new(n, n);
        float *row = calloc(n, sizeof(*row));

        assert_non_null(row);
        for (uint32_t i = 0; i < n; i++) {
                row[i] = 1.0f;
                packed_set(&x, i, row);
                row[i] = 0.0f;
        }
        free(row);
        return x;
}

static float *product_of(const struct weight *w, const struct cuda_packed *x, uint32_t n_rows) {
        struct cuda_mm m = mm_new(w->info->fmt, x, n_rows);
        float *out = device_noise((size_t)n_rows * w->n_out, 1.0f);

        mm_add(&m, w, out, w->n_out);
        mm_run(&m);
        mm_free(&m);
        return out;
}

static void check_elements(const struct weight *w, const float *out) {
        float *row = malloc(w->n_in * sizeof(*row));

        assert_non_null(row);
        for (uint32_t o = 0; o < w->n_out; o++) {
                weight_decode_row(w, o, row);
                for (uint32_t i = 0; i < w->n_in; i++)
                        if (out[(size_t)i * w->n_out + o] != row[i])
                                fail_msg("%s row %u element %u is %a instead of %a", w->info->name, o, i,
                                         (double)out[(size_t)i * w->n_out + o], (double)row[i]);
        }
        free(row);
}

/* 512 elements of 16 rows: each of 255 scales' codes comes up with all but certainty, and each place in a block does. */
static void test_elements(void **state) {
        const struct coded *c = *state;
        uint32_t columns = 512 / fmt_info(c->fmt)->block;
        struct cuda_packed x = units_new(512);

        for (unsigned i = 0; i < 3; i++) {
                struct weight w = coded_new(c, columns);
                float *out = product_of(&w, &x, 512);

                check_elements(&w, out);
                cudaFree(out);
                cudaFree((void *)(uintptr_t)w.data);
        }
        packed_free(&x);
}

/* Every code of NVFP4's scales, those which are no number (0x7f and 0xff are 0 there) among them. */
static void test_nvfp4_scales(void **unused) {
        struct weight w = coded_new(&formats[8], 8);
        struct cuda_packed x = units_new(512);
        uint8_t *column = (uint8_t *)(uintptr_t)w.data;
        float *out;

        for (unsigned i = 0; i < 512; i++)
                column[i / 64 * w.info->panel_bytes + i % 64] = (uint8_t)i;
        out = product_of(&w, &x, 512);
        check_elements(&w, out);
        cudaFree(out);
        packed_free(&x);
        cudaFree((void *)(uintptr_t)w.data);
}

/* The block whose scale is none makes its output not-a-number, and no other. */
static void test_mxfp4_nan(void **unused) {
        struct weight w = coded_new(&formats[7], 3);
        struct cuda_packed x = packed_noise(9, w.n_in);
        float *out;

        for (unsigned i = 0; i < 3 * WEIGHT_PANEL; i++)
                ((uint8_t *)(uintptr_t)w.data)[i / WEIGHT_PANEL * w.info->panel_bytes + i % WEIGHT_PANEL] = i == 16 + 5 ? 255 : 120;
        out = product_of(&w, &x, 9);
        for (unsigned i = 0; i < 9 * WEIGHT_PANEL; i++)
                assert_true(isnan(out[i]) == (i % WEIGHT_PANEL == 5));
        cudaFree(out);
        packed_free(&x);
        cudaFree((void *)(uintptr_t)w.data);
}

int main(void) {
        struct CMUnitTest tests[ARRAY_SIZE(formats) + 2];
        char names[ARRAY_SIZE(formats)][32];

        for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
                snprintf(names[i], sizeof(names[i]), "elements of %s", fmt_info(formats[i].fmt)->name);
                tests[i] = (struct CMUnitTest){ names[i], test_elements, NULL, NULL, (void *)(uintptr_t)&formats[i] };
        }
        tests[ARRAY_SIZE(formats)] = (struct CMUnitTest)cmocka_unit_test(test_nvfp4_scales);
        tests[ARRAY_SIZE(formats) + 1] = (struct CMUnitTest)cmocka_unit_test(test_mxfp4_nan);
        return _cmocka_run_group_tests("cuda-mm-k", tests, ARRAY_SIZE(tests), NULL, NULL);
}
