/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Products of MXFP4 with activations in E4M3, by the instruction that takes both as they are, with their powers of two. Compiled
 * for GPUs of 12.x only (tools/cuda.mk).
 *
 * MXFP4's codes stay what they are and are moved to the middle of a byte. A step of 32 elements is one instruction, where
 * bfloat16 takes two that take as long each, a table for the codes and four multiplications. Times are not measured.
 */

#include "mm-kernel.cuh"
#include "mm-unpack.cuh"

struct mm_mxfp4_eight : mm_format_base<32, 272, 256, 0, 0> {
        static constexpr bool eight = true;

        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, struct mm_step &s) {
                const uint8_t *p = chunk + step * column;
                uint2 w = unit4_rows(p + 16, lane % 4, lane);

                s.a[0][0] = w.x << 2 & 0x3c3c3c3cu;
                s.a[0][1] = w.y << 2 & 0x3c3c3c3cu;
                s.a[0][2] = w.x >> 2 & 0x3c3c3c3cu;
                s.a[0][3] = w.y >> 2 & 0x3c3c3c3cu;
                s.power = p[lane / 4 * 2 + lane % 2]; /* of the two lanes that are asked, row 2 g and row 2 g + 1 */
        }
};

MM_FORMAT_AS(mm_mxfp4_fp8, FMT_MXFP4, mm_mxfp4_eight)
