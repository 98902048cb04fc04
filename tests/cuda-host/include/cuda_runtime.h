/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * CUDA C for the host's C++ compiler: a kernel is a function, and a thread of a block a fiber that runs it. emu-vector.h has the
 * vector types, emu-math.h arithmetic and bits, emu-access.h loads, stores and atomics. There is no __shared__: shared memory is
 * dynamic and comes from shared_memory() of ptx.cuh.
 */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cuda_runtime_api.h"
#include "emu-device.h"
#include "emu-vector.h"

#ifdef __cplusplus

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))

#define threadIdx (emu_thread->index)
#define warpSize 32

#include "emu-math.h"
#include "emu-access.h"

static inline void __syncthreads(void) {
        (void)emu_barrier(0);
}

static inline int __syncthreads_count(int value) {
        return (int)emu_barrier(value);
}

static inline int __syncthreads_or(int value) {
        return emu_barrier(value) != 0;
}

static inline int __syncthreads_and(int value) {
        return emu_barrier(!value) == 0;
}

static inline void __syncwarp(unsigned mask = 0xffffffffu) {
        emu_meet(&emu_meet_warp, mask, emu_thread);
}

static inline unsigned __activemask(void) {
        emu_die("__activemask() is not what it seems to be and is not emulated");
}

template <typename T>
static inline T emu_shuffle_value(const struct emu_meeting *meeting, unsigned mask, T value, unsigned other, int width) {
        struct emu_shuffle s = {};
        T result;

        static_assert(sizeof(T) == 4 || sizeof(T) == 8, "32 or 64 bit");
        memcpy(&s.value, &value, sizeof value);
        s.other = other;
        s.width = (uint32_t)width;
        emu_meet(meeting, mask, &s);
        memcpy(&result, &s.result, sizeof result);
        return result;
}

template <typename T> static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
        return emu_shuffle_value(&emu_meet_shfl, mask, value, (unsigned)lane, width);
}

template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
        return emu_shuffle_value(&emu_meet_shfl_xor, mask, value, (unsigned)lanes, width);
}

template <typename T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
        return emu_shuffle_value(&emu_meet_shfl_up, mask, value, delta, width);
}

template <typename T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
        return emu_shuffle_value(&emu_meet_shfl_down, mask, value, delta, width);
}

static inline uint32_t emu_vote_value(const struct emu_meeting *meeting, unsigned mask, uint32_t value) {
        struct emu_vote v = {value, 0};

        emu_meet(meeting, mask, &v);
        return v.result;
}

static inline unsigned __ballot_sync(unsigned mask, int value) {
        return emu_vote_value(&emu_meet_ballot, mask, value != 0);
}

static inline int __any_sync(unsigned mask, int value) {
        return __ballot_sync(mask, value) != 0;
}

static inline int __all_sync(unsigned mask, int value) {
        return __ballot_sync(mask, !value) == 0;
}

template <typename T> static inline unsigned __match_any_sync(unsigned mask, T value) {
        struct emu_shuffle s = {};

        static_assert(sizeof(T) == 4 || sizeof(T) == 8, "32 or 64 bit");
        memcpy(&s.value, &value, sizeof value);
        emu_meet(&emu_meet_match, mask, &s);
        return (unsigned)s.result;
}

static inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
        return emu_vote_value(&emu_meet_reduce_add, mask, value);
}

static inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
        return emu_vote_value(&emu_meet_reduce_min, mask, value);
}

static inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
        return emu_vote_value(&emu_meet_reduce_max, mask, value);
}

static inline long long clock64(void) { return (long long)emu_clock(); }
static inline void __nanosleep(unsigned ns) { (void)ns; emu_yield(); }
static inline void __trap(void) { emu_die("__trap()"); }

template <typename A> static void emu_run(emu_kernel kernel, const void *args) {
        ((void (*)(A))kernel)(*(const A *)args);
}

template <typename A> static const char *emu_name(void) {
        return __PRETTY_FUNCTION__;
}

template <typename P, typename A>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P), A &&args) {
        const P converted = args;

        return emu_launch(config, emu_name<P>(), (emu_kernel)kernel, emu_run<P>, &converted, sizeof converted);
}

template <typename T> static inline cudaError_t cudaFuncSetAttribute(T *func, enum cudaFuncAttribute attr, int value) {
        return emu_func_set_attribute((emu_kernel)func, attr, value);
}

template <typename T> static inline cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, T *func) {
        return emu_func_get_attributes(attributes, (emu_kernel)func);
}

template <typename T>
static inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, T *func, int block, size_t shared) {
        return emu_occupancy(blocks, (emu_kernel)func, block, shared);
}

template <typename T> static inline cudaError_t cudaMalloc(T **ptr, size_t size) {
        return cudaMalloc((void **)ptr, size);
}

template <typename T> static inline cudaError_t cudaMallocHost(T **ptr, size_t size) {
        return cudaMallocHost((void **)ptr, size);
}

#endif
