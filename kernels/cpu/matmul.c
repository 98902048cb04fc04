/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Matrix products: what surrounds the panel kernels. Activation rows are cut into tiles of 8, 4, 2 and 1 rows and
 * brought into the form that the kernels read, once for all products of a call: interleaved floats for float weights,
 * 8-bit blocks for quantized ones. Then items of a few panels, over all products, go to the pool; an item takes all
 * tiles, so that its weights come from memory once and from the cache for further tiles.
 */

#include <string.h>

#include "base/checked.h"
#include "base/macro.h"
#include "cpu.h"

#define ITEM_BYTES (128u << 10)  /* weights of an item: in the second-level cache together with a tile */
#define CALL_PANELS 4u           /* panels of one call of a kernel */

struct job {
        const struct cpu_kernels *kernels;
        const struct matmul *products;
        size_t n_products;
        const float *x;
        size_t x_stride;
        uint32_t n_rows, n_in;
        const float *tiles;               /* may be x itself */
        struct act_block *blocks;
        bool any_float, any_quant;
};

/* Takes activations as floats. */
static bool is_float(const struct weight *w) {
        return w->info->block == 1 || w->info->fmt == FMT_F8_E4M3;
}

/* The rows of the tile that starts at `row`: the largest power of two that fits. */
static unsigned tile_rows(const struct job *job, uint32_t row) {
        unsigned n = job->kernels->tile;

        while (n > job->n_rows - row)
                n /= 2;
        return n;
}

static unsigned log2_rows(unsigned rows) {
        return (unsigned)__builtin_ctz(rows);
}

static uint32_t item_panels(const struct weight *w) {
        uint64_t panel_bytes = (uint64_t)w->n_in / w->info->block * w->info->panel_bytes;
        uint64_t n = panel_bytes > 0 ? ITEM_BYTES / panel_bytes : CALL_PANELS;

        return n < 1 ? 1 : n > 64 ? 64 : (uint32_t)n;
}

static uint32_t n_panels(const struct weight *w) {
        return (w->n_out + WEIGHT_PANEL - 1) / WEIGHT_PANEL;
}

static uint32_t n_items(const struct weight *w) {
        return (n_panels(w) + item_panels(w) - 1) / item_panels(w);
}

/* [n_in][rows] floats */
static void interleave(const struct job *job, uint32_t row, unsigned rows, float *dst) {
        for (unsigned r = 0; r < rows; r++) {
                const float *x = job->x + (row + r) * job->x_stride;

                for (uint32_t i = 0; i < job->n_in; i++)
                        dst[(size_t)i * rows + r] = x[i];
        }
}

/* Item: a group of kernels->tile rows. */
static void prepare_rows(void *context, uint32_t item, unsigned worker) {
        const struct job *job = context;
        uint32_t row = item * job->kernels->tile, end = MIN(row + job->kernels->tile, job->n_rows);
        size_t n_blocks = job->n_in / ACT_BLOCK;

        for (unsigned rows; row < end; row += rows) {
                rows = tile_rows(job, row);
                if (job->any_float && job->tiles != job->x)
                        interleave(job, row, rows, (float *)job->tiles + (size_t)row * job->n_in);
                for (unsigned r = 0; job->any_quant && r < rows; r++)
                        job->kernels->rows->quantize(job->x + (row + r) * job->x_stride, n_blocks, rows,
                                                     job->blocks + row * n_blocks + r);
        }
}

/* Brings a panel's [rows][16] to its place. */
static void finish(const struct matmul *m, uint32_t panel, uint32_t row, unsigned rows, const float *acc) {
        uint32_t first = panel * WEIGHT_PANEL, n = MIN(m->w->n_out - first, WEIGHT_PANEL);

        for (unsigned r = 0; r < rows; r++, acc += WEIGHT_PANEL) {
                float *out = m->out + (row + r) * m->out_stride + first;

                for (uint32_t i = 0; i < n; i++) {
                        float v = m->bias ? acc[i] + m->bias[first + i] : acc[i];

                        out[i] = m->accumulate ? out[i] + v : v;
                }
        }
}

