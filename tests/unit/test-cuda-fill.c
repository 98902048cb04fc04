/* SPDX-License-Identifier: Apache-2.0 */

/* Random weights: every format's values are finite and spread as was asked, whatever the seed, and the bytes are the same
 * whatever the grid. */

#include "cuda-rows-fixture.h"

#define ROWS 32u
#define BLOCKS 12u /* of a row, of a format's own size or 64 elements at least */

struct statistics {
        double mean, deviation, largest;
        size_t different; /* neighbours */
};

static int setup(void **state) {
        emu_reset();
        return 0;
}

static uint8_t *filled(enum fmt fmt, uint64_t n_columns, size_t bytes, float deviation, uint64_t seed) {
        uint8_t *p = room(bytes);
        void *dev = device_new(bytes);

        must(cuda_fill(&launch_plain, fmt, n_columns, deviation, seed, dev));
        device_take(dev, p, bytes);
        return p;
}

static struct statistics statistics_of(const struct weight *w) {
        struct statistics s = { 0 };
        float *row = room_floats(w->n_in);
        double sum = 0.0, squares = 0.0, n = (double)w->n_out * w->n_in;

        for (uint32_t r = 0; r < w->n_out; r++) {
                weight_decode_row(w, r, row);
                for (uint32_t i = 0; i < w->n_in; i++) {
                        if (!isfinite(row[i]))
                                fail_msg("%s: row %u, element %u is %a", w->info->name, r, i, (double)row[i]);
                        sum += (double)row[i];
                        squares += (double)row[i] * (double)row[i];
                        s.largest = fmax(s.largest, fabs((double)row[i]));
                        s.different += i > 0 && row[i] != row[i - 1];
                }
        }
        s.mean = sum / n;
        s.deviation = sqrt(squares / n - s.mean * s.mean);
        free(row);
        return s;
}

static void check_format(const struct fmt_info *info, float deviation, uint64_t seed) {
        uint32_t n_in = info->block < 64 ? 64 * BLOCKS : info->block * BLOCKS;
        struct weight w = { .info = info, .layout = WEIGHT_PANELS, .n_out = ROWS, .n_in = n_in };
        struct statistics s;
        uint64_t bytes;
        uint8_t *data;

        assert_true(weight_bytes(info, WEIGHT_PANELS, ROWS, n_in, &bytes));
        data = filled(info->fmt, bytes / info->panel_bytes, bytes, deviation, seed);
        w.data = data;
        s = statistics_of(&w);
        if (!(fabs(s.deviation / (double)deviation - 1.0) < 0.04) || !(fabs(s.mean) < 0.03 * (double)deviation) ||
            !(s.largest < 5.0 * (double)deviation) || s.different < (size_t)ROWS * n_in / 3)
                fail_msg("%s: asked for %g, mean %g, deviation %g, largest %g, %zu neighbours differ", info->name,
                         (double)deviation, s.mean, s.deviation, s.largest, s.different);
        free(data);
}

/* All that fmt_info() knows, but those that are coded (test-cuda-lossless.c). NVFP4 has no small scales: of the least deviation here, half of its blocks are zeros. */
static void test_formats(void **state) {
        static const float deviations[] = { 0.02f, 0.9f, 0.004f };
        unsigned n = 0;

        for (uint32_t fmt = 0; fmt < FMT_END; fmt++)
                for (size_t i = 0; fmt_info(fmt) && !fmt_is_coded(fmt_info(fmt)) && i < ARRAY_SIZE(deviations); i++, n++) {
                        emu_set_order(orders[i], fmt);
                        check_format(fmt_info(fmt), deviations[i], fmt + i);
                }
        assert_true(n >= 3 * 18);
}

static void test_seeds(void **state) {
        size_t bytes = 100 * 2304, same = 0;
        uint8_t *a = filled(FMT_Q4_K, 100, bytes, 0.02f, 1), *b = filled(FMT_Q4_K, 100, bytes, 0.02f, 1);
        uint8_t *c = filled(FMT_Q4_K, 100, bytes, 0.02f, 2);

        assert_memory_equal(a, b, bytes);
        for (size_t i = 0; i < bytes; i++)
                same += a[i] == c[i];
        assert_true(same < bytes / 10); /* scales in half precision, and chance */
        free(a);
        free(b);
        free(c);
}

/* More than a grid has threads begins as less does. */
static void test_grid(void **state) {
        size_t many = 2000, few = 3;
        uint8_t *a = filled(FMT_Q4_K, many, many * 2304, 0.02f, 5), *b = filled(FMT_Q4_K, few, few * 2304, 0.02f, 5);

        assert_memory_equal(a, b, few * 2304);
        assert_memory_not_equal(a + (many - few) * 2304, b, few * 2304);
        free(a);
        free(b);
}

static void test_refusals(void **state) {
        assert_int_equal(cuda_fill(&launch_plain, (enum fmt)9, 1, 1.0f, 0, NULL), cudaErrorInvalidValue);
        assert_int_equal(cuda_fill(&launch_plain, FMT_Q4_K, 1, 0.0f, 0, NULL), cudaErrorInvalidValue);
        assert_int_equal(cuda_fill(&launch_plain, FMT_Q4_K, 1, NAN, 0, NULL), cudaErrorInvalidValue);
        assert_int_equal(cuda_fill(&launch_plain, FMT_Q4_K, 1, INFINITY, 0, NULL), cudaErrorInvalidValue);
        must(cuda_fill(&launch_plain, FMT_Q4_K, 0, 1.0f, 0, NULL));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup(test_formats, setup),
                cmocka_unit_test_setup(test_seeds, setup),
                cmocka_unit_test_setup(test_grid, setup),
                cmocka_unit_test_setup(test_refusals, setup),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
