/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the machine can do at most, for benchmarks to be compared with: bytes read and copied in a second, products of the tensor
 * cores. Each is the median of several runs after some that do not count, for clocks rise when there is work. All blocks fit on
 * the device at a time. A benchmark's buffers must be much larger than the second-level cache, or what that keeps from one run to
 * the next counts as memory. What is multiplied is random: equal numbers take less power, and so may be multiplied faster than
 * a model's.
 */

#include "launch.cuh"
#include "ops.h"

#include <ptx.cuh>

#define LIMITS_RUNS 7u
#define LIMITS_THREADS 512u
#define LIMITS_PER_SM 2u
#define LIMITS_BYTES_MIN ((size_t)256 << 20)
#define LIMITS_CACHES 16u /* of the second level, in a buffer */
#define WARM_MS 50.0f     /* until this is over, or so many runs are */
#define WARM_RUNS 64u
#define LIMITS_UNROLL 8u
#define MMA_THREADS 256u
#define MMA_PER_SM 4u
#define MMA_CHAINS 8u /* that do not wait for each other */
#define MMA_MS 2.0f  /* so long at least, unless it takes more than so many steps */
#define MMA_STEPS_MAX (1u << 20)
#define MMA_OPS (2.0 * 16 * 8 * 16)

struct limits_args {
        const uint4 *from;
        uint4 *to;
        size_t n;
        uint32_t *sink; /* never written, but the compiler does not know */
};

__global__ void __launch_bounds__(LIMITS_THREADS) read_kernel(struct limits_args a) {
        size_t threads = (size_t)gridDim.x * LIMITS_THREADS;
        uint32_t all = 0;

        for (size_t i = (size_t)blockIdx.x * LIMITS_THREADS + threadIdx.x; i < a.n; i += threads * LIMITS_UNROLL) {
                uint4 v[LIMITS_UNROLL];

#pragma unroll
                for (uint32_t j = 0; j < LIMITS_UNROLL; j++)
                        v[j] = i + j * threads < a.n ? a.from[i + j * threads] : make_uint4(0, 0, 0, 0);
#pragma unroll
                for (uint32_t j = 0; j < LIMITS_UNROLL; j++)
                        all |= v[j].x | v[j].y | v[j].z | v[j].w;
        }
        if (all == 0 && a.sink)
                *a.sink = all;
}

__global__ void __launch_bounds__(LIMITS_THREADS) copy_kernel(struct limits_args a) {
        size_t threads = (size_t)gridDim.x * LIMITS_THREADS;

        for (size_t i = (size_t)blockIdx.x * LIMITS_THREADS + threadIdx.x; i < a.n; i += threads * LIMITS_UNROLL) {
                uint4 v[LIMITS_UNROLL];

#pragma unroll
                for (uint32_t j = 0; j < LIMITS_UNROLL; j++)
                        v[j] = i + j * threads < a.n ? a.from[i + j * threads] : make_uint4(0, 0, 0, 0);
#pragma unroll
                for (uint32_t j = 0; j < LIMITS_UNROLL; j++)
                        if (i + j * threads < a.n)
                                a.to[i + j * threads] = v[j];
        }
}

/* Two numbers of bfloat16 between 1/2 and 1, of either sign: sums stay finite for MMA_STEPS_MAX steps. */
DEVICE uint32_t mma_random(uint32_t i) {
        uint32_t z = (blockIdx.x * MMA_THREADS + threadIdx.x) * 6 + i;

        z = (z ^ z >> 16) * 0x7feb352du; /* a mix of 32 bits (Wellons 2018) */
        z = (z ^ z >> 15) * 0x846ca68bu;
        return and_or(z ^ z >> 16, 0x807f807fu, 0x3f003f00u);
}

__global__ void __launch_bounds__(MMA_THREADS) mma_kernel(struct limits_args a) {
        uint32_t wa[4] = { mma_random(0), mma_random(1), mma_random(2), mma_random(3) }, xb[2] = { mma_random(4), mma_random(5) };
        float d[MMA_CHAINS][4] = {}, all = 0.0f;

        for (size_t i = 0; i < a.n; i++)
#pragma unroll
                for (uint32_t j = 0; j < MMA_CHAINS; j++)
                        mma_bf16(d[j], wa, xb);
#pragma unroll
        for (uint32_t j = 0; j < MMA_CHAINS; j++)
                all += d[j][0] + d[j][1] + d[j][2] + d[j][3];
        if (all == 0x1p-100f && a.sink)
                *a.sink = 1;
}

struct limits_run {
        void (*kernel)(struct limits_args);
        uint32_t grid, block;
        cudaStream_t stream;
        cudaEvent_t before, after;
        struct limits_args args;
};

static cudaError_t run_once(const struct limits_run *run, float *ret_ms) {
        cudaError_t e = cudaEventRecord(run->before, run->stream);

        if (e == cudaSuccess)
                e = launch(run->kernel, dim3(run->grid), dim3(run->block), 0, run->stream, false, run->args);
        if (e == cudaSuccess)
                e = cudaEventRecord(run->after, run->stream);
        if (e == cudaSuccess)
                e = cudaEventSynchronize(run->after);
        return e == cudaSuccess ? cudaEventElapsedTime(ret_ms, run->before, run->after) : e;
}

