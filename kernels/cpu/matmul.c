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
        bool wanted[ACT_FORMS];
        const void *tiles[ACT_FORMS];     /* by form; floats may be x itself */
};

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

/* Row `row` of the tiles of a form. */
static void *tile_at(const struct job *job, enum act_form form, uint32_t row) {
        return (uint8_t *)job->tiles[form] + row * cpu_act_bytes(form, job->n_in);
}

/* Item: a group of kernels->tile rows. */
static void prepare_rows(void *context, uint32_t item, unsigned worker) {
        const struct job *job = context;
        const struct row_kernels *fns = job->kernels->rows;
        uint32_t row = item * job->kernels->tile, end = MIN(row + job->kernels->tile, job->n_rows);

        for (unsigned rows; row < end; row += rows) {
                rows = tile_rows(job, row);
                if (job->wanted[ACT_FLOATS] && job->tiles[ACT_FLOATS] != job->x)
                        interleave(job, row, rows, tile_at(job, ACT_FLOATS, row));
                for (unsigned r = 0; r < rows; r++) {
                        const float *x = job->x + (row + r) * job->x_stride;

                        if (job->wanted[ACT_BLOCKS])
                                fns->quantize(x, job->n_in / ACT_BLOCK, rows,
                                              (struct act_block *)tile_at(job, ACT_BLOCKS, row) + r);
                        if (job->wanted[ACT_SUPERS])
                                fns->quantize_super(x, job->n_in / ACT_SUPER, rows,
                                                    (struct act_super *)tile_at(job, ACT_SUPERS, row) + r);
                }
        }
}

/* Brings a panel's [rows][16] to its place. */
static void finish(const struct matmul *m, uint32_t panel, uint32_t row, unsigned rows, const float *acc) {
        uint32_t first = panel * WEIGHT_PANEL, n = MIN(m->w->n_out - first, WEIGHT_PANEL);

        for (unsigned r = 0; r < rows; r++, acc += WEIGHT_PANEL) {
                float *out = m->out + (row + r) * m->out_stride + first;

                for (uint32_t i = 0; i < n; i++) {
                        float v = m->w->scale != 0.0f ? acc[i] * m->w->scale : acc[i];

                        v = m->bias ? v + m->bias[first + i] : v;
                        out[i] = m->accumulate ? out[i] + v : v;
                }
        }
}

static void run_panels(const struct job *job, const struct matmul *m, uint32_t first, uint32_t n) {
        const panel_fn *fns = cpu_kernels_matmul(job->kernels, m->w->info->fmt);
        enum act_form form = cpu_kernels_act(m->w->info->fmt);
        size_t stride = (size_t)job->n_in / m->w->info->block * m->w->info->panel_bytes;
        float acc[CALL_PANELS * TILE_MAX * WEIGHT_PANEL];

        for (uint32_t row = 0, rows; row < job->n_rows; row += rows) {
                const void *x = tile_at(job, form, row);

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
        for (unsigned form = 0; form < ACT_FORMS; form++) {
                uint64_t bytes;
                int r;

                if (!job->wanted[form])
                        continue;
                if (form == ACT_FLOATS && job->n_rows == 1) {
                        job->tiles[form] = job->x;
                        continue;
                }
                if (!checked_mul(job->n_rows, cpu_act_bytes(form, job->n_in), &bytes))
                        return BACKEND_E_NO_MEMORY;
                r = scratch_reserve(cpu->tiles + form, bytes);
                if (r != 0)
                        return r;
                job->tiles[form] = cpu->tiles[form].data;
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
                job.wanted[cpu_kernels_act(w->info->fmt)] = true;
                items += n_items(w);
                work += (uint64_t)w->n_out * w->n_in * n_rows;
        }
        r = reserve(cpu, &job);
        if (r != 0)
                return r;
        if (job.wanted[ACT_BLOCKS] || job.wanted[ACT_SUPERS] || n_rows > 1)
                cpu_run(cpu, (uint64_t)n_rows * job.n_in, (n_rows + cpu->kernels->tile - 1) / cpu->kernels->tile,
                        prepare_rows, &job);
        cpu_run(cpu, work, items, multiply, &job);
        return 0;
}
