/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the matrix product (mm-core.cuh) has to know of a format: a struct for each, found as mm_format<FMT_...>.
 *
 *   block    elements of K in a block column of a panel (kernels/format.h)
 *   column   its bytes, a multiple of 16
 *   chunk    elements of K that are fetched at a time; about 2 KB of a panel. Divides 256, or is one block
 *   scale    elements that share a scale: 32 or 16 of a step, or 0: the fragments are the weights already
 *   minimum  the same of what is subtracted times the sum of x; 0: nothing is
 *   low      whether the weights are sums of two fragments, a + low
 *   eight    whether x has eight bits: a[0] is what mma_e2m1_e4m3() takes, and power
 *   many     whether decoding takes so many registers that a block of 64 rows is better alone on an SM
 *   pairs    instruction's row g + 8 i is the panel's row 2 g + i; else g + 8 i
 *   swizzle  where a chunk's byte `at` (a multiple of 16) lies in shared memory
 *   load     of a panel's chunk in shared memory, step number `step` (32 elements of K): what the thread `lane` holds
 *   coded    whether load takes a `state` of the panel, too, which goes along K with it: `begin` makes it at an element of K where
 *            a slice may begin. Steps of a chunk are always whole then
 *
 * Fragments are those of ptx.cuh, where slots 2t, 2t + 1, 2t + 8, 2t + 9 of a run of 16 hold its elements 4t to 4t + 3 (so does
 * struct cuda_packed). Scales and minima are those of the thread's two rows, [half][row]; [0] alone where both halves share them.
 */

#include <ptx.cuh>

#include "mm.h"

struct mm_step {
        uint32_t a[2][4]; /* of both runs of 16 elements */
        uint32_t low[2][4];
        uint32_t power;   /* where x has eight bits */
        float scale[2][2];
        float min[2][2];
};

template <enum fmt f> struct mm_format;

/* What most formats have in common. */
template <uint32_t block_, uint32_t column_, uint32_t chunk_, uint32_t scale_, uint32_t minimum_> struct mm_format_base {
        static constexpr uint32_t block = block_, column = column_, chunk = chunk_, scale = scale_, minimum = minimum_;
        static constexpr bool low = false, many = false, eight = false, pairs = true, coded = false;
        struct state {};

        static __device__ __forceinline__ uint32_t swizzle(uint32_t at) {
                return at;
        }
};
