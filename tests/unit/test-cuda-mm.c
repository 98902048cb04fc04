/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Matrix products of the CUDA backend, on the emulated device: every format against sums in double precision, at odd sizes; and
 * bits: a row alone has those that it has in any company, in every variant of the kernel and order of threads.
 */

#include <stdio.h>

#include "cuda-mm-fixture.h"
#include "tests/cuda-host/emu.h"

static const enum fmt formats[] = { FMT_F32,  FMT_F16,  FMT_BF16, FMT_F8_E4M3, FMT_Q8_0,   FMT_Q4_0,
                                    FMT_Q4_1, FMT_Q5_0, FMT_Q5_1, FMT_Q4_K,    FMT_Q5_K,   FMT_Q6_K,
                                    FMT_Q2_K, FMT_Q3_K, FMT_IQ4_NL, FMT_IQ4_XS, FMT_MXFP4, FMT_NVFP4 };

/* Elements of K that every format has whole blocks of. */
#define K_WHOLE 256u
#define TOLERANCE 1e-5

static void assert_near(double got, double want, double magnitude) {
        if (!(fabs(got - want) <= TOLERANCE * magnitude + 1e-30))
                fail_msg("%.9g instead of %.9g, of magnitude %.3g", got, want, magnitude);
}

/* Some of the outputs of all rows: the first, the last and every third row's. */
static void check_product(const struct weight *w, const struct cuda_packed *x, uint32_t n_rows, const float *out, size_t stride) {
        for (uint32_t r = 0; r < n_rows; r++)
                for (uint32_t o = r % 3; o < w->n_out; o += o + 4 < w->n_out ? 3 : 1) {
                        double magnitude, want = reference(w, 0, o, x, r, &magnitude);

                        assert_near((double)out[r * stride + o], want, magnitude);
                }
}

static void product_at(enum fmt fmt, uint32_t n_out, uint32_t n_in, uint32_t n_rows) {
        struct weight w = matrix_new(fmt, 1, n_out, n_in);
        struct cuda_packed x = packed_noise(n_rows, n_in);
        struct cuda_mm m = mm_new(fmt, &x, n_rows);
        float *out = device_noise((size_t)n_rows * n_out, 1.0f);

        mm_add(&m, &w, out, n_out);
        mm_run(&m);
        check_product(&w, &x, n_rows, out, n_out);
        mm_free(&m);
        packed_free(&x);
        cudaFree(out);
        cudaFree((void *)(uintptr_t)w.data);
}

/* Each format by itself, so that a failure says which one. */
static void test_formats(void **state) {
        enum fmt fmt = *(const enum fmt *)*state;
        uint32_t block = fmt_info(fmt)->block, k = block > 32 ? block : 32;

        assert_true(cuda_mm_has(fmt));
        product_at(fmt, 1, k, 1);
        product_at(fmt, 17, 3 * k, 2);
        product_at(fmt, 100, 9 * k, 5);
        product_at(fmt, 40, k == 32 ? 288 : 2 * k, 17);
        product_at(fmt, 33, k == 32 ? 96 : k, 33);
        product_at(fmt, 140, k == 32 ? 160 : k, 70);
}

/* All codes of E4M3, eight in each row. Two of them are not-a-number, and so are the rows that have one. */
static void test_e4m3_codes(void **unused) {
        struct weight w = matrix_new(FMT_F8_E4M3, 1, 32, 128);
        struct cuda_packed x = packed_noise(2, 128);
        struct cuda_mm m = mm_new(FMT_F8_E4M3, &x, 2);
        float *out = device_new(2 * 32 * sizeof(*out));

        for (unsigned o = 0; o < 32; o++) /* codes follow the scales of 16 rows */
                for (unsigned k = 0; k < 128; k++)
                        ((uint8_t *)(uintptr_t)w.data)[o / 16 * w.info->panel_bytes + 64 + k * 16 + o % 16] = (uint8_t)(8 * o + k % 8);
        mm_add(&m, &w, out, 32);
        mm_run(&m);
        for (uint32_t i = 0; i < 64; i++) {
                double magnitude, want = reference(&w, 0, i % 32, &x, i / 32, &magnitude);

                assert_true(isnan(want) == (i % 16 == 15) && isnan(out[i]) == isnan(want));
                if (!isnan(want))
                        assert_near((double)out[i], want, magnitude);
        }
        mm_free(&m);
        packed_free(&x);
        cudaFree(out);
        cudaFree((void *)(uintptr_t)w.data);
}

/* Float matrices may have any width, which is not filled up in panels. */
static void test_odd_widths(void **unused) {
        static const enum fmt floats[] = { FMT_F32, FMT_F16, FMT_BF16 };

        for (size_t i = 0; i < ARRAY_SIZE(floats); i++) {
                product_at(floats[i], 5, 1, 1);
                product_at(floats[i], 18, 33, 3);
                product_at(floats[i], 65, 81, 12);
                product_at(floats[i], 31, 130, 130);
                product_at(floats[i], 20, 2909, 1);
        }
}

