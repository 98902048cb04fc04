/* SPDX-License-Identifier: Apache-2.0 */

/* Plans, and what their operations read and write. */

#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "cuda.h"

bool cuda_span_equal(struct cuda_span a, struct cuda_span b) {
        return a.base == b.base && a.per == b.per;
}

struct uses {
        struct cuda_use *list;
        size_t n;
};

static void add(struct uses *u, const void *at, struct cuda_span span, uint32_t dim, bool write) {
        if (at)
                u->list[u->n++] = (struct cuda_use){ .at = at, .span = span, .dim = dim, .write = write };
}

static void norm_uses(const struct cuda_op *op, struct uses *u) {
        const struct cuda_norm *a = &op->norm;

        add(u, a->x, op->span, (uint32_t)a->x_stride, false);
        add(u, a->residual, op->span, a->dim, false);
        add(u, a->residual, op->span, a->dim, true);
        add(u, a->out.f32, op->span, a->dim, true);
}

static void mm_uses(const struct cuda_op *op, struct uses *u) {
        const struct cuda_mm *mm = &op->mm.mm;

        if (op->in == 0)
                add(u, op->mm.x, op->mm.x_span, (uint32_t)op->mm.x_stride, false);
        for (uint32_t i = 0; i < mm->n_products && !mm->is_gated; i++) {
                const struct cuda_mm_product *p = mm->product + i;

                if (p->accumulate)
                        add(u, p->out, op->span, p->n_out, false);
                add(u, p->out, op->span, p->out_stride == p->n_out ? p->n_out : 0, true);
        }
        if (mm->is_gated)
                add(u, mm->gated.f32, op->span, mm->gated.n_in, true);
}

static void attention_uses(const struct cuda_op *op, struct uses *u) {
        if (op->kind == CUDA_OP_ROPE_KV) {
                add(u, op->rope.q, op->span, (uint32_t)op->rope.q_stride, false);
                add(u, op->rope.k, op->span, (uint32_t)op->rope.k_stride, false);
                add(u, op->rope.v, op->span, (uint32_t)op->rope.v_stride, false);
                add(u, op->rope.q, op->span, (uint32_t)op->rope.q_stride, true);
        } else {
                add(u, op->attn.q, op->span, (uint32_t)op->attn.q_stride, false);
                add(u, op->attn.out.f32, op->span, op->attn.out.n_in, true);
        }
}

static void choice_uses(const struct cuda_op *op, struct uses *u) {
        if (op->kind == CUDA_OP_ROUTE) {
                add(u, op->route.logits, op->span, op->route.routing.n_experts, false);
                add(u, op->route.experts, op->span, op->route.routing.n_used, true);
                add(u, op->route.weights, op->span, op->route.routing.n_used, true);
                return;
        }
        add(u, op->combine.x, op->span, op->combine.dim * op->combine.n_used, false);
        add(u, op->combine.weights, op->span, op->combine.n_used, false);
        if (op->combine.accumulate)
                add(u, op->combine.out, op->span, op->combine.dim, false);
        add(u, op->combine.out, op->span, op->combine.dim, true);
}

static void row_uses(const struct cuda_op *op, struct uses *u) {
        const struct cuda_span rows = { CUDA_ROWS, 1 };

        switch (op->kind) {
        case CUDA_OP_EMBED:
                add(u, op->embed.out, op->span, op->embed.n_in, true);
                break;
        case CUDA_OP_GATE:
                add(u, op->gate.gate, op->span, op->gate.dim, false);
                add(u, op->gate.up, op->span, op->gate.dim, false);
                add(u, op->gate.out.f32, op->span, op->gate.dim, true);
                break;
        case CUDA_OP_SOFTCAP:
                add(u, op->softcap.x, op->span, op->softcap.dim, false);
                add(u, op->softcap.x, op->span, op->softcap.dim, true);
                break;
        case CUDA_OP_ADD:
                add(u, op->add.x, op->span, op->add.dim, false);
                add(u, op->add.out, op->span, op->add.dim, false);
                add(u, op->add.out, op->span, op->add.dim, true);
                break;
        case CUDA_OP_SLICE:
                add(u, op->slice.x, op->span, (uint32_t)op->slice.x_stride, false);
                add(u, op->slice.out, op->span, op->slice.dim, true);
                break;
        case CUDA_OP_GATHER:
                add(u, op->gather.x, rows, op->gather.dim, false);
                add(u, op->gather.out, op->span, op->gather.dim, true);
                break;
        case CUDA_OP_TOP:
                add(u, op->top.logits, op->span, op->top.dim, false);
                break;
        case CUDA_OP_PACK:
                add(u, op->pack.x, op->span, (uint32_t)op->pack.x_stride, false);
                break;
        default:
                break;
        }
}

