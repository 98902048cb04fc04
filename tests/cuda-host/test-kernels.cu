/* SPDX-License-Identifier: Apache-2.0 */

#include "test-kernels.h"

#include <ptx.cuh>

#include "kernels/cuda/launch.cuh"

DEVICE void test_shuffle(const struct test_args &a, uint32_t i) {
        uint32_t *out = a.out + 8 * i;
        uint64_t wide = __shfl_xor_sync(0xffffffffu, (uint64_t)i << 32 | 7u, 1);

        out[0] = __shfl_sync(0xffffffffu, i, 3);
        out[1] = __shfl_xor_sync(0xffffffffu, i, 16);
        out[2] = __shfl_up_sync(0xffffffffu, i, 2, 8);
        out[3] = __shfl_down_sync(0xffffffffu, i, 1);
        out[4] = __ballot_sync(0xffffffffu, i % 3 == 0);
        out[5] = (uint32_t)(wide >> 32);
        out[6] = __float_as_uint(__shfl_sync(0xffffffffu, (float)i, 0, 4));
        out[7] = (uint32_t)(__any_sync(0xffffffffu, i == 5) + 2 * __all_sync(0xffffffffu, i == 5));
}

DEVICE void test_ldmatrix(const struct test_args &a, uint32_t lane) {
        uint8_t *shared = shared_memory();

        for (uint32_t j = 0; j < 4; j++)
                ((uint32_t *)shared)[4 * lane + j] = a.in[4 * lane + j];
        __syncwarp();
        ldmatrix_x4(a.out + 4 * lane, shared + 16 * lane);
        ldmatrix_x4_trans(a.out + 128 + 4 * lane, shared + 16 * lane);
}

DEVICE void test_mma(const struct test_args &a, uint32_t lane) {
        uint32_t x[4], y[2];
        float d[4];

        for (uint32_t j = 0; j < 4; j++) {
                x[j] = a.in[32 * j + lane];
                d[j] = (float)a.value;
        }
        for (uint32_t j = 0; j < 2; j++)
                y[j] = a.in[128 + 32 * j + lane];
        if (a.kernel == TEST_MMA_BF16)
                mma_bf16(d, x, y);
        else
                mma_f16(d, x, y);
        for (uint32_t j = 0; j < 4; j++)
                a.out[32 * j + lane] = __float_as_uint(d[j]);
}

DEVICE void test_copy(const struct test_args &a, uint32_t i) {
        uint32_t *shared = (uint32_t *)shared_memory();

        if (a.kernel == TEST_COPY_MISALIGNED)
                cp_async_16(shared + 4 * i, a.in + 4 * i + 1);
        cp_async_16(shared + 4 * i, a.in + 4 * i);
        cp_async_commit();
        cp_async_16_zfill(shared + 4 * (blockDim.x + i), a.in, false);
        cp_async_commit();
        a.out[4 * i] = shared[4 * i];
        cp_async_wait<1>();
        a.out[4 * i + 1] = shared[4 * i];
        a.out[4 * i + 2] = shared[4 * (blockDim.x + i)];
        if (a.kernel == TEST_COPY_LEFT)
                return;
        cp_async_wait<0>();
        a.out[4 * i + 3] = shared[4 * (blockDim.x + i)];
}

DEVICE void test_wrong(const struct test_args &a, uint32_t i) {
        bool odd_one = i == 5;

        if (a.kernel == TEST_DIVERGED) {
                if (odd_one)
                        (void)__ballot_sync(0xffffffffu, 1);
                else
                        __syncwarp();
        } else if (a.kernel == TEST_BARRIER_HALF) {
                if (odd_one)
                        __syncthreads();
                else
                        __syncwarp();
        } else if (a.kernel == TEST_EXIT_EARLY) {
                if (!odd_one)
                        __syncwarp();
        } else if (a.kernel == TEST_SHARED_BEYOND) {
                shared_memory()[emu_block.shared_bytes] = 1;
        }
}

static __global__ void __launch_bounds__(1024) test_run(const __grid_constant__ struct test_args a) {
        uint32_t t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
        uint32_t *shared = (uint32_t *)shared_memory();

        if (a.kernel != TEST_NO_GRID_WAIT)
                grid_wait();
        switch (a.kernel) {
        case TEST_INDEX:
                a.out[i] = i + a.value;
                break;
        case TEST_BARRIER:
        case TEST_BARRIER_MISSING:
                shared[t] = i + a.value;
                if (a.kernel == TEST_BARRIER)
                        __syncthreads();
                a.out[i] = shared[blockDim.x - 1 - t];
                break;
        case TEST_SHUFFLE:
                test_shuffle(a, i);
                break;
        case TEST_LDMATRIX:
                test_ldmatrix(a, t);
                break;
        case TEST_MMA_BF16:
        case TEST_MMA_F16:
                test_mma(a, t);
                break;
        case TEST_COPY_EARLY:
        case TEST_COPY_MISALIGNED:
        case TEST_COPY_LEFT:
                test_copy(a, t);
                break;
        case TEST_SHARED_GARBAGE:
                a.out[i] = shared[t];
                shared[t] = 0;
                break;
        case TEST_GLOBAL_BEYOND:
                a.out[i + a.value] = 1;
                break;
        case TEST_COUNTER:
                (void)counter_next(a.out);
                break;
        default:
                test_wrong(a, t);
        }
}

cudaError_t test_launch(cudaStream_t stream, unsigned blocks, unsigned threads, size_t shared, int dependent,
                        const struct test_args *args) {
        return launch(test_run, dim3(blocks), dim3(threads), shared, stream, dependent != 0, *args);
}

cudaError_t test_allow_shared(int bytes) {
        return cudaFuncSetAttribute(test_run, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
