/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Rows into the forms that products read (struct cuda_packed, ops.h). A thread has the eight elements of a row that one lane of
 * a fragment takes, k = 32 chunk + 4 t .. + 3 and 16 more than these, so that it loads twice 16 bytes and stores 16. The
 * four threads t of a chunk stand next to each other in a warp.
 */

#include <ptx.cuh>

#include "ops.h"

#define WARP 32u
#define WARP_ALL 0xffffffffu
#define PACK_CHUNK 32u /* elements of K */

/* A number of the step's (counts, positions, plans): a copy puts them there in front of its first kernel, and no kernel writes
 * them, so that they may be read before grid_wait(), which hides their way from memory. Not through the first-level cache, which
 * may have those of an earlier step. */
DEVICE uint32_t step_number(const uint32_t *p) {
        return __ldcg(p);
}

/* How many rows there are. */
DEVICE uint32_t rows_count(const struct cuda_rows &rows) {
        return step_number(rows.count) * rows.per;
}

/* Whether rows of dim floats, stride apart, can be read and written 16 bytes at a time. */
static inline bool rows_are_aligned(const void *p, size_t stride, uint32_t dim) {
        return ((uintptr_t)p & 15u) == 0 && stride % 4 == 0 && dim % 4 == 0;
}

/* Elements [k, k + 4) of a row of n, zeros beyond its end. */
DEVICE void row_load(const float *row, uint32_t k, uint32_t n, bool aligned, float v[4]) {
        float4 q = make_float4(0.0f, 0.0f, 0.0f, 0.0f);

        if (aligned && k < n) {
                q = *(const float4 *)(row + k);
        } else if (!aligned) {
                q.x = k < n ? row[k] : 0.0f;
                q.y = k + 1 < n ? row[k + 1] : 0.0f;
                q.z = k + 2 < n ? row[k + 2] : 0.0f;
                q.w = k + 3 < n ? row[k + 3] : 0.0f;
        }
        v[0] = q.x;
        v[1] = q.y;
        v[2] = q.z;
        v[3] = q.w;
}

DEVICE void row_store(float *row, uint32_t k, uint32_t n, bool aligned, const float v[4]) {
        if (aligned && k < n)
                *(float4 *)(row + k) = make_float4(v[0], v[1], v[2], v[3]);
        for (uint32_t i = 0; i < 4 && !aligned; i++)
                if (k + i < n)
                        row[k + i] = v[i];
}

/* A thread's eight elements. */
DEVICE void row_load_pair(const float *row, uint32_t k, uint32_t n, bool aligned, float v[8]) {
        row_load(row, k, n, aligned, v);
        row_load(row, k + 16, n, aligned, v + 4);
}

DEVICE void row_store_pair(float *row, uint32_t k, uint32_t n, bool aligned, const float v[8]) {
        row_store(row, k, n, aligned, v);
        row_store(row, k + 16, n, aligned, v + 4);
}

/* sum + the four elements in two registers, in order. */
DEVICE float packed_add(float sum, uint32_t a, uint32_t b) {
        sum += __uint_as_float(a << 16);
        sum += __uint_as_float(a & 0xffff0000u);
        sum += __uint_as_float(b << 16);
        return sum + __uint_as_float(b & 0xffff0000u);
}

/* The sums of a chunk's two halves, in order of k: handed from thread to thread, the last of which (t = 3) has them. Whole
 * warps. */
DEVICE float2 packed_sums(const uint32_t b[4]) {
        uint32_t lane = threadIdx.x % WARP, t = lane % 4;
        float2 sum = make_float2(0.0f, 0.0f);

#pragma unroll
        for (uint32_t step = 0; step < 4; step++) {
                if (t == step) {
                        sum.x = packed_add(sum.x, b[0], b[1]);
                        sum.y = packed_add(sum.y, b[2], b[3]);
                }
                if (step < 3) {
                        sum.x = __shfl_sync(WARP_ALL, sum.x, lane - t + step);
                        sum.y = __shfl_sync(WARP_ALL, sum.y, lane - t + step);
                }
        }
        return sum;
}

/* Zeros for what is beyond a row of n elements. */
DEVICE void packed_pad(uint32_t k, uint32_t n, float v[8]) {
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
                v[i] = k + i % 4 + i / 4 * 16 < n ? v[i] : 0.0f;
}

