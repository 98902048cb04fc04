/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the tests of the CUDA matrix product share: matrices of any format, packed activations, a product on the (emulated)
 * device, and what it must give. The reference is weight_decode_row() times the activations after their rounding to bfloat16,
 * added up in double precision.
 */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cuda/mm.h"
#include "kernels/half.h"

static inline void mm_ok(cudaError_t e) {
        assert_int_equal(e, cudaSuccess);
}

static inline uint32_t mm_random(void) {
        static uint64_t state = 1;

        state = state * 6364136223846793005u + 1442695040888963407u;
        return (uint32_t)(state >> 32);
}

/* In [-1, 1). */
static inline float mm_noise(void) {
        return (float)(int32_t)mm_random() / 2147483648.0f;
}

/* To be freed with cudaFree(); from: host, NULL = all bytes 0xff, so that what nobody wrote is not a number. */
static inline void *mm_device(const void *from, size_t bytes) {
        void *p = NULL;

        mm_ok(cudaMalloc(&p, bytes > 0 ? bytes : 1));
        mm_ok(from ? cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice) : cudaMemset(p, 0xff, bytes));
        return p;
}

/* --- matrices --- */

/* Where blocks have their binary16 scales. */
struct mm_scales {
        enum fmt fmt;
        unsigned n, offset[2];
};

/* All codes at random, so that each code of a scale comes up; scales in floating point are small ones. */
static inline void mm_random_block(const struct fmt_info *info, uint8_t *block) {
        static const struct mm_scales halves[] = {
                { FMT_Q4_0, 1, { 0 } },    { FMT_Q4_1, 2, { 0, 2 } }, { FMT_Q5_0, 1, { 0 } },     { FMT_Q5_1, 2, { 0, 2 } },
                { FMT_Q8_0, 1, { 0 } },    { FMT_Q2_K, 2, { 80, 82 } }, { FMT_Q3_K, 1, { 108 } }, { FMT_Q4_K, 2, { 0, 2 } },
                { FMT_Q5_K, 2, { 0, 2 } }, { FMT_Q6_K, 1, { 208 } },  { FMT_IQ4_NL, 1, { 0 } },   { FMT_IQ4_XS, 1, { 0 } },
        };

        for (uint32_t i = 0; i < info->bytes; i++)
                block[i] = (uint8_t)mm_random();
        for (size_t f = 0; f < sizeof(halves) / sizeof(*halves); f++)
                for (unsigned i = 0; halves[f].fmt == info->fmt && i < halves[f].n; i++)
                        store_f16(block + halves[f].offset[i], mm_noise() * 0x1p-6f);
        if (info->fmt == FMT_MXFP4)
                block[0] = (uint8_t)(118 + mm_random() % 8);
}

static inline void mm_random_row(const struct fmt_info *info, uint32_t n_in, uint8_t *row) {
        if (info->fmt == FMT_F32 || info->fmt == FMT_F16 || info->fmt == FMT_BF16 || info->fmt == FMT_F8_E4M3) {
                float *x = malloc(n_in * sizeof(*x));

                assert_non_null(x);
                for (uint32_t i = 0; i < n_in; i++)
                        x[i] = mm_noise();
                assert_true(fmt_encode(info, x, n_in, row));
                free(x);
                return;
        }
        for (uint32_t i = 0; i < n_in / info->block; i++)
                mm_random_block(info, row + (size_t)i * info->bytes);
}

struct mm_matrix {
        struct weight w;  /* of `n` matrices in whole panels one after another; data: host */
        void *device;
        size_t bytes;     /* of one of them */
};

/* n matrices of one shape, as those of experts. */
static inline struct mm_matrix mm_matrix(enum fmt fmt, uint32_t n_out, uint32_t n_in, uint32_t n) {
        const struct fmt_info *info = fmt_info((uint32_t)fmt);
        struct mm_matrix m = { .w = { .info = info, .layout = WEIGHT_PANELS, .n_out = n_out, .n_in = n_in, .n_experts = n } };
        uint64_t row_bytes, bytes;
        uint8_t *rows, *panels;

        assert_non_null(info);
        row_bytes = fmt_row_bytes(info, n_in);
        assert_true(weight_bytes(info, WEIGHT_PANELS, n_out, n_in, &bytes));
        m.bytes = bytes;
        rows = malloc(row_bytes * n_out);
        panels = aligned_alloc(64, (bytes * n + 63) / 64 * 64);
        assert_true(rows && panels);
        for (uint32_t e = 0; e < n; e++) {
                for (uint32_t r = 0; r < n_out; r++)
                        mm_random_row(info, n_in, rows + r * row_bytes);
                weight_pack(info, n_out, n_in, 0, n_out, rows, panels + e * bytes);
        }
        free(rows);
        m.w.data = panels;
        m.device = mm_device(panels, bytes * n);
        return m;
}