/* The first n rows by themselves, and single rows from the middle. */
static void check_bits(struct cuda_mm *m, const struct weight *w, const struct cuda_packed *x, const float *all,
                       uint32_t n_rows) {
        static const uint32_t companies[] = { 1, 2, 3, 7, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129 };
        static const uint32_t alone[] = { 1, 6, 13, 77, 131 };
        size_t n_out = w->n_out;
        float *out = device_new(n_rows * n_out * sizeof(*out));
        struct cuda_packed one = packed_new(1, x->n_in);

        m->product[0].out = out;
        for (size_t i = 0; i < ARRAY_SIZE(companies); i++) {
                m->rows.max = companies[i];
                *(uint32_t *)(uintptr_t)m->rows.count = companies[i];
                mm_run(m);
                assert_memory_equal(out, all, companies[i] * n_out * sizeof(*out));
        }
        m->rows.max = 1;
        *(uint32_t *)(uintptr_t)m->rows.count = 1;
        m->x.x = m->x.x ? one.x : NULL;
        m->x.sums = m->x.sums ? one.sums : NULL;
        m->x.f32 = m->x.f32 ? one.f32 : NULL;
        for (size_t i = 0; i < ARRAY_SIZE(alone); i++) {
                packed_set(&one, 0, x->f32 + (size_t)alone[i] * x->n_in);
                mm_run(m);
                assert_memory_equal(out, all + alone[i] * n_out, n_out * sizeof(*out));
        }
        packed_free(&one);
        cudaFree(out);
}

static void bits_at(enum fmt fmt, uint32_t n_out, uint32_t n_in, uint32_t n_sms) {
        enum { ROWS = 140 };
        struct weight w = matrix_new(fmt, 1, n_out, n_in);
        struct cuda_packed x = packed_noise(ROWS, n_in);
        struct cuda_mm m = mm_new(fmt, &x, ROWS);
        float *all = device_new((size_t)ROWS * n_out * sizeof(*all));

        m.n_sms = n_sms;
        mm_add(&m, &w, all, n_out);
        mm_run(&m);
        check_bits(&m, &w, &x, all, ROWS);
        mm_free(&m);
        packed_free(&x);
        cudaFree(all);
        cudaFree((void *)(uintptr_t)w.data);
}

static void test_bits(void **state) {
        enum fmt fmt = *(const enum fmt *)*state;

        bits_at(fmt, 37, fmt_info(fmt)->block > 32 ? 3 * K_WHOLE : 544, 48);
}

/* Slices of K: as blocks, whose last one adds up, and within a block. Both are what a lone row's are. */
static void test_slices(void **unused) {
        static const enum fmt some[] = { FMT_BF16, FMT_Q4_0, FMT_Q4_1 };

        for (size_t i = 0; i < ARRAY_SIZE(some); i++) {
                assert_int_equal(cuda_mm_slices(some[i], 20, 2048 + 288), 2);
                assert_int_equal(cuda_mm_slices(some[i], 20, 4096 + 32), 4);
                product_at(some[i], 20, 2048 + 288, 3);
                product_at(some[i], 20, 4096 + 32, 66);
                bits_at(some[i], 20, 2048 + 288, 48);
                bits_at(some[i], 20, 2048 + 288, 0);
        }
        assert_int_equal(cuda_mm_slices(FMT_Q4_0, 8192, 65536), 2);
        assert_int_equal(cuda_mm_slices(FMT_Q4_0, 8192, 4096), 1);
        assert_int_equal(cuda_mm_slices(FMT_Q4_0, 16384, 65536), 1);
        assert_int_equal(cuda_mm_slices(FMT_Q4_0, 64, 1024), 1);
}

/* With slices as blocks and without: the same bits for the same rows. */
static void test_slices_agree(void **unused) {
        struct weight w = matrix_new(FMT_Q4_0, 1, 50, 4096);
        struct cuda_packed x = packed_noise(20, 4096);
        struct cuda_mm m = mm_new(FMT_Q4_0, &x, 20);
        float *a = device_new(20 * 50 * sizeof(*a)), *b = device_new(20 * 50 * sizeof(*b));

        mm_add(&m, &w, a, 50);
        assert_true(cuda_mm_scratch_bytes(&m) > 0);
        mm_run(&m);
        m.n_sms = 0;
        m.product[0].out = b;
        assert_int_equal(cuda_mm_scratch_bytes(&m), 0);
        mm_run(&m);
        assert_memory_equal(a, b, 20 * 50 * sizeof(*a));
        mm_free(&m);
        packed_free(&x);
        cudaFree(a);
        cudaFree(b);
        cudaFree((void *)(uintptr_t)w.data);
}