/* Stores a thread's eight elements in whatever forms are wanted; those beyond the row may be anything. Whole warps; threads
 * beyond the last chunk store nothing. aligned: of p.f32. */
DEVICE void packed_store(const struct cuda_packed &p, uint32_t row, uint32_t chunk, uint32_t t, bool aligned, float v[8]) {
        uint32_t chunks = (p.n_in + PACK_CHUNK - 1) / PACK_CHUNK, k = PACK_CHUNK * chunk + 4 * t;
        bool inside = chunk < chunks;

        if (p.f32 && inside)
                row_store_pair(p.f32 + (size_t)row * p.n_in, k, p.n_in, aligned, v);
        if (p.n_in % PACK_CHUNK != 0)
                packed_pad(k, p.n_in, v);
        if (p.x || p.sums) {
                uint32_t b[4] = { bf16x2(v[0], v[1]), bf16x2(v[2], v[3]), bf16x2(v[4], v[5]), bf16x2(v[6], v[7]) };

                if (p.x && inside)
                        ((uint4 *)p.x)[((size_t)(row / CUDA_TILE_ROWS) * chunks + chunk) * WARP + row % CUDA_TILE_ROWS * 4 + t] =
                                make_uint4(b[0], b[1], b[2], b[3]);
                if (p.sums) {
                        float2 sum = packed_sums(b);

                        if (inside && t == 3)
                                ((float2 *)p.sums)[(size_t)row * chunks + chunk] = sum;
                }
        }
}

/* --- in eight bits --- */

/* A power of two (E8M0) for numbers up to the largest: that one over it is at most 448. */
DEVICE uint32_t packed_power(float largest) {
        uint32_t bits = __float_as_uint(largest), e = (bits >> 23) + ((bits & 0x7fffffu) > 0x600000u);

        return e > 8 ? e - 8 : 0;
}

/* x / 2^(power - 127) in E4M3, to nearest, ties to even; it is not beyond 448, or no number. */
DEVICE uint32_t packed_e4m3(float x, uint32_t power) {
        float magnitude = fabsf(x) * __uint_as_float((254 - power) << 23);
        uint32_t sign = __float_as_uint(x) >> 24 & 0x80u, bits = __float_as_uint(magnitude);

        uint32_t code = ((bits + 0x7ffffu + (bits >> 20 & 1u)) >> 20) - (120u << 3);

        if (magnitude < 0x1p-6f) /* 2^14 has the spacing of what is subnormal: the addition rounds */
                code = __float_as_uint(magnitude + 0x1p14f) - 0x46800000u;
        return sign | (magnitude <= 448.0f ? code : 0x7fu);
}

DEVICE uint32_t packed_e4m3_four(const float v[4], uint32_t power) {
        return packed_e4m3(v[0], power) | packed_e4m3(v[1], power) << 8 | packed_e4m3(v[2], power) << 16 | packed_e4m3(v[3], power) << 24;
}

/* A thread's eight elements of a chunk in eight bits, as x8 has them. Whole warps. */
DEVICE uint4 packed_eight(const float v[8]) {
        uint32_t largest = 0, power;

        /* Bits of positive numbers have these' order; what is no number comes above all others. */
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) {
                uint32_t bits = __float_as_uint(v[i]) & 0x7fffffffu;

                largest = bits > largest ? bits : largest;
        }
#pragma unroll
        for (uint32_t other = 1; other < 4; other *= 2) {
                uint32_t bits = __shfl_xor_sync(WARP_ALL, largest, other);

                largest = bits > largest ? bits : largest;
        }
        power = packed_power(__uint_as_float(largest));
        return make_uint4(packed_e4m3_four(v, power), packed_e4m3_four(v + 4, power), power, 0);
}

/* The same for x8, after packed_store(). It is a function of its own because kernels that have many elements in registers would
 * have to spill some of these. */
DEVICE void packed_store_eight(const struct cuda_packed &p, uint32_t row, uint32_t chunk, uint32_t t, const float v[8]) {
        uint32_t chunks = (p.n_in + PACK_CHUNK - 1) / PACK_CHUNK;
        uint4 eight = packed_eight(v);

        if (chunk < chunks)
                ((uint4 *)p.x8)[((size_t)(row / CUDA_TILE_ROWS) * chunks + chunk) * WARP + row % CUDA_TILE_ROWS * 4 + t] = eight;
}
