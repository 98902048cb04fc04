/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Matrix products: every format in every kernel family, at odd sizes, against a sum in double precision; and bit for
 * bit the same from every family, with any number of rows, any grouping of them and any number of threads.
 */

#include "kernels-fixture.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

static const enum fmt formats[] = { FMT_F32,  FMT_F16,  FMT_BF16, FMT_Q8_0, FMT_Q4_0, FMT_Q4_1,
                                    FMT_Q5_0, FMT_Q5_1, FMT_Q4_K, FMT_Q5_K, FMT_Q6_K,
                                    FMT_IQ4_NL, FMT_MXFP4, FMT_NVFP4, FMT_F8_E4M3, FMT_Q2_K, FMT_Q3_K,
                                    FMT_IQ4_XS };

struct matrix {
        struct weight w;
        float *values; /* what the coded weights stand for */
        void *data;
};

static void matrix_make(struct matrix *m, enum fmt fmt, uint32_t n_out, uint32_t n_in) {
        const struct fmt_info *info = fmt_info(fmt);
        float *x = floats((size_t)n_out * n_in, 2.0f);
        uint64_t rows, panels;
        void *file;

        assert_true(weight_bytes(info, WEIGHT_ROWS, n_out, n_in, &rows));
        assert_true(weight_bytes(info, WEIGHT_PANELS, n_out, n_in, &panels));
        file = malloc(rows);
        m->data = malloc(panels);
        assert_true(file && m->data);
        assert_true(fmt_encode(info, x, (size_t)n_out * n_in, file));
        fmt_decode(info, file, (size_t)n_out * n_in, x);
        memset(m->data, 0xa5, panels);
        weight_pack(info, n_out, n_in, 0, n_out, file, m->data);
        free(file);
        m->values = x;
        m->w = (struct weight){ .info = info, .layout = WEIGHT_PANELS, .n_out = n_out, .n_in = n_in, .data = m->data };
}

static void matrix_free(struct matrix *m) {
        free(m->values);
        free(m->data);
}

static void multiply(struct backend *be, const struct matrix *m, const float *x, uint32_t n_rows, float *out) {
        struct matmul product = { .w = &m->w, .out = out, .out_stride = m->w.n_out };

        memset(out, 0xff, (size_t)n_rows * m->w.n_out * sizeof(*out));
        assert_int_equal(backend_cpu.matmul(be, &product, 1, x, m->w.n_in, n_rows), 0);
}

/* Elements that share a scale when activations are rounded to 8 bits; 0 where they are not. */
static uint32_t act_block(enum fmt fmt) {
        switch (fmt) {
        case FMT_F32:
        case FMT_F16:
        case FMT_BF16:
        case FMT_F8_E4M3:
                return 0;
        case FMT_Q2_K:
        case FMT_Q3_K:
        case FMT_Q4_K:
        case FMT_Q5_K:
        case FMT_Q6_K:
        case FMT_IQ4_XS:
                return 256;
        default:
                return 32;
        }
}

/* Rounding of the activations to 8 bits or BF16 and of the sums to float: what the result may be off by. */
static double bound(const struct matrix *m, const float *w, const float *x) {
        uint32_t n_in = m->w.n_in, block = act_block(m->w.info->fmt);
        double magnitude = 0.0, step = 0.0;

        for (uint32_t k = 0; k < n_in; k++)
                magnitude += fabs((double)w[k] * (double)x[k]);
        for (uint32_t k = 0; block > 0 && k < n_in; k += block) {
                double amax = 0.0, weights = 0.0;

                for (uint32_t i = k; i < k + block; i++) {
                        amax = fmax(amax, fabs((double)x[i]));
                        weights += fabs((double)w[i]);
                }
                step += amax / 254.0 * weights;
        }
        /* In formats with an offset or a minimum, the terms are larger than their sum: a few times as much. */
        if (m->w.info->fmt == FMT_BF16)
                step = magnitude * 0x1p-8;
        return magnitude * n_in * 0x1p-24 * 4.0 + step * 1.01 + 1e-6;
}

