/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Rows of a matrix, looked up: a thread for each element. Of a losslessly coded one a block for each unit of a row, because what
 * escapes are in front has to be counted (kernels/lossless.h): a thread for each line of four elements of K, of 16 rows.
 */

#include "blocks.cuh"
#include "each.cuh"
#include "kernels/lossless.h"

#define CODED_THREADS (LOSSLESS_UNIT / 4)

template <typename F, enum weight_layout layout> struct embed {
        struct cuda_rows rows;
        uint32_t dim;
        const int32_t *token;
        const uint8_t *w;
        float w_scale, scale;
        float *out;
};

template <typename F, enum weight_layout layout>
DEVICE float each_value(const struct embed<F, layout> &a, uint32_t row, uint32_t i) {
        uint32_t token = (uint32_t)a.token[row], n = a.dim / F::elements;
        size_t at = layout == WEIGHT_ROWS ? ((size_t)token * n + i / F::elements) * F::bytes
                                          : ((size_t)(token / WEIGHT_PANEL) * n + i / F::elements) * (WEIGHT_PANEL * F::bytes);
        struct block<F, layout> b = { a.w + at, token % WEIGHT_PANEL };
        float v = F::value(b, i % F::elements);

        v = a.w_scale != 0.0f ? v * a.w_scale : v;
        return v * a.scale;
}

template <typename F, enum weight_layout layout>
static cudaError_t embed_in(const struct cuda_launch *l, const struct cuda_embed *a) {
        struct embed<F, layout> e = { a->rows, a->n_in, a->token, (const uint8_t *)a->w, a->w_scale, a->scale, a->out };

        return each_launch(l, e);
}

template <typename F> static cudaError_t embed_of(const struct cuda_launch *l, const struct cuda_embed *a) {
        if (a->n_in % F::elements != 0)
                return cudaErrorInvalidValue;
        return a->layout == WEIGHT_ROWS ? embed_in<F, WEIGHT_ROWS>(l, a) : embed_in<F, WEIGHT_PANELS>(l, a);
}

/* --- coded --- */

/* The exponent of escape number i of a unit. */
DEVICE uint32_t coded_escape(const uint8_t *escapes, uint64_t entry, uint32_t i) {
        const uint8_t *p = escapes + (entry & LOSSLESS_OFFSET_MASK);
        uint32_t base = (uint32_t)(entry >> LOSSLESS_BASE_SHIFT) & 255u, n;

        if (entry & LOSSLESS_WIDE)
                return p[i];
        n = p[i / 2] >> i % 2 * 4 & 15u;
        return n < 13 ? (base - 1 - n) & 255u : n < 15 ? (base + n - 6) & 255u : 0;
}

/* Codes of four elements of K, of the rows 4i to 4i + 3 each: 1 in the lower bit of each two bits of a row where it is an escape. */
DEVICE uint32_t coded_mask(uint32_t low, uint32_t high) {
        uint32_t two = (high | high << 2) & 0x33333333u, one = (two | two << 1) & 0x55555555u;

        return low & low >> 1 & one;
}

struct coded_line {
        uint32_t low, high; /* of the wanted row: bytes of the column, the latter's nibble */
        uint32_t before, n; /* escapes of rows in front of it, and of all */
};

/* Rows 4i to 4i + 3 of a line. */
DEVICE void coded_line_add(struct coded_line &l, uint32_t i, uint32_t low, uint32_t high, uint32_t row) {
        uint32_t mask = coded_mask(low, high), at = row % 4 * 8;

        l.n += __popc(mask);
        if (i < row / 4)
                l.before += __popc(mask);
        if (i != row / 4)
                return;
        l.before += __popc(mask & ((1u << at) - 1));
        l.low = low >> at & 255u;
        l.high = high >> at & 15u;
}

/* Line j of a column. */
DEVICE struct coded_line coded_line_of(const uint8_t *column, uint32_t j, uint32_t row) {
        uint4 low = *(const uint4 *)(column + LOSSLESS_LOW + 16 * j), high = *(const uint4 *)(column + LOSSLESS_HIGH + 16 * (j / 2));
        uint32_t half = j % 2 * 4;
        struct coded_line l = { 0, 0, 0, 0 };

        coded_line_add(l, 0, low.x, high.x >> half & 0x0f0f0f0fu, row);
        coded_line_add(l, 1, low.y, high.y >> half & 0x0f0f0f0fu, row);
        coded_line_add(l, 2, low.z, high.z >> half & 0x0f0f0f0fu, row);
        coded_line_add(l, 3, low.w, high.w >> half & 0x0f0f0f0fu, row);
        return l;
}

