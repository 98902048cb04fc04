/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A step's sizes, memory and data. What differs from step to step - how many rows, their tokens, positions and page tables, who
 * computes what of attention - lies in one piece of device memory at places that the rooms decide, and gets there in one copy.
 */

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/macro.h"
#include "cuda.h"

#define ALIGN 128u

static size_t align(size_t n) {
        return (n + ALIGN - 1) / ALIGN * ALIGN;
}

uint32_t cuda_step_max(const struct cuda_step *s, struct cuda_span span) {
        return s->rooms.rows[span.base] * span.per;
}

void *cuda_step_at(const struct cuda_step *s, size_t offset) {
        return (uint8_t *)s->be->runner.scratch[CUDA_SCRATCH_STEP].data + offset;
}

/* Parts of the memory of a value. */
struct parts {
        size_t x, x8, sums, f32;
};

static struct parts value_parts(const struct cuda_step *s, const struct cuda_value *v) {
        uint32_t max = cuda_step_max(s, v->span);

        return (struct parts){ .x = v->x || v->sums ? align(cuda_packed_x_bytes(max, v->n_in)) : 0,
                               .x8 = v->x8 ? align(cuda_packed_x_bytes(max, v->n_in)) : 0,
                               .sums = v->sums ? align(cuda_packed_sums_bytes(max, v->n_in)) : 0,
                               .f32 = v->f32 ? align((size_t)max * v->n_in * sizeof(float)) : 0 };
}

struct cuda_packed cuda_step_value(const struct cuda_step *s, uint32_t value) {
        struct cuda_packed p = {};
        const struct cuda_value *v;
        struct parts parts;
        uint8_t *at;

        if (value == 0)
                return p;
        v = s->plan->values + (value - 1);
        at = s->be->runner.scratch[CUDA_SCRATCH_VALUES + v->buffer].data;
        parts = value_parts(s, v);
        p.n_in = v->n_in;
        if (parts.x)
                p.x = (uint16_t *)(void *)at;
        if (parts.x8)
                p.x8 = (uint32_t *)(void *)(at + parts.x);
        if (parts.sums)
                p.sums = (float *)(void *)(at + parts.x + parts.x8);
        if (parts.f32)
                p.f32 = (float *)(void *)(at + parts.x + parts.x8 + parts.sums);
        return p;
}

static size_t slots_bytes(uint32_t max_slots, uint32_t max_groups) {
        return 2 * align(max_slots * sizeof(uint32_t)) + align(sizeof(uint32_t)) + max_groups * sizeof(struct cuda_group);
}

/* Everything but addresses; returns how many slots there are at most. */
static uint32_t shape_slots(const struct cuda_step *s, uint32_t choice, struct cuda_slots *ret) {
        const struct cuda_choice *c = s->plan->needs.choices + choice - 1;
        uint32_t max_slots = cuda_step_max(s, c->span) * c->n_used;

        *ret = (struct cuda_slots){ .group_rows = cuda_mm_group_rows(max_slots, c->n_experts) };
        ret->max_groups = cuda_groups_max(max_slots, c->n_experts, ret->group_rows);
        return max_slots;
}

struct cuda_slots cuda_step_slots(const struct cuda_step *s, uint32_t choice) {
        struct cuda_slots slots;
        size_t array = align(shape_slots(s, choice, &slots) * sizeof(uint32_t));
        uint8_t *at = s->be->runner.scratch[CUDA_SCRATCH_SLOTS + choice - 1].data;

        slots.row = (uint32_t *)(void *)at;
        slots.slot = (uint32_t *)(void *)(at + array);
        slots.n_groups = (uint32_t *)(void *)(at + 2 * array);
        slots.groups = (struct cuda_group *)(void *)(at + 2 * array + align(sizeof(uint32_t)));
        return slots;
}

/* Results of a top(): [rows] of struct cuda_top_row, then values and ids. */
static size_t result_bytes(const struct cuda_step *s, const struct cuda_top_shape *t) {
        return cuda_step_max(s, t->span) * (sizeof(struct cuda_top_row) + (size_t)t->k * (sizeof(float) + sizeof(int32_t)));
}

struct cuda_top cuda_step_top(const struct cuda_step *s, uint32_t top) {
        const struct cuda_top_shape *t = s->plan->needs.tops + top - 1;
        uint32_t max = cuda_step_max(s, t->span);
        uint8_t *at = s->be->runner.scratch[CUDA_SCRATCH_RESULTS].data;

