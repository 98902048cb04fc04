/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The highest of each row's logits, and what probabilities need. A block for each piece of 8192 finds the piece's k highest and its
 * part of the sum; then a block for each row does the same with what the pieces found.
 *
 * Logits and their numbers become integers, all different, in the order that is wanted. Each of 1024 threads has eight of them: the
 * k-th largest of the threads' largest ones is a bound below which none of the k highest is, and of the others there are at
 * most 8 k, because just k threads have any. These are sorted. So the time depends hardly on what the logits are, and there
 * are no atomics. (Choosing by digits, which counts in shared memory, is slow just where logits are close to each other.)
 */

#include "act.cuh"
#include "launch.cuh"
#include "pack.cuh"
#include "top.h"

#define TOP_THREADS 1024u
#define TOP_PER_THREAD 8u
#define TOP_PIECE (TOP_THREADS * TOP_PER_THREAD)
#define TOP_SORTED (CUDA_TOP_MAX * TOP_PER_THREAD) /* so many at most */

static_assert(TOP_PIECE == CUDA_TOP_PIECE, "scratch is cut into these pieces");

struct top_args {
        struct cuda_top a;
        uint32_t n_pieces;
        uint64_t *keys;             /* [row][piece][k] */
        struct cuda_top_row *parts; /* [row][piece] */
};

/* Order: the larger logit, of equal ones (zeros of both signs are) the lower id. 0 is none. */
DEVICE uint64_t top_key(float x, uint32_t id) {
        uint32_t u = __float_as_uint(x + 0.0f);

        u = u >> 31 ? ~u : u | 0x80000000u;
        return (uint64_t)u << 32 | (uint32_t)~id;
}

/* --- a block's largest and sum --- */

DEVICE uint64_t larger(uint64_t a, uint64_t b) {
        return a > b ? a : b;
}

DEVICE float larger(float a, float b) {
        return a > b ? a : b;
}

struct top_larger {
        template <typename T> DEVICE T of(T a, T b) {
                return larger(a, b);
        }
};

struct top_sum {
        template <typename T> DEVICE T of(T a, T b) {
                return a + b;
        }
};

/* As a tree over lanes, then over warps; the same in all threads. Uses the block's shared memory, and no one may be reading it. */
template <typename F, typename T> DEVICE T top_reduce(T v) {
        T *of_warp = (T *)shared_memory();

        for (uint32_t step = WARP / 2; step > 0; step /= 2)
                v = F::of(v, __shfl_xor_sync(WARP_ALL, v, step));
        if (threadIdx.x % WARP == 0)
                of_warp[threadIdx.x / WARP] = v;
        __syncthreads();
        v = of_warp[threadIdx.x % WARP];
        for (uint32_t step = WARP / 2; step > 0; step /= 2)
                v = F::of(v, __shfl_xor_sync(WARP_ALL, v, step));
        __syncthreads();
        return v;
}

/* --- the k largest of a block's keys --- */

/* Sorts n keys, a power of two, at most two for each thread: largest first. Batcher's bitonic network; pairs that are at most 32
 * apart stay in a warp. Ends with a barrier. */
DEVICE void top_sort(uint64_t *keys, uint32_t n) {
        for (uint32_t size = 2; size <= n; size *= 2)
                for (uint32_t stride = size / 2; stride > 0; stride /= 2) {
                        uint32_t i = threadIdx.x, low = 2 * i - (i & (stride - 1)), high = low + stride;

                        if (i < n / 2) {
                                uint64_t a = keys[low], b = keys[high];

                                if ((a < b) == ((low & size) == 0)) {
                                        keys[low] = b;
                                        keys[high] = a;
                                }
                        }
                        if (stride > WARP || (stride == 1 && size > WARP))
                                __syncthreads();
                        else
                                __syncwarp();
                }
        __syncthreads();
}

DEVICE uint32_t top_power(uint32_t n) {
        uint32_t power = 2;

        while (power < n)
                power *= 2;
        return power;
}

/* Keys that are at least `bound`, from all threads, into shared memory in any order; their number. Those behind it up to the next
 * power of two are 0 then. */
