/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Starting kernels. Each takes one struct by value. With dependent set, a kernel may start before the one in front of it has
 * ended and must call grid_wait() before it touches what that one writes or reads (programmatic dependent launch).
 */

#include <cuda_runtime.h>
#include <stddef.h>

template <typename A>
static inline cudaError_t launch(void (*kernel)(A), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, bool dependent,
                                 const A &args) {
        cudaLaunchAttribute attribute = {};
        cudaLaunchConfig_t config = {};

        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        config.gridDim = grid;
        config.blockDim = block;
        config.dynamicSmemBytes = shared;
        config.stream = stream;
        config.attrs = &attribute;
        config.numAttrs = dependent ? 1 : 0;
        return cudaLaunchKernelEx(&config, kernel, args);
}
