/* SPDX-License-Identifier: Apache-2.0 */

/* Launches: each operation's arguments are completed with what the step knows, and its kernel is started. */

#include "base/macro.h"
#include "cuda.h"

static struct cuda_rows rows_of(const struct cuda_step *s, struct cuda_span span) {
        const uint32_t *counts = cuda_step_at(s, s->layout.counts);

        return (struct cuda_rows){ .count = counts + span.base, .per = span.per, .max = cuda_step_max(s, span) };
}

static struct cuda_batch batch_of(const struct cuda_step *s) {
        return (struct cuda_batch){ .token = cuda_step_at(s, s->layout.token), .pos = cuda_step_at(s, s->layout.pos),
                                    .seq = cuda_step_at(s, s->layout.seq),
                                    .table_start = cuda_step_at(s, s->layout.table_start),
                                    .table = cuda_step_at(s, s->layout.table) };
}

/* The packed forms that the operation writes besides rows as they are. */
static void add_value(const struct cuda_step *s, uint32_t value, struct cuda_packed *out) {
        struct cuda_packed v = cuda_step_value(s, value);

        out->x = v.x;
        out->x8 = v.x8;
        out->sums = v.sums;
        if (v.f32)
                out->f32 = v.f32;
}

static cudaError_t launch_mm(const struct cuda_step *s, const struct cuda_op *op, const struct cuda_launch *l) {
        struct cuda_mm mm = op->mm.mm;

        mm.rows = rows_of(s, op->span);
        mm.x = cuda_step_value(s, op->in);
        if (op->in == 0) {
                mm.x.f32 = (float *)op->mm.x; /* only read */
                mm.x.n_in = mm.n_in;
        }
        if (op->index)
                mm.slots = cuda_step_slots(s, op->index);
        if (mm.is_gated)
                add_value(s, op->out, &mm.gated);
        mm.scratch = s->be->runner.scratch[CUDA_SCRATCH_MM].data;
        mm.tickets = s->be->runner.scratch[CUDA_SCRATCH_TICKETS].data;
        mm.n_sms = s->be->n_sms;
        return cuda_mm(l, &mm);
}

static cudaError_t launch_norm(const struct cuda_step *s, const struct cuda_op *op, const struct cuda_launch *l) {
        struct cuda_norm a = op->norm;

        a.rows = rows_of(s, op->span);
        add_value(s, op->out, &a.out);
        return cuda_norm(l, &a);
}

static cudaError_t launch_rope(const struct cuda_step *s, const struct cuda_op *op, const struct cuda_launch *l) {
        struct cuda_rope_kv a = op->rope;

        a.rows = rows_of(s, op->span);
        a.batch = batch_of(s);
        return cuda_rope_kv(l, &a);
}

static cudaError_t launch_attn(const struct cuda_step *s, const struct cuda_op *op, const struct cuda_launch *l) {
        struct cuda_attn a = op->attn;

        a.rows = rows_of(s, op->span);
        a.batch = batch_of(s);
        if (op->index) {
                const struct cuda_room *room = s->rooms.attn + op->index - 1;

                a.plan = cuda_step_at(s, s->layout.attn[op->index - 1]);
                a.max_items = room->items;
                a.max_rows = room->rows;
                a.max_tiles = room->tiles;
                a.grid_items = cuda_attn_grid_items(a.kv.format, a.kv.head_dim, s->be->n_sms);
        }
        a.partials = s->be->runner.scratch[CUDA_SCRATCH_PARTIALS].data;
        add_value(s, op->out, &a.out);
        return cuda_attn(l, &a);
}

static cudaError_t launch_gate(const struct cuda_step *s, const struct cuda_op *op, const struct cuda_launch *l) {
        struct cuda_gate a = op->gate;

        a.rows = rows_of(s, op->span);
        add_value(s, op->out, &a.out);
        return cuda_gate(l, &a);
}