/* The sum of n over the threads in front, of two warps. */
DEVICE uint32_t coded_before(uint32_t n, uint32_t *shared) {
        uint32_t lane = threadIdx.x % WARP, sum = n;

        for (uint32_t i = 1; i < WARP; i *= 2) {
                uint32_t other = __shfl_up_sync(WARP_ALL, sum, i);

                sum += lane >= i ? other : 0;
        }
        if (threadIdx.x == WARP - 1)
                *shared = sum;
        __syncthreads();
        return sum - n + (threadIdx.x < WARP ? 0 : *shared);
}

__global__ void __launch_bounds__(CODED_THREADS) embed_coded_kernel(struct cuda_embed a) {
        uint32_t row = blockIdx.x, k = blockIdx.y * LOSSLESS_UNIT + threadIdx.x * 4, units = (a.n_in + LOSSLESS_UNIT - 1) / LOSSLESS_UNIT;
        uint32_t n_rows, p, escape, j = k % LOSSLESS_COLUMN / 4;
        struct coded_line l = { 0, 0, 0, 0 };
        const uint8_t *column;
        size_t panel;
        uint64_t entry;

        grid_launch_dependents();
        n_rows = rows_count(a.rows);
        grid_wait();
        if (row >= n_rows)
                return;
        panel = (uint32_t)a.token[row] / WEIGHT_PANEL;
        p = (uint32_t)a.token[row] % WEIGHT_PANEL;
        entry = a.coded.index[panel * units + blockIdx.y];
        column = (const uint8_t *)a.w + (panel * (a.n_in / LOSSLESS_COLUMN) + k / LOSSLESS_COLUMN) * LOSSLESS_COLUMN_BYTES;
        if (k < a.n_in)
                l = coded_line_of(column, j, p);
        escape = coded_before(l.n, (uint32_t *)shared_memory()) + l.before;
        for (uint32_t i = 0; i < 4 && k < a.n_in; i++) {
                uint32_t sign = column[(k % LOSSLESS_COLUMN + i) * WEIGHT_PANEL + p];
                uint32_t code = (l.low >> 2 * i & 3u) | (l.high >> i & 1u) << 2, exponent;
                float v;

                exponent = ((uint32_t)(entry >> LOSSLESS_BASE_SHIFT) + code) & 255u;
                if (code == LOSSLESS_ESCAPE)
                        exponent = coded_escape(a.coded.escapes, entry, escape++);
                v = __uint_as_float((sign & 0x80u) << 24 | exponent << 23 | (sign & 0x7fu) << 16);
                v = a.w_scale != 0.0f ? v * a.w_scale : v;
                a.out[(size_t)row * a.n_in + k + i] = v * a.scale;
        }
}

static cudaError_t embed_coded(const struct cuda_launch *l, const struct cuda_embed *a) {
        dim3 grid(a->rows.max, (a->n_in + LOSSLESS_UNIT - 1) / LOSSLESS_UNIT);

        if (a->n_in % LOSSLESS_COLUMN != 0 || a->layout != WEIGHT_PANELS || !a->coded.index)
                return cudaErrorInvalidValue;
        return launch(embed_coded_kernel, grid, dim3(CODED_THREADS), sizeof(uint32_t), l->stream, l->dependent, *a);
}

static const struct {
        enum fmt fmt;
        cudaError_t (*embed)(const struct cuda_launch *l, const struct cuda_embed *a);
} formats[] = {
        { FMT_F32, embed_of<f32_block> },
        { FMT_F16, embed_of<f16_block> },
        { FMT_BF16, embed_of<bf16_block> },
        { FMT_BF16_LL, embed_coded },
        { FMT_F8_E4M3, embed_of<f8_block> },
        { FMT_Q4_0, embed_of<nibbles_block<4, false>> },
        { FMT_Q4_1, embed_of<nibbles_block<4, true>> },
        { FMT_Q5_0, embed_of<nibbles_block<5, false>> },
        { FMT_Q5_1, embed_of<nibbles_block<5, true>> },
        { FMT_Q8_0, embed_of<q8_0_block> },
        { FMT_Q2_K, embed_of<q2_k_block> },
        { FMT_Q3_K, embed_of<q3_k_block> },
        { FMT_Q4_K, embed_of<k_min_block<4>> },
        { FMT_Q5_K, embed_of<k_min_block<5>> },
        { FMT_Q6_K, embed_of<q6_k_block> },
        { FMT_IQ4_NL, embed_of<iq4_nl_block> },
        { FMT_IQ4_XS, embed_of<iq4_xs_block> },
        { FMT_MXFP4, embed_of<mxfp4_block> },
        { FMT_NVFP4, embed_of<nvfp4_block> },
};

cudaError_t cuda_embed(const struct cuda_launch *l, const struct cuda_embed *a) {
        for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
                if (formats[i].fmt == a->fmt)
                        return formats[i].embed(l, a);
        return cudaErrorInvalidValue;
}
