/* SPDX-License-Identifier: Apache-2.0 */

/* Products of losslessly coded BF16: bit for bit those of plain BF16, in every kernel family, for numbers of every kind. */

#include "kernels-fixture.h"
#include "coded-kinds.h"

/* --- products ---------------------------------------------------------------------------------------------------- */

static void multiply(struct backend *be, const struct weight *w, const float *x, uint32_t n_rows, float *out) {
        const struct matmul p = { .w = w, .out = out, .out_stride = w->n_out };

        memset(out, 0xff, (size_t)n_rows * w->n_out * sizeof(*out));
        assert_int_equal(be->ops->bind(be, (struct weight *)(uintptr_t)w), 0);
        assert_int_equal(be->ops->matmul(be, &p, 1, x, w->n_in, n_rows), 0);
}

static void check(struct backend *be, const char *family, const char *name, const struct coded_pair *p, uint32_t n_rows) {
        float *x = floats((size_t)n_rows * p->plain.n_in, 2.0f), *want = floats((size_t)n_rows * p->plain.n_out, 0);
        float *have = floats((size_t)n_rows * p->plain.n_out, 0);

        multiply(be, &p->plain, x, n_rows, want);
        multiply(be, &p->coded, x, n_rows, have);
        if (!same_sums(want, have, (size_t)n_rows * p->plain.n_out))
                fail_msg("%s: %s, %ux%u, %u rows", family, name, p->plain.n_out, p->plain.n_in, n_rows);
        free(x);
        free(want);
        free(have);
}

/* Rows, columns and tiles of all sizes; the last unit of a row short or not. */
static void test_kinds(void **unused) {
        static const struct { uint32_t n_out, n_in; } sizes[] = { { 16, 64 },  { 1, 256 },   { 33, 320 },
                                                                  { 100, 512 }, { 47, 1088 }, { 64, 2048 } };

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
                for (size_t j = 0; j < ARRAY_SIZE(sizes); j++) {
                        bool large = sizes[j].n_out > 40 && sizes[j].n_in > 256;
                        struct coded_pair p;

                        coded_pair_make(&p, 0, sizes[j].n_out, sizes[j].n_in, kinds[i].number);
                        assert_true(!large || ((p.wide > 0 || !kinds[i].wide) && (p.escapes > 0 || !kinds[i].escapes)));
                        for (size_t f = 0; f < ARRAY_SIZE(families); f++) {
                                struct backend *be = open_family(families[f], 1 + (unsigned)(j % 2));

                                for (uint32_t rows = 1; be && rows <= 17; rows += rows < 9 ? 1 : 4)
                                        check(be, families[f], kinds[i].name, &p, rows);
                                if (be)
                                        backend_cpu.close(be);
                        }
                        coded_pair_free(&p);
                }
}

/* Families agree with each other, too. */
static void test_families(void **unused) {
        float *x = floats(5 * 576, 2.0f), first[5 * 40], out[5 * 40];
        struct coded_pair p;

        coded_pair_make(&p, 0, 40, 576, trained);
        for (size_t f = 0; f < ARRAY_SIZE(families); f++) {
                struct backend *be = open_family(families[f], 1);

                if (!be)
                        continue;
                multiply(be, &p.coded, x, 5, f == 0 ? first : out);
                if (f > 0)
                        assert_memory_equal(first, out, sizeof(out));
                backend_cpu.close(be);
        }
        coded_pair_free(&p);
        free(x);
}

/* A tensor of several matrices has one index and one run of escapes. */
static void test_experts(void **unused) {
        static const uint32_t choice[] = { 3, 0, 1, 2, 3, 1, 0, 3, 2, 3 };
        const struct chosen chosen = { .experts = choice, .n_rows = 5, .n_used = 2 };
        float *x = floats(10 * 320, 2.0f), *bias = floats(4 * 35, 1.0f), *want = floats(10 * 35, 0), *have = floats(10 * 35, 0);
        struct coded_pair p;

        coded_pair_make(&p, 4, 35, 320, trained);
        const struct matmul plain = { .w = &p.plain, .bias = bias, .out = want }, coded = { .w = &p.coded, .bias = bias, .out = have };

        for (size_t f = 0; f < ARRAY_SIZE(families); f++) {
                struct backend *be = open_family(families[f], 2);

                for (int per_row = 0; be && per_row < 2; per_row++) {
                        memset(have, 0xff, 10 * 35 * sizeof(*have));
                        assert_int_equal(be->ops->experts(be, &plain, 1, &chosen, x, per_row), 0);
                        assert_int_equal(be->ops->experts(be, &coded, 1, &chosen, x, per_row), 0);
                        assert_memory_equal(want, have, 10 * 35 * sizeof(*have));
                }
                if (be)
                        backend_cpu.close(be);
        }
        coded_pair_free(&p);
        free(x);
        free(bias);
        free(want);
        free(have);
}