static void run_panels(const struct job *job, const struct matmul *m, uint32_t first, uint32_t n) {
        const panel_fn *fns = cpu_kernels_matmul(job->kernels, m->w->info->fmt);
        size_t stride = (size_t)job->n_in / m->w->info->block * m->w->info->panel_bytes;
        float acc[CALL_PANELS * TILE_MAX * WEIGHT_PANEL];

        for (uint32_t row = 0, rows; row < job->n_rows; row += rows) {
                const void *x = is_float(m->w) ? (const void *)(job->tiles + (size_t)row * job->n_in)
                                               : (const void *)(job->blocks + (size_t)row * (job->n_in / ACT_BLOCK));

                rows = tile_rows(job, row);
                for (uint32_t p = first, k; p < first + n; p += k) {
                        k = MIN(first + n - p, CALL_PANELS);
                        fns[log2_rows(rows)]((const uint8_t *)m->w->data + p * stride, stride, k, x, job->n_in, acc);
                        for (uint32_t i = 0; i < k; i++)
                                finish(m, p + i, row, rows, acc + i * rows * WEIGHT_PANEL);
                }
        }
}

/* Item: a run of panels of one of the products. */
static void multiply(void *context, uint32_t item, unsigned worker) {
        const struct job *job = context;
        const struct matmul *m = job->products;
        uint32_t first, per_item;

        for (; item >= n_items(m->w); m++)
                item -= n_items(m->w);
        per_item = item_panels(m->w);
        first = item * per_item;
        run_panels(job, m, first, MIN(per_item, n_panels(m->w) - first));
}

static bool fits(const struct cpu_kernels *kernels, const struct matmul *m, uint32_t n_in) {
        return m->w->layout == WEIGHT_PANELS && m->w->n_in == n_in && n_in % m->w->info->block == 0 &&
               cpu_kernels_matmul(kernels, m->w->info->fmt);
}

static int reserve(struct cpu_backend *cpu, struct job *job) {
        uint64_t elements;
        int r;

        if (!checked_mul((uint64_t)job->n_rows * job->n_in, sizeof(struct act_block), &elements))
                return BACKEND_E_NO_MEMORY;
        elements /= sizeof(struct act_block);
        job->tiles = job->x;
        if (job->any_float && job->n_rows > 1) {
                r = scratch_reserve(&cpu->tiles, elements * sizeof(float));
                if (r != 0)
                        return r;
                job->tiles = cpu->tiles.data;
        }
        if (job->any_quant) {
                r = scratch_reserve(&cpu->blocks, elements / ACT_BLOCK * sizeof(struct act_block));
                if (r != 0)
                        return r;
                job->blocks = cpu->blocks.data;
        }
        return 0;
}

int cpu_matmul(struct backend *be, const struct matmul *products, size_t n, const float *x, size_t x_stride,
               uint32_t n_rows) {
        struct cpu_backend *cpu = cpu_of(be);
        struct job job = { .kernels = cpu->kernels, .products = products, .n_products = n, .x = x,
                           .x_stride = x_stride, .n_rows = n_rows };
        uint64_t work = 0;
        uint32_t items = 0;
        int r;

        if (n == 0 || n_rows == 0)
                return 0;
        job.n_in = products->w->n_in;
        for (size_t i = 0; i < n; i++) {
                const struct weight *w = products[i].w;

                if (!fits(cpu->kernels, products + i, job.n_in))
                        return BACKEND_E_UNSUPPORTED;
                job.any_float |= is_float(w);
                job.any_quant |= !is_float(w);
                items += n_items(w);
                work += (uint64_t)w->n_out * w->n_in * n_rows;
        }
        r = reserve(cpu, &job);
        if (r != 0)
                return r;
        if (job.any_quant || job.tiles != x)
                cpu_run(cpu, (uint64_t)n_rows * job.n_in, (n_rows + cpu->kernels->tile - 1) / cpu->kernels->tile,
                        prepare_rows, &job);
        cpu_run(cpu, work, items, multiply, &job);
        return 0;
}