static void check_accuracy(const struct matrix *m, const float *x, uint32_t n_rows, const float *out) {
        uint32_t n_in = m->w.n_in, n_out = m->w.n_out;

        for (uint32_t r = 0; r < n_rows; r++)
                for (uint32_t o = 0; o < n_out; o++) {
                        const float *w = m->values + (size_t)o * n_in, *a = x + (size_t)r * n_in;
                        double sum = 0.0, error;

                        for (uint32_t k = 0; k < n_in; k++)
                                sum += (double)w[k] * (double)a[k];
                        if (fabs(sum) > (double)FLT_MAX) {
                                assert_false(isfinite(out[(size_t)r * n_out + o]));
                                continue;
                        }
                        error = fabs(sum - (double)out[(size_t)r * n_out + o]);
                        if (!(error <= bound(m, w, a)))
                                fail_msg("%s %ux%u row %u output %u: %g is off by %g", m->w.info->name, n_out, n_in, r,
                                         o, sum, error);
                }
}

/* Returns the first family's result, which all later ones must repeat. */
static float *all_families(const struct matrix *m, const float *x, uint32_t n_rows) {
        size_t bytes = (size_t)n_rows * m->w.n_out * sizeof(float);
        float *first = malloc(bytes), *out = malloc(bytes);

        assert_true(first && out);
        for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
                struct backend *be = open_family(families[i], 1);

                if (!be)
                        continue;
                multiply(be, m, x, n_rows, out);
                if (i == 0)
                        memcpy(first, out, bytes);
                else if (memcmp(first, out, bytes) != 0)
                        fail_msg("%s differs from c: %s %ux%u, %u rows", families[i], m->w.info->name, m->w.n_out,
                                 m->w.n_in, n_rows);
                backend_cpu.close(be);
        }
        free(out);
        return first;
}

static void test_sizes(void **unused) {
        static const uint32_t outs[] = { 1, 15, 16, 17, 100 }, rows[] = { 1, 2, 3, 5, 17 };
        static const uint32_t odd[] = { 1, 2, 3, 31, 67 };

        for (size_t f = 0; f < ARRAY_SIZE(formats); f++)
                for (size_t i = 0; i < ARRAY_SIZE(outs); i++) {
                        uint32_t block = fmt_info(formats[f])->block;
                        uint32_t n_in = block == 1 ? odd[i] : block * (uint32_t)(i % 3 + 1), n_rows = rows[i];
                        struct matrix m;
                        float *x, *out;

                        matrix_make(&m, formats[f], outs[i], n_in);
                        x = floats((size_t)n_rows * n_in, 2.0f);
                        out = all_families(&m, x, n_rows);
                        check_accuracy(&m, x, n_rows, out);
                        free(out);
                        free(x);
                        matrix_free(&m);
                }
}

/* A row's result alone is its result among 64, wherever it stands, and with more threads. */
static void test_company(void **unused) {
        static const uint32_t groups[] = { 1, 2, 3, 5, 17, 36 };
        const uint32_t n_rows = 64, n_out = 100, n_in = 512;

        for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
                struct matrix m;
                float *x = floats((size_t)n_rows * n_in, 2.0f), *all = malloc(n_rows * n_out * sizeof(float));
                float *part = malloc(n_rows * n_out * sizeof(float));
                struct backend *one = open_family("auto", 1), *three = open_family("auto", 3);
                uint32_t row = 0;

                assert_true(all && part && one && three);
                matrix_make(&m, formats[f], n_out, n_in);
                multiply(three, &m, x, n_rows, all);
                for (size_t g = 0; g < ARRAY_SIZE(groups); row += groups[g++]) {
                        multiply(one, &m, x + (size_t)row * n_in, groups[g], part);
                        if (memcmp(part, all + (size_t)row * n_out, (size_t)groups[g] * n_out * sizeof(float)) != 0)
                                fail_msg("%s: rows from %u differ in a group of %u", m.w.info->name, row, groups[g]);
                }
                assert_int_equal(row, n_rows);
                matrix_free(&m);
                backend_cpu.close(one);
                backend_cpu.close(three);
                free(x);
                free(all);
                free(part);
        }
}

