/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Norms and residual sums of rows. Each thread keeps its elements of the row in registers, eight for each of up to NORM_PER_MAX
 * chunks that lie a team of threads apart. A team is a block, or a warp for the short rows of heads; how many threads it has and
 * so the order of the sums depends on dim alone: a chain of fused multiply-adds in a thread, a tree in a warp, a tree over
 * warps.
 *
 * Norm weights are read before grid_wait(): that hides their way from memory behind the operation in front.
 */

#include "launch.cuh"
#include "pack.cuh"

#define NORM_THREADS_MAX 1024u
#define NORM_PER_MAX 8u    /* then with half of the threads, each of which has more registers */
#define NORM_WARP_DIM 256u /* longest row of a warp's */
#define NORM_WARP_ROWS 4u  /* rows of a block then */
#define NORM_EARLY 2u      /* up to so many chunks weights are in registers too */

constexpr uint32_t norm_threads_max(uint32_t per) {
        return per > NORM_EARLY ? NORM_THREADS_MAX / 2 : NORM_THREADS_MAX;
}

static_assert(CUDA_NORM_DIM == NORM_PER_MAX * norm_threads_max(NORM_PER_MAX) * 8, "eight elements for each part");

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

/* Where a thread's j-th part begins; teams are whole warps. */
DEVICE uint32_t norm_k(uint32_t j, uint32_t thread, uint32_t threads) {
        return thread / 4 * PACK_CHUNK + thread % 4 * 4 + j * threads * 8;
}

/* Keeps the compiler from doing many chunks at once, for which there are no registers. */
template <uint32_t per> DEVICE void norm_one_by_one(void) {
        if (per > NORM_EARLY)
                __syncwarp();
}

template <uint32_t per>
DEVICE void norm_load(const float *row, uint32_t dim, bool aligned, uint32_t thread, uint32_t threads, float v[per][8]) {
#pragma unroll
        for (uint32_t j = 0; j < per; j++)
                row_load_pair(row, norm_k(j, thread, threads), dim, aligned, v[j]);
}

/* v = v / rms(v) * w; w is loaded already where early. */
template <uint32_t per, bool warp_rows, bool aligned>
DEVICE void norm_scale(const struct cuda_norm &a, const float *weight, uint32_t thread, uint32_t threads, uint32_t turn,
                       const float early[per][8], float v[per][8]) {
        float sum = 0.0f, scale;

#pragma unroll
        for (uint32_t j = 0; j < per; j++)
#pragma unroll
                for (uint32_t i = 0; i < 8; i++)
                        sum = fmaf(v[j][i], v[j][i], sum);
        sum = norm_sum<warp_rows>(sum, turn);
        scale = 1.0f / sqrtf(sum / (float)a.dim + a.eps);
#pragma unroll
        for (uint32_t j = 0; j < per; j++) {
#pragma unroll
                for (uint32_t half = 0; half < 8; half += 4) {
                        float w[4];

                        if (!early)
                                row_load(weight, norm_k(j, thread, threads) + 4 * half, a.dim, aligned, w);
#pragma unroll
                        for (uint32_t i = 0; i < 4; i++)
                                v[j][half + i] = v[j][half + i] * scale * (early ? early[j][half + i] : w[i]);
                }
                norm_one_by_one<per>();
        }
}

/* residual += add_scale * v, v = residual */
template <uint32_t per, bool aligned>
DEVICE void norm_residual(const struct cuda_norm &a, uint32_t row, uint32_t thread, uint32_t threads, float v[per][8]) {
        float *residual = a.residual + (size_t)row * a.dim;

#pragma unroll
        for (uint32_t j = 0; j < per; j++) {
                uint32_t k = norm_k(j, thread, threads);
                float r[8];

                row_load_pair(residual, k, a.dim, aligned, r);
#pragma unroll
                for (uint32_t i = 0; i < 8; i++) /* times 1 is exact */
                        v[j][i] = r[i] + a.add_scale * v[j][i];
                row_store_pair(residual, k, a.dim, aligned, v[j]);
                norm_one_by_one<per>();
        }
}

