/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What becomes of a query's sums: splits are combined one after another, a sink takes part, and results are stored in the forms
 * that products read. Scores, and so tops, are in units of ln 2.
 */

#include "attn.h"
#include "pack.cuh"

#define ATTN_LOG2E 1.44269504088896341f

DEVICE float attn_infinity(void) {
        return __uint_as_float(0x7f800000u);
}

/* 2^(a - b), and 1 where they are equal, also as infinities. */
DEVICE float attn_ratio(float a, float b) {
        return a == b ? 1.0f : fast_exp2(a - b);
}

/* --- splits --- */

/* One split more: its top and sum into those of all before; what these and the split's elements are multiplied by. */
struct attn_fold {
        float before, split;
};

DEVICE attn_fold attn_fold_state(float &top, float &sum, float split_top, float split_sum) {
        float larger = fmaxf(top, split_top);
        attn_fold f;

        f.before = attn_ratio(top, larger);
        f.split = attn_ratio(split_top, larger);
        sum = fmaf(split_sum, f.split, sum * f.before);
        top = larger;
        return f;
}

DEVICE float attn_fold_element(const attn_fold &f, float total, float split) {
        return fmaf(split, f.split, total * f.before) + 0.0f;
}

/* What the totals are multiplied by at the end. A sink takes part in the sum and has no value. */
DEVICE float attn_finish(float top, float sum, const float *sinks, uint32_t head) {
        if (sinks) {
                float sink = sinks[head] * ATTN_LOG2E, larger = fmaxf(top, sink);
                float shrink = attn_ratio(top, larger);

                return shrink / fmaf(sum, shrink, attn_ratio(sink, larger));
        }
        return 1.0f / sum;
}

/* --- results --- */

/* The sum of 16 elements, four of each of four threads that stand next to each other, by whole warps. */
DEVICE float attn_packed_sum(uint32_t lo, uint32_t hi) {
        uint32_t lane = threadIdx.x % WARP, t = lane % 4;
        float sum = 0.0f;

        for (uint32_t step = 0; step < 4; step++) {
                if (t == step)
                        sum = packed_add(sum, lo, hi);
                sum = __shfl_sync(WARP_ALL, sum, lane - t + step);
        }
        return sum;
}

/* Elements [k, k + 4) of a row of results in whatever forms are wanted, 16 of a row by four threads next to each other; by whole
 * warps. inside: whether the thread has any. k may be in the last 16 that fill up a row to whole 32. */
DEVICE void attn_store(const struct cuda_packed &p, uint32_t row, uint32_t k, const float v[4], bool inside) {
        uint32_t chunks = (p.n_in + PACK_CHUNK - 1) / PACK_CHUNK, lo = bf16x2(v[0], v[1]), hi = bf16x2(v[2], v[3]);

        if (p.f32 && inside && k < p.n_in)
                *(float4 *)(p.f32 + (size_t)row * p.n_in + k) = make_float4(v[0], v[1], v[2], v[3]);
        if (p.x && inside)
                *(uint2 *)(p.x + (((size_t)(row / CUDA_TILE_ROWS) * chunks + k / 32) * 32 + row % CUDA_TILE_ROWS * 4 + k % 16 / 4) * 8 +
                           k % 32 / 16 * 4) = make_uint2(lo, hi);
        if (p.sums) {
                float sum = attn_packed_sum(lo, hi);

                if (inside && k % 16 == 0)
                        p.sums[(size_t)row * chunks * 2 + k / 16] = sum;
        }
}
