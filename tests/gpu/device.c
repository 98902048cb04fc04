/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the kernels' tests tell the emulated device (tests/cuda-host/emu.h), for a real one: it chooses the order of its threads
 * itself, and starting anew means to wait for what was started and to take note of its errors. Linked where these tests are
 * built for the machine's GPU. Tests that look into device memory from the host are linked with --wrap, so that they get
 * memory that both can reach.
 */

#include <stdio.h>
#include <stdlib.h>

#include "tests/cuda-host/emu.h"

void emu_set_order(enum emu_order order, uint64_t seed) {
        (void)order;
        (void)seed;
}

void emu_reset(void) {
        cudaError_t error = cudaDeviceSynchronize();

        if (error == cudaSuccess)
                return;
        (void)fprintf(stderr, "the device failed: %s\n", cudaGetErrorString(error));
        exit(1);
}

cudaError_t __wrap_cudaMalloc(void **p, size_t bytes);
cudaError_t __wrap_cudaFree(void *p);

cudaError_t __wrap_cudaMalloc(void **p, size_t bytes) {
        return cudaMallocHost(p, bytes);
}

cudaError_t __wrap_cudaFree(void *p) {
        return cudaFreeHost(p);
}