DEVICE uint32_t top_collect(const uint64_t key[TOP_PER_THREAD], uint64_t bound, uint64_t *keys) {
        uint32_t *of_warp = (uint32_t *)(keys + TOP_SORTED), lane = threadIdx.x % WARP, n = 0, before, in_warps, all;

#pragma unroll
        for (uint32_t j = 0; j < TOP_PER_THREAD; j++)
                n += key[j] != 0 && key[j] >= bound;
        before = n;
        for (uint32_t step = 1; step < WARP; step *= 2) {
                uint32_t other = __shfl_up_sync(WARP_ALL, before, step);

                before += lane >= step ? other : 0;
        }
        if (lane == WARP - 1)
                of_warp[threadIdx.x / WARP] = before;
        __syncthreads();
        in_warps = of_warp[lane];
        for (uint32_t step = 1; step < WARP; step *= 2) {
                uint32_t other = __shfl_up_sync(WARP_ALL, in_warps, step);

                in_warps += lane >= step ? other : 0;
        }
        all = __shfl_sync(WARP_ALL, in_warps, WARP - 1);
        in_warps = __shfl_sync(WARP_ALL, in_warps, threadIdx.x >= WARP ? threadIdx.x / WARP - 1 : 0);
        before += (threadIdx.x >= WARP ? in_warps : 0) - n;
#pragma unroll
        for (uint32_t j = 0; j < TOP_PER_THREAD; j++)
                if (key[j] != 0 && key[j] >= bound)
                        keys[before++] = key[j];
        for (uint32_t i = all + threadIdx.x; i < top_power(all); i += TOP_THREADS)
                keys[i] = 0;
        __syncthreads();
        return all;
}

/* The k largest of up to n keys (number tid + 1024 j in key[j], 0 where there is none) to shared memory, in order. */
DEVICE void top_select(const uint64_t key[TOP_PER_THREAD], uint32_t n, uint32_t k, uint64_t *keys) {
        uint64_t most = key[0];

#pragma unroll
        for (uint32_t j = 1; j < TOP_PER_THREAD; j++)
                most = larger(most, key[j]);
        if (k == 1) {
                most = top_reduce<top_larger>(most);
                if (threadIdx.x == 0)
                        keys[0] = most;
                __syncthreads();
                return;
        }
        keys[threadIdx.x] = most;
        __syncthreads();
        top_sort(keys, top_power(min(n, TOP_THREADS)));
        if (n > TOP_THREADS) {
                uint64_t bound = keys[k - 1];

                __syncthreads();
                top_sort(keys, top_power(top_collect(key, bound, keys)));
        }
}

/* --- pieces --- */

/* A piece's part of the sum. */
DEVICE struct cuda_top_row top_part(const float x[TOP_PER_THREAD]) {
        struct cuda_top_row part;
        float largest = -INFINITY;
        double sum = 0.0;
        bool bad = false;

#pragma unroll
        for (uint32_t j = 0; j < TOP_PER_THREAD; j++) {
                bad = bad || x[j] != x[j] || x[j] == INFINITY;
                largest = larger(x[j], largest);
        }
        part.largest = top_reduce<top_larger>(largest);
#pragma unroll
        for (uint32_t j = 0; j < TOP_PER_THREAD; j++)
                sum += x[j] > -INFINITY ? (double)act_exp(x[j] - part.largest) : 0.0;
        part.sum = top_reduce<top_sum>(sum);
        part.bad = top_reduce<top_sum>(bad ? 1u : 0u) > 0;
        return part;
}

__global__ void __launch_bounds__(TOP_THREADS) top_piece_kernel(struct top_args t) {
        uint32_t row = blockIdx.x, piece = blockIdx.y, first = piece * TOP_PIECE, n = min(TOP_PIECE, t.a.dim - first);
        const float *logits = t.a.logits + (size_t)row * t.a.dim + first;
        uint64_t *keys = (uint64_t *)shared_memory(), key[TOP_PER_THREAD];
        size_t at = (size_t)row * t.n_pieces + piece;
        struct cuda_top_row part;
        float x[TOP_PER_THREAD];

        grid_launch_dependents();
        grid_wait();
        if (row >= rows_count(t.a.rows))
                return;
#pragma unroll
        for (uint32_t j = 0; j < TOP_PER_THREAD; j++) {
                uint32_t i = threadIdx.x + j * TOP_THREADS;

                x[j] = i < n ? logits[i] : -INFINITY;
        }
        part = top_part(x);
#pragma unroll
        for (uint32_t j = 0; j < TOP_PER_THREAD; j++) {
                uint32_t i = threadIdx.x + j * TOP_THREADS;

                key[j] = i < n ? top_key(x[j], first + i) : 0;
        }
        top_select(key, n, t.a.k, keys);
        for (uint32_t i = threadIdx.x; i < t.a.k; i += TOP_THREADS)
                t.keys[at * t.a.k + i] = i < n ? keys[i] : 0;
        if (threadIdx.x == 0)
                t.parts[at] = part;
}