static inline void mm_matrix_free(struct mm_matrix *m) {
        free((void *)(uintptr_t)m->w.data);
        mm_ok(cudaFree(m->device));
}

/* Row of matrix e, to be freed. */
static inline float *mm_matrix_row(const struct mm_matrix *m, uint32_t e, uint32_t row) {
        struct weight w = m->w;
        float *dst = malloc((w.n_in + 1) * sizeof(*dst));

        assert_non_null(dst);
        w.data = (const uint8_t *)w.data + e * m->bytes;
        weight_decode_row(&w, row, dst);
        return dst;
}

/* --- activations --- */

struct mm_rows {
        float *x; /* host, [n][n_in] */
        uint32_t n, n_in;
        struct cuda_packed packed; /* device */
};

/* As ops.h says; rows beyond the last are not numbers. */
static inline void mm_pack(const struct mm_rows *rows, uint16_t *x, float *sums) {
        uint32_t k32 = (rows->n_in + 31) / 32;

        memset(x, 0xff, cuda_packed_x_bytes(rows->n, rows->n_in));
        memset(sums, 0, cuda_packed_sums_bytes(rows->n, rows->n_in));
        for (uint32_t r = 0; r < rows->n; r++)
                for (uint32_t k = 0; k < 32 * k32; k++) {
                        uint16_t h = k < rows->n_in ? bf16_from_float(rows->x[(size_t)r * rows->n_in + k]) : 0;

                        x[(((size_t)r / 8 * k32 + k / 32) * 32 + (r % 8 * 4 + k % 16 / 4)) * 8 + k % 32 / 16 * 4 + k % 4] = h;
                        sums[(size_t)r * k32 * 2 + k / 16] += bf16_to_float(h);
                }
}

/* x is taken over, and freed by mm_rows_free(). */
static inline struct mm_rows mm_rows(float *x, uint32_t n, uint32_t n_in) {
        struct mm_rows rows = { .x = x, .n = n, .n_in = n_in };
        size_t x_bytes = cuda_packed_x_bytes(n, n_in), sums_bytes = cuda_packed_sums_bytes(n, n_in);
        uint16_t *packed = malloc(x_bytes + 1);
        float *sums = malloc(sums_bytes + 1);

        assert_true(packed && sums);
        mm_pack(&rows, packed, sums);
        rows.packed.x = mm_device(packed, x_bytes);
        rows.packed.sums = mm_device(sums, sums_bytes);
        rows.packed.f32 = mm_device(x, (size_t)n * n_in * sizeof(*x));
        rows.packed.n_in = n_in;
        free(packed);
        free(sums);
        return rows;
}

static inline struct mm_rows mm_random_rows(uint32_t n, uint32_t n_in) {
        float *x = malloc(((size_t)n * n_in + 1) * sizeof(*x));

        assert_non_null(x);
        for (size_t i = 0; i < (size_t)n * n_in; i++)
                x[i] = mm_noise();
        return mm_rows(x, n, n_in);
}

/* One of the rows, alone. */
static inline struct mm_rows mm_row_alone(const struct mm_rows *rows, uint32_t row) {
        float *x = malloc((rows->n_in + 1) * sizeof(*x));

        assert_non_null(x);
        memcpy(x, rows->x + (size_t)row * rows->n_in, rows->n_in * sizeof(*x));
        return mm_rows(x, 1, rows->n_in);
}

static inline void mm_rows_free(struct mm_rows *rows) {
        free(rows->x);
        mm_ok(cudaFree(rows->packed.x));
        mm_ok(cudaFree(rows->packed.sums));
        mm_ok(cudaFree(rows->packed.f32));
}

/* --- products --- */

