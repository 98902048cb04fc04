/* SPDX-License-Identifier: Apache-2.0 */

/* The CUDA backend's operations on rows, element by element: bit for bit what the CPU's plain C gives, in whatever order threads
 * run, and nothing beyond the rows that there are. */

#include "cuda-rows-cpu.h"
#include "cuda-rows-fixture.h"

/* Odd numbers of rows and elements, and the orders of threads one after another. */
static void each_shape(void (*check)(uint32_t n, uint32_t dim)) {
        static const uint32_t shapes[][2] = { { 1, 1 },   { 3, 1 },    { 9, 17 },   { 33, 32 },  { 8, 64 },
                                              { 1, 100 }, { 33, 100 }, { 3, 4096 }, { 9, 1030 } };

        for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
                emu_set_order(orders[i % ARRAY_SIZE(orders)], i);
                check(shapes[i][0], shapes[i][1]);
        }
}

static void check_gate(uint32_t n, uint32_t dim) {
        size_t all = (size_t)n * dim;
        float *gate = odd_floats(all, 6.0f), *up = odd_floats(all, 9.0f), *want = room_floats(all), *is = room_floats(all);

        for (enum activation act = 0; act < ACTIVATIONS; act++) {
                struct cuda_gate a = { .act = act, .dim = dim, .stride = dim, .out = packed_new(n + 1, dim) };

                a.rows = device_rows(n, 1, n + 1);
                a.gate = device_floats(gate, all);
                a.up = device_floats(up, all);
                must(cuda_gate(&launch_dependent, &a));
                packed_take(&a.out, n, n + 1, is);
                assert_int_equal(cpu->ops->gate(cpu, act, gate, up, n, dim, want), 0);
                assert_same_floats("gate", is, want, all);
                device_free(a.rows.count);
                device_free(a.gate);
                device_free(a.up);
        }
        free(gate);
        free(up);
        free(want);
        free(is);
}

static void test_gate(void **state) {
        each_shape(check_gate);
}

/* Halves of one product; rows by a multiple of the count; out may be gate. */
static void test_gate_halves(void **state) {
        const uint32_t n = 6, dim = 100;
        float *x = floats((size_t)n * 2 * dim, 4.0f), *want = room_floats(dim), *is = room_floats((size_t)n * dim);
        struct cuda_gate a = { .act = ACT_SILU, .dim = dim, .stride = 2 * (size_t)dim, .out = { .n_in = dim } };
        float *dev = device_floats(x, (size_t)n * 2 * dim);

        a.rows = device_rows(n / 2, 2, n);
        a.gate = dev;
        a.up = dev + dim;
        a.out.f32 = device_new((size_t)n * dim * sizeof(float));
        must(cuda_gate(&launch_plain, &a));
        device_take(a.out.f32, is, (size_t)n * dim * sizeof(float));
        for (uint32_t r = 0; r < n; r++) {
                const float *row = x + (size_t)r * 2 * dim;

                assert_int_equal(cpu->ops->gate(cpu, ACT_SILU, row, row + dim, 1, dim, want), 0);
                assert_same_floats("half", is + (size_t)r * dim, want, dim);
        }
        a.out.f32 = device_floats(x, (size_t)n * dim); /* as rows that are not wider */
        a.gate = a.out.f32;
        a.stride = dim;
        must(cuda_gate(&launch_plain, &a));
        device_take(a.out.f32, is, (size_t)n * dim * sizeof(float));
        for (uint32_t r = 0; r < n; r++) {
                const float *row = x + (size_t)r * dim;

                assert_int_equal(cpu->ops->gate(cpu, ACT_SILU, row, row + dim, 1, dim, want), 0);
                assert_same_floats("in place", is + (size_t)r * dim, want, dim);
        }
        a.act = ACTIVATIONS;
        assert_int_equal(cuda_gate(&launch_plain, &a), cudaErrorInvalidValue);
        device_free(dev);
        device_free(a.rows.count);
        free(x);
        free(want);
        free(is);
}

