/* SPDX-License-Identifier: Apache-2.0 */

/* Operations on rows, element by element: activations and packing, soft caps, sums, columns, rows, experts' results. */

#include "act.cuh"
#include "each.cuh"
#include "route.h"

/* --- in packed forms --- */

#define PACKED_THREADS 256u

struct packed_args {
        struct cuda_rows rows;
        const float *x, *up;
        size_t stride;
        struct cuda_packed out;
        bool aligned_in, aligned_out;
};

/* What happens to elements on their way: an activation, or nothing. */
#define PACKED_COPY ACTIVATIONS

template <enum activation act> __global__ void __launch_bounds__(PACKED_THREADS) packed_kernel(struct packed_args a) {
        uint32_t row = blockIdx.x, at = blockIdx.y * PACKED_THREADS + threadIdx.x, chunk = at / 4;
        uint32_t k = PACK_CHUNK * chunk + at % 4 * 4, n_rows;
        float x[8];

        grid_launch_dependents();
        n_rows = rows_count(a.rows);
        grid_wait();
        if (row >= n_rows)
                return;
        row_load_pair(a.x + row * a.stride, k, a.out.n_in, a.aligned_in, x);
        if (act != PACKED_COPY) {
                float up[8];

                row_load_pair(a.up + row * a.stride, k, a.out.n_in, a.aligned_in, up);
                for (uint32_t i = 0; i < 8; i++)
                        x[i] = act_gate<act>(x[i], up[i]);
        }
        packed_store(a.out, row, chunk, at % 4, a.aligned_out, x);
        if (a.out.x8)
                packed_store_eight(a.out, row, chunk, at % 4, x);
}

static cudaError_t packed_launch(const struct cuda_launch *l, void (*kernel)(struct packed_args), struct packed_args *a) {
        uint32_t threads = (a->out.n_in + PACK_CHUNK - 1) / PACK_CHUNK * 4;
        dim3 grid(a->rows.max, (threads + PACKED_THREADS - 1) / PACKED_THREADS);

        a->aligned_in = rows_are_aligned(a->x, a->stride, a->out.n_in) && rows_are_aligned(a->up, a->stride, a->out.n_in);
        a->aligned_out = rows_are_aligned(a->out.f32, a->out.n_in, a->out.n_in);
        return launch(kernel, grid, dim3(PACKED_THREADS), 0, l->stream, l->dependent, *a);
}

cudaError_t cuda_gate(const struct cuda_launch *l, const struct cuda_gate *a) {
        static void (*const kernels[ACTIVATIONS])(struct packed_args) = {
                packed_kernel<ACT_SILU>, packed_kernel<ACT_GELU_TANH>, packed_kernel<ACT_SILU_CLAMPED>,
        };
        struct packed_args args = {};

        if ((uint32_t)a->act >= ACTIVATIONS || a->dim != a->out.n_in)
                return cudaErrorInvalidValue;
        args.rows = a->rows;
        args.x = a->gate;
        args.up = a->up;
        args.stride = a->stride;
        args.out = a->out;
        return packed_launch(l, kernels[a->act], &args);
}

cudaError_t cuda_pack(const struct cuda_launch *l, const struct cuda_pack *a) {
        struct packed_args args = {};

        args.rows = a->rows;
        args.x = a->x;
        args.stride = a->x_stride;
        args.out = a->out;
        return packed_launch(l, packed_kernel<PACKED_COPY>, &args);
}

/* --- the others --- */

struct softcap {
        struct cuda_rows rows;
        uint32_t dim;
        float number, cap; /* twice the scale through the cap; or the scale, where there is no cap */
        float *out;
};

/* tanh x = 1 - 2 / (e^2x + 1), as on the CPU */
DEVICE float each_value(const struct softcap &a, uint32_t row, uint32_t i) {
        float x = a.out[(size_t)row * a.dim + i] * a.number;

        return a.cap > 0.0f ? (1.0f - 2.0f / (act_exp(x) + 1.0f)) * a.cap : x;
}

cudaError_t cuda_softcap(const struct cuda_launch *l, struct cuda_rows rows, float scale, float cap, uint32_t dim, float *x) {
        struct softcap a = { rows, dim, cap > 0.0f ? 2.0f * scale / cap : scale, cap, x };

        return each_launch(l, a);
}

struct add {
        struct cuda_rows rows;
        uint32_t dim;
        float scale;
        const float *x;
        float *out;
};

DEVICE float each_value(const struct add &a, uint32_t row, uint32_t i) {
        size_t at = (size_t)row * a.dim + i;

        return a.out[at] + a.scale * a.x[at];
}

cudaError_t cuda_add(const struct cuda_launch *l, struct cuda_rows rows, const float *x, float scale, uint32_t dim, float *out) {
        struct add a = { rows, dim, scale, x, out };

        return each_launch(l, a);
}

struct slice {
        struct cuda_rows rows;
        uint32_t dim;
        const float *x;
        size_t stride;
        float *out;
};

DEVICE float each_value(const struct slice &a, uint32_t row, uint32_t i) {
        return a.x[row * a.stride + i];
}

cudaError_t cuda_slice(const struct cuda_launch *l, struct cuda_rows rows, const float *x, size_t x_stride, uint32_t first,
                       uint32_t dim, float *out) {
        struct slice a = { rows, dim, x + first, x_stride, out };

        return each_launch(l, a);
}

struct gather {
        struct cuda_rows rows;
        uint32_t dim;
        const uint32_t *index;
        const float *x;
        float *out;
};

DEVICE float each_value(const struct gather &a, uint32_t row, uint32_t i) {
        return a.x[(size_t)a.index[row] * a.dim + i];
}

cudaError_t cuda_gather(const struct cuda_launch *l, struct cuda_rows rows, const uint32_t *index, const float *x, uint32_t dim,
                        float *out) {
        struct gather a = { rows, dim, index, x, out };

        return each_launch(l, a);
}

struct combine {
        struct cuda_rows rows;
        uint32_t dim, n_used;
        const float *weights, *x;
        bool accumulate;
        float *out;
};

DEVICE float each_value(const struct combine &a, uint32_t row, uint32_t i) {
        const float *w = a.weights + (size_t)row * a.n_used, *x = a.x + (size_t)row * a.n_used * a.dim + i;
        float sum = w[0] * x[0];

        for (uint32_t k = 1; k < a.n_used; k++)
                sum += w[k] * x[(size_t)k * a.dim];
        return a.accumulate ? a.out[(size_t)row * a.dim + i] + sum : sum;
}

cudaError_t cuda_combine(const struct cuda_launch *l, struct cuda_rows rows, uint32_t n_used, const float *weights, const float *x,
                         uint32_t dim, bool accumulate, float *out) {
        struct combine a = { rows, dim, n_used, weights, x, accumulate, out };

        return each_launch(l, a);
}
