/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Matrix products: what surrounds the panel kernels. Activation rows are cut into tiles of 8, 4, 2 and 1 rows and
 * brought into the form that the kernels read, once for all products of a call: interleaved floats for float weights,
 * 8-bit blocks for quantized ones. Then items of a few panels, over all products, go to the pool; an item takes all
 * tiles, so that its weights come from memory once and from the cache for further tiles.
 *
 * Rows are in groups, each with a matrix of its own: for mixtures of experts rows are sorted by expert, and all experts'
 * panels go to the pool at once. Tiles don't cross groups; a row's bits do not depend on its tile.
 */

#include <string.h>

#include "base/checked.h"
#include "base/macro.h"
#include "cpu.h"
#include "kernels/half.h"
#include "kernels/lossless.h"

#define ITEM_BYTES (128u << 10)  /* weights of an item: in the second-level cache together with a tile */
#define CALL_PANELS 4u           /* panels of one call of a kernel */

/* Rows that go through the same matrix, [first, end) in the order of the tiles. */
struct group {
        uint32_t first, end;
        uint32_t expert;
};

struct job {
        const struct cpu_kernels *kernels;
        const struct matmul *products;
        size_t n_products;
        const float *x;
        size_t x_stride;
        uint32_t n_rows, n_in;
        const struct group *groups;
        uint32_t n_groups;
        const uint32_t *from, *to;        /* rows of x and out by place in the order of the tiles; NULL = the same */
        bool wanted[ACT_FORMS];
        const void *tiles[ACT_FORMS];     /* by form; floats may be x itself */
};

/* The rows of the tile that starts at `row` of a group that ends at `end`: the largest power of two that fits. */
static unsigned tile_rows(const struct job *job, uint32_t row, uint32_t end) {
        unsigned n = job->kernels->tile;

        while (n > end - row)
                n /= 2;
        return n;
}

static unsigned log2_rows(unsigned rows) {
        return (unsigned)__builtin_ctz(rows);
}

static uint32_t item_panels(const struct weight *w) {
        uint64_t panel_bytes = (uint64_t)w->n_in / w->info->block * w->info->panel_bytes;
        uint64_t n = panel_bytes > 0 ? ITEM_BYTES / panel_bytes : CALL_PANELS;

        if (fmt_is_coded(w->info)) /* kernels take several at a time */
                n = MAX((n + CALL_PANELS - 1) / CALL_PANELS * CALL_PANELS, (uint64_t)CALL_PANELS);
        return n < 1 ? 1 : n > 64 ? 64 : (uint32_t)n;
}

static uint32_t n_panels(const struct weight *w) {
        return (w->n_out + WEIGHT_PANEL - 1) / WEIGHT_PANEL;
}

static uint32_t n_items(const struct weight *w) {
        return (n_panels(w) + item_panels(w) - 1) / item_panels(w);
}

static const float *row_of_x(const struct job *job, uint32_t row) {
        return job->x + (job->from ? job->from[row] : row) * job->x_stride;
}

/* [n_in][rows] floats */
static void interleave(const struct job *job, uint32_t row, unsigned rows, bool to_bf16, float *dst) {
        for (unsigned r = 0; r < rows; r++) {
                const float *x = row_of_x(job, row + r);

                for (uint32_t i = 0; i < job->n_in; i++)
                        dst[(size_t)i * rows + r] = to_bf16 ? bf16_to_float(bf16_from_float(x[i])) : x[i];
        }
}

/* Row `row` of the tiles of a form. */
static void *tile_at(const struct job *job, enum act_form form, uint32_t row) {
        return (uint8_t *)job->tiles[form] + row * cpu_act_bytes(form, job->n_in);
}

static uint32_t n_tiles(const struct job *job, const struct group *g) {
        return (g->end - g->first + job->kernels->tile - 1) / job->kernels->tile;
}