size_t cuda_op_uses(const struct cuda_op *op, struct cuda_use uses[CUDA_USES]) {
        struct uses u = { .list = uses };

        switch (op->kind) {
        case CUDA_OP_NORM:
                norm_uses(op, &u);
                break;
        case CUDA_OP_MM:
                mm_uses(op, &u);
                break;
        case CUDA_OP_ROPE_KV:
        case CUDA_OP_ATTN:
                attention_uses(op, &u);
                break;
        case CUDA_OP_ROUTE:
        case CUDA_OP_COMBINE:
                choice_uses(op, &u);
                break;
        default:
                row_uses(op, &u);
                break;
        }
        return u.n;
}

bool cuda_ops_overlap(const struct cuda_backend *be, const void *a, const void *b) {
        size_t owner;

        if (a == b)
                return true;
        owner = cuda_memory_owner(be, a);
        return owner != 0 && owner == cuda_memory_owner(be, b);
}

bool cuda_ops_read_later(const struct cuda_backend *be, const struct cuda_ops *list, size_t from, const void *p,
                         struct cuda_span span, uint32_t dim) {
        struct cuda_use uses[CUDA_USES];
        uint32_t anew = 0; /* so many floats for each row, from p on, are written anew */

        for (size_t i = from + 1; i < list->n && anew < dim; i++) {
                size_t n = cuda_op_uses(list->ops + i, uses);

                for (size_t j = 0; j < n; j++) {
                        bool same = uses[j].at == p && cuda_span_equal(uses[j].span, span);

                        if (!uses[j].write && !(same && uses[j].dim <= anew) && cuda_ops_overlap(be, uses[j].at, p))
                                return true;
                }
                for (size_t j = 0; j < n; j++)
                        if (uses[j].write && uses[j].at == p && cuda_span_equal(uses[j].span, span))
                                anew = MAX(anew, uses[j].dim);
        }
        return false;
}

static int copy_ops(const struct cuda_ops *from, struct cuda_ops *ret) {
        struct cuda_op *ops = calloc(MAX(from->n, (size_t)1), sizeof(*ops));

        if (!ops)
                return BACKEND_E_NO_MEMORY;
        if (from->n > 0)
                memcpy(ops, from->ops, from->n * sizeof(*ops));
        *ret = (struct cuda_ops){ .ops = ops, .n = from->n, .allocated = from->n };
        return 0;
}

int cuda_plan_new(const struct cuda_backend *be, const struct cuda_recorder *rec, struct cuda_plan **ret) {
        struct cuda_plan *p = calloc(1, sizeof(*p));
        struct cuda_ops fused = {};
        int r;

        if (!p)
                return BACKEND_E_NO_MEMORY;
        p->needs = rec->needs;
        r = copy_ops(&rec->list, &p->key);
        r = r ? r : copy_ops(&rec->list, &fused);
        if (r == 0 && !be->no_fusion)
                cuda_fuse(be, &fused);
        r = r ? r : cuda_pack_plan(be, &fused, p);
        free(fused.ops);
        if (r != 0) {
                cuda_plan_free(p);
                return r;
        }
        *ret = p;
        return 0;
}

struct cuda_plan *cuda_plan_free(struct cuda_plan *p) {
        if (!p)
                return NULL;
        free(p->key.ops);
        free(p->list.ops);
        free(p->values);
        free(p);
        return NULL;
}