/* Several products of one call, with strides, bias and residual, are the single ones put together. */
static void test_products(void **unused) {
        const uint32_t n_rows = 5, n_in = 256, stride = 300;
        struct backend *be = open_family("auto", 2);
        float *x = floats(n_rows * stride, 2.0f), *bias = floats(40, 2.0f), *residual = floats(n_rows * 70, 2.0f);
        float plain[3][5 * 70], out[3][5 * 70];
        struct matrix m[3];
        struct matmul p[3];

        matrix_make(&m[0], FMT_Q4_K, 40, n_in);
        matrix_make(&m[1], FMT_F16, 17, n_in);
        matrix_make(&m[2], FMT_Q6_K, 33, n_in);
        for (unsigned i = 0; i < 3; i++) {
                p[i] = (struct matmul){ .w = &m[i].w, .out = plain[i], .out_stride = 70 };
                assert_int_equal(backend_cpu.matmul(be, p + i, 1, x, stride, n_rows), 0);
                memcpy(out[i], residual, sizeof(out[i]));
                p[i].out = out[i];
        }
        p[0].bias = bias;
        p[2].accumulate = true;
        assert_int_equal(backend_cpu.matmul(be, p, 3, x, stride, n_rows), 0);
        for (uint32_t r = 0; r < n_rows; r++) {
                for (uint32_t o = 0; o < 40; o++)
                        assert_true(out[0][r * 70 + o] == plain[0][r * 70 + o] + bias[o]);
                for (uint32_t o = 0; o < 17; o++)
                        assert_true(out[1][r * 70 + o] == plain[1][r * 70 + o]);
                for (uint32_t o = 0; o < 33; o++)
                        assert_true(out[2][r * 70 + o] == residual[r * 70 + o] + plain[2][r * 70 + o]);
                /* nothing beyond the outputs */
                assert_memory_equal(&out[2][r * 70 + 33], &residual[r * 70 + 33], 37 * sizeof(float));
        }
        for (unsigned i = 0; i < 3; i++)
                matrix_free(&m[i]);
        backend_cpu.close(be);
        free(x);
        free(bias);
        free(residual);
}

/* A matrix's own scale: before the bias, and in its rows. */
static void test_matrix_scale(void **unused) {
        const uint32_t n_rows = 3, n_out = 20, n_in = 128;
        struct backend *be = open_family("auto", 1);
        float *x = floats(n_rows * n_in, 2.0f), *bias = floats(n_out, 2.0f), row[128];
        float plain[3 * 20], scaled[3 * 20], base[3 * 20];
        struct matrix m;
        struct matmul p = { .w = &m.w, .out = plain, .out_stride = n_out };

        matrix_make(&m, FMT_NVFP4, n_out, n_in);
        assert_int_equal(backend_cpu.matmul(be, &p, 1, x, n_in, n_rows), 0);
        m.w.scale = 0.3f;
        fill(base, ARRAY_SIZE(base), 1.0f);
        memcpy(scaled, base, sizeof(scaled));
        p = (struct matmul){ .w = &m.w, .bias = bias, .out = scaled, .out_stride = n_out, .accumulate = true };
        assert_int_equal(backend_cpu.matmul(be, &p, 1, x, n_in, n_rows), 0);
        for (uint32_t i = 0; i < n_rows * n_out; i++)
                assert_true(scaled[i] == base[i] + (plain[i] * 0.3f + bias[i % n_out]));
        weight_decode_row(&m.w, 17, row);
        for (uint32_t i = 0; i < n_in; i++)
                assert_true(row[i] == m.values[17 * n_in + i] * 0.3f);
        matrix_free(&m);
        backend_cpu.close(be);
        free(x);
        free(bias);
}