/* Columns of something wider, that need not be aligned. */
static void check_pack(uint32_t n, uint32_t dim) {
        for (uint32_t stride = dim; stride < dim + 5; stride += 4 - dim % 4) {
                float *x = odd_floats((size_t)n * stride, 3.0f), *is = room_floats((size_t)n * dim);
                struct cuda_pack a = { .x_stride = stride, .out = packed_new(n + 1, dim) };

                a.x = device_floats(x, (size_t)n * stride);
                a.rows = device_rows(n, 1, n + 1);
                must(cuda_pack(&launch_dependent, &a));
                packed_take(&a.out, n, n + 1, is);
                for (uint32_t r = 0; r < n; r++)
                        assert_same_floats("row", is + (size_t)r * dim, x + (size_t)r * stride, dim);
                device_free(a.rows.count);
                device_free(a.x);
                free(x);
                free(is);
        }
}

static void test_pack(void **state) {
        each_shape(check_pack);
}

/* Any of the forms may not be wanted: the others are the same then. */
static void test_forms(void **state) {
        const uint32_t n = 11, dim = 100, f32_bytes = n * dim * sizeof(float);
        size_t x_bytes = cuda_packed_x_bytes(n, dim), sums_bytes = cuda_packed_sums_bytes(n, dim);
        float *from = floats((size_t)n * dim, 3.0f), *f32 = room_floats((size_t)n * dim);
        uint8_t *x = room(x_bytes), *sums = room(sums_bytes), *want_x = room(x_bytes), *want_sums = room(sums_bytes);
        struct cuda_pack a = { .x = device_floats(from, (size_t)n * dim), .x_stride = dim, .rows = device_rows(n, 1, n) };

        for (unsigned forms = 7; forms > 0; forms--) {
                a.out.n_in = dim;
                a.out.f32 = forms & 1 ? device_new(f32_bytes) : NULL;
                a.out.x = forms & 2 ? device_new(x_bytes) : NULL;
                a.out.sums = forms & 4 ? device_new(sums_bytes) : NULL;
                must(cuda_pack(&launch_dependent, &a));
                if (a.out.f32)
                        device_take(a.out.f32, f32, f32_bytes);
                if (a.out.x)
                        device_take(a.out.x, forms == 7 ? want_x : x, x_bytes);
                if (a.out.sums)
                        device_take(a.out.sums, forms == 7 ? want_sums : sums, sums_bytes);
                if (a.out.f32)
                        assert_memory_equal(f32, from, f32_bytes);
                if (a.out.x && forms < 7)
                        assert_memory_equal(x, want_x, x_bytes);
                if (a.out.sums && forms < 7)
                        assert_memory_equal(sums, want_sums, sums_bytes);
        }
        device_free(a.x);
        device_free(a.rows.count);
        free(from);
        free(f32);
        free(x);
        free(sums);
        free(want_x);
        free(want_sums);
}

/* The last row is not there, and stays as it was; so with the next ones. */
static void check_softcap(uint32_t n, uint32_t dim) {
        static const float caps[] = { 30.0f, 0.0f, 50.0f }, scales[] = { 1.0f, 0.7f, 0.0625f };
        size_t all = (size_t)n * dim;

        for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
                float *x = odd_floats(all, 60.0f), *is = room_floats(all), *dev = device_floats(x, all);
                struct cuda_rows rows = device_rows(n - 1, 1, n);

                must(cuda_softcap(&launch_dependent, rows, scales[i], caps[i], dim, dev));
                device_take(dev, is, all * sizeof(float));
                assert_int_equal(cpu->ops->softcap(cpu, scales[i], caps[i], n - 1, dim, x), 0);
                assert_same_floats("softcap", is, x, all);
                device_free(rows.count);
                free(x);
                free(is);
        }
}

static void test_softcap(void **state) {
        each_shape(check_softcap);
}

static void check_add(uint32_t n, uint32_t dim) {
        static const float scales[] = { 1.0f, 0.22f };
        size_t all = (size_t)n * dim;

        for (size_t i = 0; i < ARRAY_SIZE(scales); i++) {
                float *x = odd_floats(all, 2.0f), *out = floats(all, 2.0f), *is = room_floats(all);
                float *dev_x = device_floats(x, all), *dev = device_floats(out, all);
                struct cuda_rows rows = device_rows(n - 1, 1, n);

                must(cuda_add(&launch_dependent, rows, dev_x, scales[i], dim, dev));
                device_take(dev, is, all * sizeof(float));
                assert_int_equal(cpu->ops->add(cpu, x, scales[i], n - 1, dim, out), 0);
                assert_same_floats("add", is, out, all);
                device_free(rows.count);
                device_free(dev_x);
                free(x);
                free(out);
                free(is);
        }
}

