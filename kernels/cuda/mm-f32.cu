/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Products with F32 matrices, in single precision outside of the tensor cores: routers of experts, and models that are stored so.
 * These matrices are few and small, or nobody is in a hurry: what counts is that few blocks have enough loads under way.
 *
 * A block computes a panel, 16 outputs, of up to 8 rows. A thread has one output and one slice of K (of 16 or fewer, at least
 * 128 elements long) of all the rows, and goes through its slice in order; slices are added up through shared memory.
 */

#include "launch.cuh"
#include "mm-store.cuh"
#include "mm-table.h"

#define F32_ROWS 8u
#define F32_SLICES 16u
#define F32_SLICE_MIN 128u
#define F32_EARLY_ROWS 64u /* up to so many, weights are brought near before the kernel in front has ended */

/* Elements of K that are loaded at a time; those that are left one by one, of a single row by `last`. As many blocks as `blocks` on
 * an SM: left alone the compiler aims at five, and spills. */
template <uint32_t n_rows> struct f32_shape {
        static constexpr uint32_t ahead = 8, last = 1, blocks = 3;
};

template <> struct f32_shape<1> {
        static constexpr uint32_t ahead = 32, last = 4, blocks = 2;
};

uint32_t mm_f32_slices(uint32_t n_in) {
        uint32_t n = 1;

        while (n < F32_SLICES && n_in / (2 * n) >= F32_SLICE_MIN)
                n *= 2;
        return n;
}

struct f32_rows {
        const float *x[F32_ROWS];
        uint32_t out[F32_ROWS];
};

/* Of rows that are none, x of the first is read. */
template <uint32_t n_rows>
DEVICE struct f32_rows f32_rows_of(const struct mm_args &a, const struct cuda_group &group, uint32_t at) {
        struct f32_rows r;

#pragma unroll
        for (uint32_t i = 0; i < n_rows; i++) {
                uint32_t place = group.first + (at + i < group.n ? at + i : at), x = place, out = place;

                if (a.mm.slots.groups) {
                        out = a.mm.slots.slot[place];
                        x = a.mm.x_per_row ? a.mm.slots.row[place] : out;
                }
                r.x[i] = a.mm.x.f32 + (size_t)x * a.mm.n_in;
                r.out[i] = at + i < group.n ? out : MM_NO_ROW;
        }
        return r;
}

template <uint32_t n_rows, uint32_t n>
DEVICE void f32_multiply(const float *w, const struct f32_rows &r, uint32_t k, float acc[n_rows]) {
        float v[n];

        w += (size_t)k * WEIGHT_PANEL; /* what the compiler can't know of k + i: that it is less than 2^32 */
#pragma unroll
        for (uint32_t i = 0; i < n; i++)
                v[i] = __ldg(w + i * WEIGHT_PANEL);
#pragma unroll
        for (uint32_t row = 0; row < n_rows; row++) {
                const float *x = r.x[row] + k;

#pragma unroll
                for (uint32_t i = 0; i < n; i++)
                        acc[row] = fmaf(v[i], x[i], acc[row]);
        }
}

DEVICE void f32_store(const struct cuda_mm_product &p, uint32_t expert, uint32_t row, uint32_t o, const float *slices,
                      uint32_t stride, uint32_t n_slices) {
        float scale = mm_scale(p, expert), v;

        if (row == MM_NO_ROW || o >= p.n_out)
                return;
        v = mm_initial_of(p, expert, row, o, p.accumulate);
        for (uint32_t s = 0; s < n_slices; s++)
                v += slices[s * stride] * scale;
        p.out[row * p.out_stride + o] = v;
}

/* A thread's output of a panel and its slice of K. */
struct f32_part {
        const float *w;
        uint32_t o, slice, k, end;
};

DEVICE struct f32_part f32_part_of(const struct mm_args &a, uint32_t product, uint32_t panel, uint32_t expert) {
        uint32_t n_slices = a.slices[product], length = (a.mm.n_in + n_slices - 1) / n_slices;
        struct f32_part p = { NULL, threadIdx.x % WEIGHT_PANEL, threadIdx.x / WEIGHT_PANEL, 0, 0 };

        p.w = (const float *)a.mm.product[product].w + ((size_t)expert * a.n_panels[product] + panel) * a.mm.n_in * WEIGHT_PANEL + p.o;
        p.k = p.slice * length;
        p.end = p.k + length < a.mm.n_in ? p.k + length : a.mm.n_in;
        return p;
}

