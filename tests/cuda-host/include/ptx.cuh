/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * kernels/cuda/ptx/ptx.cuh for the host: the same functions, which say there what they do. What is undefined on a device
 * (addresses that are not aligned, data that is read before it was waited for) ends the process or shows as garbage here.
 */

#include <cuda_runtime.h>
#include <stdint.h>

#define DEVICE static __device__ __forceinline__

DEVICE uint8_t *shared_memory(void) {
        return emu_block.shared;
}

/* Sums in single precision in order of k, from d on. Devices add up several products at once, some of them with fewer bits. */
DEVICE void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
        struct emu_mma m = {d, a, b};

        emu_meet(&emu_meet_mma_bf16, 0xffffffffu, &m);
}

DEVICE void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
        struct emu_mma m = {d, a, b};

        emu_meet(&emu_meet_mma_f16, 0xffffffffu, &m);
}

DEVICE void ldmatrix_x4(uint32_t r[4], const void *row) {
        struct emu_ldmatrix m = {row, r};

        emu_meet(&emu_meet_ldmatrix_x4, 0xffffffffu, &m);
}

DEVICE void ldmatrix_x4_trans(uint32_t r[4], const void *row) {
        struct emu_ldmatrix m = {row, r};

        emu_meet(&emu_meet_ldmatrix_x4_trans, 0xffffffffu, &m);
}

DEVICE void cp_async_16(void *to, const void *from) {
        emu_copy_async(to, from, 1);
}

DEVICE void cp_async_16_zfill(void *to, const void *from, bool valid) {
        emu_copy_async(to, from, valid);
}

DEVICE void cp_async_commit(void) {
        emu_copy_commit();
}

template <int pending> DEVICE void cp_async_wait(void) {
        static_assert(pending >= 0, "a number of commits");
        emu_copy_wait(pending);
}

/* Nothing, but of memory that is there. */
DEVICE void prefetch_l2(const void *p) {
        (void)*(const volatile uint8_t *)p;
}

DEVICE uint32_t bf16x2(float lo, float hi) {
        return (uint32_t)emu_float_to_bf16(hi) << 16 | emu_float_to_bf16(lo);
}

DEVICE uint32_t f16x2(float lo, float hi) {
        return (uint32_t)emu_float_to_f16(hi) << 16 | emu_float_to_f16(lo);
}

DEVICE float f16_to_float(uint16_t h) {
        return emu_f16_to_float(h);
}

/* A sum or product of two halves is exact in double precision, or rounds there far from where it would matter. */
DEVICE uint32_t f16x2_add(uint32_t a, uint32_t b) {
        return f16x2(emu_f16_to_float((uint16_t)a) + emu_f16_to_float((uint16_t)b),
                     emu_f16_to_float((uint16_t)(a >> 16)) + emu_f16_to_float((uint16_t)(b >> 16)));
}

DEVICE uint32_t f16x2_mul(uint32_t a, uint32_t b) {
        return f16x2(emu_f16_to_float((uint16_t)a) * emu_f16_to_float((uint16_t)b),
                     emu_f16_to_float((uint16_t)(a >> 16)) * emu_f16_to_float((uint16_t)(b >> 16)));
}

DEVICE uint32_t bf16x2_fma(uint32_t a, uint32_t b, uint32_t c) {
        return (uint32_t)emu_fma_bf16((uint16_t)(a >> 16), (uint16_t)(b >> 16), (uint16_t)(c >> 16)) << 16 |
               emu_fma_bf16((uint16_t)a, (uint16_t)b, (uint16_t)c);
}

DEVICE uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
        return (a & b) | c;
}

DEVICE uint32_t and_xor(uint32_t a, uint32_t b, uint32_t c) {
        return (a & b) ^ c;
}

DEVICE float emu_flush(float x) {
        return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}

DEVICE float fast_exp2(float x) {
        return emu_flush(exp2f(emu_flush(x)));
}

DEVICE void grid_wait(void) {
        emu_grid_wait();
}

DEVICE void grid_launch_dependents(void) {}

DEVICE uint32_t counter_next(uint32_t *counter) {
        return atomicAdd(counter, 1u);
}

DEVICE void mma_e2m1_e4m3(float d[4], const uint32_t a[4], const uint32_t b[2], uint32_t power_a, uint32_t power_b) {
        struct emu_mma_powers m = { d, a, b, power_a, power_b };

        emu_meet(&emu_meet_mma_e2m1_e4m3, 0xffffffffu, &m);
}