/* --- rows --- */

/* By the first warp: the parts' sums, with their distance from the row's largest logit. */
DEVICE void top_row(const struct cuda_top_row *parts, uint32_t n, struct cuda_top_row *ret) {
        float largest = -INFINITY;
        double sum = 0.0;
        uint32_t bad = 0;

        for (uint32_t i = threadIdx.x; i < n; i += WARP) {
                largest = larger(parts[i].largest, largest);
                bad |= parts[i].bad;
        }
        for (uint32_t step = WARP / 2; step > 0; step /= 2)
                largest = larger(largest, __shfl_xor_sync(WARP_ALL, largest, step));
        for (uint32_t i = threadIdx.x; i < n; i += WARP)
                if (parts[i].largest > -INFINITY)
                        sum += parts[i].sum * exp((double)parts[i].largest - (double)largest);
        for (uint32_t step = WARP / 2; step > 0; step /= 2)
                sum += __shfl_xor_sync(WARP_ALL, sum, step);
        bad = __ballot_sync(WARP_ALL, bad) != 0 || largest == -INFINITY;
        if (threadIdx.x == 0) {
                ret->sum = sum;
                ret->largest = largest;
                ret->bad = bad;
        }
}

__global__ void __launch_bounds__(TOP_THREADS) top_row_kernel(struct top_args t) {
        uint32_t row = blockIdx.x, n = t.n_pieces * t.a.k;
        uint64_t *keys = (uint64_t *)shared_memory(), key[TOP_PER_THREAD];

        grid_launch_dependents();
        grid_wait();
        if (row >= rows_count(t.a.rows))
                return;
#pragma unroll
        for (uint32_t j = 0; j < TOP_PER_THREAD; j++) {
                uint32_t i = threadIdx.x + j * TOP_THREADS;

                key[j] = i < n ? t.keys[(size_t)row * n + i] : 0;
        }
        top_select(key, n, t.a.k, keys);
        for (uint32_t i = threadIdx.x; i < t.a.k; i += TOP_THREADS) {
                uint32_t id = ~(uint32_t)keys[i];

                t.a.ids[(size_t)row * t.a.k + i] = (int32_t)id;
                t.a.values[(size_t)row * t.a.k + i] = t.a.logits[(size_t)row * t.a.dim + id];
        }
        if (threadIdx.x < WARP)
                top_row(t.parts + (size_t)row * t.n_pieces, t.n_pieces, &t.a.row[row]);
}

cudaError_t cuda_top(const struct cuda_launch *l, const struct cuda_top *a) {
        size_t shared = TOP_SORTED * sizeof(uint64_t) + TOP_THREADS / WARP * sizeof(uint32_t);
        struct top_args t = {};
        cudaError_t e;

        if (!cuda_top_has(a->dim, a->k))
                return cudaErrorInvalidValue;
        t.a = *a;
        t.n_pieces = (a->dim + TOP_PIECE - 1) / TOP_PIECE;
        t.keys = (uint64_t *)a->scratch;
        t.parts = (struct cuda_top_row *)(t.keys + (size_t)a->rows.max * t.n_pieces * CUDA_TOP_MAX);
        e = launch(top_piece_kernel, dim3(a->rows.max, t.n_pieces), dim3(TOP_THREADS), shared, l->stream, l->dependent, t);
        if (e != cudaSuccess)
                return e;
        return launch(top_row_kernel, dim3(a->rows.max), dim3(TOP_THREADS), shared, l->stream, l->dependent, t);
}
