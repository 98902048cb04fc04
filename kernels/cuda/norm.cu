/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Norms and residual sums of rows. Each thread keeps its elements of the row in registers, eight for each of up to NORM_PER_MAX
 * chunks that lie a team of threads apart. A team is a block, or a warp for the short rows of heads; how many threads it has
 * and so the order of the sums depends on dim alone: a chain of fused multiply-adds in a thread, a tree in a warp, a tree over warps.
 *
 * Norm weights are read before grid_wait(): that hides their way from memory behind the operation in front.
 */

#include "launch.cuh"
#include "pack.cuh"

#define NORM_THREADS_MAX 1024u
#define NORM_PER_MAX 4u
#define NORM_WARP_DIM 256u /* longest row of a warp's */
#define NORM_WARP_ROWS 4u  /* rows of a block then */
#define NORM_EARLY 2u      /* up to so many chunks weights are in registers too */

struct norm_args {
        struct cuda_norm a;
        bool aligned; /* everything that is read and written */
};

/* Sum over a team, the same bits in all of its threads. turn: 0, 1: so that one sum's numbers are not those of another. */
template <bool warp_rows> DEVICE float norm_sum(float sum, uint32_t turn) {
        float *of_warp = (float *)shared_memory() + turn * (NORM_THREADS_MAX / WARP);
        uint32_t lane = threadIdx.x % WARP;

#pragma unroll
        for (uint32_t step = WARP / 2; step > 0; step /= 2)
                sum += __shfl_xor_sync(WARP_ALL, sum, step);
        if (warp_rows)
                return sum;
        if (lane == 0)
                of_warp[threadIdx.x / WARP] = sum;
        __syncthreads();
        sum = lane < blockDim.x / WARP ? of_warp[lane] : 0.0f;
#pragma unroll
        for (uint32_t step = WARP / 2; step > 0; step /= 2)
                sum += __shfl_xor_sync(WARP_ALL, sum, step);
        return sum;
}

DEVICE uint32_t norm_k(uint32_t j, uint32_t thread, uint32_t threads) {
        uint32_t at = thread + j * threads;

        return at / 4 * PACK_CHUNK + at % 4 * 4;
}

template <uint32_t per>
DEVICE void norm_load(const float *row, uint32_t dim, bool aligned, uint32_t thread, uint32_t threads, float v[per][8]) {
#pragma unroll
        for (uint32_t j = 0; j < per; j++)
                row_load_pair(row, norm_k(j, thread, threads), dim, aligned, v[j]);
}

/* v = v / rms(v) * w; w is loaded already where early. */
template <uint32_t per, bool warp_rows>
DEVICE void norm_scale(const struct norm_args &n, const float *weight, uint32_t thread, uint32_t threads, uint32_t turn,
                       const float early[per][8], float v[per][8]) {
        float sum = 0.0f, scale;

#pragma unroll
        for (uint32_t j = 0; j < per; j++)
#pragma unroll
                for (uint32_t i = 0; i < 8; i++)
                        sum = fmaf(v[j][i], v[j][i], sum);
        sum = norm_sum<warp_rows>(sum, turn);
        scale = 1.0f / sqrtf(sum / (float)n.a.dim + n.a.eps);
#pragma unroll
        for (uint32_t j = 0; j < per; j++) {
#pragma unroll
                for (uint32_t half = 0; half < 8; half += 4) {
                        float w[4];

                        if (!early)
                                row_load(weight, norm_k(j, thread, threads) + 4 * half, n.a.dim, n.aligned, w);
#pragma unroll
                        for (uint32_t i = 0; i < 4; i++)
                                v[j][half + i] = v[j][half + i] * scale * (early ? early[j][half + i] : w[i]);
                }
        }
}

/* residual += add_scale * v, v = residual */
template <uint32_t per>
DEVICE void norm_residual(const struct norm_args &n, uint32_t row, uint32_t thread, uint32_t threads, float v[per][8]) {
        float *residual = n.a.residual + (size_t)row * n.a.dim;

#pragma unroll
        for (uint32_t j = 0; j < per; j++) {
                uint32_t k = norm_k(j, thread, threads);
                float r[8];

                row_load_pair(residual, k, n.a.dim, n.aligned, r);
#pragma unroll
                for (uint32_t i = 0; i < 8; i++) /* times 1 is exact */
                        v[j][i] = r[i] + n.a.add_scale * v[j][i];
                row_store_pair(residual, k, n.a.dim, n.aligned, v[j]);
        }
}

template <uint32_t per, bool warp_rows> __global__ void __launch_bounds__(NORM_THREADS_MAX) norm_kernel(struct norm_args n) {
        uint32_t threads = warp_rows ? WARP : blockDim.x, thread = threadIdx.x % threads;
        uint32_t row = blockIdx.x * (blockDim.x / threads) + threadIdx.x / threads;
        float v[per][8], w[per <= NORM_EARLY ? per : 1][8];

        grid_launch_dependents();
        if (per <= NORM_EARLY && n.a.norm)
                norm_load<per <= NORM_EARLY ? per : 1>(n.a.norm, n.a.dim, n.aligned, thread, threads, w);
        grid_wait();
        if (row >= rows_count(n.a.rows))
                return;
        norm_load<per>(n.a.x + row * n.a.x_stride, n.a.dim, n.aligned, thread, threads, v);
        if (n.a.post_norm)
                norm_scale<per, warp_rows>(n, n.a.post_norm, thread, threads, 0, NULL, v);
        if (n.a.residual)
                norm_residual<per>(n, row, thread, threads, v);
        if (n.a.norm)
                norm_scale<per, warp_rows>(n, n.a.norm, thread, threads, 1, per <= NORM_EARLY ? w : NULL, v);
#pragma unroll
        for (uint32_t j = 0; j < per; j++)
                packed_store(n.a.out, row, (thread + j * threads) / 4, thread % 4, n.aligned, v[j]);
}

static bool are_aligned(const struct cuda_norm *a) {
        const void *const others[] = { a->post_norm, a->residual, a->norm, a->out.f32 };
        bool aligned = rows_are_aligned(a->x, a->x_stride, a->dim);

        for (uint32_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
                aligned = aligned && rows_are_aligned(others[i], a->dim, a->dim);
        return aligned;
}

cudaError_t cuda_norm(const struct cuda_launch *l, const struct cuda_norm *a) {
        uint32_t parts = (a->dim + PACK_CHUNK - 1) / PACK_CHUNK * 4; /* of eight elements */
        uint32_t per = (parts + NORM_THREADS_MAX - 1) / NORM_THREADS_MAX;
        struct norm_args n = { *a, are_aligned(a) };
        uint32_t threads, shared = 2 * NORM_THREADS_MAX / WARP * sizeof(float);

        if (per < 1 || per > NORM_PER_MAX || a->out.n_in != a->dim)
                return cudaErrorInvalidValue;
        if (a->dim <= NORM_WARP_DIM)
                return launch(norm_kernel<1, true>, dim3((a->rows.max + NORM_WARP_ROWS - 1) / NORM_WARP_ROWS),
                              dim3(WARP * NORM_WARP_ROWS), 0, l->stream, l->dependent, n);
        per = per == 3 ? 4 : per;
        threads = ((parts + per - 1) / per + WARP - 1) / WARP * WARP;
        return launch(per == 1 ? norm_kernel<1, false> : per == 2 ? norm_kernel<2, false> : norm_kernel<4, false>,
                      dim3(a->rows.max), dim3(threads), shared, l->stream, l->dependent, n);
}
