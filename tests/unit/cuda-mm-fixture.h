/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Matrix products of the CUDA backend on the emulated device: matrices of made-up numbers, rows in the tensor cores' order, and
 * what must come out, in double precision. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "kernels/cuda/mm.h"
#include "kernels/format.h"
#include "kernels/half.h"

/* The next of a fixed series of numbers in [-1, 1). */
static inline float noise(void) {
        static uint32_t state = 9;

        state = state * 1664525u + 1013904223u;
        return (float)(int32_t)(state ^ state >> 15) / 2147483648.0f;
}

/* Device memory; the emulated device's is the host's. To be given back by cudaFree(). */
static inline void *device_new(size_t bytes) {
        void *p = NULL;

        assert_int_equal(cudaMalloc(&p, bytes > 0 ? bytes : 1), cudaSuccess);
        return p;
}

static inline float *device_noise(size_t n, float range) {
        float *p = device_new(n * sizeof(*p));

        for (size_t i = 0; i < n; i++)
                p[i] = noise() * range;
        return p;
}

/* n_experts matrices in panels, from made-up numbers. */
static inline struct weight matrix_new(enum fmt fmt, uint32_t n_experts, uint32_t n_out, uint32_t n_in) {
        const struct fmt_info *info = fmt_info(fmt);
        struct weight w = { .info = info, .layout = WEIGHT_PANELS, .n_out = n_out, .n_in = n_in, .n_experts = n_experts };
        size_t row_bytes = n_in / info->block * info->bytes;
        float *row = malloc(n_in * sizeof(*row));
        uint8_t *file = malloc(n_out * row_bytes), *panels;
        uint64_t bytes = 0;

        assert_true(row && file && weight_bytes(info, WEIGHT_PANELS, n_out, n_in, &bytes));
        panels = device_new(bytes * n_experts);
        for (uint32_t e = 0; e < n_experts; e++) {
                for (uint32_t o = 0; o < n_out; o++) {
                        for (uint32_t i = 0; i < n_in; i++)
                                row[i] = noise();
                        assert_true(fmt_encode(info, row, n_in, file + o * row_bytes));
                }
                weight_pack(info, n_out, n_in, 0, n_out, file, panels + e * bytes);
        }
        w.data = panels;
        free(file);
        free(row);
        return w;
}

/* Rows as ops.h says that they are packed: exactly so many bytes as there are, for AddressSanitizer. */
static inline struct cuda_packed packed_new(uint32_t n_rows, uint32_t n_in) {
        struct cuda_packed p = { .n_in = n_in };

        p.x = device_new(cuda_packed_x_bytes(n_rows, n_in));
        p.sums = device_new(cuda_packed_sums_bytes(n_rows, n_in));
        p.f32 = device_new((size_t)n_rows * n_in * sizeof(float));
        return p;
}

static inline void packed_free(struct cuda_packed *p) {
        cudaFree(p->x);
        cudaFree(p->sums);
        cudaFree(p->f32);
}

static inline size_t packed_at(uint32_t n_in, uint32_t r, uint32_t k) {
        size_t k32 = (n_in + 31) / 32;

        return ((r / 8 * k32 + k / 32) * 32 + (r % 8 * 4 + k % 16 / 4)) * 8 + k % 32 / 16 * 4 + k % 4;
}

/* Row r becomes x [n_in]. */
static inline void packed_set(struct cuda_packed *p, uint32_t r, const float *x) {
        uint32_t k32 = (p->n_in + 31) / 32;

        for (uint32_t k = 0; k < k32 * 32; k++) {
                uint16_t h = k < p->n_in ? bf16_from_float(x[k]) : 0;
                float *sum = p->sums + (size_t)r * k32 * 2 + k / 16;

                p->x[packed_at(p->n_in, r, k)] = h;
                *sum = (k % 16 ? *sum : 0.0f) + bf16_to_float(h);
        }
        memcpy(p->f32 + (size_t)r * p->n_in, x, p->n_in * sizeof(*x));
}

static inline struct cuda_packed packed_noise(uint32_t n_rows, uint32_t n_in) {
        struct cuda_packed p = packed_new(n_rows, n_in);
        float *x = malloc(n_in * sizeof(*x));

        assert_non_null(x);
        for (uint32_t r = 0; r < n_rows; r++) {
                for (uint32_t k = 0; k < n_in; k++)
                        x[k] = noise();
                packed_set(&p, r, x);
        }
        free(x);
        return p;
}

/* A product with n rows. The count is in device memory, and what is not asked for is zero. */
static inline struct cuda_mm mm_new(enum fmt fmt, const struct cuda_packed *x, uint32_t n_rows) {
        struct cuda_mm m = { .fmt = fmt, .n_in = x->n_in, .x = *x, .n_sms = 48 };
        uint32_t *count = device_new(sizeof(*count));

        *count = n_rows;
        m.rows = (struct cuda_rows){ .count = count, .per = 1, .max = n_rows };
        if (!cuda_mm_wants_sums(fmt))
                m.x.sums = NULL;
        if (!cuda_mm_wants_f32(fmt))
                m.x.f32 = NULL;
        else
                m.x.x = NULL;
        m.tickets = device_new(CUDA_MM_TICKETS * sizeof(uint32_t));
        memset(m.tickets, 0, CUDA_MM_TICKETS * sizeof(uint32_t));
        return m;
}

