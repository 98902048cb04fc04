/* SPDX-License-Identifier: Apache-2.0 */

/* Operations on rows one by one: embedding, RMS norm, gated activation, soft caps, sums, gathering. */

#include <string.h>

#include "base/macro.h"
#include "cpu.h"

#define ITEM_ELEMENTS 4096u /* rows are handed out in runs of about that many elements */

struct job {
        const struct row_kernels *kernels;
        const struct weight *w;
        const struct batch *batch;
        const float *x, *y;
        float *out;
        float number; /* scale or epsilon */
        float cap;
        size_t stride;
        enum activation act;
        uint32_t n, dim, per_item;
};

static int run(struct cpu_backend *cpu, struct job *job, unsigned cost, pool_fn fn) {
        job->kernels = cpu->kernels->rows;
        job->per_item = job->dim ? MAX(ITEM_ELEMENTS / job->dim, 1u) : ITEM_ELEMENTS;
        cpu_run(cpu, (uint64_t)job->n * job->dim * cost, (job->n + job->per_item - 1) / job->per_item, fn, job);
        return 0;
}

static uint32_t end_of(const struct job *job, uint32_t item) {
        return MIN((item + 1) * job->per_item, job->n);
}

static void embed_rows(void *context, uint32_t item, unsigned worker) {
        const struct job *job = context;

        for (uint32_t r = item * job->per_item; r < end_of(job, item); r++) {
                float *out = job->out + (size_t)r * job->dim;

                weight_decode_row(job->w, (uint32_t)job->batch->token[r], out);
                for (uint32_t i = 0; job->number != 1.0f && i < job->dim; i++)
                        out[i] *= job->number;
        }
}

int cpu_embed(struct backend *be, const struct weight *w, const struct batch *batch, float scale, float *out) {
        struct job job = { .w = w, .batch = batch, .number = scale, .out = out, .n = batch->n_rows, .dim = w->n_in };

        for (uint32_t r = 0; r < batch->n_rows; r++)
                if (batch->token[r] < 0 || (uint32_t)batch->token[r] >= w->n_out)
                        return BACKEND_E_UNSUPPORTED;
        return run(cpu_of(be), &job, 8, embed_rows);
}

static void rmsnorm_rows(void *context, uint32_t item, unsigned worker) {
        const struct job *job = context;

        for (uint32_t r = item * job->per_item; r < end_of(job, item); r++)
                job->kernels->rmsnorm(job->x + (size_t)r * job->dim, job->y, job->number, job->dim,
                                      job->out + (size_t)r * job->dim);
}

int cpu_rmsnorm(struct backend *be, const float *x, const float *weight, float eps, uint32_t n, uint32_t dim,
                float *out) {
        struct job job = { .x = x, .y = weight, .number = eps, .out = out, .n = n, .dim = dim };

        return run(cpu_of(be), &job, 2, rmsnorm_rows);
}

static void gate_rows(void *context, uint32_t item, unsigned worker) {
        const struct job *job = context;
        uint32_t first = item * job->per_item;
        size_t at = (size_t)first * job->dim;

        job->kernels->gate(job->act, job->x + at, job->y + at, (size_t)(end_of(job, item) - first) * job->dim,
                           job->out + at);
}

int cpu_gate(struct backend *be, enum activation act, const float *gate, const float *up, uint32_t n_rows,
             uint32_t dim, float *out) {
        struct job job = { .x = gate, .y = up, .out = out, .act = act, .n = n_rows, .dim = dim };

        if (act >= ACTIVATIONS)
                return BACKEND_E_UNSUPPORTED;
        return run(cpu_of(be), &job, 16, gate_rows);
}

static void softcap_rows(void *context, uint32_t item, unsigned worker) {
        const struct job *job = context;
        size_t first = (size_t)item * job->per_item * job->dim, end = (size_t)end_of(job, item) * job->dim;

        if (job->cap > 0)
                job->kernels->softcap(job->out + first, job->number, job->cap, end - first, job->out + first);
        for (size_t i = first; job->cap <= 0 && i < end; i++)
                job->out[i] *= job->number;
}

int cpu_softcap(struct backend *be, float scale, float cap, uint32_t n_rows, uint32_t dim, float *x) {
        struct job job = { .number = scale, .cap = cap, .out = x, .n = n_rows, .dim = dim };

        return run(cpu_of(be), &job, 16, softcap_rows);
}

static void add_rows(void *context, uint32_t item, unsigned worker) {
        const struct job *job = context;
        size_t end = (size_t)end_of(job, item) * job->dim;

        for (size_t i = (size_t)item * job->per_item * job->dim; i < end; i++)
                job->out[i] += job->number == 1.0f ? job->x[i] : job->number * job->x[i];
}

int cpu_add(struct backend *be, const float *x, float scale, uint32_t n_rows, uint32_t dim, float *out) {
        struct job job = { .x = x, .number = scale, .out = out, .n = n_rows, .dim = dim };

        return run(cpu_of(be), &job, 1, add_rows);
}

static void slice_rows(void *context, uint32_t item, unsigned worker) {
        const struct job *job = context;

        for (uint32_t r = item * job->per_item; r < end_of(job, item); r++)
                memcpy(job->out + (size_t)r * job->dim, job->x + r * job->stride, job->dim * sizeof(*job->x));
}

int cpu_slice(struct backend *be, const float *x, size_t x_stride, uint32_t first, uint32_t n_rows, uint32_t dim,
              float *out) {
        struct job job = { .x = x + first, .stride = x_stride, .out = out, .n = n_rows, .dim = dim };

        if (first + (size_t)dim > x_stride)
                return BACKEND_E_UNSUPPORTED;
        return run(cpu_of(be), &job, 1, slice_rows);
}

int cpu_gather(struct backend *be, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim, float *out) {
        for (uint32_t i = 0; i < n; i++)
                memcpy(out + (size_t)i * dim, x + (size_t)rows[i] * dim, dim * sizeof(*x));
        return 0;
}
