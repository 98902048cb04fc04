/* SPDX-License-Identifier: Apache-2.0 */

/* The highest of rows of logits on the emulated device, against sorting them, and the sum that probabilities need, against the same
 * in double precision. */

#include "cuda-rows-fixture.h"

struct result {
        struct cuda_top_row *row;
        float *values;
        int32_t *ids;
};

static int setup(void **state) {
        emu_reset();
        return 0;
}

/* With room for one row more. */
static struct result run(const float *logits, uint32_t n, uint32_t dim, uint32_t k) {
        struct cuda_top a = { .dim = dim, .k = k };
        struct result r;

        a.rows = device_rows(n, 1, n + 1);
        a.logits = device_floats(logits, (size_t)n * dim);
        a.values = device_new((size_t)n * k * sizeof(float));
        a.ids = device_new((size_t)n * k * sizeof(int32_t));
        a.row = device_new(n * sizeof(*a.row));
        a.scratch = device_new(cuda_top_scratch_bytes(n + 1, dim));
        must(cuda_top(&launch_dependent, &a));
        r.values = room((size_t)n * k * sizeof(float));
        r.ids = room((size_t)n * k * sizeof(int32_t));
        r.row = room(n * sizeof(*r.row));
        device_take(a.values, r.values, (size_t)n * k * sizeof(float));
        device_take(a.ids, r.ids, (size_t)n * k * sizeof(int32_t));
        device_take(a.row, r.row, n * sizeof(*r.row));
        device_free(a.rows.count);
        device_free(a.logits);
        device_free(a.scratch);
        return r;
}

static void result_free(struct result *r) {
        free(r->row);
        free(r->values);
        free(r->ids);
}

static const float *compared;

static int compare(const void *a, const void *b) {
        int32_t i = *(const int32_t *)a, k = *(const int32_t *)b;

        if (compared[i] != compared[k])
                return compared[i] > compared[k] ? -1 : 1;
        return i < k ? -1 : 1;
}

static void check_row(const float *x, uint32_t dim, uint32_t k, const struct result *r, uint32_t at) {
        const struct cuda_top_row *row = &r->row[at];
        const float *values = r->values + (size_t)at * k;
        const int32_t *ids = r->ids + (size_t)at * k;
        int32_t *sorted = room(dim * sizeof(*sorted));
        double sum = 0.0;

        for (uint32_t i = 0; i < dim; i++)
                sorted[i] = (int32_t)i;
        compared = x;
        qsort(sorted, dim, sizeof(*sorted), compare);
        for (uint32_t i = 0; i < k; i++)
                if (ids[i] != sorted[i])
                        fail_msg("%u of %u: place %u has %d (%a) instead of %d (%a)", k, dim, i, ids[i], (double)x[ids[i]],
                                 sorted[i], (double)x[sorted[i]]);
                else
                        assert_same_floats("value", &values[i], &x[sorted[i]], 1);
        for (uint32_t i = 0; i < dim; i++)
                sum += exp((double)x[i] - (double)x[sorted[0]]);
        assert_true(row->largest == x[sorted[0]]);
        assert_int_equal(row->bad, 0);
        if (!(fabs(row->sum - sum) <= 4e-7 * sum))
                fail_msg("%u logits: sum %.12g instead of %.12g", dim, row->sum, sum);
        free(sorted);
}

static void check(const float *logits, uint32_t n, uint32_t dim, uint32_t k) {
        struct result r = run(logits, n, dim, k);

        for (uint32_t i = 0; i < n; i++)
                check_row(logits + (size_t)i * dim, dim, k, &r, i);
        result_free(&r);
}

static void test_shapes(void **state) {
        static const uint32_t dims[] = { 1, 17, 300, 1025, 8192, 8193, 20000 }, ks[] = { 1, 2, 40, 64, 100, 256 };

        for (size_t d = 0; d < ARRAY_SIZE(dims); d++)
                for (size_t i = 0; i < ARRAY_SIZE(ks); i++)
                        if (ks[i] <= dims[d]) {
                                float *x = floats((size_t)2 * dims[d], 20.0f);

                                emu_set_order(orders[i % ARRAY_SIZE(orders)], d);
                                check(x, 2, dims[d], ks[i]);
                                free(x);
                        }
}

/* A vocabulary that fills everything there is, and one with as few of many as that allows. */
static void test_largest(void **state) {
        float *x = floats(262145, 20.0f);

        check(x, 1, 262144, 256);
        check(x, 1, 262145, 200);
        assert_true(cuda_top_has(262144, 256));
        assert_false(cuda_top_has(262145, 256));
        free(x);
}

/* Logits that are equal, and that stand where they are most unpleasant. */
enum place {
        EQUAL,
        ASCENDING,
        DESCENDING,
        MANY_EQUAL,
        SAME_THREADS, /* have all of the highest */
        SAME_PIECE,
        ZEROS, /* of either sign */
        PLACES,
};

