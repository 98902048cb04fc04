/* SPDX-License-Identifier: Apache-2.0 */

/* The emulator of CUDA itself: how threads meet, what a warp's functions give, and that mistakes show. */

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/half.h"
#include "tests/cuda-host/emu.h"
#include "tests/cuda-host/test-kernels.h"

static uint32_t *device_new(size_t words) {
        void *p;

        assert_int_equal(cudaMalloc(&p, 4 * words), cudaSuccess);
        return p;
}

static void device_free(uint32_t *p) {
        assert_int_equal(cudaFree(p), cudaSuccess);
}

static void run(enum test_kernel kernel, unsigned blocks, unsigned threads, size_t shared, const uint32_t *in, uint32_t *out,
                uint32_t value) {
        struct test_args args = {.kernel = kernel, .value = value, .in = in, .out = out};

        assert_int_equal(test_launch(NULL, blocks, threads, shared, 0, &args), cudaSuccess);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
}

static int setup(void **state) {
        emu_reset();
        return 0;
}

static void test_index(void **state) {
        static const unsigned threads[] = {1, 31, 32, 33, 128, 1000, 1024};
        uint32_t *out = device_new(3 * 1024);

        for (size_t k = 0; k < sizeof threads / sizeof *threads; k++) {
                run(TEST_INDEX, 3, threads[k], 0, NULL, out, 5);
                for (uint32_t i = 0; i < 3 * threads[k]; i++)
                        assert_int_equal(out[i], i + 5);
        }
        device_free(out);
}

/* A barrier keeps the order of threads out of the result, and a missing one shows in some order. */
static void test_barrier(void **state) {
        static const enum emu_order orders[] = {EMU_ORDER_ASCENDING, EMU_ORDER_DESCENDING, EMU_ORDER_SHUFFLED};
        uint32_t *out = device_new(2 * 96);

        for (size_t o = 0; o < 3; o++) {
                unsigned wrong = 0;

                emu_set_order(orders[o], 42);
                run(TEST_BARRIER, 2, 96, 96 * 4, NULL, out, 1);
                for (uint32_t i = 0; i < 2 * 96; i++)
                        assert_int_equal(out[i], i / 96 * 96 + 95 - i % 96 + 1);
                run(TEST_BARRIER_MISSING, 2, 96, 96 * 4, NULL, out, 1);
                for (uint32_t i = 0; i < 2 * 96; i++)
                        wrong += out[i] != i / 96 * 96 + 95 - i % 96 + 1;
                assert_true(wrong > 0);
        }
        device_free(out);
}

static void test_shuffle(void **state) {
        uint32_t *out = device_new(32 * 8);

        run(TEST_SHUFFLE, 1, 32, 0, NULL, out, 0);
        for (uint32_t i = 0; i < 32; i++) {
                const uint32_t *o = out + 8 * i;

                assert_int_equal(o[0], 3);
                assert_int_equal(o[1], i ^ 16);
                assert_int_equal(o[2], i % 8 < 2 ? i : i - 2);
                assert_int_equal(o[3], i == 31 ? 31 : i + 1);
                assert_int_equal(o[4], 0x49249249u);
                assert_int_equal(o[5], i ^ 1);
                assert_true(float_from_bits(o[6]) == (float)(i & ~3u));
                assert_int_equal(o[7], 1);
        }
        device_free(out);
}

/* Element e of row r of matrix j is 64 j + 8 r + e. */
static void test_ldmatrix(void **state) {
        uint32_t *in = device_new(128), *out = device_new(256);
        uint16_t *half = (uint16_t *)in;

        for (uint32_t i = 0; i < 256; i++)
                half[i] = (uint16_t)i;
        run(TEST_LDMATRIX, 1, 32, 512, in, out, 0);
        for (uint32_t lane = 0; lane < 32; lane++)
                for (uint32_t j = 0; j < 4; j++) {
                        uint32_t g = lane / 4, t = lane % 4, plain = 64 * j + 8 * g + 2 * t, trans = 64 * j + 16 * t + g;

                        assert_int_equal(out[4 * lane + j], (plain + 1) << 16 | plain);
                        assert_int_equal(out[128 + 4 * lane + j], (trans + 8) << 16 | trans);
                }
        device_free(in);
        device_free(out);
}

static void put_half(uint32_t *word, uint32_t high, bool bf16, float f) {
        uint32_t h = bf16 ? bf16_from_float(f) : f16_from_float(f);

        *word = high ? (*word & 0xffffu) | h << 16 : (*word & 0xffff0000u) | h;
}

/* Small integers, whose products and sums are exact: any order of k gives these bits. */
static void check_mma(bool bf16) {
        uint32_t *in = device_new(192), *out = device_new(128);
        int a[16][16], b[16][8];

        srand(7);
        for (uint32_t i = 0; i < 256; i++) {
                uint32_t row = i / 16, k = i % 16, lane = row % 8 * 4 + k % 8 / 2;

                a[row][k] = rand() % 15 - 7;
                put_half(&in[32 * (row / 8 + k / 8 * 2) + lane], k % 2, bf16, (float)a[row][k]);
        }
        for (uint32_t i = 0; i < 128; i++) {
                uint32_t k = i / 8, column = i % 8, lane = column * 4 + k % 8 / 2;

                b[k][column] = rand() % 15 - 7;
                put_half(&in[128 + 32 * (k / 8) + lane], k % 2, bf16, (float)b[k][column]);
        }
        run(bf16 ? TEST_MMA_BF16 : TEST_MMA_F16, 1, 32, 0, in, out, 3);
        for (uint32_t row = 0; row < 16; row++)
                for (uint32_t column = 0; column < 8; column++) {
                        uint32_t lane = row % 8 * 4 + column / 2;
                        int sum = 3;

                        for (uint32_t k = 0; k < 16; k++)
                                sum += a[row][k] * b[k][column];
                        assert_true(float_from_bits(out[32 * (row / 8 * 2 + column % 2) + lane]) == (float)sum);
                }
        device_free(in);
        device_free(out);
}

