/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Losslessly coded BF16 and the CUDA backend as a whole, on the emulated device: logits are bit for bit those of the same model in plain
 * BF16; what is bound has all its parts; and weights that are made up.
 */

#include "cuda-backend-fixture.h"

#include <math.h>

static float logits[2][SUBJECT_TOKENS * SUBJECT_VOCAB];

/* --- models ------------------------------------------------------------------------------------------------------ */

static const struct traits models[] = {
        { .name = "plain", .kv = KV_F16, .whole = true },
        { .name = "all in one", .kv = KV_F32, .whole = true, .fused = true, .head_norms = true },
        { .name = "experts, shared", .kv = KV_F16, .whole = true, .experts = true, .shared = true },
};

static void run_model(struct traits t, enum fmt fmt, const char *placement, bool no_fusion, float *out) {
        struct backend *be = open_cuda(placement, 0, NULL);
        struct subject s;

        assert_non_null(be);
        t.fmt = fmt;
        cuda_of(be)->no_fusion = no_fusion;
        subject_make(&s, &t, be, SUBJECT_TOKENS);
        assert_int_equal(subject_step(&s, 0, 70, 3, out), 0);
        for (uint32_t at = 70; at < 76; at++)
                assert_int_equal(subject_step(&s, at, 1, 3, out + (size_t)at * SUBJECT_VOCAB), 0);
        assert_int_equal(subject_step(&s, 76, 9, 3, out + (size_t)76 * SUBJECT_VOCAB), 0);
        subject_free(&s);
}

static bool same_bits(const void *a, const void *b, size_t bytes) {
        return memcmp(a, b, bytes) == 0;
}

/* A prompt, tokens one by one (by graphs, from the second on), and some rows. */
static void test_models(void **unused) {
        static const char *const placements[] = { "auto", "device" };
        enum { N = 85 * SUBJECT_VOCAB };

        for (size_t i = 0; i < ARRAY_SIZE(models); i++)
                for (size_t j = 0; j < ARRAY_SIZE(placements); j++) {
                        memset(logits, 0, sizeof(logits));
                        run_model(models[i], FMT_BF16, placements[j], j == 1, logits[0]);
                        run_model(models[i], FMT_BF16_LL, placements[j], j == 1, logits[1]);
                        for (size_t k = 0; k < N; k++)
                                assert_true(isfinite(logits[0][k]) && logits[0][k] != 0.0f);
                        if (!same_bits(logits[0], logits[1], N * sizeof(float)))
                                fail_msg("%s, %s: other bits", models[i].name, placements[j]);
                }
}

/* --- weights ----------------------------------------------------------------------------------------------------- */

/* With index and all escapes, or not at all. */
static void test_bind(void **unused) {
        struct backend *be = open_cuda("device", 0, NULL);
        uint16_t *rows = calloc(17 * 320, sizeof(*rows));
        struct weight w = { .info = fmt_info(FMT_BF16_LL), .layout = WEIGHT_PANELS, .n_out = 17, .n_in = 320 }, bad;
        struct lossless_parts parts = { 0 };
        uint64_t bytes;
        void *data;

        assert_true(be && rows && lossless_layout(1, 17, 320, &parts));
        for (unsigned i = 0; i < 17 * 320; i++)
                rows[i] = (uint16_t)(i * 40503u >> 3);
        data = code_matrix(rows, &w);
        w.data = data;
        bytes = parts.index + w.tail;
        bad = w;
        bad.tail = parts.least - parts.index - 1;
        assert_int_equal(be->ops->bind(be, &bad), BACKEND_E_UNSUPPORTED);
        bad.tail = UINT64_MAX;
        assert_int_equal(be->ops->bind(be, &bad), BACKEND_E_UNSUPPORTED);
        assert_int_equal(be->ops->bind(be, &w), 0);
        assert_int_equal(be->ops->settle(be), 0);
        assert_true(w.data != data);
        assert_memory_equal(w.data, data, bytes);
        be->ops->close(be);
        free(data);
        free(rows);
}

static void fill(struct backend *be, struct weight *w, uint32_t n_experts, uint32_t n_out, uint32_t n_in, uint64_t seed) {
        *w = (struct weight){ .info = fmt_info(FMT_BF16_LL), .n_out = n_out, .n_in = n_in, .n_experts = n_experts };
        assert_int_equal(cuda_fill_weight(be, w, 0.02f, seed), 0);
        assert_int_equal(be->ops->settle(be), 0);
        assert_int_equal(cuda_wait_all(cuda_of(be), "a test"), 0);
}

/* Spread as was asked; in a size that trained weights have; and every panel has escapes of its own, one after another. */
static void check_filled(const struct weight *w) {
        uint32_t n = MAX(w->n_experts, 1u);
        double sum = 0, squares = 0, count = (double)w->n_out * w->n_in, bits;
        float *row = malloc(w->n_in * sizeof(*row));
        struct lossless_parts parts = { 0 };
        const uint8_t *data = w->data;
        uint64_t before = 0;

        assert_true(row && lossless_layout(n, w->n_out, w->n_in, &parts));
        assert_true(lossless_index_valid(data + parts.index, parts.n_entries, w->tail - (parts.escapes - parts.index)));
        for (uint64_t i = 0; i < parts.n_entries; i++) {
                uint64_t entry;

                memcpy(&entry, data + parts.index + i * sizeof(entry), sizeof(entry));
                assert_true(i == 0 || (entry & LOSSLESS_OFFSET_MASK) > before);
                before = entry & LOSSLESS_OFFSET_MASK;
        }
        for (uint32_t r = 0; r < w->n_out; r++) {
                weight_decode_row(w, r, row);
                for (uint32_t i = 0; i < w->n_in; i++) {
                        sum += (double)row[i];
                        squares += (double)row[i] * (double)row[i];
                }
        }
        bits = (double)(parts.index + w->tail - LOSSLESS_SLACK) * 8 / ((double)n * parts.panels * WEIGHT_PANEL * w->n_in);
        if (!(fabs(sum / count) < 0.001) || !(fabs(sqrt(squares / count) / 0.02 - 1) < 0.02) || !(bits > 11.0 && bits < 11.5))
                fail_msg("mean %g, deviation %g, %g bits", sum / count, sqrt(squares / count), bits);
        free(row);
}

static void test_fill(void **unused) {
        struct backend *be = open_cuda("device", 0, NULL);
        struct weight w, same, other;
        struct lossless_parts parts = { 0 };
        size_t differ = 0;

        assert_non_null(be);
        fill(be, &w, 0, 100, 8192, 5); /* two panels are drawn, and repeated three and a half times */
        check_filled(&w);
        fill(be, &same, 0, 100, 8192, 5);
        assert_int_equal(w.tail, same.tail);
        assert_true(lossless_layout(1, 100, 8192, &parts));
        assert_memory_equal(w.data, same.data, parts.index + w.tail);
        fill(be, &other, 0, 100, 8192, 6);
        for (size_t i = 0; i < parts.index; i++)
                differ += ((const uint8_t *)w.data)[i] != ((const uint8_t *)other.data)[i];
        assert_true(differ > parts.index / 2);
        fill(be, &w, 3, 20, 320, 1);
        check_filled(&w);
        fill(be, &w, 0, 16, 64, 1);
        w.n_in = 65;
        assert_int_equal(cuda_fill_weight(be, &w, 0.02f, 1), BACKEND_E_UNSUPPORTED);
        be->ops->close(be);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_models),
                cmocka_unit_test(test_bind),
                cmocka_unit_test(test_fill),
        };

        return cmocka_run_group_tests_name("cuda-lossless", tests, NULL, NULL);
}