/* a->rows, scratch, tickets and n_sms are set here; count of rows that there is room for, which may be more than n. */
static inline void mm_launch(struct cuda_mm *a, uint32_t n, uint32_t max) {
        struct cuda_launch l = { 0 };
        uint32_t *count = mm_device(&n, sizeof(n)), *tickets = mm_device(NULL, CUDA_MM_TICKETS * sizeof(*tickets));
        uint32_t *after = malloc(CUDA_MM_TICKETS * sizeof(*after));

        assert_non_null(after);
        a->rows = (struct cuda_rows){ .count = count, .per = 1, .max = max };
        a->n_sms = a->n_sms ? a->n_sms : 48;
        a->scratch = mm_device(NULL, cuda_mm_scratch_bytes(a));
        a->tickets = tickets;
        mm_ok(cudaMemset(tickets, 0, CUDA_MM_TICKETS * sizeof(*tickets)));
        mm_ok(cuda_mm_prepare());
        mm_ok(cuda_mm(&l, a));
        mm_ok(cudaDeviceSynchronize());
        mm_ok(cudaMemcpy(after, tickets, CUDA_MM_TICKETS * sizeof(*tickets), cudaMemcpyDeviceToHost));
        for (uint32_t i = 0; i < CUDA_MM_TICKETS; i++)
                assert_int_equal(after[i], 0);
        free(after);
        mm_ok(cudaFree(a->scratch));
        mm_ok(cudaFree(tickets));
        mm_ok(cudaFree(count));
}

/* [rows][n_out], to be freed. */
static inline float *mm_product(const struct mm_matrix *m, const struct mm_rows *rows, const float *bias, float scale) {
        size_t bytes = (size_t)rows->n * m->w.n_out * sizeof(float);
        float *out = mm_device(NULL, bytes), *ret = malloc(bytes + 1), *b = bias ? mm_device(bias, m->w.n_out * sizeof(*b)) : NULL;
        struct cuda_mm a = {
                .fmt = m->w.info->fmt,
                .n_in = m->w.n_in,
                .n_products = 1,
                .product = { { .w = m->device, .n_out = m->w.n_out, .scale = scale, .bias = b, .out = out,
                               .out_stride = m->w.n_out } },
                .x = rows->packed,
        };

        assert_non_null(ret);
        mm_launch(&a, rows->n, rows->n);
        mm_ok(cudaMemcpy(ret, out, bytes, cudaMemcpyDeviceToHost));
        mm_ok(cudaFree(out));
        mm_ok(cudaFree(b));
        return ret;
}

/* Sum of w x, and of what it may be off by: roundings of sums in single precision. */
static inline double mm_expect(const float *w, const float *x, uint32_t n_in, bool rounded, double *ret_tolerance) {
        double sum = 0.0, largest = 0.0, all = 0.0;

        for (uint32_t i = 0; i < n_in; i++) {
                double v = rounded ? bf16_to_float(bf16_from_float(x[i])) : x[i];

                sum += w[i] * v;
                largest = fmax(largest, fabs((double)w[i]));
                all += fabs(v);
        }
        *ret_tolerance = 0x1p-19 * largest * all + 1e-30;
        return sum;
}

/* All of out [rows][n_out] against the reference. */
static inline void mm_check(const struct mm_matrix *m, const struct mm_rows *rows, const float *bias, float scale,
                            const float *out) {
        for (uint32_t o = 0; o < m->w.n_out; o++) {
                float *w = mm_matrix_row(m, 0, o);

                for (uint32_t r = 0; r < rows->n; r++) {
                        double tolerance, want, got = out[(size_t)r * m->w.n_out + o];

                        want = mm_expect(w, rows->x + (size_t)r * rows->n_in, rows->n_in, m->w.info->fmt != FMT_F32, &tolerance);
                        want = want * (scale != 0.0f ? scale : 1.0) + (bias ? bias[o] : 0.0);
                        tolerance = tolerance * (scale != 0.0f ? fabs(scale) : 1.0) + (bias ? fabs(bias[o]) * 0x1p-22 : 0.0);
                        if (!(fabs(got - want) <= tolerance))
                                fail_msg("%s %ux%u, %u rows: row %u output %u is %.9g, not %.9g (+- %.3g)", m->w.info->name,
                                         m->w.n_out, m->w.n_in, rows->n, r, o, got, want, tolerance);
                }
                free(w);
        }
}

/* A product of so many rows, and each of its rows once more alone: the same bits. */
static inline void mm_check_rows(const struct mm_matrix *m, uint32_t n) {
        struct mm_rows rows = mm_random_rows(n, m->w.n_in);
        float *out = mm_product(m, &rows, NULL, 0.0f);

        mm_check(m, &rows, NULL, 0.0f, out);
        for (uint32_t r = 0; r < n; r += 1 + r / 8) {
                struct mm_rows one = mm_row_alone(&rows, r);
                float *alone = mm_product(m, &one, NULL, 0.0f);

                assert_memory_equal(alone, out + (size_t)r * m->w.n_out, m->w.n_out * sizeof(*alone));
                free(alone);
                mm_rows_free(&one);
        }
        free(out);
        mm_rows_free(&rows);
}