/* Quants and scales at their ends: no saturation, no overflow, in any family. */
static void test_extremes(void **unused) {
        const uint32_t n_out = 16, n_in = 512;

        for (size_t f = 3; f < ARRAY_SIZE(formats); f++) {
                const struct fmt_info *info = fmt_info(formats[f]);
                uint64_t bytes;
                struct matrix m;
                float *x = floats(n_in, 2.0f), *out;

                matrix_make(&m, formats[f], n_out, n_in);
                assert_true(weight_bytes(info, WEIGHT_PANELS, n_out, n_in, &bytes));
                for (unsigned fill = 0; fill < 4; fill++) {
                        static const uint8_t fills[] = { 0xff, 0x80, 0x7f, 0x33 };

                        /* As binary16 0xffff and the like are no numbers: keep to those that are. */
                        memset(m.data, fills[fill] & 0xfb, bytes);
                        for (uint32_t r = 0; r < n_out; r++)
                                weight_decode_row(&m.w, r, m.values + (size_t)r * n_in);
                        for (uint32_t i = 0; i < n_in; i++)
                                x[i] = fill % 2 ? -1.0f : 1.0f;
                        out = all_families(&m, x, 1);
                        check_accuracy(&m, x, 1, out);
                        free(out);
                }
                matrix_free(&m);
                free(x);
        }
}

/* Zeros, tiny values, and values that are no numbers: the latter show in their row and nowhere else. */
static void test_odd_activations(void **unused) {
        static const enum fmt some[] = { FMT_F32, FMT_Q8_0, FMT_Q4_K, FMT_Q6_K, FMT_IQ4_XS };
        const uint32_t n_rows = 5, n_out = 17, n_in = 256;

        for (size_t f = 0; f < ARRAY_SIZE(some); f++) {
                struct matrix m;
                float *x = floats((size_t)n_rows * n_in, 2.0f), *out;

                matrix_make(&m, some[f], n_out, n_in);
                for (uint32_t i = 0; i < n_in; i++) {
                        x[i] = 0.0f;
                        x[n_in + i] = 1e-40f * (float)i;
                }
                x[2 * n_in + 7] = NAN;
                x[3 * n_in + 100] = INFINITY;
                out = all_families(&m, x, n_rows);
                check_accuracy(&m, x, 2, out);
                for (uint32_t o = 0; o < n_out; o++) {
                        assert_true(out[o] == 0.0f);
                        assert_true(isnan(out[2 * n_out + o]));
                        assert_false(isfinite(out[3 * n_out + o]));
                        assert_true(isfinite(out[4 * n_out + o]));
                }
                free(out);
                free(x);
                matrix_free(&m);
        }
}

static void test_unsupported(void **unused) {
        struct backend *be = open_family("c", 1);
        struct matrix m;
        float x[64] = { 0 }, out[32];
        struct matmul p = { .out = out, .out_stride = 16 };

        matrix_make(&m, FMT_Q8_0, 16, 64);
        p.w = &m.w;
        m.w.layout = WEIGHT_ROWS;
        assert_int_equal(backend_cpu.matmul(be, &p, 1, x, 64, 1), BACKEND_E_UNSUPPORTED);
        m.w.layout = WEIGHT_PANELS;
        m.w.n_in = 40;
        assert_int_equal(backend_cpu.matmul(be, &p, 1, x, 64, 1), BACKEND_E_UNSUPPORTED);
        m.w.n_in = 64;
        assert_int_equal(backend_cpu.matmul(be, &p, 1, x, 64, 0), 0);
        assert_int_equal(backend_cpu.matmul(be, &p, 0, x, 64, 1), 0);
        assert_int_equal(backend_cpu.matmul(be, &p, 1, x, 64, 1), 0);
        matrix_free(&m);
        backend_cpu.close(be);
        assert_null(open_family("mmx", 1));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_sizes),
                cmocka_unit_test(test_company),
                cmocka_unit_test(test_products),
                cmocka_unit_test(test_matrix_scale),
                cmocka_unit_test(test_extremes),
                cmocka_unit_test(test_odd_activations),
                cmocka_unit_test(test_unsupported),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
