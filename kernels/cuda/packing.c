/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Packed forms: what products read instead of the rows themselves (ops.h). Each product's input is looked for among what earlier
 * operations have made of the same rows; if the operation that made the rows can write them packed as well it does, if not they
 * are packed by one inserted before the product. Rows that nobody reads as they are any more are not written then.
 *
 * Values live from where they are written to where they are read last; a few buffers serve them all in turn.
 */

#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "cuda.h"

#define SOURCES 16u /* rows that are remembered at a time; one that is forgotten is packed once more */

/* Rows as they stand in a buffer, and the operation that can write them, or has written them, packed. */
struct source {
        const float *at; /* NULL: free */
        size_t stride;
        struct cuda_span span;
        uint32_t dim;
        size_t op;
};

struct packing {
        const struct cuda_backend *be;
        struct cuda_plan *plan;
        struct source sources[SOURCES];
        size_t next; /* source that is overwritten next */
};

/* The packed forms that an operation can write. */
static struct cuda_packed *packed_of(struct cuda_op *op) {
        switch (op->kind) {
        case CUDA_OP_NORM:
                return &op->norm.out;
        case CUDA_OP_ATTN:
                return &op->attn.out;
        case CUDA_OP_GATE:
                return &op->gate.out;
        case CUDA_OP_PACK:
                return &op->pack.out;
        case CUDA_OP_MM:
                return op->mm.mm.is_gated ? &op->mm.mm.gated : NULL;
        default:
                return NULL;
        }
}

/* Rows in 8 bits come from some of them only (ops.h). */
static bool writes(const struct cuda_op *op, enum cuda_activations activations) {
        return activations == CUDA_ACTIVATIONS_BF16 || op->kind == CUDA_OP_GATE || op->kind == CUDA_OP_PACK;
}

static struct source *find(struct packing *p, const struct cuda_mm_args *a) {
        for (struct source *s = p->sources; s < p->sources + SOURCES; s++)
                if (s->at == a->x && s->stride == a->x_stride && s->dim == a->mm.n_in && cuda_span_equal(s->span, a->x_span) &&
                    writes(p->plan->list.ops + s->op, a->mm.activations))
                        return s;
        return NULL;
}

static struct source *remember(struct packing *p, struct source s) {
        struct source *at = p->sources + p->next++ % SOURCES;

        *at = s;
        return at;
}

/* An operation that packs the rows of a product's input. */
static int insert_pack(struct packing *p, const struct cuda_mm_args *a, struct source **ret) {
        struct cuda_op *op = cuda_ops_add(&p->plan->list);

        if (!op)
                return BACKEND_E_NO_MEMORY;
        op->kind = CUDA_OP_PACK;
        op->span = a->x_span;
        op->pack.x = a->x;
        op->pack.x_stride = a->x_stride;
        op->pack.out.n_in = a->mm.n_in;
        *ret = remember(p, (struct source){ a->x, a->x_stride, a->x_span, a->mm.n_in, p->plan->list.n - 1 });
        return 0;
}

static int new_value(struct cuda_plan *plan, struct cuda_span span, uint32_t n_in, uint32_t *ret) {
        if (plan->n_values == plan->values_allocated) {
                size_t more = plan->values_allocated ? 2 * plan->values_allocated : 64;
                struct cuda_value *grown = reallocarray(plan->values, more, sizeof(*grown));

                if (!grown)
                        return BACKEND_E_NO_MEMORY;
                plan->values = grown;
                plan->values_allocated = more;
        }
        plan->values[plan->n_values++] = (struct cuda_value){ .span = span, .n_in = n_in };
        *ret = (uint32_t)plan->n_values;
        return 0;
}