/* aligned: everything that is read and written */
template <uint32_t per, bool warp_rows, bool aligned>
__global__ void __launch_bounds__(norm_threads_max(per)) norm_kernel(struct cuda_norm a) {
        uint32_t threads = warp_rows ? WARP : blockDim.x, thread = threadIdx.x % threads;
        uint32_t row = blockIdx.x * (blockDim.x / threads) + threadIdx.x / threads, n_rows;
        float v[per][8], w[per <= NORM_EARLY ? per : 1][8];

        grid_launch_dependents();
        n_rows = rows_count(a.rows);
        if (per <= NORM_EARLY && a.norm)
                norm_load<per <= NORM_EARLY ? per : 1>(a.norm, a.dim, aligned, thread, threads, w);
        grid_wait();
        if (row >= n_rows)
                return;
        norm_load<per>(a.x + row * a.x_stride, a.dim, aligned, thread, threads, v);
        if (a.post_norm)
                norm_scale<per, warp_rows, aligned>(a, a.post_norm, thread, threads, 0, NULL, v);
        if (a.residual)
                norm_residual<per, aligned>(a, row, thread, threads, v);
        if (a.norm)
                norm_scale<per, warp_rows, aligned>(a, a.norm, thread, threads, 1, per <= NORM_EARLY ? w : NULL, v);
#pragma unroll
        for (uint32_t j = 0; j < per; j++) {
                packed_store(a.out, row, thread / 4 + j * (threads / 4), thread % 4, aligned, v[j]);
                norm_one_by_one<per>();
        }
}

static bool are_aligned(const struct cuda_norm *a) {
        const void *const others[] = { a->post_norm, a->residual, a->norm, a->out.f32 };
        bool aligned = rows_are_aligned(a->x, a->x_stride, a->dim);

        for (uint32_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
                aligned = aligned && rows_are_aligned(others[i], a->dim, a->dim);
        return aligned;
}

template <uint32_t per, bool warp_rows>
static cudaError_t norm_launch(const struct cuda_launch *l, const struct cuda_norm *a, uint32_t blocks, uint32_t threads) {
        return launch(are_aligned(a) ? norm_kernel<per, warp_rows, true> : norm_kernel<per, warp_rows, false>, dim3(blocks),
                      dim3(threads), 2 * NORM_THREADS_MAX / WARP * sizeof(float), l->stream, l->dependent, *a);
}

/* Threads that have `per` parts each, in whole warps. */
static uint32_t threads_for(uint32_t parts, uint32_t per) {
        return ((parts + per - 1) / per + WARP - 1) / WARP * WARP;
}

cudaError_t cuda_norm(const struct cuda_launch *l, const struct cuda_norm *a) {
        uint32_t rows = a->rows.max, parts = (a->dim + PACK_CHUNK - 1) / PACK_CHUNK * 4; /* of eight elements */

        if (a->dim < 1 || a->dim > CUDA_NORM_DIM || a->out.n_in != a->dim)
                return cudaErrorInvalidValue;
        if (a->dim <= NORM_WARP_DIM)
                return norm_launch<1, true>(l, a, (rows + NORM_WARP_ROWS - 1) / NORM_WARP_ROWS, WARP * NORM_WARP_ROWS);
        if (parts <= NORM_THREADS_MAX)
                return norm_launch<1, false>(l, a, rows, threads_for(parts, 1));
        if (parts <= NORM_EARLY * NORM_THREADS_MAX)
                return norm_launch<NORM_EARLY, false>(l, a, rows, threads_for(parts, NORM_EARLY));
        return norm_launch<NORM_PER_MAX, false>(l, a, rows, threads_for(parts, NORM_PER_MAX));
}
