/* SPDX-License-Identifier: Apache-2.0 */

/* The CUDA backend's norms and residual sums: against the same in double precision, in all combinations, for rows of heads and
 * rows of models, in any company and order of threads. */

#include "cuda-rows-fixture.h"

#define EPS 1e-5f
#define ADD_SCALE 0.4f

/* What of an operation is there. */
struct parts {
        bool post_norm, residual, norm;
};

static const struct parts combinations[] = {
        { false, false, true }, { false, true, true }, { true, true, true },
        { true, true, false },  { false, true, false }, { true, false, false },
};

struct rows {
        uint32_t n, dim;
        size_t stride; /* of x */
        float *x, *post_norm, *residual, *norm;
};

static struct rows rows_new(uint32_t n, uint32_t dim, size_t stride) {
        struct rows r = { .n = n, .dim = dim, .stride = stride };

        r.x = floats(n * stride, 3.0f);
        r.post_norm = floats(dim, 1.5f);
        r.residual = floats((size_t)n * dim, 2.0f);
        r.norm = floats(dim, 1.5f);
        return r;
}

static void rows_free(struct rows *r) {
        free(r->x);
        free(r->post_norm);
        free(r->residual);
        free(r->norm);
}

/* Rows first .. first + n of them, in a place for one row more: out and residual [n][dim]. */
static void run(const struct rows *r, const struct parts *parts, uint32_t first, uint32_t n, float *out, float *residual) {
        size_t all = (size_t)n * r->dim;
        struct cuda_norm a = { .dim = r->dim, .eps = EPS, .x_stride = r->stride, .add_scale = ADD_SCALE };

        memcpy(residual, r->residual + (size_t)first * r->dim, all * sizeof(*residual));
        a.out = packed_new(n + 1, r->dim);
        a.rows = device_rows(n, 1, n + 1);
        a.x = device_floats(r->x + first * r->stride, n * r->stride);
        if (parts->post_norm)
                a.post_norm = device_floats(r->post_norm, r->dim);
        if (parts->residual)
                a.residual = device_floats(residual, all);
        if (parts->norm)
                a.norm = device_floats(r->norm, r->dim);
        must(cuda_norm(&launch_dependent, &a));
        packed_take(&a.out, n, n + 1, out);
        if (parts->residual)
                device_take(a.residual, residual, all * sizeof(*residual));
        device_free(a.rows.count);
        device_free(a.x);
        device_free(a.post_norm);
        device_free(a.norm);
}

static void scale_reference(double *v, const float *weight, uint32_t dim) {
        double sum = 0.0;

        for (uint32_t i = 0; i < dim; i++)
                sum += v[i] * v[i];
        for (uint32_t i = 0; i < dim; i++)
                v[i] = v[i] / sqrt(sum / dim + (double)EPS) * (double)weight[i];
}

static void check_reference(const struct rows *r, const struct parts *parts, const float *out, const float *residual) {
        double *v = room(r->dim * sizeof(*v));

        for (uint32_t row = 0; row < r->n; row++) {
                const float *is = out + (size_t)row * r->dim, *sum = residual + (size_t)row * r->dim;

                for (uint32_t i = 0; i < r->dim; i++)
                        v[i] = (double)r->x[row * r->stride + i];
                if (parts->post_norm)
                        scale_reference(v, r->post_norm, r->dim);
                for (uint32_t i = 0; parts->residual && i < r->dim; i++) {
                        v[i] = (double)r->residual[(size_t)row * r->dim + i] + (double)ADD_SCALE * v[i];
                        if (!(fabs((double)sum[i] - v[i]) <= 2e-6 * (1.0 + fabs(v[i]))))
                                fail_msg("row %u, element %u of %u: sum %a instead of %a", row, i, r->dim, (double)sum[i], v[i]);
                }
                if (parts->norm)
                        scale_reference(v, r->norm, r->dim);
                for (uint32_t i = 0; i < r->dim; i++)
                        if (!(fabs((double)is[i] - v[i]) <= 4e-6 * (1.0 + fabs(v[i]))))
                                fail_msg("row %u, element %u of %u: %a instead of %a", row, i, r->dim, (double)is[i], v[i]);
        }
        free(v);
}

/* Against the reference; then in other orders, and row by row. */
static void check(const struct rows *r, const struct parts *parts) {
        size_t all = (size_t)r->n * r->dim;
        float *out = room_floats(all), *residual = room_floats(all), *out_2 = room_floats(all), *residual_2 = room_floats(all);

        emu_set_order(EMU_ORDER_ASCENDING, 0);
        run(r, parts, 0, r->n, out, residual);
        check_reference(r, parts, out, residual);
        for (size_t i = 1; i < ARRAY_SIZE(orders); i++) {
                emu_set_order(orders[i], r->dim);
                run(r, parts, 0, r->n, out_2, residual_2);
                assert_same_floats("in another order", out_2, out, all);
                assert_same_floats("in another order", residual_2, residual, all);
        }
        for (uint32_t row = 0; row < r->n && r->n > 1; row++) {
                run(r, parts, row, 1, out_2, residual_2);
                assert_same_floats("alone", out_2, out + (size_t)row * r->dim, r->dim);
                assert_same_floats("alone", residual_2, residual + (size_t)row * r->dim, r->dim);
        }
        free(out);
        free(residual);
        free(out_2);
        free(residual_2);
}

