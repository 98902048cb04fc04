/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What an instruction set could do if there were nothing but products: loops of independent multiply-adds that
 * `spark-bench kernels` sets the real kernels against. peak-ISA.c is this and a vec-ISA.h.
 */

#include "kernels.h"
#include "vec-math.h"

#define CHAINS (VEC_ROWS == 8 ? 10u : 5u) /* vectors that are added up at a time: more than the latency takes */

static float peak_float(size_t n, const float *x) {
        vf acc[10], a = vf_load(x), b = vf_load(x + 16), sum = vf_zero();

        UNROLL for (unsigned i = 0; i < CHAINS; i++)
                acc[i] = a;
        for (size_t k = 0; k < n; k++)
                UNROLL for (unsigned i = 0; i < CHAINS; i++)
                        acc[i] = vf_fma(acc[i], b, a);
        UNROLL for (unsigned i = 0; i < CHAINS; i++)
                sum = vf_add(sum, acc[i]);
        return vf_sum(sum);
}

/* As a kernel takes them: one group of four activations is loaded for each vector of products. */
static int32_t peak_integer(size_t n, const int8_t *x) {
        vi acc[10], w = vi_load(x), sum = vi_zero();

        UNROLL for (unsigned i = 0; i < CHAINS; i++)
                acc[i] = vi_zero();
        for (size_t k = 0; k < n; k++) {
                UNROLL for (unsigned i = 0; i < CHAINS; i++)
                        acc[i] = vi_pairs_dot(acc[i], w, vi_set1_load(x + 4 * i));
                __asm__ volatile("" ::: "memory"); /* x might be another one now: nothing is taken out of the loop */
        }
        UNROLL for (unsigned i = 0; i < CHAINS; i++)
                sum = vi_pairs_add(sum, acc[i]);
        return vi_sum(sum);
}

const struct peak_kernels VEC(peak_kernels) = {
        .chains = CHAINS,
        .floats = peak_float,
        .integers = peak_integer,
};
