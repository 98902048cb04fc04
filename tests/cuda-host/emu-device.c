/* SPDX-License-Identifier: Apache-2.0 */

/* What there is to know about the device. */

#include <stdio.h>
#include <string.h>

#include "emu-private.h"

/* CUDA C++ Programming Guide, technical specifications per compute capability: shared memory of an SM, in KiB. */
static size_t shared_per_sm(void) {
        switch (emu_state.device.sm) {
        case 80: case 87: return 164u << 10;
        case 86: case 89: case 120: case 121: return 100u << 10;
        default: return 228u << 10;
        }
}

size_t emu_shared_optin(void) {
        return shared_per_sm() - 1024u;
}

static cudaError_t device_check(int device) {
        if (emu_state.device.count == 0)
                return cudaErrorNoDevice;
        return device < 0 || (unsigned)device >= emu_state.device.count ? cudaErrorInvalidDevice : cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
        cudaError_t error = emu_begin(__func__);

        if (!error) {
                *count = (int)emu_state.device.count;
                error = emu_state.device.count ? cudaSuccess : cudaErrorNoDevice;
        }
        return emu_end(error);
}

cudaError_t cudaSetDevice(int device) {
        cudaError_t error = emu_begin(__func__);

        return emu_end(error ? error : device_check(device));
}

/* Only a wish on a device, too. */
cudaError_t cudaDeviceSetCacheConfig(enum cudaFuncCache config) {
        cudaError_t error = emu_begin(__func__);

        return emu_end(error ? error : config > cudaFuncCachePreferEqual ? cudaErrorInvalidValue : cudaSuccess);
}

cudaError_t cudaInitDevice(int device, unsigned device_flags, unsigned flags) {
        cudaError_t error = emu_begin(__func__);

        (void)device_flags;
        (void)flags;
        return emu_end(error ? error : device_check(device));
}

cudaError_t cudaSetDeviceFlags(unsigned flags) {
        (void)flags;
        return emu_end(emu_begin(__func__));
}

cudaError_t cudaGetDevice(int *device) {
        cudaError_t error = emu_begin(__func__);

        if (!error)
                error = device_check(0);
        if (!error)
                *device = 0;
        return emu_end(error);
}

static int attribute(enum cudaDeviceAttr attr) {
        const struct emu_device_config *d = &emu_state.device;

        switch (attr) {
        case cudaDevAttrMaxThreadsPerBlock: return EMU_BLOCK_MAX;
        case cudaDevAttrMaxSharedMemoryPerBlock: return 48 * 1024;
        case cudaDevAttrWarpSize: return EMU_WARP;
        case cudaDevAttrClockRate: return 2400000;
        case cudaDevAttrMultiProcessorCount: return (int)d->sms;
        case cudaDevAttrIntegrated: return d->integrated;
        case cudaDevAttrCanMapHostMemory: return 1;
        case cudaDevAttrConcurrentKernels: return 1;
        case cudaDevAttrMemoryClockRate: return 4266000;
        case cudaDevAttrGlobalMemoryBusWidth: return 256;
        case cudaDevAttrL2CacheSize: return 24 << 20;
        case cudaDevAttrAsyncEngineCount: return 1;
        case cudaDevAttrUnifiedAddressing: return 1;
        case cudaDevAttrComputeCapabilityMajor: return (int)(d->sm / 10);
        case cudaDevAttrComputeCapabilityMinor: return (int)(d->sm % 10);
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return (int)shared_per_sm();
        case cudaDevAttrMaxRegistersPerMultiprocessor: return 65536;
        case cudaDevAttrManagedMemory: return 1;
        case cudaDevAttrPageableMemoryAccess: return d->pageable;
        case cudaDevAttrConcurrentManagedAccess: return d->pageable;
        case cudaDevAttrCanUseHostPointerForRegisteredMem: return 1;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: return (int)emu_shared_optin();
        case cudaDevAttrHostRegisterSupported: return 1;
        case cudaDevAttrPageableMemoryAccessUsesHostPageTables: return d->pageable && d->integrated;
        case cudaDevAttrDirectManagedMemAccessFromHost: return d->pageable && d->integrated;
        case cudaDevAttrReservedSharedMemoryPerBlock: return 1024;
        case cudaDevAttrHostRegisterReadOnlySupported: return 1;
        case cudaDevAttrKernelExecTimeout: return 0;
        default: return -1;
        }
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device) {
        cudaError_t error = emu_begin(__func__);

        if (!error)
                error = device_check(device);
        if (!error && attribute(attr) < 0)
                error = cudaErrorInvalidValue;
        if (!error)
                *value = attribute(attr);
        return emu_end(error);
}

