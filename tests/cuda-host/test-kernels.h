/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Kernels that show what the emulator does, for tests/unit/test-cuda-emu.c. */

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* out is device memory throughout; each is started with so many blocks, threads and bytes of shared memory. */
enum test_kernel {
        TEST_INDEX,             /* out[i] = i of the thread in the grid, plus value */
        TEST_BARRIER,           /* out[i] = what the thread at the mirrored place wrote to shared memory before a barrier */
        TEST_BARRIER_MISSING,   /* the same without the barrier */
        TEST_SHUFFLE,           /* 8 words a thread: see test */
        TEST_LDMATRIX,          /* in: 32 rows of 16 bytes; out: 4 words a lane, plain, then transposed */
        TEST_MMA_BF16,          /* in: a [4][32], b [2][32]; out: d [4][32] */
        TEST_MMA_F16,
        TEST_COPY_EARLY,        /* out[i] = word i of in as shared memory has it before the wait, then after it */
        TEST_COPY_MISALIGNED,
        TEST_COPY_LEFT,         /* ends while a copy is under way */
        TEST_DIVERGED,          /* lanes at different functions */
        TEST_BARRIER_HALF,      /* a lane goes to the barrier, the others to a function of the warp */
        TEST_EXIT_EARLY,        /* a lane ends, the others meet */
        TEST_SHARED_BEYOND,     /* writes behind shared memory */
        TEST_SHARED_GARBAGE,    /* out[i] = word i of shared memory */
        TEST_GLOBAL_BEYOND,     /* writes behind out */
        TEST_COUNTER,           /* out[0] counted by all threads */
        TEST_NO_GRID_WAIT,
        TEST_KERNELS,
};

struct test_args {
        enum test_kernel kernel;
        uint32_t value;
        const uint32_t *in;
        uint32_t *out;
};

cudaError_t test_launch(cudaStream_t stream, unsigned blocks, unsigned threads, size_t shared, int dependent,
                        const struct test_args *args);
cudaError_t test_allow_shared(int bytes);

#ifdef __cplusplus
}
#endif
