/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the headers for kernels (cuda_runtime.h, ptx.cuh) want of the emulator: who and where a thread is, how it meets others. */

#include "cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The running thread of the running block. Both change under a function that meets other threads. */
struct emu_thread {
        uint3 index;
        unsigned lane;
};

struct emu_block {
        uint8_t *shared;
        size_t shared_bytes;
};

extern struct emu_thread *emu_thread;
extern struct emu_block emu_block;
extern uint3 blockIdx;
extern dim3 blockDim, gridDim;

/*
 * A function of a warp: each lane brings a struct of its own, the last one to come computes for all of them. mine[lane] is NULL for
 * lanes outside of the mask. Lanes that come to different meetings at once, or do not come, end the process with a message.
 */
struct emu_meeting {
        const char *name;
        void (*compute)(void *const *mine, uint32_t mask);
};

void emu_meet(const struct emu_meeting *meeting, uint32_t mask, void *mine);

struct emu_shuffle {
        uint64_t value, result;
        uint32_t other; /* lane, mask, or distance */
        uint32_t width;
};

struct emu_vote {
        uint32_t value, result;
};

struct emu_mma {
        float *d;
        const uint32_t *a, *b;
};

struct emu_mma_powers {
        float *d;
        const uint32_t *a, *b;
        uint32_t power_a, power_b;
};

struct emu_ldmatrix {
        const void *row;
        uint32_t *r;
};

extern const struct emu_meeting emu_meet_warp; /* mine may be anything */
extern const struct emu_meeting emu_meet_shfl, emu_meet_shfl_xor, emu_meet_shfl_up, emu_meet_shfl_down;
extern const struct emu_meeting emu_meet_ballot, emu_meet_match;
extern const struct emu_meeting emu_meet_reduce_add, emu_meet_reduce_min, emu_meet_reduce_max;
extern const struct emu_meeting emu_meet_mma_bf16, emu_meet_mma_f16, emu_meet_mma_e2m1_e4m3;
extern const struct emu_meeting emu_meet_ldmatrix_x4, emu_meet_ldmatrix_x4_trans;

/* All threads of the block that have not ended; returns for how many `value` was not 0. */
unsigned emu_barrier(int value);

/* Copies of 16 bytes that arrive when they are waited for. */
void emu_copy_async(void *to, const void *from, int valid);
void emu_copy_commit(void);
void emu_copy_wait(unsigned pending);

void emu_grid_wait(void);
void emu_yield(void);
uint64_t emu_clock(void);
/* Says what is wrong and where, and aborts. */
void emu_die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

float emu_f16_to_float(uint16_t h);
uint16_t emu_float_to_f16(float f);
uint16_t emu_float_to_bf16(float f);
uint16_t emu_fma_bf16(uint16_t a, uint16_t b, uint16_t c);

/* kernel is what run() gets back together with the copy of args that was made. */
typedef void (*emu_kernel)(void);
cudaError_t emu_launch(const cudaLaunchConfig_t *config, const char *name, emu_kernel kernel,
                       void (*run)(emu_kernel kernel, const void *args), const void *args, size_t args_bytes);
cudaError_t emu_func_set_attribute(emu_kernel kernel, enum cudaFuncAttribute attr, int value);
cudaError_t emu_func_get_attributes(struct cudaFuncAttributes *attributes, emu_kernel kernel);
cudaError_t emu_occupancy(int *blocks, emu_kernel kernel, int block, size_t shared);

#ifdef __cplusplus
}
#endif
