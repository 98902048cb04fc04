/* SPDX-License-Identifier: Apache-2.0 */

/* What benchmarks measure of the machine, on the emulated device. */

#include "cuda-rows-fixture.h"

static int setup(void **state) {
        emu_reset();
        return 0;
}

/* What is measured is the emulator's speed; but bytes must arrive, and figures be such. */
static void test_limits(void **state) {
        struct emu_device_config config;
        size_t bytes = 300 * 1000 + 16;
        uint8_t *data = room(bytes), *is = room(bytes);
        void *from, *to = device_new(bytes);
        double read_bytes_s = -1.0, copy_bytes_s = -1.0, ops_s = -1.0;

        emu_get_device(&config);
        config.sms = 1;
        emu_set_device(&config);
        for (size_t i = 0; i < bytes; i++)
                data[i] = (uint8_t)(i * 7 + i / 251);
        from = device_copy(data, bytes);
        must(cuda_measure_read(NULL, from, bytes, &read_bytes_s));
        must(cuda_measure_copy(NULL, to, from, bytes, &copy_bytes_s));
        must(cuda_measure_mma(NULL, &ops_s));
        assert_true(read_bytes_s > 0 && isfinite(read_bytes_s));
        assert_true(copy_bytes_s > 0 && isfinite(copy_bytes_s));
        assert_true(ops_s > 0 && isfinite(ops_s));
        device_take(to, is, bytes);
        assert_memory_equal(is, data, bytes);
        device_free(from);
        free(data);
        free(is);
}

/* Enough that a cache keeps next to nothing from one run to the next. */
static void test_limits_bytes(void **state) {
        int l2;

        must(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, 0));
        assert_true(l2 > 0);
        assert_true(cuda_measure_bytes() >= 16 * (size_t)l2);
        assert_true(cuda_measure_bytes() >= (size_t)256 << 20);
}

/* An error of the device is said, and nothing stays behind. */
static void test_limits_lost(void **state) {
        struct emu_counts counts;
        double ops_s = -1.0;

        emu_fail("kernel", 2, cudaErrorIllegalAddress, false);
        assert_int_not_equal(cuda_measure_mma(NULL, &ops_s), cudaSuccess);
        assert_true(ops_s == -1.0);
        emu_get_counts(&counts);
        assert_int_equal(counts.events, 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup(test_limits, setup),
                cmocka_unit_test_setup(test_limits_bytes, setup),
                cmocka_unit_test_setup(test_limits_lost, setup),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