static void test_add(void **state) {
        each_shape(check_add);
}

static void check_slice(uint32_t n, uint32_t dim) {
        size_t stride = dim + 5, all = (size_t)n * dim;
        float *x = odd_floats(n * stride, 2.0f), *is = room_floats(all), *want = room_floats(all);
        float *dev_x = device_floats(x, n * stride), *dev = device_new(all * sizeof(float));
        struct cuda_rows rows = device_rows(n, 1, n + 4);

        must(cuda_slice(&launch_dependent, rows, dev_x, stride, 3, dim, dev));
        device_take(dev, is, all * sizeof(float));
        assert_int_equal(cpu->ops->slice(cpu, x, stride, 3, n, dim, want), 0);
        assert_same_floats("slice", is, want, all);
        device_free(dev_x);
        device_free(rows.count);
        free(x);
        free(is);
        free(want);
}

static void test_slice(void **state) {
        each_shape(check_slice);
}

static void check_gather(uint32_t n, uint32_t dim) {
        size_t all = (size_t)n * dim;
        float *x = odd_floats(all, 2.0f), *is = room_floats(all), *want = room_floats(all);
        float *dev_x = device_floats(x, all), *dev = device_new(all * sizeof(float));
        uint32_t index[64], *dev_index;
        struct cuda_rows rows = device_rows(n, 1, n + 4);

        for (uint32_t r = 0; r < n; r++)
                index[r] = (r * 7 + 2) % n;
        dev_index = device_copy(index, n * sizeof(*index));
        must(cuda_gather(&launch_dependent, rows, dev_index, dev_x, dim, dev));
        device_take(dev, is, all * sizeof(float));
        assert_int_equal(cpu->ops->gather(cpu, x, index, n, dim, want), 0);
        assert_same_floats("gather", is, want, all);
        device_free(dev_x);
        device_free(dev_index);
        device_free(rows.count);
        free(x);
        free(is);
        free(want);
}

static void test_gather(void **state) {
        each_shape(check_gather);
}

static void check_combine(uint32_t n, uint32_t dim, uint32_t n_used) {
        size_t slots = (size_t)n * n_used, all = (size_t)n * dim;
        float *x = odd_floats(slots * dim, 2.0f), *w = floats(slots, 1.0f), *out = floats(all, 1.0f), *is = room_floats(all);
        float *dev_x = device_floats(x, slots * dim), *dev_w = device_floats(w, slots);
        struct chosen chosen = { .weights = w, .n_rows = n, .n_used = n_used };
        struct cuda_rows rows = device_rows(n, 1, n + 1);

        for (unsigned accumulate = 0; accumulate < 2; accumulate++) {
                float *dev = device_floats(out, all);

                must(cuda_combine(&launch_dependent, rows, n_used, dev_w, dev_x, dim, accumulate, dev));
                device_take(dev, is, all * sizeof(float));
                assert_int_equal(cpu->ops->combine(cpu, &chosen, x, dim, accumulate, out), 0);
                assert_same_floats("combine", is, out, all);
        }
        device_free(dev_x);
        device_free(dev_w);
        device_free(rows.count);
        free(x);
        free(w);
        free(out);
        free(is);
}

static void check_combine_1(uint32_t n, uint32_t dim) {
        check_combine(n, dim, 1);
}

static void check_combine_8(uint32_t n, uint32_t dim) {
        check_combine(n, dim, 8);
}

static void test_combine(void **state) {
        each_shape(check_combine_1);
        each_shape(check_combine_8);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup(test_gate, setup),
                cmocka_unit_test_setup(test_gate_halves, setup),
                cmocka_unit_test_setup(test_pack, setup),
                cmocka_unit_test_setup(test_forms, setup),
                cmocka_unit_test_setup(test_softcap, setup),
                cmocka_unit_test_setup(test_add, setup),
                cmocka_unit_test_setup(test_slice, setup),
                cmocka_unit_test_setup(test_gather, setup),
                cmocka_unit_test_setup(test_combine, setup),
        };

        return cmocka_run_group_tests(tests, setup_all, teardown_all);
}