/* Three products of different widths in one go, into rows of one buffer, with what else may happen to a sum. */
static void extras_at(enum fmt fmt, uint32_t n_in, uint32_t n_rows) {
        enum { A = 70, B = 16, C = 5, STRIDE = A + B + C + 2 };
        struct weight w[3] = { matrix_new(fmt, 1, A, n_in), matrix_new(fmt, 1, B, n_in), matrix_new(fmt, 1, C, n_in) };
        struct cuda_packed x = packed_noise(n_rows, n_in);
        struct cuda_mm m = mm_new(fmt, &x, n_rows);
        float *out = device_noise((size_t)n_rows * STRIDE, 3.0f), *bias = device_noise(A, 2.0f), *before;
        uint32_t first[3] = { 0, A, A + B };

        before = malloc((size_t)n_rows * STRIDE * sizeof(*before));
        assert_non_null(before);
        memcpy(before, out, (size_t)n_rows * STRIDE * sizeof(*before));
        for (unsigned i = 0; i < 3; i++)
                mm_add(&m, &w[i], out + first[i], STRIDE);
        m.product[0].bias = bias;
        m.product[0].scale = 0.25f;
        m.product[1].accumulate = true;
        mm_run(&m);
        for (uint32_t r = 0; r < n_rows; r++) {
                double magnitude, want;

                for (uint32_t o = 0; o < A; o += 7) {
                        want = reference(&w[0], 0, o, &x, r, &magnitude);
                        assert_near((double)out[r * STRIDE + o], want * 0.25 + (double)bias[o], magnitude + 2.0);
                }
                for (uint32_t o = 0; o < B; o++) {
                        want = reference(&w[1], 0, o, &x, r, &magnitude);
                        assert_near((double)out[r * STRIDE + A + o], want + (double)before[r * STRIDE + A + o], magnitude + 3.0);
                }
                for (uint32_t o = 0; o < C; o++) {
                        want = reference(&w[2], 0, o, &x, r, &magnitude);
                        assert_near((double)out[r * STRIDE + A + B + o], want, magnitude);
                }
                assert_memory_equal(out + r * STRIDE + A + B + C, before + r * STRIDE + A + B + C, 2 * sizeof(*out));
        }
        for (unsigned i = 0; i < 3; i++)
                cudaFree((void *)(uintptr_t)w[i].data);
        free(before);
        mm_free(&m);
        packed_free(&x);
        cudaFree(out);
        cudaFree(bias);
}

static void test_extras(void **unused) {
        extras_at(FMT_Q8_0, 96, 3);
        extras_at(FMT_Q5_1, 2048, 4);
        extras_at(FMT_Q5_1, 2048, 67);
        extras_at(FMT_F32, 300, 9);
        extras_at(FMT_BF16, 4100, 2);
}

/* A graph's kernels cover more rows than there are; those beyond are not written. */
static void test_fewer_rows(void **unused) {
        static const uint32_t max[] = { 8, 64, 300 };

        for (size_t i = 0; i < ARRAY_SIZE(max); i++)
                for (uint32_t n = 0; n <= 5; n += 5) {
                        struct weight w = matrix_new(FMT_Q4_1, 1, 19, 64);
                        struct cuda_packed x = packed_noise(max[i], 64);
                        struct cuda_mm m = mm_new(FMT_Q4_1, &x, n);
                        float *out = device_new((size_t)max[i] * 19 * sizeof(*out));

                        m.rows.max = max[i];
                        for (size_t o = 0; o < (size_t)max[i] * 19; o++)
                                out[o] = 77.0f;
                        mm_add(&m, &w, out, 19);
                        mm_run(&m);
                        check_product(&w, &x, n, out, 19);
                        for (size_t o = n * 19; o < (size_t)max[i] * 19; o++)
                                assert_true(out[o] == 77.0f);
                        mm_free(&m);
                        packed_free(&x);
                        cudaFree(out);
                        cudaFree((void *)(uintptr_t)w.data);
                }
}

static void test_order(void **unused) {
        for (enum emu_order order = EMU_ORDER_ASCENDING; order <= EMU_ORDER_SHUFFLED; order++) {
                emu_set_order(order, 5);
                bits_at(FMT_Q5_0, 37, 2048, 48);
                product_at(FMT_F16, 70, 96, 66);
                product_at(FMT_Q4_1, 20, 96, 12);
                product_at(FMT_F8_E4M3, 70, 384, 5);
        }
        emu_reset();
}

int main(void) {
        struct CMUnitTest tests[2 * ARRAY_SIZE(formats) + 7];
        char names[2 * ARRAY_SIZE(formats)][32];
        size_t n = 0;

        for (size_t i = 0; i < ARRAY_SIZE(formats); i++, n += 2) {
                void *fmt = (void *)(uintptr_t)&formats[i];

                (void)snprintf(names[n], sizeof(names[n]), "product of %s", fmt_info(formats[i])->name);
                (void)snprintf(names[n + 1], sizeof(names[n]), "bits of %s", fmt_info(formats[i])->name);
                tests[n] = (struct CMUnitTest){ names[n], test_formats, NULL, NULL, fmt };
                tests[n + 1] = (struct CMUnitTest){ names[n + 1], test_bits, NULL, NULL, fmt };
        }
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_odd_widths);
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_e4m3_codes);
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_slices);
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_slices_agree);
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_extras);
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_fewer_rows);
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_order);
        return _cmocka_run_group_tests("cuda-mm", tests, n, NULL, NULL);
}