static void test_mma(void **state) {
        check_mma(true);
        check_mma(false);
}

static void test_copy(void **state) {
        uint32_t *in = device_new(32 * 4), *out = device_new(32 * 4);

        for (uint32_t i = 0; i < 128; i++)
                in[i] = i + 1;
        run(TEST_COPY_EARLY, 1, 32, 1024, in, out, 0);
        for (uint32_t i = 0; i < 32; i++) {
                assert_int_equal(out[4 * i], UINT32_MAX); /* not there yet */
                assert_int_equal(out[4 * i + 1], 4 * i + 1);
                assert_int_equal(out[4 * i + 2], UINT32_MAX); /* of a later commit */
                assert_int_equal(out[4 * i + 3], 0);
        }
        device_free(in);
        device_free(out);
}

/* Each block begins with garbage, not with what the one before it left. */
static void test_shared(void **state) {
        uint32_t *out = device_new(64);

        run(TEST_SHARED_GARBAGE, 2, 32, 128, NULL, out, 0);
        for (uint32_t i = 0; i < 64; i++)
                assert_int_equal(out[i], UINT32_MAX);
        device_free(out);
}

static void test_counter(void **state) {
        uint32_t *out = device_new(1);

        out[0] = 10;
        run(TEST_COUNTER, 5, 100, 0, NULL, out, 0);
        assert_int_equal(out[0], 510);
        device_free(out);
}

static void test_limits(void **state) {
        uint32_t *out = device_new(1);
        struct test_args args = {.kernel = TEST_COUNTER, .out = out};

        out[0] = 0;
        assert_int_equal(test_launch(NULL, 1, 1025, 0, 0, &args), cudaErrorInvalidConfiguration);
        assert_int_equal(test_launch(NULL, 0, 32, 0, 0, &args), cudaErrorInvalidConfiguration);
        assert_int_equal(test_launch(NULL, 1, 32, 48 * 1024 + 1, 0, &args), cudaErrorInvalidValue);
        assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
        assert_int_equal(cudaGetLastError(), cudaSuccess);
        assert_int_equal(test_allow_shared(101376 + 1), cudaErrorInvalidValue);
        assert_int_equal(test_allow_shared(101376), cudaSuccess);
        assert_int_equal(test_launch(NULL, 1, 32, 101376, 0, &args), cudaSuccess);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
        assert_int_equal(out[0], 32);
        assert_int_equal(test_allow_shared(48 * 1024), cudaSuccess);
        device_free(out);
}

/* Runs a kernel in a child, which must end by abort() (or AddressSanitizer) and say so. */
static void check_dies(enum test_kernel kernel, int dependent, const char *message) {
        int ends[2], status;
        char text[8192];
        size_t n = 0;
        ssize_t got;
        pid_t child;

        assert_int_equal(pipe(ends), 0);
        child = fork();
        assert_true(child >= 0);
        if (child == 0) {
                uint32_t *in = device_new(160), *out = device_new(160);
                struct test_args args = {.kernel = kernel, .value = 160, .in = in, .out = out};

                (void)dup2(ends[1], STDERR_FILENO);
                (void)signal(SIGABRT, SIG_DFL);
                (void)test_launch(NULL, 1, 32, 1024, dependent, &args);
                (void)cudaDeviceSynchronize();
                _exit(0);
        }
        (void)close(ends[1]);
        while (n < sizeof text - 1 && (got = read(ends[0], text + n, sizeof text - 1 - n)) > 0)
                n += (size_t)got;
        text[n] = '\0';
        (void)close(ends[0]);
        assert_int_equal(waitpid(child, &status, 0), child);
        if ((WIFEXITED(status) && WEXITSTATUS(status) == 0) || !strstr(text, message))
                fail_msg("status %x, said \"%s\" and not \"%s\"", (unsigned)status, text, message);
}

static void test_mistakes(void **state) {
        check_dies(TEST_DIVERGED, 0, "lanes of a warp are in different functions");
        check_dies(TEST_BARRIER_HALF, 0, "deadlock: 1 of 32 threads at a barrier, 31 in a warp's function");
        check_dies(TEST_EXIT_EARLY, 0, "lane 5 ends while lane 0 waits for it in __syncwarp");
        check_dies(TEST_COPY_MISALIGNED, 0, "must be multiples of 16");
        check_dies(TEST_COPY_LEFT, 0, "1 of its asynchronous copies are under way");
        check_dies(TEST_NO_GRID_WAIT, 1, "never called grid_wait()");
}

/* Only AddressSanitizer sees these. */
static void test_beyond(void **state) {
#ifdef __SANITIZE_ADDRESS__
        check_dies(TEST_SHARED_BEYOND, 0, "AddressSanitizer: use-after-poison");
        check_dies(TEST_GLOBAL_BEYOND, 0, "AddressSanitizer: heap-buffer-overflow");
#else
        skip();
#endif
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup(test_index, setup),
                cmocka_unit_test_setup(test_barrier, setup),
                cmocka_unit_test_setup(test_shuffle, setup),
                cmocka_unit_test_setup(test_ldmatrix, setup),
                cmocka_unit_test_setup(test_mma, setup),
                cmocka_unit_test_setup(test_copy, setup),
                cmocka_unit_test_setup(test_shared, setup),
                cmocka_unit_test_setup(test_counter, setup),
                cmocka_unit_test_setup(test_limits, setup),
                cmocka_unit_test_setup(test_mistakes, setup),
                cmocka_unit_test_setup(test_beyond, setup),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
