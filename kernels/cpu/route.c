/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Mixtures of experts: which experts a row goes to, and what their results add up to. Everything is done row by row in
 * an order of its own, so that no row's bits depend on another. The experts' products are in matmul.c.
 */

#include "base/macro.h"
#include "cpu.h"

struct job {
        const struct row_kernels *kernels;
        const struct routing *routing;
        const struct chosen *chosen;
        const float *x;
        uint32_t *experts;
        float *weights, *out;
        float *local; /* per worker: weights, what is chosen by, and what is taken; n_experts each */
        uint32_t n_rows, dim;
        bool accumulate;
};

/* e^(x - top) / their sum */
static void softmax(const struct row_kernels *kernels, const float *x, uint32_t n, float *out) {
        float top = x[0], sum = 0.0f;

        for (uint32_t i = 1; i < n; i++)
                top = x[i] > top ? x[i] : top;
        for (uint32_t i = 0; i < n; i++)
                out[i] = x[i] - top;
        kernels->exp(out, n, out);
        for (uint32_t i = 0; i < n; i++)
                sum += out[i];
        for (uint32_t i = 0; i < n; i++)
                out[i] /= sum;
}

static void sigmoid(const struct row_kernels *kernels, const float *x, uint32_t n, float *out) {
        for (uint32_t i = 0; i < n; i++)
                out[i] = -x[i];
        kernels->exp(out, n, out);
        for (uint32_t i = 0; i < n; i++)
                out[i] = 1.0f / (1.0f + out[i]);
}

/* The largest one that is not taken; of equal ones the first. Not-a-number is never larger, but somebody is chosen. */
static uint32_t choose(const float *by, float *taken, uint32_t n) {
        uint32_t best = n;

        for (uint32_t i = 0; i < n; i++)
                if (taken[i] == 0.0f && (best == n || by[i] > by[best]))
                        best = i;
        taken[best] = 1.0f;
        return best;
}

static void finish_weights(const struct job *job, float *w) {
        const struct routing *r = job->routing;
        float sum = 0.0f;

        if (r->gating == GATING_SOFTMAX_CHOSEN)
                softmax(job->kernels, w, r->n_used, w);
        for (uint32_t k = 0; k < r->n_used; k++)
                sum += w[k];
        sum = MAX(sum, ROUTING_SUM_MIN);
        for (uint32_t k = 0; k < r->n_used; k++) {
                w[k] = r->normalize ? w[k] / sum : w[k];
                w[k] = r->scale != 1.0f ? w[k] * r->scale : w[k];
        }
}

/* Item: a row. */
static void route_row(void *context, uint32_t row, unsigned worker) {
        const struct job *job = context;
        const struct routing *r = job->routing;
        const float *logits = job->x + (size_t)row * r->n_experts;
        float *weights = job->local + (size_t)worker * 3 * r->n_experts, *by = weights + r->n_experts;
        float *taken = by + r->n_experts;

        if (r->gating == GATING_SOFTMAX)
                softmax(job->kernels, logits, r->n_experts, weights);
        else if (r->gating == GATING_SIGMOID)
                sigmoid(job->kernels, logits, r->n_experts, weights);
        for (uint32_t i = 0; i < r->n_experts; i++) {
                if (r->gating == GATING_SOFTMAX_CHOSEN)
                        weights[i] = logits[i];
                by[i] = r->bias ? weights[i] + r->bias[i] : weights[i];
                taken[i] = 0.0f;
        }
        for (uint32_t k = 0; k < r->n_used; k++) {
                uint32_t e = choose(by, taken, r->n_experts);

                job->experts[(size_t)row * r->n_used + k] = e;
                job->weights[(size_t)row * r->n_used + k] = weights[e];
        }
        finish_weights(job, job->weights + (size_t)row * r->n_used);
}

int cpu_route(struct backend *be, const struct routing *routing, const float *logits, uint32_t n_rows, uint32_t *experts,
              float *weights) {
        struct cpu_backend *cpu = cpu_of(be);
        struct job job = { .kernels = cpu->kernels->rows, .routing = routing, .x = logits, .experts = experts,
                           .weights = weights, .n_rows = n_rows };
        int r;

        if (routing->n_used < 1 || routing->n_used > routing->n_experts || routing->gating > GATING_SOFTMAX_CHOSEN)
                return BACKEND_E_UNSUPPORTED;
        r = scratch_reserve(&cpu->local, pool_threads(cpu->pool) * 3ull * routing->n_experts * sizeof(float));
        if (r != 0)
                return r;
        job.local = cpu->local.data;
        cpu_run(cpu, (uint64_t)n_rows * routing->n_experts * (16 + routing->n_used), n_rows, route_row, &job);
        return 0;
}

/* Item: a row. */
static void combine_row(void *context, uint32_t row, unsigned worker) {
        const struct job *job = context;
        uint32_t n_used = job->chosen->n_used, dim = job->dim;
        const float *w = job->chosen->weights + (size_t)row * n_used, *x = job->x + (size_t)row * n_used * dim;
        float *out = job->out + (size_t)row * dim;

        for (uint32_t i = 0; i < dim; i++) {
                float sum = w[0] * x[i];

                for (uint32_t k = 1; k < n_used; k++)
                        sum += w[k] * x[(size_t)k * dim + i];
                out[i] = job->accumulate ? out[i] + sum : sum;
        }
}

int cpu_combine(struct backend *be, const struct chosen *chosen, const float *x, uint32_t dim, bool accumulate,
                float *out) {
        struct job job = { .chosen = chosen, .x = x, .out = out, .dim = dim, .accumulate = accumulate };

        cpu_run(cpu_of(be), (uint64_t)chosen->n_rows * chosen->n_used * dim, chosen->n_rows, combine_row, &job);
        return 0;
}