static int setup(void **state) {
        emu_reset();
        return 0;
}

/* Rows of a warp each, and of a block with one, two and more parts for a thread. */
static void test_shapes(void **state) {
        static const uint32_t shapes[][2] = { { 3, 1 },   { 5, 17 },  { 9, 64 },   { 9, 100 },  { 5, 128 },   { 4, 256 },
                                              { 3, 257 }, { 2, 300 }, { 3, 1030 }, { 2, 4096 }, { 1, 10001 }, { 1, 17000 } };

        for (size_t i = 0; i < ARRAY_SIZE(shapes); i++)
                for (size_t k = 0; k < ARRAY_SIZE(combinations); k++) {
                        struct rows r = rows_new(shapes[i][0], shapes[i][1], shapes[i][1] + (k % 2 ? 4 : 0));

                        check(&r, &combinations[k]);
                        rows_free(&r);
                }
}

static void test_largest(void **state) {
        struct rows r = rows_new(1, 32768, 32768);
        struct cuda_norm a = { .rows = { .max = 1 }, .dim = 32769, .x_stride = 32769, .out = { .n_in = 32769 } };

        check(&r, &combinations[2]);
        rows_free(&r);
        assert_int_equal(cuda_norm(&launch_plain, &a), cudaErrorInvalidValue);
        a.dim = 64; /* out is not of that size */
        assert_int_equal(cuda_norm(&launch_plain, &a), cudaErrorInvalidValue);
        a.dim = a.out.n_in = 0;
        assert_int_equal(cuda_norm(&launch_plain, &a), cudaErrorInvalidValue);
}

/* out.f32 may be x. */
static void test_in_place(void **state) {
        static const uint32_t widths[] = { 64, 1030 };

        for (size_t i = 0; i < ARRAY_SIZE(widths); i++) {
                uint32_t n = 3, dim = widths[i];
                struct rows r = rows_new(n, dim, dim);
                size_t all = (size_t)n * dim;
                float *want = room_floats(all), *residual = room_floats(all), *is = room_floats(all);
                float *x = device_floats(r.x, (size_t)n * dim);
                struct cuda_norm a = { .dim = dim, .eps = EPS, .x = x, .x_stride = dim, .out = { .f32 = x, .n_in = dim } };

                run(&r, &combinations[0], 0, n, want, residual);
                a.rows = device_rows(n, 1, n);
                a.norm = device_floats(r.norm, dim);
                must(cuda_norm(&launch_dependent, &a));
                device_take(x, is, (size_t)n * dim * sizeof(float));
                assert_same_floats("in place", is, want, (size_t)n * dim);
                device_free(a.rows.count);
                device_free(a.norm);
                rows_free(&r);
                free(want);
                free(residual);
                free(is);
        }
}

/* What is not a number stays in its row; a row of zeros gives zeros. */
static void test_not_a_number(void **state) {
        static const uint32_t widths[] = { 64, 1030 };

        for (size_t i = 0; i < ARRAY_SIZE(widths); i++) {
                uint32_t n = 9, dim = widths[i];
                struct rows r = rows_new(n, dim, dim);
                size_t all = (size_t)n * dim;
                float *want = room_floats(all), *residual = room_floats(all), *is = room_floats(all);

                run(&r, &combinations[0], 0, n, want, residual);
                r.x[2 * (size_t)dim + dim / 2] = NAN;
                r.x[4 * (size_t)dim] = INFINITY; /* the others by infinity are 0 */
                memset(r.x + 6 * (size_t)dim, 0, dim * sizeof(float));
                run(&r, &combinations[0], 0, n, is, residual);
                for (uint32_t k = 0; k < dim; k++) {
                        assert_true(isnan(is[2 * (size_t)dim + k]));
                        assert_true(k == 0 ? isnan(is[4 * (size_t)dim]) : is[4 * (size_t)dim + k] == 0.0f);
                        assert_true(is[6 * (size_t)dim + k] == 0.0f);
                }
                for (uint32_t row = 0; row < n; row++)
                        if (row != 2 && row != 4 && row != 6)
                                assert_same_floats("neighbour", is + (size_t)row * dim, want + (size_t)row * dim, dim);
                rows_free(&r);
                free(want);
                free(residual);
                free(is);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup(test_shapes, setup),
                cmocka_unit_test_setup(test_largest, setup),
                cmocka_unit_test_setup(test_in_place, setup),
                cmocka_unit_test_setup(test_not_a_number, setup),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
