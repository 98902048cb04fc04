/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What tests of the CUDA backend's operations on rows share: device memory that is just as large as it must be, the emulated
 * device's orders of threads, and rows in packed forms as ops.h describes them.
 */

#include <math.h>

#include "kernels-fixture.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/route.h"
#include "kernels/cuda/top.h"
#include "kernels/half.h"
#include "tests/cuda-host/emu.h"

static const struct cuda_launch launch_plain = { 0 }, launch_dependent = { .dependent = true };

/* Memory of the host, to be freed. */
static inline void *room(size_t bytes) {
        void *p = malloc(bytes > 0 ? bytes : 1);

        assert_non_null(p);
        return p;
}

static inline float *room_floats(size_t n) {
        return room(n * sizeof(float));
}

static inline void must(cudaError_t e) {
        if (e != cudaSuccess)
                fail_msg("%s", cudaGetErrorString(e));
}

/* To be freed with device_free(). Whatever is not written is not a number. */
static inline void *device_new(size_t bytes) {
        void *p = NULL;

        must(cudaMalloc(&p, bytes));
        must(cudaMemset(p, 0xff, bytes));
        return p;
}

static inline void *device_copy(const void *from, size_t bytes) {
        void *p = device_new(bytes);

        must(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice));
        return p;
}

static inline float *device_floats(const float *from, size_t n) {
        return device_copy(from, n * sizeof(*from));
}

static inline void device_free(const void *p) {
        must(cudaFree((void *)(uintptr_t)p));
}

/* Copies what is there, after everything that was started has ended, and frees it. */
static inline void device_take(void *p, void *to, size_t bytes) {
        must(cudaDeviceSynchronize());
        must(cudaMemcpy(to, p, bytes, cudaMemcpyDeviceToHost));
        device_free(p);
}

/* So many rows, of at most max. */
static inline struct cuda_rows device_rows(uint32_t count, uint32_t per, uint32_t max) {
        struct cuda_rows rows = { device_copy(&count, sizeof(count)), per, max };

        return rows;
}

static const enum emu_order orders[] = { EMU_ORDER_ASCENDING, EMU_ORDER_DESCENDING, EMU_ORDER_SHUFFLED };

static inline void assert_same_floats(const char *what, const float *a, const float *b, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (float_bits(a[i]) != float_bits(b[i]) && !(isnan(a[i]) && isnan(b[i])))
                        fail_msg("%s: element %zu is %a instead of %a", what, i, (double)a[i], (double)b[i]);
}

/* Numbers that operations may trip over, among ordinary ones. */
static inline float *odd_floats(size_t n, float range) {
        static const float odd[] = { NAN,   INFINITY, -INFINITY, 0.0f,   -0.0f,  7.0f, -7.0f,
                                     10.0f, -10.0f,   88.5f,     -88.5f, 1e-40f, 3e38f, -65520.0f };
        float *x = floats(n, range);

        for (size_t i = 3; i < n; i += 5)
                x[i] = odd[i / 5 % ARRAY_SIZE(odd)];
        return x;
}

/* --- packed forms --- */

static inline size_t packed_at(uint32_t n_in, uint32_t r, uint32_t k) {
        size_t chunks = (n_in + 31) / 32;

        return ((r / 8 * chunks + k / 32) * 32 + (r % 8 * 4 + k % 16 / 4)) * 8 + k % 32 / 16 * 4 + k % 4;
}

/* All three forms. */
static inline struct cuda_packed packed_new(uint32_t max_rows, uint32_t n_in) {
        struct cuda_packed p = { .n_in = n_in };

        p.x = device_new(cuda_packed_x_bytes(max_rows, n_in));
        p.sums = device_new(cuda_packed_sums_bytes(max_rows, n_in));
        p.f32 = device_new((size_t)max_rows * n_in * sizeof(float));
        return p;
}

/* Checks that x and sums are what f32 says, frees all, and gives f32 to the host. */
static inline void packed_take(struct cuda_packed *p, uint32_t n_rows, uint32_t max_rows, float *f32) {
        uint32_t n_in = p->n_in, padded = (n_in + 31) / 32 * 32;
        size_t x_bytes = cuda_packed_x_bytes(max_rows, n_in), sums_bytes = cuda_packed_sums_bytes(max_rows, n_in);
        float *all = room_floats((size_t)max_rows * n_in), *sums = room(sums_bytes);
        uint16_t *x = room(x_bytes);

        device_take(p->x, x, x_bytes);
        device_take(p->sums, sums, sums_bytes);
        device_take(p->f32, all, (size_t)max_rows * n_in * sizeof(*all));
        for (uint32_t r = 0; r < n_rows; r++) {
                float sum = 0.0f;

                for (uint32_t k = 0; k < padded; k++) {
                        uint16_t want = k < n_in ? bf16_from_float(all[(size_t)r * n_in + k]) : 0, is = x[packed_at(n_in, r, k)];

                        if (want != is && !(isnan(bf16_to_float(want)) && isnan(bf16_to_float(is))))
                                fail_msg("row %u, element %u of %u is 0x%x packed instead of 0x%x", r, k, n_in, is, want);
                        sum = (k % 16 == 0 ? 0.0f : sum) + bf16_to_float(want);
                        if (k % 16 == 15)
                                assert_same_floats("sum of 16", &sums[(size_t)r * padded / 16 + k / 16], &sum, 1);
                }
        }
        for (size_t i = (size_t)n_rows * n_in; i < (size_t)max_rows * n_in; i++) /* rows that are not there */
                assert_true(float_bits(all[i]) == UINT32_MAX);
        memcpy(f32, all, (size_t)n_rows * n_in * sizeof(*f32));
        free(all);
        free(sums);
        free(x);
}
