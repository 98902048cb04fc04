/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Products of MXFP4 with activations in 8 bits on the emulated device: the packed form against its rule, bit for bit; products
 * against sums in double precision of what is in it; and a row's bits in any company.
 */

#include <stdio.h>

#include "tests/cuda-host/emu.h"
#include "cuda-mm-fixture.h"
#include "kernels/float8.h"

/* Bytes of a lane's place: [8] elements, the power, zeros. */
static uint8_t *place(const struct cuda_packed *p, uint32_t r, uint32_t k) {
        return (uint8_t *)p->x8 + packed_at(p->n_in, r, k) / 8 * 16;
}

static uint8_t element(const struct cuda_packed *p, uint32_t r, uint32_t k) {
        return place(p, r, k)[k % 32 / 16 * 4 + k % 4];
}

/* The rule, from its words: powers are tried one after another. */
static uint8_t power_for(const float *x, uint32_t n) {
        uint8_t e = 0;

        for (uint32_t i = 0; i < n; i++)
                while (e < 254 && isfinite(x[i]) && (double)fabsf(x[i]) > 448.0 * ldexp(1.0, e - 127))
                        e++;
        return e;
}

static struct cuda_packed eight_new(uint32_t n_rows, uint32_t n_in) {
        struct cuda_packed p = { .n_in = n_in };

        p.x8 = device_new(cuda_packed_x_bytes(n_rows, n_in));
        p.f32 = device_new((size_t)n_rows * n_in * sizeof(float));
        return p;
}

static void eight_free(struct cuda_packed *p) {
        cudaFree(p->x8);
        cudaFree(p->f32);
}

/* x8 of the rows in f32, by the kernel. */
static void pack(struct cuda_packed *p, uint32_t n_rows) {
        uint32_t *count = device_new(sizeof(*count));
        struct cuda_pack a = { .rows = { count, 1, n_rows }, .x = p->f32, .x_stride = p->n_in, .out = { .x8 = p->x8, .n_in = p->n_in } };
        struct cuda_launch l = { 0 };

        *count = n_rows;
        assert_int_equal(cuda_pack(&l, &a), cudaSuccess);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
        cudaFree(count);
}

static void check_packed(const struct cuda_packed *p, uint32_t n_rows) {
        for (uint32_t r = 0; r < n_rows; r++)
                for (uint32_t k = 0; k < (p->n_in + 31) / 32 * 32; k++) {
                        const float *x = p->f32 + (size_t)r * p->n_in;
                        uint32_t first = k / 32 * 32, n = MIN(p->n_in - first, 32u);
                        uint8_t power = power_for(x + first, n);
                        float v = k < p->n_in ? ldexpf(x[k], 127 - power) : 0.0f;

                        assert_int_equal(load_u32(place(p, r, k) + 8), power);
                        assert_int_equal(load_u32(place(p, r, k) + 12), 0);
                        assert_int_equal(element(p, r, k), e4m3_from_float(v));
                }
}

static void test_pack(void **unused) {
        static const uint32_t widths[] = { 32, 64, 96, 1000, 33, 7 };

        for (size_t i = 0; i < ARRAY_SIZE(widths); i++) {
                struct cuda_packed p = eight_new(11, widths[i]);

                for (size_t e = 0; e < 11 * (size_t)widths[i]; e++)
                        p.f32[e] = noise() * ldexpf(1.0f, (int)(e % 29) - 14);
                pack(&p, 11);
                check_packed(&p, 11);
                eight_free(&p);
        }
}

/* What is at the edges: the largest of a block just at 448 and beyond, ties, the smallest numbers, nothing but zeros. */
static void test_pack_edges(void **unused) {
        static const float edges[][4] = {
                { 448.0f, 464.0f / 2, 17.0f, 19.0f },         { 448.5f, -448.0f, 0x1p-6f, 0x1p-9f },
                { 0x1.bffffep127f, 1.0f, -0x1p120f, 3.0f },   { 0x1.fffffep127f, 0.0f, -0.0f, 0x1p110f },
                { 0x1p-126f, 0x1p-127f, 0x1p-149f, -0x1p-130f }, { 0.0f, -0.0f, 0.0f, 0.0f },
                { 0x1.8p-10f * 448.0f, 0x1p-10f, 0x1.8p-19f, 0x1p-20f }, { -1.0f, 0x1.08p-6f, 0x1.18p-6f, 0x1.ffp-7f },
        };
        struct cuda_packed p = eight_new(1, 32 * ARRAY_SIZE(edges));

        memset(p.f32, 0, p.n_in * sizeof(float));
        for (size_t i = 0; i < ARRAY_SIZE(edges); i++)
                for (unsigned j = 0; j < 4; j++)
                        p.f32[32 * i + 9 * j] = edges[i][j];
        pack(&p, 1);
        for (uint32_t k = 0; k < p.n_in; k++)
                if (element(&p, 0, k) == 0x80)
                        assert_true(signbit(p.f32[k]));
        check_packed(&p, 1);
        eight_free(&p);
}

/* What is no number stays that, and spoils its own row alone. */
static void test_no_numbers(void **unused) {
        static const float bad[] = { NAN, INFINITY, -INFINITY };
        struct weight w = matrix_new(FMT_MXFP4, 1, 16, 96);

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                struct cuda_packed p = eight_new(3, 96);
                float *out = device_noise(3 * 16, 1.0f);
                struct cuda_mm m;

                for (size_t e = 0; e < 3 * 96; e++)
                        p.f32[e] = noise();
                p.f32[96 + 40] = bad[i];
                pack(&p, 3);
                m = mm_new(FMT_MXFP4, &p, 3);
                m.activations = CUDA_ACTIVATIONS_FP8;
                m.x.x8 = p.x8;
                mm_add(&m, &w, out, 16);
                mm_run(&m);
                for (unsigned o = 0; o < 3 * 16; o++)
                        assert_true(isfinite(out[o]) == (o / 16 != 1));
                mm_free(&m);
                eight_free(&p);
                cudaFree(out);
        }
        cudaFree((void *)(uintptr_t)w.data);
}

