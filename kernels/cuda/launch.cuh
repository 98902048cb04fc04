/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Starting kernels. Each takes one struct by value. With dependent set, a kernel may start before the one in front of it has
 * ended and must call grid_wait() before it touches what that one writes or reads (programmatic dependent launch).
 *
 * All kernels ask for the same share of an SM's memory as shared memory, which is all of it: an SM divides it anew only when no
 * block is on it, so that kernels that want other shares cannot overlap there.
 */

#include <cuda_runtime.h>
#include <stddef.h>

template <typename A>
static inline cudaError_t launch(void (*kernel)(A), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, bool dependent,
                                 const A &args) {
        cudaLaunchAttribute attributes[2] = {};
        cudaLaunchConfig_t config = {};

        attributes[0].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
        attributes[0].val.sharedMemCarveout = 100; /* percent */
        attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[1].val.programmaticStreamSerializationAllowed = 1;
        config.gridDim = grid;
        config.blockDim = block;
        config.dynamicSmemBytes = shared;
        config.stream = stream;
        config.attrs = attributes;
        config.numAttrs = dependent ? 2 : 1;
        return cudaLaunchKernelEx(&config, kernel, args);
}