/* Several products of one call, with a bias and onto what is there; plain and coded ones mixed. */
static void test_mixed(void **unused) {
        struct backend *be = open_family("auto", 2);
        float *x = floats(3 * 256, 2.0f), *bias = floats(50, 1.0f), want[3 * 50], have[3 * 50], other[3 * 50];
        struct coded_pair p;

        coded_pair_make(&p, 0, 50, 256, trained);
        for (unsigned i = 0; i < 3 * 50; i++)
                want[i] = have[i] = (float)i;
        struct matmul m[2] = { { .w = &p.plain, .bias = bias, .out = want, .out_stride = 50, .accumulate = true },
                               { .w = &p.coded, .bias = bias, .out = have, .out_stride = 50, .accumulate = true } };

        assert_int_equal(be->ops->matmul(be, m, 2, x, 256, 3), 0);
        assert_memory_equal(want, have, sizeof(want));
        m[0] = (struct matmul){ .w = &p.plain, .out = want, .out_stride = 50 };
        m[1] = (struct matmul){ .w = &p.plain, .bias = bias, .out = other, .out_stride = 50 };
        assert_int_equal(be->ops->matmul(be, m, 2, x, 256, 3), 0);
        assert_memory_not_equal(want, have, sizeof(want));
        coded_pair_free(&p);
        backend_cpu.close(be);
        free(x);
        free(bias);
}

/* --- rows -------------------------------------------------------------------------------------------------------- */

static void test_rows(void **unused) {
        static const uint32_t tokens[] = { 0, 15, 16, 36, 3 };
        const struct batch batch = { .n_rows = ARRAY_SIZE(tokens), .token = (const int32_t *)tokens };
        struct backend *be = open_family("auto", 1);

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                float want[ARRAY_SIZE(tokens) * 320], have[ARRAY_SIZE(tokens) * 320];
                struct coded_pair p;

                coded_pair_make(&p, 0, 37, 320, kinds[i].number);
                for (uint32_t r = 0; r < 37; r++) {
                        weight_decode_row(&p.plain, r, want);
                        weight_decode_row(&p.coded, r, have);
                        assert_memory_equal(want, have, 320 * sizeof(float));
                }
                assert_int_equal(be->ops->embed(be, &p.plain, &batch, 3.0f, want), 0);
                assert_int_equal(be->ops->embed(be, &p.coded, &batch, 3.0f, have), 0);
                assert_true(same_sums(want, have, ARRAY_SIZE(want)));
                coded_pair_free(&p);
        }
        backend_cpu.close(be);
}

/* What cannot be a coded matrix is refused. */
static void test_refused(void **unused) {
        struct backend *be = open_family("auto", 1);
        float x[128] = { 0 }, out[16];
        struct coded_pair p;

        coded_pair_make(&p, 0, 16, 128, trained);
        const struct matmul m = { .w = &p.coded, .out = out, .out_stride = 16 };

        assert_int_equal(be->ops->matmul(be, &m, 1, x, 128, 1), 0);
        p.coded.layout = WEIGHT_ROWS;
        assert_int_equal(be->ops->matmul(be, &m, 1, x, 128, 1), BACKEND_E_UNSUPPORTED);
        p.coded.layout = WEIGHT_PANELS;
        p.coded.n_in = 96;
        assert_int_equal(be->ops->matmul(be, &m, 1, x, 96, 1), BACKEND_E_UNSUPPORTED);
        p.coded.n_in = 128;
        p.coded.tail = 64;
        assert_int_equal(be->ops->matmul(be, &m, 1, x, 128, 1), BACKEND_E_UNSUPPORTED);
        coded_pair_free(&p);
        backend_cpu.close(be);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_kinds), cmocka_unit_test(test_families), cmocka_unit_test(test_experts),
                cmocka_unit_test(test_mixed), cmocka_unit_test(test_rows),     cmocka_unit_test(test_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
