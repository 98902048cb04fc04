/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Matrix products: out[r][o] (+)= scale * sum over i of x[r][i] w[o][i] + bias[o]. Weights are panels (kernels/format.h), 16
 * outputs each, and are the A operand of m16n8k16; rows are its 8 columns. One kernel template serves 1 row and 4,096: other
 * shapes of tiles, the same instruction and the same order of K, so that a row's bits are the same in any company.
 *
 * Order of K: `slices` runs of it, about equal, cuda_mm_slices() of the matrix's own shape. Each is added up from zero in
 * order; then out = ((v + slice 0) + slice 1) ..., where v is what out held (accumulate) or the bias or 0 or both, added once, first. Where
 * a matrix has a scale, each slice is multiplied by it before.
 */

#include "route.h"

struct cuda_mm_product {
        const void *w;
        struct cuda_coded coded;
        uint32_t n_out;
        float scale;         /* of the matrix; 0 = none */
        const float *scales; /* device: of each expert; NULL = scale */
        const float *bias;   /* [n_out], or [n_experts][n_out]; NULL = none */
        float *out;
        size_t out_stride;
        bool accumulate;
};

#define CUDA_MM_PRODUCTS 3u

/*
 * What the tensor cores multiply weights with. Of 8 bits are x's elements, in blocks with a power of two each (struct cuda_packed,
 * x8), where weights are in MXFP4 and the GPU multiplies both as they are: in half of the time, but with three bits of each
 * element where bfloat16 has seven. So it is for whoever asks for it.
 */
enum cuda_activations {
        CUDA_ACTIVATIONS_BF16 = 0,
        CUDA_ACTIVATIONS_FP8 = 1,
};

struct cuda_mm {
        enum fmt fmt; /* of all products */
        enum cuda_activations activations;
        uint32_t n_in;
        uint32_t n_products;
        struct cuda_mm_product product[CUDA_MM_PRODUCTS];
        struct cuda_rows rows;
        struct cuda_packed x; /* FMT_F32 reads x.f32 (stride n_in), all others x.x, those with minima x.sums too; FP8: x.x8 */
        /* Experts: matrices of an expert lie one after another, in whole panels. rows are slots. NULL groups: plain. */
        struct cuda_slots slots;
        bool x_per_row; /* x's row is slots.row[place], else slots.slot[place]; out's row is slots.slot[place] */
        /* gated: products are gate and up, of the same n_out; instead of storing them, act(gate) * up goes to `gated`, whose n_in
         * is n_out (rows as out's). Their own out is not looked at. Only where cuda_mm_can_gate() says so. */
        bool is_gated;
        enum activation act;
        struct cuda_packed gated;
        /* Where slices > 1: scratch of cuda_mm_scratch_bytes(), and tickets, CUDA_MM_TICKETS of them, zero before and after. */
        float *scratch;
        uint32_t *tickets;
        uint32_t n_sms; /* of the device: chooses tiles, never bits */
};

#define CUDA_MM_TICKETS 65536u

/* Slices of K: a function of the matrix's shape and format alone. */
CUDA_API uint32_t cuda_mm_slices(enum fmt fmt, uint32_t n_out, uint32_t n_in);
/* Whether the format is computed at all, and whether it wants x.sums or x.f32. */
CUDA_API bool cuda_mm_has(enum fmt fmt);
CUDA_API bool cuda_mm_wants_sums(enum fmt fmt);
CUDA_API bool cuda_mm_wants_f32(enum fmt fmt); /* and not x.x */
/* Whether the current device multiplies the format with activations in 8 bits. */
CUDA_API bool cuda_mm_has_fp8(enum fmt fmt);
/* Whether gate and up of such a shape can be gated in one go. */
CUDA_API bool cuda_mm_can_gate(enum fmt fmt, uint32_t n_out, uint32_t n_in);
#define CUDA_MM_GROUP_ROWS 128u

/* Rows of a group of slots that the kernel for so many slots handles best: CUDA_MM_GROUP_ROWS at most. */
CUDA_API uint32_t cuda_mm_group_rows(uint32_t max_slots, uint32_t n_experts);
CUDA_API size_t cuda_mm_scratch_bytes(const struct cuda_mm *a);
CUDA_API cudaError_t cuda_mm(const struct cuda_launch *l, const struct cuda_mm *a);
/* Once per process and device: allows the kernels their shared memory, and asks for the same share of it for all others. */
CUDA_API cudaError_t cuda_mm_prepare(void);
