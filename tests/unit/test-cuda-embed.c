/* SPDX-License-Identifier: Apache-2.0 */

/* Rows that the CUDA backend looks up: every format in both layouts, bit for bit what weight_decode_row() gives, also for
 * blocks of random bits. */

#include "cuda-rows-fixture.h"
#include "coded-kinds.h"

#define ROWS 37u /* not whole panels */
#define TOKENS 9u

static const int32_t tokens[TOKENS] = { 0, 36, 16, 15, 31, 32, 7, 7, 20 };

static uint32_t random_bits(void) {
        static uint64_t state = 3;

        state = state * 6364136223846793005u + 1442695040888963407u;
        return (uint32_t)(state >> 32);
}

/* Bits of any kind, or what numbers encode to. */
static uint8_t *file_rows(const struct fmt_info *info, uint32_t n_in, bool any_bits) {
        size_t row_bytes = fmt_row_bytes(info, n_in);
        uint8_t *rows = room(ROWS * row_bytes);
        float *x = floats(n_in, 1.0f);

        for (size_t i = 0; i < ROWS * row_bytes; i++)
                rows[i] = (uint8_t)(random_bits() >> 13);
        for (uint32_t r = 0; r < ROWS && !any_bits; r++) {
                fill(x, n_in, 1.0f);
                assert_true(fmt_encode(info, x, n_in, rows + r * row_bytes));
        }
        free(x);
        return rows;
}

static void check_layout(const struct weight *w, float scale) {
        struct cuda_embed a = { .fmt = w->info->fmt, .layout = w->layout, .n_in = w->n_in, .w_scale = w->scale, .scale = scale };
        float *is = room_floats((size_t)TOKENS * w->n_in), *want = room_floats(w->n_in);
        struct lossless_parts parts;
        uint64_t bytes;

        assert_true(weight_bytes(w->info, w->layout, w->n_out, w->n_in, &bytes));
        a.rows = device_rows(TOKENS, 1, TOKENS + 3);
        a.token = device_copy(tokens, sizeof(tokens));
        a.w = device_copy(w->data, bytes + w->tail);
        if (fmt_is_coded(w->info)) {
                assert_true(lossless_layout(1, w->n_out, w->n_in, &parts));
                a.coded = (struct cuda_coded){ (const void *)((const uint8_t *)a.w + parts.index), (const uint8_t *)a.w + parts.escapes };
        }
        a.out = device_new((size_t)TOKENS * w->n_in * sizeof(float));
        must(cuda_embed(&launch_dependent, &a));
        device_take(a.out, is, (size_t)TOKENS * w->n_in * sizeof(float));
        for (uint32_t t = 0; t < TOKENS; t++) {
                weight_decode_row(w, (uint32_t)tokens[t], want);
                for (uint32_t i = 0; i < w->n_in; i++)
                        want[i] *= scale;
                assert_same_floats(w->info->name, is + (size_t)t * w->n_in, want, w->n_in);
        }
        device_free(a.rows.count);
        device_free(a.token);
        device_free(a.w);
        free(is);
        free(want);
}

static void check_format(const struct fmt_info *info, bool any_bits) {
        uint32_t n_in = info->block == 1 ? 37 : 3 * info->block;
        uint8_t *rows = file_rows(info, n_in, any_bits), *panels;
        struct weight w = { .info = info, .n_out = ROWS, .n_in = n_in, .data = rows };
        uint64_t bytes;

        check_layout(&w, 1.0f);
        w.scale = 0.37f;
        check_layout(&w, 8.0f);
        assert_true(weight_bytes(info, WEIGHT_PANELS, ROWS, n_in, &bytes));
        panels = room(bytes);
        weight_pack(info, ROWS, n_in, 0, ROWS, rows, panels);
        w.layout = WEIGHT_PANELS;
        w.data = panels;
        check_layout(&w, 8.0f);
        w.scale = 0.0f;
        check_layout(&w, 1.0f);
        free(panels);
        free(rows);
}

/* All that fmt_info() knows, but those that are coded: one that is added and not done here is seen. */
static void test_formats(void **state) {
        unsigned n = 0;

        for (uint32_t fmt = 0; fmt < FMT_END; fmt++)
                if (fmt_info(fmt) && !fmt_is_coded(fmt_info(fmt))) {
                        emu_set_order(orders[n % ARRAY_SIZE(orders)], n);
                        check_format(fmt_info(fmt), false);
                        check_format(fmt_info(fmt), true);
                        n++;
                }
        assert_true(n >= 18);
}

/* Coded ones: numbers of every kind, in whole units and in broken ones. */
static void test_coded(void **state) {
        static const uint32_t widths[] = { 64, 256, 320, 832 };

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
                for (size_t j = 0; j < ARRAY_SIZE(widths); j++) {
                        struct coded_pair p;

                        emu_set_order(orders[j % ARRAY_SIZE(orders)], i);
                        coded_pair_make(&p, 0, ROWS, widths[j], kinds[i].number);
                        check_layout(&p.coded, 1.0f);
                        p.coded.scale = 0.37f;
                        check_layout(&p.coded, 8.0f);
                        coded_pair_free(&p);
                }
}

static void test_refusals(void **state) {
        struct cuda_embed a = { .rows = { .max = 1 }, .fmt = FMT_Q4_K, .layout = WEIGHT_PANELS, .n_in = 250 };

        assert_int_equal(cuda_embed(&launch_plain, &a), cudaErrorInvalidValue); /* no whole blocks */
        a.fmt = FMT_BF16_LL;
        a.n_in = 96;
        assert_int_equal(cuda_embed(&launch_plain, &a), cudaErrorInvalidValue);
        a.fmt = (enum fmt)9;
        a.n_in = 256;
        assert_int_equal(cuda_embed(&launch_plain, &a), cudaErrorInvalidValue);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_formats),
                cmocka_unit_test(test_coded),
                cmocka_unit_test(test_refusals),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
