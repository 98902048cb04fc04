/* SPDX-License-Identifier: Apache-2.0 */

/* Products of mixtures of experts: every slot has the bits that a product of its own gives, in every kernel family. */

#include "kernels-fixture.h"

#define N_EXPERTS 5u
#define N_USED 3u
#define N_ROWS 11u
#define N_OUT 19u /* more than a panel, less than two */
#define N_IN 256u

struct experts {
        struct weight w;
        uint8_t *data;
        uint64_t each; /* bytes of an expert's panels */
        float scales[N_EXPERTS];
};

static void experts_make(struct experts *e, enum fmt fmt) {
        const struct fmt_info *info = fmt_info(fmt);
        uint64_t row_bytes = fmt_row_bytes(info, N_IN);
        uint8_t *rows = malloc(N_OUT * row_bytes);
        float row[N_IN];

        memset(e, 0, sizeof(*e));
        assert_true(weight_bytes(info, WEIGHT_PANELS, N_OUT, N_IN, &e->each));
        e->data = aligned_alloc(64, (N_EXPERTS * e->each + 63) / 64 * 64);
        assert_true(e->data && rows);
        for (uint32_t x = 0; x < N_EXPERTS; x++) {
                for (uint32_t r = 0; r < N_OUT; r++) {
                        fill(row, N_IN, 1.0f);
                        assert_true(fmt_encode(info, row, N_IN, rows + r * row_bytes));
                }
                weight_pack(info, N_OUT, N_IN, 0, N_OUT, rows, e->data + x * e->each);
                e->scales[x] = 0.5f + (float)x;
        }
        e->w = (struct weight){ .info = info, .layout = WEIGHT_PANELS, .n_out = N_OUT, .n_in = N_IN, .data = e->data,
                                .n_experts = N_EXPERTS };
        free(rows);
}

/* What one expert makes of one row. */
static void expect_slot(struct backend *be, const struct experts *e, uint32_t expert, const float *bias, const float *x,
                        const float *have) {
        struct weight w = e->w;
        float want[N_OUT];
        const struct matmul p = { .w = &w, .bias = bias ? bias + expert * N_OUT : NULL, .out = want, .out_stride = N_OUT };

        w.data = e->data + expert * e->each;
        w.n_experts = 0;
        w.scale = e->w.scales ? e->scales[expert] : 0;
        w.scales = NULL;
        assert_int_equal(backend_cpu.matmul(be, &p, 1, x, N_IN, 1), 0);
        assert_memory_equal(want, have, sizeof(want));
}

static void check_products(struct backend *be, enum fmt fmt, uint32_t n_rows, bool x_per_row) {
        static const uint32_t choice[N_ROWS * N_USED] = { 4, 0, 2, 4, 2, 0, 4, 3, 2, 4, 0, 3, 2, 4, 0, 2, 3,
                                                          4, 4, 2, 3, 0, 4, 2, 4, 3, 0, 2, 0, 4, 3, 4, 2 };
        const struct chosen chosen = { .experts = choice, .n_rows = n_rows, .n_used = N_USED };
        float *x = floats(N_ROWS * N_USED * N_IN, 2.0f), *bias = floats(N_EXPERTS * N_OUT, 2.0f);
        float *a = floats(N_ROWS * N_USED * N_OUT, 0.0f), *b = floats(N_ROWS * N_USED * N_OUT, 0.0f);
        struct experts one, two;

        experts_make(&one, fmt);
        experts_make(&two, FMT_F32);
        one.w.scales = one.scales;
        const struct matmul p[] = { { .w = &one.w, .bias = bias, .out = a }, { .w = &two.w, .out = b } };

        assert_int_equal(backend_cpu.experts(be, p, 2, &chosen, x, x_per_row), 0);
        for (uint32_t s = 0; s < n_rows * N_USED; s++) {
                const float *row = x + (x_per_row ? s / N_USED : s) * N_IN;

                expect_slot(be, &one, choice[s], bias, row, a + s * N_OUT);
                expect_slot(be, &two, choice[s], NULL, row, b + s * N_OUT);
        }
        free(one.data);
        free(two.data);
        free(x);
        free(bias);
        free(a);
        free(b);
}

static void test_products(void **state) {
        static const enum fmt formats[] = { FMT_F32, FMT_BF16, FMT_Q8_0, FMT_Q4_K };

        for (size_t f = 0; f < ARRAY_SIZE(families); f++) {
                struct backend *be = open_family(families[f], 2);

                if (!be)
                        continue;
                for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
                        for (uint32_t n = 1; n <= N_ROWS; n += 5) {
                                check_products(be, formats[i], n, true);
                                check_products(be, formats[i], n, false);
                        }
                backend_cpu.close(be);
        }
}

static void test_faults(void **state) {
        static const uint32_t choice[] = { 1, N_EXPERTS };
        struct chosen chosen = { .experts = choice, .n_rows = 1, .n_used = 2 };
        struct backend *be = open_family("auto", 1);
        float x[N_IN] = { 0 }, out[2 * N_OUT];
        struct experts e;

        experts_make(&e, FMT_F32);
        const struct matmul p[3] = { { .w = &e.w, .out = out }, { .w = &e.w, .out = out }, { .w = &e.w, .out = out } };

        assert_int_equal(backend_cpu.experts(be, p, 1, &chosen, x, true), BACKEND_E_UNSUPPORTED);
        chosen.n_used = 1;
        assert_int_equal(backend_cpu.experts(be, p, 3, &chosen, x, true), BACKEND_E_UNSUPPORTED);
        assert_int_equal(backend_cpu.experts(be, p, 1, &chosen, x, true), 0);
        chosen.n_rows = 0;
        assert_int_equal(backend_cpu.experts(be, p, 1, &chosen, x, true), 0);
        free(e.data);
        backend_cpu.close(be);
}

static void test_combine(void **state) {
        enum { DIM = 37 };
        const struct backend_config config = { .threads = 2, .isa = "auto" };
        float *x = floats(3 * 2 * DIM, 1.0f), *w = floats(3 * 2, 1.0f), *out = floats(3 * DIM, 1.0f);
        float *before = floats_copy(out, 3 * DIM);
        const struct chosen chosen = { .weights = w, .n_rows = 3, .n_used = 2 };
        struct backend *be;

        assert_int_equal(backend_cpu.open(&config, &be), 0);
        assert_int_equal(backend_cpu.combine(be, &chosen, x, DIM, true, out), 0);
        for (uint32_t r = 0; r < 3; r++)
                for (uint32_t i = 0; i < DIM; i++) {
                        double sum = (double)w[2 * r] * (double)x[2 * r * DIM + i] +
                                     (double)w[2 * r + 1] * (double)x[(2 * r + 1) * DIM + i];
                        double error = (double)out[r * DIM + i] - (double)before[r * DIM + i] - sum;

                        assert_true(error < 1e-6 && error > -1e-6);
                }
        backend_cpu.close(be);
        free(x);
        free(w);
        free(out);
        free(before);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_products),
                cmocka_unit_test(test_faults),
                cmocka_unit_test(test_combine),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