/* Item: kernels->tile rows of a group. */
static void prepare_rows(void *context, uint32_t item, unsigned worker) {
        const struct job *job = context;
        const struct row_kernels *fns = job->kernels->rows;
        const struct group *g = job->groups;
        uint32_t row, end;

        for (; item >= n_tiles(job, g); g++)
                item -= n_tiles(job, g);
        row = g->first + item * job->kernels->tile;
        end = MIN(row + job->kernels->tile, g->end);
        for (unsigned rows; row < end; row += rows) {
                rows = tile_rows(job, row, end);
                if (job->wanted[ACT_FLOATS] && job->tiles[ACT_FLOATS] != job->x)
                        interleave(job, row, rows, false, tile_at(job, ACT_FLOATS, row));
                if (job->wanted[ACT_BF16S])
                        interleave(job, row, rows, true, tile_at(job, ACT_BF16S, row));
                for (unsigned r = 0; r < rows; r++) {
                        const float *x = row_of_x(job, row + r);

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
static void finish(const struct job *job, const struct matmul *m, uint32_t expert, uint32_t panel, uint32_t row,
                   unsigned rows, const float *acc) {
        uint32_t first = panel * WEIGHT_PANEL, n = MIN(m->w->n_out - first, WEIGHT_PANEL);
        const float *bias = m->bias ? m->bias + (size_t)expert * m->w->n_out + first : NULL;
        float scale = m->w->scales ? m->w->scales[expert] : m->w->scale;

        for (unsigned r = 0; r < rows; r++, acc += WEIGHT_PANEL) {
                float *out = m->out + (job->to ? job->to[row + r] : row + r) * m->out_stride + first;

                for (uint32_t i = 0; i < n; i++) {
                        float v = scale != 0.0f ? acc[i] * scale : acc[i];

                        v = bias ? v + bias[i] : v;
                        out[i] = m->accumulate ? out[i] + v : v;
                }
        }
}

/* Panels p, p + 1 ... of a matrix with a tile of rows. */
static void multiply_panels(const struct job *job, const struct weight *w, uint32_t matrix, uint32_t p, uint32_t n, uint32_t rows,
                            const void *x, float *acc) {
        const panel_fn *fns = cpu_kernels_matmul(job->kernels, w->info->fmt);
        size_t stride = (size_t)job->n_in / w->info->block * w->info->panel_bytes;
        const uint8_t *data = w->data, *panel = data + ((size_t)matrix * n_panels(w) + p) * stride;
        struct lossless_parts parts;
        struct coded_panels coded;

        if (!fmt_is_coded(w->info)) {
                fns[log2_rows(rows)](panel, stride, n, x, job->n_in, acc);
                return;
        }
        (void)lossless_layout(MAX(w->n_experts, 1u), w->n_out, w->n_in, &parts); /* fits() has seen it */
        coded = (struct coded_panels){
                .columns = panel, .stride = stride, .units = parts.units, .escapes = data + parts.escapes,
                .index = data + parts.index + ((size_t)matrix * parts.panels + p) * parts.units * sizeof(uint64_t),
        };
        job->kernels->coded[log2_rows(rows)](&coded, n, x, job->n_in, acc);
}

static void run_panels(const struct job *job, const struct matmul *m, const struct group *g, uint32_t first, uint32_t n) {
        enum act_form form = cpu_kernels_act(m->w->info->fmt);
        float acc[CALL_PANELS * TILE_MAX * WEIGHT_PANEL];

        for (uint32_t row = g->first, rows; row < g->end; row += rows) {
                const void *x = tile_at(job, form, row);

                rows = tile_rows(job, row, g->end);
                for (uint32_t p = first, k; p < first + n; p += k) {
                        k = MIN(first + n - p, CALL_PANELS);
                        multiply_panels(job, m->w, g->expert, p, k, rows, x, acc);
                        for (uint32_t i = 0; i < k; i++)
                                finish(job, m, g->expert, p + i, row, rows, acc + i * rows * WEIGHT_PANEL);
                }
        }
}

/* Item: a run of panels of one of the products, for one group. */
static void multiply(void *context, uint32_t item, unsigned worker) {
        const struct job *job = context;
        const struct matmul *m = job->products;
        uint32_t first, per_item;

        for (; item >= n_items(m->w) * job->n_groups; m++)
                item -= n_items(m->w) * job->n_groups;
        per_item = item_panels(m->w);
        first = item % n_items(m->w) * per_item;
        run_panels(job, m, job->groups + item / n_items(m->w), first, MIN(per_item, n_panels(m->w) - first));
}

static bool fits(const struct cpu_kernels *kernels, const struct matmul *m, uint32_t n_in) {
        struct lossless_parts parts;

        if (m->w->layout != WEIGHT_PANELS || m->w->n_in != n_in || n_in % m->w->info->block != 0)
                return false;
        if (fmt_is_coded(m->w->info))
                return lossless_layout(MAX(m->w->n_experts, 1u), m->w->n_out, n_in, &parts) &&
                       m->w->tail >= parts.least - parts.index;
        return cpu_kernels_matmul(kernels, m->w->info->fmt) != NULL;
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

/* The products of all groups. The job has rows and groups. */
static int run_job(struct cpu_backend *cpu, struct job *job) {
        uint64_t work = 0;
        uint32_t items = 0, tiles = 0;
        int r;

        job->kernels = cpu->kernels;
        job->n_in = job->products->w->n_in;
        for (const struct matmul *m = job->products; m < job->products + job->n_products; m++) {
                if (!fits(cpu->kernels, m, job->n_in))
                        return BACKEND_E_UNSUPPORTED;
                job->wanted[cpu_kernels_act(m->w->info->fmt)] = true;
                items += n_items(m->w) * job->n_groups;
                work += (uint64_t)m->w->n_out * m->w->n_in * job->n_rows;
        }
        r = reserve(cpu, job);
        if (r != 0)
                return r;
        for (uint32_t g = 0; g < job->n_groups; g++)
                tiles += n_tiles(job, job->groups + g);
        if (job->wanted[ACT_BF16S] || job->wanted[ACT_BLOCKS] || job->wanted[ACT_SUPERS] || job->n_rows > 1)
                cpu_run(cpu, (uint64_t)job->n_rows * job->n_in, tiles, prepare_rows, job);
        cpu_run(cpu, work, items, multiply, job);
        return 0;
}

int cpu_matmul(struct backend *be, const struct matmul *products, size_t n, const float *x, size_t x_stride,
               uint32_t n_rows) {
        const struct group all = { .end = n_rows };
        struct job job = { .products = products, .n_products = n, .x = x, .x_stride = x_stride, .n_rows = n_rows,
                           .groups = &all, .n_groups = 1 };

        return n == 0 || n_rows == 0 ? 0 : run_job(cpu_of(be), &job);
}

/* Slots in the order of their experts; those of an expert stay in theirs. One group for each expert that has any. */
static int sort_slots(struct cpu_backend *cpu, const struct chosen *c, uint32_t n_experts, bool x_per_row,
                      struct job *job) {
        uint32_t n_slots = c->n_rows * c->n_used, *from, *to, n_groups = 0, at = 0;
        struct group *groups;
        int r;

        r = scratch_reserve(&cpu->order, 2ull * n_slots * sizeof(*from) + n_experts * sizeof(*groups));
        if (r != 0)
                return r;
        from = cpu->order.data;
        to = from + n_slots;
        groups = (struct group *)(to + n_slots);
        memset(groups, 0, n_experts * sizeof(*groups));
        for (uint32_t s = 0; s < n_slots; s++) {
                if (c->experts[s] >= n_experts)
                        return BACKEND_E_UNSUPPORTED;
                groups[c->experts[s]].expert++; /* counts */
        }
        for (uint32_t e = 0; e < n_experts; e++) {
                groups[e].first = groups[e].end = at;
                at += groups[e].expert;
                groups[e].expert = e;
        }
        for (uint32_t s = 0; s < n_slots; s++) {
                uint32_t place = groups[c->experts[s]].end++;

                from[place] = x_per_row ? s / c->n_used : s;
                to[place] = s;
        }
        for (uint32_t e = 0; e < n_experts; e++)
                if (groups[e].end > groups[e].first)
                        groups[n_groups++] = groups[e];
        job->from = from;
        job->to = to;
        job->groups = groups;
        job->n_groups = n_groups;
        job->n_rows = n_slots;
        return 0;
}

int cpu_experts(struct backend *be, const struct matmul *products, size_t n, const struct chosen *chosen, const float *x,
                bool x_per_row) {
        struct matmul slots[2];
        struct job job = { .products = slots, .n_products = n, .x = x };
        int r;

        if (n == 0 || chosen->n_rows == 0)
                return 0;
        if (n > ARRAY_SIZE(slots))
                return BACKEND_E_UNSUPPORTED;
        for (size_t i = 0; i < n; i++) {
                if (products[i].w->n_experts != products->w->n_experts)
                        return BACKEND_E_UNSUPPORTED;
                slots[i] = products[i];
                slots[i].out_stride = products[i].w->n_out;
                slots[i].accumulate = false;
        }
        job.x_stride = products->w->n_in;
        r = sort_slots(cpu_of(be), chosen, products->w->n_experts, x_per_row, &job);
        return r ? r : run_job(cpu_of(be), &job);
}