static cudaError_t launch_pack(const struct cuda_step *s, const struct cuda_op *op, const struct cuda_launch *l) {
        struct cuda_pack a = op->pack;

        a.rows = rows_of(s, op->span);
        add_value(s, op->out, &a.out);
        return cuda_pack(l, &a);
}

static cudaError_t launch_embed(const struct cuda_step *s, const struct cuda_op *op, const struct cuda_launch *l) {
        struct cuda_embed a = op->embed;

        a.rows = rows_of(s, op->span);
        a.token = cuda_step_at(s, s->layout.token);
        return cuda_embed(l, &a);
}

static cudaError_t launch_route(const struct cuda_step *s, const struct cuda_op *op, const struct cuda_launch *l) {
        struct cuda_route a = op->route;

        a.rows = rows_of(s, op->span);
        a.slots = cuda_step_slots(s, op->index);
        return cuda_route(l, &a);
}

static cudaError_t launch_top(const struct cuda_step *s, const struct cuda_op *op, const struct cuda_launch *l) {
        struct cuda_top a = cuda_step_top(s, op->index);

        a.rows = rows_of(s, op->span);
        a.logits = op->top.logits;
        return cuda_top(l, &a);
}

/* Those whose functions take their arguments one by one. */
static cudaError_t launch_plain(const struct cuda_step *s, const struct cuda_op *op, const struct cuda_launch *l) {
        struct cuda_rows rows = rows_of(s, op->span);

        switch (op->kind) {
        case CUDA_OP_SOFTCAP:
                return cuda_softcap(l, rows, op->softcap.scale, op->softcap.cap, op->softcap.dim, op->softcap.x);
        case CUDA_OP_ADD:
                return cuda_add(l, rows, op->add.x, op->add.scale, op->add.dim, op->add.out);
        case CUDA_OP_SLICE:
                return cuda_slice(l, rows, op->slice.x, op->slice.x_stride, op->slice.first, op->slice.dim, op->slice.out);
        case CUDA_OP_COMBINE:
                return cuda_combine(l, rows, op->combine.n_used, op->combine.weights, op->combine.x, op->combine.dim,
                                    op->combine.accumulate, op->combine.out);
        case CUDA_OP_GATHER:
                return cuda_gather(l, rows, cuda_step_at(s, s->layout.gather), op->gather.x, op->gather.dim, op->gather.out);
        default:
                return cudaErrorInvalidValue; /* a plan has no other kinds */
        }
}

typedef cudaError_t launch_fn(const struct cuda_step *s, const struct cuda_op *op, const struct cuda_launch *l);

static launch_fn *const launches[] = {
        [CUDA_OP_EMBED] = launch_embed,   [CUDA_OP_NORM] = launch_norm,   [CUDA_OP_MM] = launch_mm,
        [CUDA_OP_ROPE_KV] = launch_rope,  [CUDA_OP_ATTN] = launch_attn,   [CUDA_OP_GATE] = launch_gate,
        [CUDA_OP_SOFTCAP] = launch_plain, [CUDA_OP_ADD] = launch_plain,   [CUDA_OP_SLICE] = launch_plain,
        [CUDA_OP_ROUTE] = launch_route,   [CUDA_OP_COMBINE] = launch_plain, [CUDA_OP_GATHER] = launch_plain,
        [CUDA_OP_TOP] = launch_top,       [CUDA_OP_PACK] = launch_pack,
};

/* The first kernel starts after the copy of the step's rows; each one after it may overlap the one in front. */
cudaError_t cuda_launch_plan(const struct cuda_step *s) {
        struct cuda_launch l = { .stream = s->be->stream };
        cudaError_t error = cudaSuccess;

        for (size_t i = 0; error == cudaSuccess && i < s->plan->list.n; i++) {
                const struct cuda_op *op = s->plan->list.ops + i;

                error = launches[op->kind](s, op, &l);
                l.dependent = s->be->arch >= 90;
        }
        return error;
}
