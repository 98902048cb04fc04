/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory for all steps of some operations, before the first one. What a plan needs is reckoned for every number of rows up to the
 * limits: few rows may need more than many, since products are split among more blocks then. Of attention it is the partial results
 * of a row of each sequence at the end of its context; short runs of rows that would need more go without (attn.h).
 */

#include "base/macro.h"
#include "cuda.h"

struct needed {
        size_t scratch[CUDA_SCRATCH_COUNT];
        size_t attn_host;
};

/* How many rows a step of so many may be rounded up to. */
static uint32_t rounded(uint32_t rows) {
        return rows <= CUDA_GRAPH_ROWS ? cuda_step_bucket(rows) : rows;
}

/* Whether no more rows need anything but what grows with them: no product is split, nor will be, and groups are as large as they
 * get. */
static bool is_settled(const struct cuda_step *s, const size_t now[CUDA_SCRATCH_COUNT]) {
        const struct cuda_needs *needs = &s->plan->needs;

        if (s->rooms.rows[CUDA_ROWS] < CUDA_MM_GROUP_ROWS || now[CUDA_SCRATCH_MM] > 0)
                return false;
        for (uint32_t i = 0; i < needs->n_choices; i++) {
                const struct cuda_choice *c = needs->choices + i;

                if (cuda_mm_group_rows(cuda_step_max(s, c->span) * c->n_used, c->n_experts) < CUDA_MM_GROUP_ROWS)
                        return false;
        }
        return true;
}

static void measure_ops(struct cuda_step *s, const struct backend_limits *l, struct needed *needed) {
        uint32_t rows = rounded(l->rows), gathered = rounded(l->gathered), most = MAX(rows, gathered);
        bool settled = false;

        for (uint32_t i = 1; i <= most; i = settled ? MAX(i + 1, most) : i + 1) {
                size_t now[CUDA_SCRATCH_COUNT] = {};

                s->rooms.rows[CUDA_ROWS] = MIN(i, rows);
                s->rooms.rows[CUDA_GATHERED] = MIN(i, gathered);
                cuda_step_measure(s, now);
                for (size_t k = 0; k < CUDA_SCRATCH_COUNT; k++)
                        needed->scratch[k] = MAX(needed->scratch[k], now[k]);
                settled = settled || is_settled(s, now);
        }
}

/* The step's own data, with the rooms of the largest. */
static void measure_step(struct cuda_step *s, const struct backend_limits *l, struct needed *needed) {
        const struct cuda_needs *needs = &s->plan->needs;
        const struct kv_cache *kv = s->be->recorder.kv;
        size_t pages = kv && l->context > 0 ? (l->context - 1) / kv->config.page_tokens + 1 : 0;

        for (uint32_t i = 0; i < needs->n_windows; i++) {
                const struct cuda_window *w = needs->windows + i;
                uint32_t items = cuda_step_items_max(s->be, w), tiles = cuda_attn_tiles_max(rounded(l->rows), w->tile_rows);

                s->rooms.attn[i] = (struct cuda_room){ items, rounded(l->rows), cuda_step_bucket(tiles), items };
                needed->scratch[CUDA_SCRATCH_PARTIALS] = MAX(needed->scratch[CUDA_SCRATCH_PARTIALS],
                                                             cuda_attn_partial_bytes(items, w->n_heads, w->head_dim));
        }
        cuda_step_lay_out(s, pages * MIN(l->sequences, l->rows));
        needed->scratch[CUDA_SCRATCH_STEP] = s->layout.end;
        needed->attn_host = needs->n_windows > 0 ? s->layout.table - s->layout.attn[0] : 0;
}

static uint64_t sum(const struct cuda_runner *run, const struct needed *needed) {
        uint64_t n = MAX(run->attn_host_bytes, needed->attn_host) +
                     MAX(run->step_host.bytes, needed->scratch[CUDA_SCRATCH_STEP]) +
                     MAX(run->results_host.bytes, needed->scratch[CUDA_SCRATCH_RESULTS]);

        for (size_t i = 0; i < CUDA_SCRATCH_COUNT; i++)
                n += MAX(run->scratch[i].bytes, needed->scratch[i]);
        return n;
}

static int take(struct cuda_backend *be, const struct needed *needed) {
        struct cuda_runner *run = &be->runner;
        int r = cuda_step_take_tickets(be);

        for (size_t i = 0; r == 0 && i < CUDA_SCRATCH_COUNT; i++)
                r = cuda_step_grow(be, run->scratch + i, needed->scratch[i], false);
        r = r ? r : cuda_step_grow(be, &run->step_host, needed->scratch[CUDA_SCRATCH_STEP], true);
        r = r ? r : cuda_step_grow(be, &run->results_host, needed->scratch[CUDA_SCRATCH_RESULTS], true);
        r = r ? r : cuda_step_take_plans(run, needed->attn_host);
        return r ? r : cuda_copy_in(be, NULL, NULL, 0); /* its buffers */
}

static int reserve(struct cuda_backend *be, uint64_t *ret_bytes) {
        const struct backend_limits *l = &be->runner.limits;
        struct needed needed = { .scratch[CUDA_SCRATCH_TICKETS] = CUDA_MM_TICKETS * sizeof(uint32_t) };
        struct cuda_step s = { .be = be, .rooms.rows[CUDA_FIXED] = 1 };
        int r = cuda_run_plan(be, &s.plan);

        if (r != 0)
                return r;
        measure_ops(&s, l, &needed);
        measure_step(&s, l, &needed);
        *ret_bytes = sum(&be->runner, &needed);
        r = cuda_record_take_gather(&be->recorder, l->gathered);
        return r ? r : take(be, &needed);
}

int cuda_reserve(struct backend *base, const struct backend_limits *limits, uint64_t *ret_bytes) {
        struct cuda_backend *be = cuda_of(base);
        int r = atomic_load(&be->lost);

        if (r == 0 && !be->recorder.batch)
                return BACKEND_E_UNSUPPORTED;
        *ret_bytes = 0;
        be->runner.limits = *limits;
        r = r ? r : cuda_uploader_finish(be); /* what it has is free then */
        r = r ? r : reserve(be, ret_bytes);
        be->recorder.batch = NULL;
        return r;
}

void cuda_reserved(const struct cuda_backend *be, uint64_t *ret_host, uint64_t *ret_device) {
        const struct cuda_runner *run = &be->runner;
        uint64_t host = run->attn_host_bytes + run->step_host.bytes + run->results_host.bytes, device = 0;

        for (size_t i = 0; i < CUDA_STAGES; i++)
                host += be->stages[i].memory.bytes;
        for (size_t i = 0; i < CUDA_SCRATCH_COUNT; i++)
                device += run->scratch[i].bytes;
        for (size_t i = 0; i < CUDA_CONSTANT_CHAINS; i++)
                for (const struct cuda_constant *c = be->constants[i]; c; c = c->next)
                        device += c->memory.bytes;
        *ret_host = host;
        *ret_device = device;
}
