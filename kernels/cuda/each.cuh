/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Operations whose elements have nothing to do with each other: out[r][i] = each_value(args, r, i). An operation is a struct
 * with rows, dim (of out's rows) and out, and an overload of each_value() for it.
 */

#include "launch.cuh"
#include "pack.cuh"

#define EACH_THREADS 256u
#define EACH_PER_THREAD 4u /* a block's threads apart */
#define EACH_PER_BLOCK (EACH_THREADS * EACH_PER_THREAD)

template <typename A> __global__ void __launch_bounds__(EACH_THREADS) each_kernel(A a) {
        uint32_t row = blockIdx.x, first = blockIdx.y * EACH_PER_BLOCK + threadIdx.x, n_rows;

        grid_launch_dependents();
        n_rows = rows_count(a.rows);
        grid_wait();
        if (row >= n_rows)
                return;
#pragma unroll
        for (uint32_t j = 0; j < EACH_PER_THREAD; j++) {
                uint32_t i = first + j * EACH_THREADS;

                if (i < a.dim)
                        a.out[(size_t)row * a.dim + i] = each_value(a, row, i);
        }
}

template <typename A> static inline cudaError_t each_launch(const struct cuda_launch *l, const A &a) {
        dim3 grid(a.rows.max, (a.dim + EACH_PER_BLOCK - 1) / EACH_PER_BLOCK);

        return launch(each_kernel<A>, grid, dim3(EACH_THREADS), 0, l->stream, l->dependent, a);
}