        for (const struct cuda_top_shape *before = s->plan->needs.tops; before < t; before++)
                at += align(result_bytes(s, before));
        return (struct cuda_top){ .dim = t->dim, .k = t->k, .row = (struct cuda_top_row *)(void *)at,
                                  .values = (float *)(void *)(at + max * sizeof(struct cuda_top_row)),
                                  .ids = (int32_t *)(void *)(at + max * (sizeof(struct cuda_top_row) + t->k * sizeof(float))),
                                  .scratch = s->be->runner.scratch[CUDA_SCRATCH_TOP].data };
}

size_t cuda_step_results(const struct cuda_step *s) {
        size_t bytes = 0;

        for (uint32_t i = 0; i < s->plan->needs.n_tops; i++)
                bytes += align(result_bytes(s, s->plan->needs.tops + i));
        return bytes;
}

int cuda_step_grow(struct cuda_backend *be, struct cuda_memory *m, size_t bytes, bool host) {
        if (bytes <= m->bytes)
                return 0;
        be->runner.generation++;
        cuda_memory_give(be, m);
        return cuda_memory_take(be, bytes, host, m);
}

static int reserve(struct cuda_backend *be, struct cuda_memory *m, size_t bytes, bool host) {
        if (bytes <= m->bytes)
                return 0;
        /* where nobody has said how large steps get; or a context that grows would move it again and again */
        return cuda_step_grow(be, m, bytes + bytes / 8, host);
}

static int reserve_scratch(struct cuda_backend *be, unsigned which, size_t bytes) {
        return reserve(be, be->runner.scratch + which, bytes, false);
}

static size_t mm_bytes(const struct cuda_step *s, const struct cuda_op *op) {
        static struct cuda_group somewhere; /* whether there are groups decides, not what is in them */
        struct cuda_mm a = op->mm.mm;

        a.rows.max = cuda_step_max(s, op->span);
        a.n_sms = s->be->n_sms;
        if (op->index) {
                (void)shape_slots(s, op->index, &a.slots);
                a.slots.groups = &somewhere;
        }
        return cuda_mm_scratch_bytes(&a);
}

static void keep_larger(size_t *bytes, size_t n) {
        *bytes = MAX(*bytes, n);
}

void cuda_step_measure(const struct cuda_step *s, size_t bytes[CUDA_SCRATCH_COUNT]) {
        const struct cuda_plan *plan = s->plan;

        for (size_t i = 0; i < plan->n_values; i++) {
                const struct parts p = value_parts(s, plan->values + i);

                keep_larger(bytes + CUDA_SCRATCH_VALUES + plan->values[i].buffer, p.x + p.x8 + p.sums + p.f32);
        }
        for (uint32_t i = 0; i < plan->needs.n_choices; i++) {
                struct cuda_slots slots;
                uint32_t max_slots = shape_slots(s, i + 1, &slots);

                keep_larger(bytes + CUDA_SCRATCH_SLOTS + i, slots_bytes(max_slots, slots.max_groups));
        }
        for (size_t i = 0; i < plan->list.n; i++)
                if (plan->list.ops[i].kind == CUDA_OP_MM)
                        keep_larger(bytes + CUDA_SCRATCH_MM, mm_bytes(s, plan->list.ops + i));
        for (uint32_t i = 0; i < plan->needs.n_tops; i++) {
                const struct cuda_top_shape *t = plan->needs.tops + i;

                keep_larger(bytes + CUDA_SCRATCH_TOP, cuda_top_scratch_bytes(cuda_step_max(s, t->span), t->dim));
        }
        keep_larger(bytes + CUDA_SCRATCH_RESULTS, cuda_step_results(s));
}

/* What operations need besides buffers, by their rows. */
static int reserve_for_ops(const struct cuda_step *s) {
        struct cuda_runner *run = &s->be->runner;
        size_t bytes[CUDA_SCRATCH_COUNT] = {};
        struct cuda_plan *plan = s->plan;
        int r = 0;

        if (memcmp(plan->sized, s->rooms.rows, sizeof(plan->sized)) == 0 && plan->sized_generation == run->generation)
                return 0;
        cuda_step_measure(s, bytes);
        for (unsigned i = 0; r == 0 && i < CUDA_SCRATCH_COUNT; i++)
                r = reserve_scratch(s->be, i, bytes[i]);
        r = r ? r : reserve(s->be, &run->results_host, bytes[CUDA_SCRATCH_RESULTS], true);
        if (r != 0)
                return r;
        memcpy(plan->sized, s->rooms.rows, sizeof(plan->sized));
        plan->sized_generation = run->generation;
        return 0;
}

