/* SPDX-License-Identifier: Apache-2.0 */

/* The end of a step: its plan is found or made, launched, waited for, and what top() found is handed over. */

#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "cuda.h"

#define PLANS_MAX 16u

void cuda_run_forget(struct cuda_backend *be) {
        struct cuda_runner *run = &be->runner;

        for (struct cuda_plan *p = run->plans, *next; p; p = next) {
                next = p->next;
                cuda_graphs_free(be, p);
                cuda_plan_free(p);
        }
        run->plans = NULL;
}

void cuda_run_close(struct cuda_backend *be) {
        cuda_run_forget(be);
        for (size_t i = 0; i < CUDA_SCRATCH_COUNT; i++)
                cuda_memory_give(be, be->runner.scratch + i);
        cuda_memory_give(be, &be->runner.step_host);
        cuda_memory_give(be, &be->runner.results_host);
        free(be->runner.attn_host);
}

static bool is_for(const struct cuda_plan *p, const struct cuda_ops *list) {
        return p->key.n == list->n && memcmp(p->key.ops, list->ops, list->n * sizeof(*list->ops)) == 0;
}

int cuda_run_plan(struct cuda_backend *be, struct cuda_plan **ret) {
        struct cuda_plan **at = &be->runner.plans, *p;
        size_t n = 0;
        int r;

        for (; *at && !is_for(*at, &be->recorder.list); at = &(*at)->next)
                n++;
        p = *at;
        if (p) {
                *at = p->next;
        } else {
                r = cuda_plan_new(be, &be->recorder, &p);
                if (r != 0)
                        return r;
        }
        p->next = be->runner.plans;
        be->runner.plans = p;
        if (n >= PLANS_MAX)
                for (at = &p->next; *at; at = &(*at)->next)
                        if (!(*at)->next) { /* the oldest */
                                cuda_graphs_free(be, *at);
                                *at = cuda_plan_free(*at);
                                break;
                        }
        *ret = p;
        return 0;
}

/* Kernels are taken to the device when they are launched first, for which memory may lack: what was started before it still works
 * with the step's data, which the next step overwrites. */
static int launch(const struct cuda_step *s) {
        struct cuda_backend *be = s->be;
        struct cuda_pace *pace = NULL;
        int r = cuda_step_send(s);

        if (r == 0 && s->small && !be->no_graphs)
                r = cuda_graph_run(s, &pace);
        if (r == 0 && !pace)
                r = cuda_check_memory(be, cuda_launch_plan(s), "launching a step");
        if (r == BACKEND_E_NO_MEMORY) {
                int waited = cuda_wait_all(be, "waiting for a part of a step");

                return waited ? waited : r;
        }
        if (r == 0 && s->plan->needs.n_tops > 0)
                r = cuda_check(be, cudaMemcpyAsync(be->runner.results_host.data, be->runner.scratch[CUDA_SCRATCH_RESULTS].data,
                                                   cuda_step_results(s), cudaMemcpyDeviceToHost, be->stream),
                               "copying a step's results");
        if (r != 0)
                return r;
        return pace ? cuda_wait_step(be, pace) : cuda_wait_all(be, "waiting for a step");
}

static void hand_over(const struct cuda_step *s, uint32_t top, const struct cuda_top_result *to) {
        const struct cuda_recorder *rec = &s->be->recorder;
        const uint8_t *host = s->be->runner.results_host.data, *dev = s->be->runner.scratch[CUDA_SCRATCH_RESULTS].data;
        const struct cuda_top from = cuda_step_top(s, top);
        const struct cuda_span span = s->plan->needs.tops[top - 1].span;
        const uint32_t counts[CUDA_BASES] = { rec->batch->n_rows, rec->n_gathered, 1 };
        size_t n = (size_t)counts[span.base] * span.per;
        const struct cuda_top_row *rows = (const void *)(host + ((const uint8_t *)from.row - dev));

        for (size_t i = 0; i < n; i++)
                to->rows[i] = (struct backend_top){ .sum = rows[i].sum, .largest = rows[i].largest, .bad = rows[i].bad != 0 };
        memcpy(to->values, host + ((const uint8_t *)from.values - dev), n * from.k * sizeof(*to->values));
        memcpy(to->ids, host + ((const uint8_t *)from.ids - dev), n * from.k * sizeof(*to->ids));
}

static int run_step(struct cuda_backend *be) {
        struct cuda_plan *plan;
        struct cuda_step step;
        int r;

        r = cuda_run_plan(be, &plan);
        r = r ? r : cuda_step_prepare(be, plan, &step);
        r = r ? r : launch(&step);
        for (uint32_t i = 0; r == 0 && i < plan->needs.n_tops; i++)
                hand_over(&step, i + 1, be->recorder.tops + i);
        be->runner.steps += r == 0;
        return r;
}

int cuda_run_end(struct backend *base) {
        struct cuda_backend *be = cuda_of(base);
        int r = atomic_load(&be->lost);

        if (r == 0 && !be->recorder.batch)
                return BACKEND_E_UNSUPPORTED;
        r = r ? r : cuda_uploader_finish(be);
        if (r == 0 && be->recorder.list.n > 0)
                r = run_step(be);
        be->recorder.batch = NULL;
        return r;
}