static double expected(const float *w, const struct cuda_packed *p, uint32_t r, double *ret_magnitude) {
        double sum = 0.0;

        *ret_magnitude = 0.0;
        for (uint32_t k = 0; k < p->n_in; k++) {
                double v = (double)w[k] * (double)e4m3_to_float(element(p, r, k)) * (double)e8m0_to_float(place(p, r, k)[8]);

                sum += v;
                *ret_magnitude += fabs(v);
        }
        return sum;
}

static void check_product(const struct weight *w, const struct cuda_packed *p, uint32_t n_rows, const float *out) {
        float *row = malloc(w->n_in * sizeof(*row));

        assert_non_null(row);
        for (uint32_t o = 0; o < w->n_out; o++) {
                weight_decode_row(w, o, row);
                for (uint32_t r = 0; r < n_rows; r++) {
                        double magnitude, want = expected(row, p, r, &magnitude), got = (double)out[(size_t)r * w->n_out + o];

                        if (!(fabs(got - want) <= 1e-5 * magnitude + 1e-30))
                                fail_msg("row %u output %u is %.9g instead of %.9g", r, o, got, want);
                }
        }
        free(row);
}

/* A product of so many rows, then of each number of rows and of single ones: the same bits. */
static void product_at(uint32_t n_out, uint32_t n_in, uint32_t n_rows) {
        static const uint32_t companies[] = { 1, 3, 8, 9, 17, 33, 65, 129 };
        struct weight w = matrix_new(FMT_MXFP4, 1, n_out, n_in);
        struct cuda_packed p = eight_new(n_rows, n_in), one = eight_new(1, n_in);
        float *all = device_noise((size_t)n_rows * n_out, 1.0f), *out = device_noise((size_t)n_rows * n_out, 1.0f);
        struct cuda_mm m;

        for (size_t e = 0; e < (size_t)n_rows * n_in; e++)
                p.f32[e] = noise();
        pack(&p, n_rows);
        m = mm_new(FMT_MXFP4, &p, n_rows);
        m.activations = CUDA_ACTIVATIONS_FP8;
        mm_add(&m, &w, all, n_out);
        mm_run(&m);
        check_product(&w, &p, n_rows, all);
        m.product[0].out = out;
        for (size_t i = 0; i < ARRAY_SIZE(companies) && companies[i] <= n_rows; i++) {
                m.rows.max = *(uint32_t *)(uintptr_t)m.rows.count = companies[i];
                mm_run(&m);
                assert_memory_equal(out, all, companies[i] * n_out * sizeof(*out));
        }
        m.rows.max = *(uint32_t *)(uintptr_t)m.rows.count = 1;
        memcpy(one.f32, p.f32 + (size_t)(n_rows - 1) * n_in, n_in * sizeof(float));
        pack(&one, 1);
        m.x.x8 = one.x8;
        mm_run(&m);
        assert_memory_equal(out, all + (size_t)(n_rows - 1) * n_out, n_out * sizeof(*out));
        mm_free(&m);
        eight_free(&p);
        eight_free(&one);
        cudaFree(all);
        cudaFree(out);
        cudaFree((void *)(uintptr_t)w.data);
}

static void test_products(void **unused) {
        product_at(16, 32, 1);
        product_at(1, 96, 5);
        product_at(37, 544, 140);
        product_at(100, 4128, 12); /* in slices */
}

/* Only where weights are MXFP4, and on GPUs that have the instruction. */
static void test_has(void **unused) {
        struct cuda_packed p = eight_new(1, 64);
        struct weight w = matrix_new(FMT_NVFP4, 1, 16, 64);
        struct emu_device_config config;
        struct cuda_launch l = { 0 };
        struct cuda_mm m = mm_new(FMT_NVFP4, &p, 1);

        assert_true(cuda_mm_has_fp8(FMT_MXFP4));
        assert_false(cuda_mm_has_fp8(FMT_NVFP4));
        assert_false(cuda_mm_has_fp8(FMT_Q4_K));
        emu_get_device(&config);
        config.sm = 90;
        emu_set_device(&config);
        assert_false(cuda_mm_has_fp8(FMT_MXFP4));
        assert_int_equal(cuda_mm_prepare(), cudaSuccess);
        emu_reset();
        emu_fail("cudaFuncGetAttributes", 1, cudaErrorNoKernelImageForDevice, false);
        assert_false(cuda_mm_has_fp8(FMT_MXFP4));
        assert_int_equal(cudaGetLastError(), cudaSuccess);
        m.activations = CUDA_ACTIVATIONS_FP8;
        mm_add(&m, &w, p.f32, 16);
        assert_int_equal(cuda_mm(&l, &m), cudaErrorInvalidValue);
        emu_reset();
        mm_free(&m);
        eight_free(&p);
        cudaFree((void *)(uintptr_t)w.data);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_pack),       cmocka_unit_test(test_pack_edges), cmocka_unit_test(test_products),
                cmocka_unit_test(test_no_numbers), cmocka_unit_test(test_has),
        };

        return cmocka_run_group_tests_name("cuda-mm-fp8", tests, NULL, NULL);
}