static float placed(enum place place, uint32_t i) {
        switch (place) {
        case EQUAL:
                return 3.0f;
        case ASCENDING:
                return (float)i;
        case DESCENDING:
                return -(float)i;
        case MANY_EQUAL:
                return roundf(noise() * 3.0f);
        case SAME_THREADS:
                return (i % 1024 < 256 ? 5.0f : 0.0f) + noise();
        case SAME_PIECE:
                return (i / 8192 == 1 ? 50.0f : 0.0f) + noise();
        default:
                return i % 3 ? 0.0f : -0.0f;
        }
}

static void test_places(void **state) {
        const uint32_t dim = 20000;
        float *x = floats(dim, 1.0f);

        for (enum place place = 0; place < PLACES; place++) {
                for (uint32_t i = 0; i < dim; i++)
                        x[i] = placed(place, i);
                emu_set_order(orders[place % ARRAY_SIZE(orders)], place);
                check(x, 1, dim, 256);
                check(x, 1, dim, 33);
                check(x, 1, dim, 1);
        }
        free(x);
}

/* Whatever shape comes; some rows have few different logits. */
static void test_random(void **state) {
        for (uint32_t i = 0; i < 40; i++) {
                uint32_t dim = 1 + (uint32_t)((noise() + 1.0f) * 6000.0f), k = 1 + (uint32_t)((noise() + 1.0f) * 127.0f);
                float *x = floats(dim, 30.0f), steps = i % 3 == 0 ? 1.0f : i % 3 == 1 ? 0.1f : 1e6f;

                k = MIN(k, dim);
                for (uint32_t n = 0; n < dim; n++)
                        x[n] = roundf(x[n] * steps) / steps;
                emu_set_order(orders[i % ARRAY_SIZE(orders)], i);
                check(x, 1, dim, k);
                free(x);
        }
}

/* What a grammar forbids is -infinity: there may be fewer others than are asked for, none in some pieces, one in all. */
static void test_forbidden(void **state) {
        const uint32_t dim = 20000;
        float *x = floats(dim, 1.0f);

        for (uint32_t left = 1; left <= 1000; left *= 10) {
                for (uint32_t i = 0; i < dim; i++)
                        x[i] = -INFINITY;
                for (uint32_t i = 0; i < left; i++)
                        x[8192 + i * 7] = noise() * 9.0f;
                check(x, 1, dim, 64);
                check(x, 1, dim, 1);
        }
        free(x);
}

/* Bad rows say so, and leave their neighbours alone. */
static void test_bad(void **state) {
        const uint32_t dim = 9000, n = 7;
        static const uint32_t ks[] = { 1, 20 };
        float *x = floats((size_t)n * dim, 5.0f);

        x[dim + 8500] = NAN;
        x[2 * dim + 1] = -NAN;
        x[3 * dim + 4000] = INFINITY;
        for (uint32_t i = 0; i < dim; i++)
                x[5 * dim + i] = -INFINITY;
        for (size_t i = 0; i < ARRAY_SIZE(ks); i++) {
                struct result r = run(x, n, dim, ks[i]);

                for (uint32_t row = 0; row < n; row++)
                        if (row == 0 || row == 4 || row == 6) {
                                check_row(x + (size_t)row * dim, dim, ks[i], &r, row);
                        } else {
                                assert_int_equal(r.row[row].bad, 1);
                                for (uint32_t k = 0; k < ks[i]; k++)
                                        assert_in_range(r.ids[row * ks[i] + k], 0, dim - 1);
                        }
                result_free(&r);
        }
        free(x);
}

/* The same bits in any company and order. */
static void test_company(void **state) {
        const uint32_t dim = 10000, n = 5, k = 50;
        float *x = floats((size_t)n * dim, 12.0f);
        struct result all = run(x, n, dim, k);

        for (uint32_t row = 0; row < n; row++) {
                struct result one;

                emu_set_order(orders[row % ARRAY_SIZE(orders)], row);
                one = run(x + (size_t)row * dim, 1, dim, k);
                assert_memory_equal(&one.row[0].sum, &all.row[row].sum, sizeof(double));
                assert_memory_equal(one.ids, all.ids + row * k, k * sizeof(int32_t));
                assert_memory_equal(one.values, all.values + row * k, k * sizeof(float));
                result_free(&one);
        }
        result_free(&all);
        free(x);
}

static void test_refusals(void **state) {
        static const uint32_t shapes[][2] = { { 100, 0 }, { 100, 101 }, { 1000, 257 }, { 262145, 256 }, { 0, 0 } };

        for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
                struct cuda_top a = { .rows = { .max = 1 }, .dim = shapes[i][0], .k = shapes[i][1] };

                assert_int_equal(cuda_top(&launch_plain, &a), cudaErrorInvalidValue);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup(test_shapes, setup),
                cmocka_unit_test_setup(test_largest, setup),
                cmocka_unit_test_setup(test_places, setup),
                cmocka_unit_test_setup(test_random, setup),
                cmocka_unit_test_setup(test_forbidden, setup),
                cmocka_unit_test_setup(test_bad, setup),
                cmocka_unit_test_setup(test_company, setup),
                cmocka_unit_test_setup(test_refusals, setup),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