static void properties(struct cudaDeviceProp *p) {
        const struct emu_device_config *d = &emu_state.device;

        *p = (struct cudaDeviceProp){
                .totalGlobalMem = (size_t)d->memory, .sharedMemPerBlock = 48u << 10, .regsPerBlock = 65536, .warpSize = EMU_WARP,
                .maxThreadsPerBlock = EMU_BLOCK_MAX, .major = (int)(d->sm / 10), .minor = (int)(d->sm % 10),
                .multiProcessorCount = (int)d->sms, .integrated = d->integrated, .canMapHostMemory = 1, .concurrentKernels = 1,
                .unifiedAddressing = 1, .memoryBusWidth = 256, .l2CacheSize = 24 << 20, .maxThreadsPerMultiProcessor = 1536,
                .sharedMemPerMultiprocessor = shared_per_sm(), .regsPerMultiprocessor = 65536, .managedMemory = 1,
                .pageableMemoryAccess = d->pageable, .concurrentManagedAccess = d->pageable,
                .canUseHostPointerForRegisteredMem = 1, .sharedMemPerBlockOptin = emu_shared_optin(),
                .pageableMemoryAccessUsesHostPageTables = d->pageable && d->integrated,
                .directManagedMemAccessFromHost = d->pageable && d->integrated, .hostRegisterSupported = 1,
                .hostRegisterReadOnlySupported = 1,
        };
        (void)snprintf(p->name, sizeof p->name, "emulated sm_%u", d->sm);
        memcpy(p->uuid.bytes, "emulated device", 16);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device) {
        cudaError_t error = emu_begin(__func__);

        if (!error)
                error = device_check(device);
        if (!error)
                properties(prop);
        return emu_end(error);
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device) {
        cudaError_t error = emu_begin(__func__);

        if (!error)
                error = device_check(device);
        if (!error && (length < 13 || snprintf(id, (size_t)length, "0000:01:00.0") < 0))
                error = cudaErrorInvalidValue;
        return emu_end(error);
}

/* What was asked of streams is dropped, and a sticky error stays: it belongs to the process. Memory stays valid for whoever still
 * reads it. */
cudaError_t cudaDeviceReset(void) {
        cudaError_t error = emu_begin(__func__);

        emu_streams_drop();
        return emu_end(error);
}

cudaError_t cudaDriverGetVersion(int *version) {
        cudaError_t error = emu_begin(__func__);

        if (!error)
                *version = emu_state.device.driver;
        return emu_end(error);
}

cudaError_t cudaRuntimeGetVersion(int *version) {
        cudaError_t error = emu_begin(__func__);

        if (!error)
                *version = CUDART_VERSION;
        return emu_end(error);
}

struct error_text {
        cudaError_t error;
        const char *name, *text;
};

static const struct error_text *error_find(cudaError_t error) {
#define ERROR(e, t) {e, #e, t}
        static const struct error_text texts[] = {
                ERROR(cudaSuccess, "no error"),
                ERROR(cudaErrorInvalidValue, "invalid argument"),
                ERROR(cudaErrorMemoryAllocation, "out of memory"),
                ERROR(cudaErrorInitializationError, "initialization error"),
                ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
                ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction"),
                ERROR(cudaErrorInsufficientDriver, "the driver is too old for the runtime"),
                ERROR(cudaErrorNoDevice, "no device"),
                ERROR(cudaErrorInvalidDevice, "invalid device number"),
                ERROR(cudaErrorNoKernelImageForDevice, "no kernel for this device"),
                ERROR(cudaErrorECCUncorrectable, "uncorrectable ECC error"),
                ERROR(cudaErrorInvalidResourceHandle, "invalid handle"),
                ERROR(cudaErrorNotReady, "not ready"),
                ERROR(cudaErrorIllegalAddress, "illegal address"),
                ERROR(cudaErrorLaunchTimeout, "launch timed out"),
                ERROR(cudaErrorMisalignedAddress, "misaligned address"),
                ERROR(cudaErrorLaunchFailure, "launch failure"),
                ERROR(cudaErrorNotSupported, "not supported"),
                ERROR(cudaErrorStreamCaptureUnsupported, "not allowed while a stream is captured"),
                ERROR(cudaErrorStreamCaptureInvalidated, "the capture failed before"),
                ERROR(cudaErrorGraphExecUpdateFailure, "the graph can't be updated to that"),
        };
#undef ERROR
        static const struct error_text unknown = {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"};

        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
                if (texts[i].error == error)
                        return &texts[i];
        return &unknown;
}

const char *cudaGetErrorName(cudaError_t error) {
        return error_find(error)->name;
}

const char *cudaGetErrorString(cudaError_t error) {
        return error_find(error)->text;
}