/* A slice's weights, a line of 128 bytes and so two elements of K for each of its threads, to the second-level cache. */
DEVICE void f32_prefetch(const struct f32_part &p) {
        for (uint32_t k = p.k + 2 * p.o; k < p.end; k += 2 * WEIGHT_PANEL)
                prefetch_l2(p.w - p.o + (size_t)k * WEIGHT_PANEL);
}

/* The rows of a group from `at` on. */
template <uint32_t n_rows>
DEVICE void f32_rows_compute(const struct mm_args &a, uint32_t product, uint32_t panel, const struct cuda_group &group,
                             uint32_t at) {
        constexpr uint32_t ahead = f32_shape<n_rows>::ahead, last = f32_shape<n_rows>::last;
        const struct cuda_mm_product &p = a.mm.product[product];
        const struct f32_part part = f32_part_of(a, product, panel, group.expert);
        uint32_t o = part.o, k = part.k;
        struct f32_rows r = f32_rows_of<n_rows>(a, group, at);
        float acc[n_rows] = {}, *slices = (float *)shared_memory();

        for (; k + ahead <= part.end; k += ahead)
                f32_multiply<n_rows, ahead>(part.w, r, k, acc);
        for (; last > 1 && k + last <= part.end; k += last)
                f32_multiply<n_rows, last>(part.w, r, k, acc);
        for (; k < part.end; k++)
                f32_multiply<n_rows, 1>(part.w, r, k, acc);
#pragma unroll
        for (uint32_t i = 0; i < n_rows; i++)
                slices[(part.slice * n_rows + i) * WEIGHT_PANEL + o] = acc[i];
        __syncthreads();
        if (part.slice == 0) {
#pragma unroll
                for (uint32_t i = 0; i < n_rows; i++)
                        f32_store(p, group.expert, r.out[i], panel * WEIGHT_PANEL + o, slices + i * WEIGHT_PANEL + o,
                                  n_rows * WEIGHT_PANEL, a.slices[product]);
        }
        __syncthreads();
}

template <uint32_t n_rows>
__global__ void __launch_bounds__(WEIGHT_PANEL *F32_SLICES, f32_shape<n_rows>::blocks) mm_f32_kernel(struct mm_args a) {
        struct cuda_group group = { 0, 0, 0 };
        uint32_t product = 0, count;

        grid_launch_dependents();
        while (product + 1 < a.mm.n_products && blockIdx.y >= a.first_tile[product + 1])
                product++;
        if (!a.mm.slots.groups && a.mm.rows.max <= F32_EARLY_ROWS && blockIdx.x == 0)
                f32_prefetch(f32_part_of(a, product, blockIdx.y - a.first_tile[product], 0));
        grid_wait();
        if (a.mm.slots.groups) {
                if (blockIdx.x < *a.mm.slots.n_groups)
                        group = a.mm.slots.groups[blockIdx.x];
        } else {
                count = rows_count(a.mm.rows);
                group.first = blockIdx.x * n_rows;
                if (group.first < count)
                        group.n = count - group.first < n_rows ? count - group.first : n_rows;
        }
        for (uint32_t at = 0; at < group.n; at += n_rows)
                f32_rows_compute<n_rows>(a, product, blockIdx.y - a.first_tile[product], group, at);
}

cudaError_t mm_f32_launch(const struct cuda_launch *l, const struct cuda_mm *m) {
        uint32_t slices = mm_f32_slices(m->n_in), rows = m->slots.groups ? m->slots.group_rows : m->rows.max, n;
        struct mm_args a = {};
        dim3 grid;

        a.mm = *m;
        for (uint32_t i = 0; i < m->n_products; i++) {
                a.n_panels[i] = (m->product[i].n_out + WEIGHT_PANEL - 1) / WEIGHT_PANEL;
                a.first_tile[i + 1] = a.first_tile[i] + a.n_panels[i];
                a.slices[i] = slices;
        }
        n = rows == 1 ? 1 : F32_ROWS;
        grid = dim3(m->slots.groups ? m->slots.max_groups : (rows + n - 1) / n, a.first_tile[m->n_products]);
        if (grid.x == 0 || grid.y == 0)
                return cudaSuccess;
        return launch(n == 1 ? mm_f32_kernel<1> : mm_f32_kernel<F32_ROWS>, grid, dim3(WEIGHT_PANEL * slices),
                      (size_t)WEIGHT_PANEL * slices * n * sizeof(float), l->stream, l->dependent, a);
}