/* The counters of split products, which every product leaves as zeros. */
int cuda_step_take_tickets(struct cuda_backend *be) {
        struct cuda_memory *m = be->runner.scratch + CUDA_SCRATCH_TICKETS;
        int r;

        if (m->data)
                return 0;
        r = cuda_memory_take(be, CUDA_MM_TICKETS * sizeof(uint32_t), false, m);
        r = r ? r : cuda_memory_clear(be, m);
        return r;
}

static size_t attn_bytes(const struct cuda_room *room) {
        return align(sizeof(struct cuda_attn_plan) + room->items * sizeof(struct cuda_attn_item) +
                     room->rows * sizeof(struct cuda_attn_row) + room->tiles * sizeof(struct cuda_attn_tile));
}

uint32_t cuda_step_items_max(const struct cuda_backend *be, const struct cuda_window *w) {
        const struct backend_limits *l = &be->runner.limits;

        if (l->sequences == 0)
                return UINT32_MAX;
        return cuda_attn_items_max(w->tile_rows > 0 ? MIN(l->sequences, l->rows) : l->rows, l->context, w->window);
}

/* Rounded up, but not beyond what is enough for every step. */
static uint32_t round_items(uint32_t n, uint32_t most) {
        return n <= most ? MIN(cuda_step_bucket(n), most) : cuda_step_bucket(n);
}

int cuda_step_take_plans(struct cuda_runner *run, size_t bytes) {
        void *grown;

        if (bytes <= run->attn_host_bytes)
                return 0;
        grown = aligned_alloc(ALIGN, bytes);
        if (!grown)
                return BACKEND_E_NO_MEMORY;
        free(run->attn_host);
        run->attn_host = grown;
        run->attn_host_bytes = bytes;
        return 0;
}

/* Makes all plans of attention on the host, one after another, and rounds their rooms. */
static int plan_attention(struct cuda_step *s) {
        struct cuda_runner *run = &s->be->runner;
        const struct batch *batch = s->be->recorder.batch;
        const struct cuda_needs *needs = &s->plan->needs;
        size_t bytes = 0, at = 0, partials = 0;
        int r;

        for (uint32_t i = 0; i < needs->n_windows; i++) {
                const struct cuda_window *w = needs->windows + i;

                bytes += align(cuda_attn_plan_bytes(batch, w->window, w->tile_rows, cuda_step_items_max(s->be, w)));
        }
        r = cuda_step_take_plans(run, bytes);
        if (r != 0)
                return r;
        for (uint32_t i = 0; i < needs->n_windows; i++) {
                const struct cuda_window *w = needs->windows + i;
                uint32_t most = cuda_step_items_max(s->be, w);
                struct cuda_attn_plan *plan = (struct cuda_attn_plan *)(void *)((uint8_t *)run->attn_host + at);
                struct cuda_room *room = s->rooms.attn + i;

                cuda_attn_plan_make(batch, w->window, w->tile_rows, most, plan);
                at += align(plan->bytes);
                *room = (struct cuda_room){ plan->n_items, plan->n_rows, plan->n_tiles, plan->n_partials };
                if (s->small)
                        *room = (struct cuda_room){ round_items(room->items, most), cuda_step_bucket(room->rows), cuda_step_bucket(room->tiles),
                                                    round_items(room->partials, most) };
                partials = MAX(partials, cuda_attn_partial_bytes(room->partials, w->n_heads, w->head_dim));
        }
        return reserve_scratch(s->be, CUDA_SCRATCH_PARTIALS, partials);
}

/* Page numbers of all sequences of the step's rows, up to their last positions. */
static size_t count_pages(const struct cuda_recorder *rec) {
        const struct batch *b = rec->batch;
        size_t n = 0;

        for (uint32_t r = 0; rec->kv && r < b->n_rows; r++)
                if (r + 1 == b->n_rows || b->seq[r + 1] != b->seq[r])
                        n += b->pos[r] / rec->kv->config.page_tokens + 1;
        return n;
}