/* Finds or makes what a product reads; before the product itself is on the list. */
static int pack_input(struct packing *p, const struct cuda_mm_args *a, uint32_t *ret) {
        enum fmt fmt = a->mm.fmt;
        struct source *s = find(p, a);
        struct cuda_value *v;
        struct cuda_op *from;
        int r = 0;

        *ret = 0;
        if (cuda_mm_wants_f32(fmt) && a->x_stride == a->mm.n_in)
                return 0; /* as it is */
        if (!s)
                r = insert_pack(p, a, &s);
        if (r != 0)
                return r;
        from = p->plan->list.ops + s->op;
        if (from->out == 0)
                r = new_value(p->plan, s->span, s->dim, &from->out);
        if (r != 0)
                return r;
        v = p->plan->values + from->out - 1;
        v->f32 |= cuda_mm_wants_f32(fmt);
        v->x |= !cuda_mm_wants_f32(fmt) && a->mm.activations == CUDA_ACTIVATIONS_BF16;
        v->x8 |= a->mm.activations == CUDA_ACTIVATIONS_FP8;
        v->sums |= cuda_mm_wants_sums(fmt);
        *ret = from->out;
        return 0;
}

/* What an operation writes is not any more what was there before. */
static void forget(struct packing *p, const struct cuda_op *op) {
        struct cuda_use uses[CUDA_USES];
        size_t n = cuda_op_uses(op, uses);

        for (size_t i = 0; i < n; i++)
                for (struct source *s = p->sources; uses[i].write && s < p->sources + SOURCES; s++)
                        if (s->at && cuda_ops_overlap(p->be, s->at, uses[i].at))
                                s->at = NULL;
}

static int add_op(struct packing *p, const struct cuda_op *fused) {
        const struct cuda_packed *out;
        uint32_t in = 0;
        struct cuda_op *op;
        const float *at;
        int r;

        if (fused->kind == CUDA_OP_MM) {
                r = pack_input(p, &fused->mm, &in);
                if (r != 0)
                        return r;
        }
        op = cuda_ops_add(&p->plan->list);
        if (!op)
                return BACKEND_E_NO_MEMORY;
        *op = *fused;
        op->in = in;
        forget(p, op);
        out = packed_of(op);
        if (!out || p->be->no_fusion)
                return 0;
        at = op->kind == CUDA_OP_NORM && !op->norm.norm ? op->norm.residual : out->f32;
        if (at)
                (void)remember(p, (struct source){ at, out->n_in, op->span, out->n_in, p->plan->list.n - 1 });
        return 0;
}

/* Rows that are only read packed. */
static void drop_unread(struct packing *p) {
        struct cuda_ops *list = &p->plan->list;

        for (size_t i = 0; i < list->n; i++) {
                struct cuda_packed *out = packed_of(list->ops + i);

                if (out && out->f32 && list->ops[i].out &&
                    !cuda_ops_read_later(p->be, list, i, out->f32, list->ops[i].span, out->n_in))
                        out->f32 = NULL;
        }
}

/* Buffers for values: a free one where a value begins; it is free again after the last operation that reads it. */
static int place_values(struct cuda_plan *plan) {
        size_t *last = calloc(MAX(plan->n_values, (size_t)1), sizeof(*last));
        uint32_t holds[CUDA_BUFFERS] = {}; /* value */
        int r = 0;

        if (!last)
                return BACKEND_E_NO_MEMORY;
        for (size_t i = 0; i < plan->list.n; i++)
                if (plan->list.ops[i].in)
                        last[plan->list.ops[i].in - 1] = i;
        for (size_t i = 0; r == 0 && i < plan->list.n; i++) {
                uint32_t value = plan->list.ops[i].out, b = 0;

                if (value) {
                        while (b < CUDA_BUFFERS && holds[b])
                                b++;
                        if (b == CUDA_BUFFERS) {
                                r = BACKEND_E_UNSUPPORTED;
                                break;
                        }
                        holds[b] = value;
                        plan->values[value - 1].buffer = b;
                        plan->n_buffers = MAX(plan->n_buffers, b + 1);
                }
                for (b = 0; b < CUDA_BUFFERS; b++)
                        if (holds[b] && last[holds[b] - 1] <= i)
                                holds[b] = 0;
        }
        free(last);
        return r;
}

int cuda_pack_plan(const struct cuda_backend *be, const struct cuda_ops *fused, struct cuda_plan *plan) {
        struct packing p = { .be = be, .plan = plan };
        int r = 0;

        for (size_t i = 0; r == 0 && i < fused->n; i++)
                if (fused->ops[i].kind != CUDA_OP_NONE)
                        r = add_op(&p, fused->ops + i);
        if (r != 0)
                return r;
        if (!be->no_fusion)
                drop_unread(&p);
        return place_values(plan);
}