static void sort_floats(float *x, uint32_t n) {
        for (uint32_t i = 1; i < n; i++)
                for (uint32_t k = i; k > 0 && x[k - 1] > x[k]; k--) {
                        float other = x[k];

                        x[k] = x[k - 1];
                        x[k - 1] = other;
                }
}

static cudaError_t run_all(const struct limits_run *run, float *ret_ms) {
        float ms[LIMITS_RUNS], warm = 0.0f;
        cudaError_t e = cudaSuccess;

        for (uint32_t i = 0; e == cudaSuccess && i < WARM_RUNS && warm < WARM_MS; i++) {
                e = run_once(run, &ms[0]);
                warm += e == cudaSuccess ? ms[0] : 0.0f;
        }
        for (uint32_t i = 0; e == cudaSuccess && i < LIMITS_RUNS; i++)
                e = run_once(run, &ms[i]);
        if (e != cudaSuccess)
                return e;
        sort_floats(ms, LIMITS_RUNS);
        *ret_ms = ms[LIMITS_RUNS / 2];
        return cudaSuccess;
}

/* Doubles the number of steps until they take long enough to be measured; the first run may have to load the kernel. */
static cudaError_t run_longer(struct limits_run *run, uint32_t max) {
        float ms;
        cudaError_t e = run_once(run, &ms);

        ms = 0.0f;
        while (e == cudaSuccess && ms < MMA_MS && run->args.n < max) {
                run->args.n *= 2;
                e = run_once(run, &ms);
        }
        return e;
}

/* Runs it with events and a grid of so many blocks on each SM: seconds. Where there is a number of steps to reach, args.n is one
 * that it may start from. */
static cudaError_t measure(struct limits_run *run, uint32_t per_sm, uint32_t max_steps, double *ret_seconds) {
        int device, n_sms;
        float ms;
        cudaError_t e = cudaGetDevice(&device);

        if (e == cudaSuccess)
                e = cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, device);
        if (e == cudaSuccess)
                e = cudaEventCreate(&run->before);
        if (e != cudaSuccess)
                return e;
        e = cudaEventCreate(&run->after);
        if (e == cudaSuccess) {
                run->grid = (uint32_t)n_sms * per_sm;
                e = max_steps > 0 ? run_longer(run, max_steps) : cudaSuccess;
                if (e == cudaSuccess)
                        e = run_all(run, &ms);
                cudaEventDestroy(run->after);
        }
        cudaEventDestroy(run->before);
        if (e == cudaSuccess)
                *ret_seconds = (double)ms * 1e-3;
        return e;
}

static cudaError_t measure_bytes(void (*kernel)(struct limits_args), cudaStream_t stream, void *to, const void *from, size_t bytes,
                                 double *ret_bytes_s) {
        struct limits_run run = {};
        double seconds;
        cudaError_t e;

        run.kernel = kernel;
        run.block = LIMITS_THREADS;
        run.stream = stream;
        run.args.from = (const uint4 *)from;
        run.args.to = (uint4 *)to;
        run.args.n = bytes / sizeof(uint4);
        e = measure(&run, LIMITS_PER_SM, 0, &seconds);
        if (e == cudaSuccess)
                *ret_bytes_s = (double)(run.args.n * sizeof(uint4)) / seconds;
        return e;
}

size_t cuda_measure_bytes(void) {
        int device, l2;

        if (cudaGetDevice(&device) != cudaSuccess || cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device) != cudaSuccess)
                return LIMITS_BYTES_MIN;
        return LIMITS_CACHES * (size_t)l2 > LIMITS_BYTES_MIN ? LIMITS_CACHES * (size_t)l2 : LIMITS_BYTES_MIN;
}

cudaError_t cuda_measure_read(cudaStream_t stream, const void *data, size_t bytes, double *ret_bytes_s) {
        return measure_bytes(read_kernel, stream, NULL, data, bytes, ret_bytes_s);
}

cudaError_t cuda_measure_copy(cudaStream_t stream, void *to, const void *from, size_t bytes, double *ret_bytes_s) {
        return measure_bytes(copy_kernel, stream, to, from, bytes, ret_bytes_s);
}

cudaError_t cuda_measure_mma(cudaStream_t stream, double *ret_ops_s) {
        struct limits_run run = {};
        double seconds;
        cudaError_t e;

        run.kernel = mma_kernel;
        run.block = MMA_THREADS;
        run.stream = stream;
        run.args.n = 1;
        e = measure(&run, MMA_PER_SM, MMA_STEPS_MAX, &seconds);
        if (e == cudaSuccess)
                *ret_ops_s = (double)run.args.n * run.grid * (MMA_THREADS / 32) * MMA_CHAINS * MMA_OPS / seconds;
        return e;
}
