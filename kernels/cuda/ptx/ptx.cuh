/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The machine instructions that CUDA C has no words for. Everything that is assembly stands here and nowhere else: the
 * emulator in tests/cuda-host has a file of this name with the same functions, found first there. A warp's functions are
 * called by all 32 threads together.
 *
 * Fragments of m16n8k16 (PTX ISA, "Matrix fragments for mma.m16n8k16"), of the thread with lane = 4 g + t:
 *   a[0] (row g, k 2t 2t+1)  a[1] (row g + 8, the same k)  a[2] (row g, k 2t+8 2t+9)  a[3] (row g + 8, the same k)
 *   b[0] (k 2t 2t+1, column g)  b[1] (k 2t+8 2t+9, column g)
 *   d[0] d[1] (row g, columns 2t 2t+1)  d[2] d[3] (row g + 8, the same columns)
 * Halves of a register: the lower k in the lower bits.
 */

#include <cuda_runtime.h>
#include <stdint.h>

#define DEVICE static __device__ __forceinline__

/* Dynamic shared memory of the block, 128-byte aligned. */
DEVICE uint8_t *shared_memory(void) {
        extern __shared__ __align__(128) uint8_t dynamic_shared_memory[];

        return dynamic_shared_memory;
}

/* d += a b */
DEVICE void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8x8 matrices of 16-bit elements; lane 8 j + i has the address (in shared memory, 16-byte aligned) of row i of matrix
 * j. r[j] of lane 4 g + t: row g, elements 2t and 2t + 1. Transposed: rows 2t and 2t + 1, element g. */
DEVICE void ldmatrix_x4(uint32_t r[4], const void *row) {
        uint32_t at = (uint32_t)__cvta_generic_to_shared(row);

        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

DEVICE void ldmatrix_x4_trans(uint32_t r[4], const void *row) {
        uint32_t at = (uint32_t)__cvta_generic_to_shared(row);

        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

/* 16 bytes from global to shared memory (both 16-byte aligned), past the first-level cache; zeros instead where not valid
 * (from must be a valid address still). They are there after cp_async_commit() and a cp_async_wait() that covers that commit,
 * for the thread itself; for others after a barrier further on. */
DEVICE void cp_async_16(void *to, const void *from) {
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;"
                     :: "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}

DEVICE void cp_async_16_zfill(void *to, const void *from, bool valid) {
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                     :: "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

DEVICE void cp_async_commit(void) {
        asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most `pending` of this thread's commits are under way. */
template <int pending> DEVICE void cp_async_wait(void) {
        asm volatile("cp.async.wait_group %0;" :: "n"(pending) : "memory");
}

/* Brings the 128 bytes around an address of global memory to the second-level cache. */
DEVICE void prefetch_l2(const void *p) {
        asm volatile("prefetch.global.L2 [%0];" :: "l"(p));
}

/* Two floats to two 16-bit ones, round to nearest even; lo in the lower bits. f16: beyond its range infinity. */
DEVICE uint32_t bf16x2(float lo, float hi) {
        uint32_t r;

        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
        return r;
}

DEVICE uint32_t f16x2(float lo, float hi) {
        uint32_t r;

        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
        return r;
}

/* Exact. */
DEVICE float f16_to_float(uint16_t h) {
        float f;

        asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
        return f;
}

/* Two by two, round to nearest even (bf16: by a fused multiply-add with 1 or -0, which is the same). */
DEVICE uint32_t f16x2_add(uint32_t a, uint32_t b) {
        uint32_t r;

        asm("add.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
        return r;
}

DEVICE uint32_t f16x2_mul(uint32_t a, uint32_t b) {
        uint32_t r;

        asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
        return r;
}

DEVICE uint32_t bf16x2_fma(uint32_t a, uint32_t b, uint32_t c) {
        uint32_t r;

        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
        return r;
}

/* (a & b) | c and (a & b) ^ c in one instruction, whatever the compiler thinks. */
DEVICE uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
        uint32_t r;

        asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
        return r;
}

DEVICE uint32_t and_xor(uint32_t a, uint32_t b, uint32_t c) {
        uint32_t r;

        asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
        return r;
}

/* 2^x, 1/x and the like: good to 2 units in the last place, subnormal numbers are zeros. */
DEVICE float fast_exp2(float x) {
        float r;

        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
        return r;
}

/* Programmatic dependent launch (from sm_90 on; before, kernels start one after another anyway): what may be read before
 * grid_wait() is what no kernel of the step writes, that is weights and how many rows there are (struct cuda_rows). After it everything that earlier kernels wrote is there.
 * grid_launch_dependents() lets the next kernel start as soon as all blocks have called it or ended.
 * Every kernel calls grid_wait() in all blocks before they end, those with nothing to do too: a grid that ended without it may end
 * before the one in front of it has, and the next one's grid_wait() would then wait for too little. */
DEVICE void grid_wait(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

DEVICE void grid_launch_dependents(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* A counter that blocks of a grid share: returns what it was before, writes before it are seen by whoever sees its result.
 * For tickets only, never for sums. */
DEVICE uint32_t counter_next(uint32_t *counter) {
        uint32_t r;

        asm volatile("atom.add.acq_rel.gpu.u32 %0, [%1], 1;" : "=r"(r) : "l"(counter) : "memory");
        return r;
}

/*
 * d += a b, K = 32, of numbers with a power of two for each row of a and each column of b (E8M0, in the lower byte): E2M1, each in bits
 * 2 to 5 of a byte, times E4M3. Only for kernels that are compiled for the family of 12.x ("120f"). Fragments: a[0] (row g, k 4t
 * to 4t + 3), a[1] (row g + 8, the same k), a[2] a[3] (the same with k + 16); b[0] (k 4t to 4t + 3, column g), b[1] (k + 16). Lane
 * 4 g has row g's power, lane 4 g + 1 that of row g + 8, and lane 4 g column g's (PTX ISA, "Block scaling for mma").
 */
DEVICE void mma_e2m1_e4m3(float d[4], const uint32_t a[4], const uint32_t b[2], uint32_t power_a, uint32_t power_b) {
        asm volatile("mma.sync.aligned.kind::mxf8f6f4.block_scale.scale_vec::1X.m16n8k32.row.col.f32.e2m1.e4m3.f32.ue8m0 "
                     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3}, %10, {0, 0}, %11, {0, 0};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(power_a), "r"(power_b));
}