void cuda_step_lay_out(struct cuda_step *s, size_t n_pages) {
        struct cuda_layout *l = &s->layout;
        size_t rows = align(s->rooms.rows[CUDA_ROWS] * sizeof(uint32_t)), at;

        l->counts = 0;
        l->token = ALIGN;
        l->pos = l->token + rows;
        l->seq = l->pos + rows;
        l->table_start = l->seq + rows;
        l->gather = l->table_start + rows;
        at = l->gather + align(s->rooms.rows[CUDA_GATHERED] * sizeof(uint32_t));
        for (uint32_t i = 0; i < s->plan->needs.n_windows; i++) {
                l->attn[i] = at;
                at += attn_bytes(s->rooms.attn + i);
        }
        l->table = at;
        l->end = at + n_pages * sizeof(uint32_t);
}

int cuda_step_prepare(struct cuda_backend *be, struct cuda_plan *plan, struct cuda_step *ret) {
        const struct cuda_recorder *rec = &be->recorder;
        uint32_t rows = rec->batch->n_rows, gathered = rec->n_gathered;
        struct cuda_step s = { .be = be, .plan = plan, .small = rows <= CUDA_GRAPH_ROWS && gathered <= CUDA_GRAPH_ROWS };
        int r;

        s.rooms.rows[CUDA_ROWS] = s.small ? cuda_step_bucket(rows) : rows;
        s.rooms.rows[CUDA_GATHERED] = s.small ? cuda_step_bucket(gathered) : gathered;
        s.rooms.rows[CUDA_FIXED] = 1;
        r = cuda_step_take_tickets(be);
        r = r ? r : plan_attention(&s);
        r = r ? r : reserve_for_ops(&s);
        if (r != 0)
                return r;
        cuda_step_lay_out(&s, count_pages(rec));
        r = reserve_scratch(be, CUDA_SCRATCH_STEP, s.layout.end);
        r = r ? r : reserve(be, &be->runner.step_host, s.layout.end, true);
        if (r != 0)
                return r;
        *ret = s;
        return 0;
}

/* Sequences are numbered as they come: as many as rows at most. */
static void write_sequences(const struct cuda_step *s, uint8_t *to) {
        const struct cuda_recorder *rec = &s->be->recorder;
        const struct batch *b = rec->batch;
        uint32_t *seq = (uint32_t *)(void *)(to + s->layout.seq), *start = (uint32_t *)(void *)(to + s->layout.table_start);
        uint32_t *table = (uint32_t *)(void *)(to + s->layout.table), n_seqs = 0, n = 0;

        for (uint32_t r = 0; rec->kv && r < b->n_rows; r++) {
                uint32_t pages = b->pos[r] / rec->kv->config.page_tokens + 1;

                seq[r] = n_seqs;
                if (r + 1 < b->n_rows && b->seq[r + 1] == b->seq[r])
                        continue;
                start[n_seqs++] = n;
                memcpy(table + n, b->page_table[b->seq[r]], pages * sizeof(*table));
                n += pages;
        }
}

static void copy_array(uint8_t *to, const void *from, size_t n) {
        if (from && n > 0)
                memcpy(to, from, n * sizeof(uint32_t));
}

int cuda_step_send(const struct cuda_step *s) {
        struct cuda_runner *run = &s->be->runner;
        const struct cuda_recorder *rec = &s->be->recorder;
        const uint32_t counts[CUDA_BASES] = { rec->batch->n_rows, rec->n_gathered, 1 };
        const uint8_t *attn = run->attn_host;
        uint8_t *to = run->step_host.data;

        memcpy(to + s->layout.counts, counts, sizeof(counts));
        copy_array(to + s->layout.token, rec->batch->token, rec->batch->n_rows);
        copy_array(to + s->layout.pos, rec->batch->pos, rec->batch->n_rows);
        copy_array(to + s->layout.gather, rec->gather, rec->n_gathered);
        write_sequences(s, to);
        for (uint32_t i = 0; i < s->plan->needs.n_windows; i++) {
                uint32_t bytes = ((const struct cuda_attn_plan *)(const void *)attn)->bytes;

                memcpy(to + s->layout.attn[i], attn, bytes);
                attn += align(bytes);
        }
        return cuda_check(s->be, cudaMemcpyAsync(cuda_step_at(s, 0), to, s->layout.end, cudaMemcpyHostToDevice, s->be->stream),
                          "copying a step's rows");
}
