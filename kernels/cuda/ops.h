/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Between the backend's host part (C) and its kernels (.cu): what all launches share, and the operations on rows. mm.h has
 * the matrix products, attn.h the KV cache and attention, route.h what mixtures of experts take besides, top.h the best
 * logits. docs/cuda.md says how it fits together.
 *
 * Launch functions only start work on a stream and return what the runtime said; sizes and formats are checked by the caller.
 * All pointers are device memory unless they say host.
 *
 * Every kernel's result for a row depends on that row alone (design promise 1): sums run in an order fixed by the row's own
 * shape, there are no atomics on sums, and -fmad=false leaves fused multiply-adds to where fmaf() is written.
 */

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/operands.h"

#ifdef __cplusplus
#define CUDA_API extern "C"
#else
#define CUDA_API
#endif

/* How to launch: dependent = may overlap the end of what is in front (launch.cuh). */
struct cuda_launch {
        cudaStream_t stream;
        bool dependent;
};

/* Rows of an operation: *count * per, known on the device only, so that one graph serves every number up to max (of these
 * rows, per included), which the grid covers. No kernel writes count: it is there before the first one of a step starts. */
struct cuda_rows {
        const uint32_t *count;
        uint32_t per;
        uint32_t max;
};

/*
 * Activations as the tensor cores take them, in bfloat16, in the order of m16n8k16's B fragments. Element k of row r is at
 *   x[((r / 8 * K32 + k / 32) * 32 + (r % 8 * 4 + k % 16 / 4)) * 8 + k % 32 / 16 * 4 + k % 4],   K32 = ceil(n_in / 32)
 * so that lane 4 g + t loads, as 16 bytes, the b registers of two products for column g: k = 32 i + 4t .. 4t + 3 and 32 i + 16
 * + 4t .. (a weight's A fragments have the same elements of K in these places). K is padded with zeros to whole 32; rows to
 * whole tiles of 8, with whatever was there.
 * sums: of 16 elements each, after rounding to bfloat16, added up in order of k: [row][K32 * 2]; for formats with minima.
 * f32: the row as it was, [row][n_in], for float matrices in single precision and whoever else reads it.
 * x8: in E4M3, each 32 elements of a row with a power of two of their own (E8M0): the smallest one with which the largest of them is
 * not beyond 448. Where x has a lane's 16 bytes there are its elements 4t .. 4t + 3 and 16 + 4t .., a byte each, then the
 * power in the lowest byte of four, and four bytes of zeros. As many bytes as x. Only activations in 8 bits (mm.h) read it, and only cuda_pack() and
 * cuda_gate() write it.
 * Each of these may be NULL: not wanted.
 */
struct cuda_packed {
        uint16_t *x;
        uint32_t *x8;
        float *sums;
        float *f32;
        uint32_t n_in;
};

#define CUDA_TILE_ROWS 8u

static inline size_t cuda_packed_x_bytes(uint32_t max_rows, uint32_t n_in) {
        return ((size_t)max_rows + CUDA_TILE_ROWS - 1) / CUDA_TILE_ROWS * ((n_in + 31u) / 32u) * 512u;
}

static inline size_t cuda_packed_sums_bytes(uint32_t max_rows, uint32_t n_in) {
        return (size_t)max_rows * ((n_in + 31u) / 32u) * 2u * sizeof(float);
}

/* Where what follows the panels of a matrix that is losslessly coded is (kernels/lossless.h), of all its experts. NULLs of others. */
struct cuda_coded {
        const uint64_t *index;
        const uint8_t *escapes;
};

/* A step's rows on the device; host arrays of struct batch, copied. Page table of sequence s: table[table_start[s]] and on. */
struct cuda_batch {
        const int32_t *token;
        const uint32_t *pos, *seq;
        const uint32_t *table_start, *table;
};

/* out[r] = row token[r] of w (either layout), times scale. */
struct cuda_embed {
        struct cuda_rows rows;
        const int32_t *token;
        const void *w;
        struct cuda_coded coded;
        enum fmt fmt;
        enum weight_layout layout;
        uint32_t n_in;
        float w_scale; /* of the matrix, 0 = none */
        float scale;
        float *out;
};

