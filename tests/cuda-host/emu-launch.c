/* SPDX-License-Identifier: Apache-2.0 */

/* Starting kernels: what a device refuses is refused. */

#include <stdlib.h>
#include <string.h>

#include "emu-private.h"

#define SHARED_PLAIN (48u * 1024u)

struct function {
        struct function *next;
        emu_kernel kernel;
        size_t shared; /* what it was allowed */
};

static struct function *functions;

static struct function *function_find(emu_kernel kernel) {
        struct function *f = functions;

        while (f && f->kernel != kernel)
                f = f->next;
        return f;
}

static struct function *function_get(emu_kernel kernel) {
        struct function *f = function_find(kernel);

        if (f)
                return f;
        f = malloc(sizeof *f);
        if (!f)
                emu_die("out of memory");
        *f = (struct function){.next = functions, .kernel = kernel, .shared = SHARED_PLAIN};
        functions = f;
        return f;
}

static size_t shared_allowed(emu_kernel kernel) {
        const struct function *f = function_find(kernel);

        return f ? f->shared : SHARED_PLAIN;
}

static cudaError_t launch_check(const cudaLaunchConfig_t *c, emu_kernel kernel) {
        uint64_t threads = (uint64_t)c->blockDim.x * c->blockDim.y * c->blockDim.z;

        if (c->gridDim.x == 0 || c->gridDim.y == 0 || c->gridDim.z == 0 || threads == 0)
                return cudaErrorInvalidConfiguration;
        if (c->gridDim.x > INT32_MAX || c->gridDim.y > UINT16_MAX || c->gridDim.z > UINT16_MAX)
                return cudaErrorInvalidConfiguration;
        if (c->blockDim.x > EMU_BLOCK_MAX || c->blockDim.y > EMU_BLOCK_MAX || c->blockDim.z > 64 || threads > EMU_BLOCK_MAX)
                return cudaErrorInvalidConfiguration;
        if ((uint64_t)c->gridDim.x * c->gridDim.y * c->gridDim.z > UINT32_MAX / 4)
                emu_die("a grid of %u x %u x %u blocks is too many to emulate", c->gridDim.x, c->gridDim.y, c->gridDim.z);
        return c->dynamicSmemBytes > shared_allowed(kernel) ? cudaErrorInvalidValue : cudaSuccess;
}

static bool is_dependent(const cudaLaunchConfig_t *config) {
        for (unsigned i = 0; i < config->numAttrs; i++)
                if (config->attrs[i].id == cudaLaunchAttributeProgrammaticStreamSerialization)
                        return config->attrs[i].val.programmaticStreamSerializationAllowed != 0;
        return false;
}

static cudaError_t launch_put(const cudaLaunchConfig_t *config, const struct emu_kernel_call *call) {
        cudaError_t error = launch_check(config, call->kernel);
        cudaStream_t s = emu_stream_find(config->stream);
        struct emu_op *op;

        if (!error && !s)
                error = cudaErrorInvalidResourceHandle;
        if (error)
                return error;
        op = emu_op_new(EMU_OP_KERNEL);
        op->call = *call;
        op->call.args = malloc(call->args_bytes);
        if (!op->call.args)
                emu_die("out of memory");
        memcpy(op->call.args, call->args, call->args_bytes);
        op->call.dependent = is_dependent(config);
        if (!s->capture)
                emu_state.counts.launches++;
        return emu_stream_put(s, op);
}

cudaError_t emu_launch(const cudaLaunchConfig_t *config, const char *name, emu_kernel kernel,
                       void (*run)(emu_kernel kernel, const void *args), const void *args, size_t args_bytes) {
        cudaError_t error = emu_begin("cudaLaunchKernelEx");
        struct emu_kernel_call call = {.name = name, .kernel = kernel, .run = run, .args = (void *)(uintptr_t)args,
                                       .args_bytes = args_bytes, .grid = config->gridDim, .block = config->blockDim,
                                       .shared_bytes = config->dynamicSmemBytes};

        if (!error)
                error = emu_count_event("launch");
        return emu_end(error ? error : launch_put(config, &call));
}

cudaError_t emu_func_set_attribute(emu_kernel kernel, enum cudaFuncAttribute attr, int value) {
        cudaError_t error = emu_begin("cudaFuncSetAttribute");

        if (!error && attr == cudaFuncAttributeMaxDynamicSharedMemorySize) {
                if (value < 0 || (size_t)value > emu_shared_optin())
                        error = cudaErrorInvalidValue;
                else
                        function_get(kernel)->shared = (size_t)value;
        } else if (!error && attr != cudaFuncAttributePreferredSharedMemoryCarveout) {
                error = cudaErrorInvalidValue;
        }
        return emu_end(error);
}

cudaError_t emu_func_get_attributes(struct cudaFuncAttributes *attributes, emu_kernel kernel) {
        cudaError_t error = emu_begin("cudaFuncGetAttributes");

        if (!error)
                *attributes = (struct cudaFuncAttributes){.maxThreadsPerBlock = EMU_BLOCK_MAX, .numRegs = 64,
                                                          .maxDynamicSharedSizeBytes = (int)shared_allowed(kernel)};
        return emu_end(error);
}

/* By threads (1,536 on an SM) and shared memory: registers are nothing the emulator knows. */
cudaError_t emu_occupancy(int *blocks, emu_kernel kernel, int block, size_t shared) {
        cudaError_t error = emu_begin("cudaOccupancyMaxActiveBlocksPerMultiprocessor");
        size_t by_shared = (emu_shared_optin() + 1024) / (shared + 1024), by_threads;

        if (!error && (block <= 0 || block > (int)EMU_BLOCK_MAX))
                error = cudaErrorInvalidValue;
        if (!error) {
                by_threads = 1536u / (((unsigned)block + EMU_WARP - 1) / EMU_WARP * EMU_WARP);
                *blocks = shared > shared_allowed(kernel) ? 0 : (int)(by_shared < by_threads ? by_shared : by_threads);
        }
        return emu_end(error);
}

cudaError_t cudaFuncSetAttribute(const void *func, enum cudaFuncAttribute attr, int value) {
        return emu_func_set_attribute((emu_kernel)(uintptr_t)func, attr, value);
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *func) {
        return emu_func_get_attributes(attributes, (emu_kernel)(uintptr_t)func);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *func, int block, size_t shared) {
        return emu_occupancy(blocks, (emu_kernel)(uintptr_t)func, block, shared);
}
