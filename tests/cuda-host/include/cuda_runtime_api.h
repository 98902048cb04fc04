/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The part of the CUDA runtime's interface that sparkd uses, as the emulator provides it: names, signatures and values are the
 * real ones, so that the same sources compile against either. Structs have only the members that are used.
 */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define EMU_DEFAULT(value) = value
extern "C" {
#else
#define EMU_DEFAULT(value)
#endif

#define CUDART_VERSION 13000
#define CUDART_CB

#include "emu-runtime-enums.h"

enum cudaFuncAttribute {
        cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
        cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};

enum cudaFuncCache {
        cudaFuncCachePreferNone = 0,
        cudaFuncCachePreferShared = 1,
        cudaFuncCachePreferL1 = 2,
        cudaFuncCachePreferEqual = 3,
};

enum cudaMemoryType {
        cudaMemoryTypeUnregistered = 0,
        cudaMemoryTypeHost = 1,
        cudaMemoryTypeDevice = 2,
        cudaMemoryTypeManaged = 3,
};

enum cudaStreamCaptureMode {
        cudaStreamCaptureModeGlobal = 0,
        cudaStreamCaptureModeThreadLocal = 1,
        cudaStreamCaptureModeRelaxed = 2,
};

enum cudaStreamCaptureStatus {
        cudaStreamCaptureStatusNone = 0,
        cudaStreamCaptureStatusActive = 1,
        cudaStreamCaptureStatusInvalidated = 2,
};

typedef enum cudaLaunchAttributeID {
        cudaLaunchAttributeIgnore = 0,
        cudaLaunchAttributeProgrammaticStreamSerialization = 6,
} cudaLaunchAttributeID;

enum cudaGraphExecUpdateResult {
        cudaGraphExecUpdateSuccess = 0,
        cudaGraphExecUpdateError = 1,
        cudaGraphExecUpdateErrorTopologyChanged = 2,
        cudaGraphExecUpdateErrorNodeTypeChanged = 3,
        cudaGraphExecUpdateErrorFunctionChanged = 4,
        cudaGraphExecUpdateErrorParametersChanged = 5,
        cudaGraphExecUpdateErrorNotSupported = 6,
};

#define cudaStreamDefault 0x00
#define cudaStreamNonBlocking 0x01
#define cudaEventDefault 0x00
#define cudaEventBlockingSync 0x01
#define cudaEventDisableTiming 0x02
#define cudaHostAllocDefault 0x00
#define cudaHostAllocPortable 0x01
#define cudaHostAllocMapped 0x02
#define cudaHostAllocWriteCombined 0x04
#define cudaHostRegisterDefault 0x00
#define cudaHostRegisterPortable 0x01
#define cudaHostRegisterMapped 0x02
#define cudaHostRegisterReadOnly 0x08
#define cudaDeviceScheduleAuto 0x00
#define cudaDeviceScheduleSpin 0x01
#define cudaDeviceScheduleYield 0x02
#define cudaDeviceScheduleBlockingSync 0x04
#define cudaDeviceMapHost 0x08
#define cudaEventRecordDefault 0x00
#define cudaEventWaitDefault 0x00

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;
typedef struct CUgraphNode_st *cudaGraphNode_t;

#define cudaStreamLegacy ((cudaStream_t)0x1)
#define cudaStreamPerThread ((cudaStream_t)0x2)

struct uint3 {
        unsigned x, y, z;
};

struct dim3 {
        unsigned x, y, z;
#ifdef __cplusplus
        constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
#endif
};

typedef struct uint3 uint3;
typedef struct dim3 dim3;

typedef union cudaLaunchAttributeValue {
        char pad[64];
        int programmaticStreamSerializationAllowed;
        int priority;
} cudaLaunchAttributeValue;

typedef struct cudaLaunchAttribute_st {
        cudaLaunchAttributeID id;
        char pad[4];
        cudaLaunchAttributeValue val;
} cudaLaunchAttribute;

typedef struct cudaLaunchConfig_st {
        dim3 gridDim;
        dim3 blockDim;
        size_t dynamicSmemBytes;
        cudaStream_t stream;
        cudaLaunchAttribute *attrs;
        unsigned numAttrs;
} cudaLaunchConfig_t;

typedef struct CUuuid_st {
        char bytes[16];
} cudaUUID_t;

struct cudaDeviceProp {
        char name[256];
        cudaUUID_t uuid;
        size_t totalGlobalMem;
        size_t sharedMemPerBlock;
        int regsPerBlock;
        int warpSize;
        int maxThreadsPerBlock;
        int major, minor;
        int multiProcessorCount;
        int integrated;
        int canMapHostMemory;
        int concurrentKernels;
        int pciBusID, pciDeviceID, pciDomainID;
        int unifiedAddressing;
        int memoryBusWidth;
        int l2CacheSize;
        int maxThreadsPerMultiProcessor;
        size_t sharedMemPerMultiprocessor;
        int regsPerMultiprocessor;
        int managedMemory;
        int pageableMemoryAccess;
        int concurrentManagedAccess;
        int canUseHostPointerForRegisteredMem;
        size_t sharedMemPerBlockOptin;
        int pageableMemoryAccessUsesHostPageTables;
        int directManagedMemAccessFromHost;
        int hostRegisterSupported;
        int hostRegisterReadOnlySupported;
};

struct cudaPointerAttributes {
        enum cudaMemoryType type;
        int device;
        void *devicePointer;
        void *hostPointer;
};

struct cudaFuncAttributes {
        size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
        int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion, cacheModeCA;
        int maxDynamicSharedSizeBytes, preferredShmemCarveout;
};

typedef struct cudaGraphExecUpdateResultInfo_st {
        enum cudaGraphExecUpdateResult result;
        cudaGraphNode_t errorNode, errorFromNode;
} cudaGraphExecUpdateResultInfo;

typedef void (*cudaHostFn_t)(void *data);
typedef void (*cudaStreamCallback_t)(cudaStream_t stream, cudaError_t status, void *data);

#include "emu-runtime-api.h"

#ifdef __cplusplus
}
#endif