CUDA_API cudaError_t cuda_embed(const struct cuda_launch *l, const struct cuda_embed *a);

/*
 * Norms and residual sums in one pass over a row of dim elements. With v = x[r] (row stride x_stride):
 *   post_norm:  v = v / rms(v) * post_norm
 *   residual:   residual[r] += add_scale * v, and v = residual[r]
 *   norm:       v = v / rms(v) * norm
 * each only where its pointer is given; v goes to out (f32, out.f32 may be x where strides agree) and packed forms of it.
 * rms as in backend.h's rmsnorm. One block a row when dim is large, one warp a row for heads. norm and post_norm are weights,
 * read before the kernel waits for the one in front.
 */
struct cuda_norm {
        struct cuda_rows rows;
        uint32_t dim;
        float eps;
        const float *x;
        size_t x_stride;
        const float *post_norm;
        float *residual; /* [rows][dim] */
        float add_scale;
        const float *norm;
        struct cuda_packed out; /* n_in = dim */
};

#define CUDA_NORM_DIM 32768u /* at most */

CUDA_API cudaError_t cuda_norm(const struct cuda_launch *l, const struct cuda_norm *a);

/* out = act(gate) * up; gate and up with strides, so that they may be halves of one product. */
struct cuda_gate {
        struct cuda_rows rows;
        enum activation act;
        uint32_t dim;
        const float *gate, *up;
        size_t stride;
        struct cuda_packed out;
};

CUDA_API cudaError_t cuda_gate(const struct cuda_launch *l, const struct cuda_gate *a);

/* Packed forms of x [rows][x_stride], of its first out.n_in columns. */
struct cuda_pack {
        struct cuda_rows rows;
        const float *x;
        size_t x_stride;
        struct cuda_packed out;
};

CUDA_API cudaError_t cuda_pack(const struct cuda_launch *l, const struct cuda_pack *a);

/* x = cap * tanh(x * scale / cap), x * scale where cap is 0; in place, [rows][dim] */
CUDA_API cudaError_t cuda_softcap(const struct cuda_launch *l, struct cuda_rows rows, float scale, float cap, uint32_t dim,
                                  float *x);
/* out[r][i] += scale * x[r][i] */
CUDA_API cudaError_t cuda_add(const struct cuda_launch *l, struct cuda_rows rows, const float *x, float scale, uint32_t dim,
                              float *out);
/* Columns [first, first + dim) of x. */
CUDA_API cudaError_t cuda_slice(const struct cuda_launch *l, struct cuda_rows rows, const float *x, size_t x_stride,
                                uint32_t first, uint32_t dim, float *out);
/* out[j] = x[index[j]]; index is device memory */
CUDA_API cudaError_t cuda_gather(const struct cuda_launch *l, struct cuda_rows rows, const uint32_t *index, const float *x,
                                 uint32_t dim, float *out);

/* Random weights of a format for models of a shape, in panels: values of about the given standard deviation (more than 0) and no
 * mean, all finite. Not of coded formats. */
CUDA_API cudaError_t cuda_fill(const struct cuda_launch *l, enum fmt fmt, uint64_t n_blocks_of_panels, float deviation,
                               uint64_t seed, void *data);

/* Limits of the machine, for benchmarks: reads (and copies) bytes; multiplies m16n8k16 in bfloat16 for a while. Return through
 * host pointers, after waiting: bytes per second, operations per second (a multiply-add is two). */
CUDA_API cudaError_t cuda_measure_read(cudaStream_t stream, const void *data, size_t bytes, double *ret_bytes_s);
CUDA_API cudaError_t cuda_measure_copy(cudaStream_t stream, void *to, const void *from, size_t bytes, double *ret_bytes_s);
CUDA_API cudaError_t cuda_measure_mma(cudaStream_t stream, double *ret_ops_s);
/* How many bytes to read or copy so that they come from memory, not from a cache. */
CUDA_API size_t cuda_measure_bytes(void);
