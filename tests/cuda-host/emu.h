/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What tests tell the emulated device. Where it is part of a shared object that a program opens, the same words stand in the
 * environment variable SPARK_CUDA_EMU, which is read once, at the first call: "sm=121,unified=1,fail=launch:1000" and so on.
 */

#include <stdbool.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In which order threads of a block get their turns, and blocks of a grid theirs. Results must not depend on it. */
enum emu_order {
        EMU_ORDER_ASCENDING = 0,
        EMU_ORDER_DESCENDING = 1,
        EMU_ORDER_SHUFFLED = 2,
};

void emu_set_order(enum emu_order order, uint64_t seed);

/* The device from now on; emu_reset() is sm 121, unified, with 48 SMs and 16 GiB. */
struct emu_device_config {
        unsigned count;          /* of devices: 0 or 1 */
        unsigned sm;             /* 90, 121, ... */
        unsigned sms;
        bool integrated;         /* memory is the host's */
        bool pageable;           /* kernels can read whatever memory the process has */
        uint64_t memory;         /* bytes; cudaMalloc() fails beyond */
        int driver;              /* 13000 */
};

void emu_get_device(struct emu_device_config *ret);
void emu_set_device(const struct emu_device_config *config);

/* Whether work on streams runs as late as possible (so from the start), or at once. */
void emu_set_lazy(bool lazy);

/*
 * The n-th call (from 1) from now on of a runtime function, by name ("cudaMalloc"), fails. "launch" is whatever starts a kernel,
 * "kernel" is one that runs: then the error comes from a later call, as it does on a device. Sticky errors stay until emu_reset().
 */
void emu_fail(const char *name, uint64_t n, cudaError_t error, bool sticky);

/* The n-th kernel that runs from now on never ends, nor does what is behind it on its stream; until emu_unhang(). */
void emu_hang(uint64_t n);
void emu_unhang(void);

struct emu_counts {
        uint64_t launches;       /* kernels that were asked for, not those in graphs */
        uint64_t graph_launches;
        uint64_t kernels;        /* that ran */
        uint64_t blocks;
        uint64_t allocations, allocated; /* of device memory, now: pieces and bytes */
        uint64_t pinned, pinned_bytes;   /* of host memory, allocated or registered */
        uint64_t streams, events, graphs, execs;
};

void emu_get_counts(struct emu_counts *ret);

/* Everything as at the start. Memory, streams and so on that still exist stay valid; what was asked of streams is dropped. */
void emu_reset(void);

/* Words as in SPARK_CUDA_EMU. False where one is not understood. */
bool emu_configure(const char *words);

#ifdef __cplusplus
}
#endif