static inline void mm_add(struct cuda_mm *m, const struct weight *w, float *out, size_t stride) {
        struct cuda_mm_product *p = &m->product[m->n_products++];

        *p = (struct cuda_mm_product){ .w = w->data, .n_out = w->n_out, .out = out, .out_stride = stride };
}

/* Runs it, with scratch of just the size that it wants, and looks whether tickets are as before. */
static inline void mm_run(struct cuda_mm *m) {
        struct cuda_launch l = { .dependent = true };

        m->scratch = device_new(cuda_mm_scratch_bytes(m));
        assert_int_equal(cuda_mm_prepare(), cudaSuccess);
        assert_int_equal(cudaStreamCreate(&l.stream), cudaSuccess);
        assert_int_equal(cuda_mm(&l, m), cudaSuccess);
        assert_int_equal(cudaStreamSynchronize(l.stream), cudaSuccess);
        assert_int_equal(cudaStreamDestroy(l.stream), cudaSuccess);
        for (uint32_t i = 0; i < CUDA_MM_TICKETS; i++)
                assert_int_equal(m->tickets[i], 0);
        cudaFree(m->scratch);
        m->scratch = NULL;
}

static inline void mm_free(struct cuda_mm *m) {
        cudaFree((void *)(uintptr_t)m->rows.count);
        cudaFree(m->tickets);
}

/* The product of row r of x with output o of matrix `expert`, and the sum of the magnitudes that it is made of. */
static inline double reference(const struct weight *w, uint32_t expert, uint32_t o, const struct cuda_packed *x, uint32_t r,
                               double *ret_magnitude) {
        struct weight one = *w;
        float *row = malloc(w->n_in * sizeof(*row));
        double sum = 0.0, magnitude = 0.0;
        uint64_t bytes = 0;

        assert_true(row && weight_bytes(w->info, WEIGHT_PANELS, w->n_out, w->n_in, &bytes));
        one.data = (const uint8_t *)w->data + expert * bytes;
        weight_decode_row(&one, o, row);
        for (uint32_t k = 0; k < w->n_in; k++) {
                float v = x->f32[(size_t)r * w->n_in + k];
                double p = (double)row[k] * (double)(w->info->fmt == FMT_F32 ? v : bf16_to_float(bf16_from_float(v)));

                sum += p;
                magnitude += fabs(p);
        }
        free(row);
        *ret_magnitude = magnitude;
        return sum;
}

/* Slots of made-up experts, in the groups that ops.h describes. */
struct made_slots {
        struct cuda_slots slots;
        uint32_t n_slots, n_used, n_experts;
        uint32_t *expert; /* of each slot */
};

static inline struct made_slots slots_new(uint32_t n_rows, uint32_t n_used, uint32_t n_experts, uint32_t group_rows) {
        uint32_t n = n_rows * n_used, place = 0, n_groups = 0;
        struct made_slots m = { .n_slots = n, .n_used = n_used, .n_experts = n_experts };
        struct cuda_slots *s = &m.slots;

        s->group_rows = group_rows;
        s->max_groups = cuda_groups_max(n, n_experts, group_rows);
        s->row = device_new(n * sizeof(*s->row));
        s->slot = device_new(n * sizeof(*s->slot));
        s->groups = device_new(s->max_groups * sizeof(*s->groups));
        s->n_groups = device_new(sizeof(*s->n_groups));
        m.expert = malloc(n * sizeof(*m.expert));
        assert_non_null(m.expert);
        for (uint32_t i = 0; i < n; i++) { /* one has most of them, and one has none */
                float any = (noise() + 1.0f) * 0.499f * (float)(n_experts - 1);

                m.expert[i] = noise() > 0.0f ? n_experts - 1 : (uint32_t)any / 2 * 2;
        }
        for (uint32_t e = 0; e < n_experts; e++) {
                uint32_t in_group = 0;

                for (uint32_t i = 0; i < n; i++) {
                        if (m.expert[i] != e)
                                continue;
                        if (in_group % group_rows == 0)
                                s->groups[n_groups++] = (struct cuda_group){ .expert = e, .first = place };
                        s->groups[n_groups - 1].n++;
                        s->row[place] = i / n_used;
                        s->slot[place++] = i;
                        in_group++;
                }
        }
        assert_true(place == n && n_groups <= s->max_groups);
        *s->n_groups = n_groups;
        return m;
}

static inline void slots_free(struct made_slots *m) {
        cudaFree(m->slots.row);
        cudaFree(m->slots.slot);
        cudaFree(m->slots.groups);
        cudaFree(m->slots.n_groups);
        free(m->expert);
}
