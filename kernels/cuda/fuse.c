/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What is joined, each by the list alone (plan.h):
 *   a product and the slices of it         -> products of the slices' rows of the matrix, straight to where the slices go
 *   gate and up, their activation          -> one product that stores only the activation (where mm.h can; not in 8 bits, which
 *                                             that does not write)
 *   norms of heads, rotation, KV append    -> one operation
 *   norm of a block, residual sum, norm    -> one operation; either norm may be missing
 *
 * Something in between that is no longer written must not be wanted by anybody else.
 */

#include <string.h>

#include "base/macro.h"
#include "cuda.h"

static size_t next_op(const struct cuda_ops *list, size_t i) {
        do
                i++;
        while (i < list->n && list->ops[i].kind == CUDA_OP_NONE);
        return i;
}

/* list->n: there is none. */
static size_t op_before(const struct cuda_ops *list, size_t i) {
        while (i > 0)
                if (list->ops[--i].kind != CUDA_OP_NONE)
                        return i;
        return list->n;
}

static struct cuda_op *op_at(const struct cuda_ops *list, size_t i, enum cuda_op_kind kind) {
        return i < list->n && list->ops[i].kind == kind ? list->ops + i : NULL;
}

/* A product of its own, dense, that makes what it stores anew. */
static bool is_whole(const struct cuda_op *op) {
        const struct cuda_mm_product *p = op->mm.mm.product;

        return op->mm.mm.n_products == 1 && op->index == 0 && !p->accumulate && p->out_stride == p->n_out;
}

static bool is_slice_of(const struct cuda_backend *be, const struct cuda_op *slice, const struct cuda_op *mm) {
        const struct cuda_mm_product *p = mm->mm.mm.product;

        return slice && slice->slice.x == p->out && slice->slice.x_stride == p->out_stride &&
               slice->slice.first % WEIGHT_PANEL == 0 && cuda_span_equal(slice->span, mm->span) &&
               !cuda_ops_overlap(be, slice->slice.out, mm->mm.x) && !cuda_ops_overlap(be, slice->slice.out, p->out);
}

/* The product of some rows of a matrix, which are whole panels. */
static struct cuda_mm_product part_of(const struct cuda_mm *mm, const struct cuda_slice_args *slice) {
        const struct fmt_info *info = fmt_info(mm->fmt);
        size_t panel = (size_t)mm->n_in / info->block * info->panel_bytes;
        struct cuda_mm_product p = mm->product[0];

        p.w = (const uint8_t *)p.w + slice->first / WEIGHT_PANEL * panel;
        if (p.coded.index)
                p.coded.index += (size_t)(slice->first / WEIGHT_PANEL) * ((mm->n_in + LOSSLESS_UNIT - 1) / LOSSLESS_UNIT);
        p.n_out = slice->dim;
        if (p.bias)
                p.bias += slice->first;
        p.out = slice->out;
        p.out_stride = slice->dim;
        return p;
}

static void split_product(const struct cuda_backend *be, struct cuda_ops *list, size_t at) {
        struct cuda_op *op = list->ops + at;
        size_t slices[CUDA_MM_PRODUCTS], n = 0, last = at;
        const struct cuda_mm whole = op->mm.mm;

        if (!is_whole(op))
                return;
        for (size_t i = next_op(list, at); is_slice_of(be, op_at(list, i, CUDA_OP_SLICE), op); i = next_op(list, i)) {
                if (n == CUDA_MM_PRODUCTS)
                        return;
                slices[n++] = last = i;
        }
        if (n == 0 || cuda_ops_read_later(be, list, last, whole.product[0].out, op->span, whole.product[0].n_out))
                return;
        for (size_t i = 0; i < n; i++) {
                op->mm.mm.product[i] = part_of(&whole, &list->ops[slices[i]].slice);
                list->ops[slices[i]].kind = CUDA_OP_NONE;
        }
        op->mm.mm.n_products = (uint32_t)n;
}

/* Whether a product is one of the two that an activation takes. */
static bool feeds(const struct cuda_mm_product *p, const float *to, uint32_t dim) {
        return p->out == to && p->n_out == dim && p->out_stride == dim && !p->accumulate;
}

static void join_gate(const struct cuda_backend *be, struct cuda_ops *list, size_t at) {
        struct cuda_op *op = list->ops + at, *gate = op_at(list, next_op(list, at), CUDA_OP_GATE);
        struct cuda_mm_product *p = op->mm.mm.product;
        size_t i;

        if (!gate || op->mm.mm.n_products != 2 || op->mm.mm.activations != CUDA_ACTIVATIONS_BF16 ||
            !cuda_span_equal(gate->span, op->span) || !cuda_mm_can_gate(op->mm.mm.fmt, gate->gate.dim, op->mm.mm.n_in))
                return;
        if (feeds(p, gate->gate.up, gate->gate.dim) && feeds(p + 1, gate->gate.gate, gate->gate.dim)) {
                const struct cuda_mm_product up = p[0];

                p[0] = p[1];
                p[1] = up;
        }
        i = (size_t)(gate - list->ops);
        if (!feeds(p, gate->gate.gate, gate->gate.dim) || !feeds(p + 1, gate->gate.up, gate->gate.dim) ||
            cuda_ops_overlap(be, gate->gate.out.f32, op->mm.x) ||
            cuda_ops_read_later(be, list, i, gate->gate.up, op->span, gate->gate.dim) ||
            (gate->gate.out.f32 != gate->gate.gate &&
             cuda_ops_read_later(be, list, i, gate->gate.gate, op->span, gate->gate.dim)))
                return;
        op->mm.mm.is_gated = true;
        op->mm.mm.act = gate->gate.act;
        op->mm.mm.gated = gate->gate.out;
        gate->kind = CUDA_OP_NONE;
}

/* A norm and nothing else. */
static bool is_norm(const struct cuda_op *op) {
        return op && op->norm.norm && !op->norm.residual && !op->norm.post_norm;
}

/* Takes over a norm, in place, of the queries' or the keys' heads, or of the width of all of them. */
static bool take_heads(const struct cuda_op *norm, struct cuda_op *op) {
        struct cuda_rope_kv *a = &op->rope;
        bool queries = norm->norm.x == a->q, keys = norm->norm.x == a->k, taken = a->q_norm || a->k_norm, width;
        uint32_t heads = queries ? a->n_heads : a->kv.n_kv_heads, dim = a->kv.head_dim;

        if (norm->norm.out.f32 != norm->norm.x || queries == keys || (queries ? a->q_norm : a->k_norm) ||
            norm->span.base != op->span.base)
                return false;
        width = norm->norm.dim != dim;
        if (width ? norm->norm.dim != heads * dim || norm->span.per != op->span.per : norm->span.per != op->span.per * heads)
                return false;
        if (taken && (a->norm_width != width || a->norm_eps != norm->norm.eps))
                return false;
        a->norm_width = width;
        a->norm_eps = norm->norm.eps;
        *(queries ? &a->q_norm : &a->k_norm) = norm->norm.norm;
        return true;
}

static void join_heads(const struct cuda_backend *be, struct cuda_ops *list, size_t at) {
        struct cuda_op *op = list->ops + at;

        if (cuda_ops_read_later(be, list, at, op->rope.k, op->span, (uint32_t)op->rope.k_stride))
                return;
        for (int i = 0; i < 2; i++) {
                struct cuda_op *norm = op_at(list, op_before(list, at), CUDA_OP_NORM);

                if (!is_norm(norm) || !take_heads(norm, op))
                        return;
                norm->kind = CUDA_OP_NONE;
        }
}

/* The norm in front of a residual sum, whose result only the sum reads. */
static struct cuda_op *norm_before(const struct cuda_backend *be, const struct cuda_ops *list, size_t at) {
        const struct cuda_op *add = list->ops + at;
        struct cuda_op *norm = op_at(list, op_before(list, at), CUDA_OP_NORM);

        if (!is_norm(norm) || norm->norm.out.f32 != add->add.x || norm->norm.dim != add->add.dim ||
            !cuda_span_equal(norm->span, add->span) ||
            cuda_ops_read_later(be, list, at, add->add.x, add->span, add->add.dim) ||
            cuda_ops_overlap(be, norm->norm.x, add->add.out))
                return NULL;
        return norm;
}

/* The norm of a residual sum's result. */
static struct cuda_op *norm_after(const struct cuda_backend *be, const struct cuda_ops *list, size_t at) {
        const struct cuda_op *add = list->ops + at;
        struct cuda_op *norm = op_at(list, next_op(list, at), CUDA_OP_NORM);

        if (!is_norm(norm) || norm->norm.x != add->add.out || norm->norm.dim != add->add.dim ||
            !cuda_span_equal(norm->span, add->span) || cuda_ops_overlap(be, norm->norm.out.f32, add->add.out))
                return NULL;
        return norm;
}

static void join_norms(const struct cuda_backend *be, struct cuda_ops *list, size_t at) {
        struct cuda_op *op = list->ops + at, *before = norm_before(be, list, at), *after = norm_after(be, list, at);
        const struct cuda_add_args add = op->add;
        struct cuda_norm *a = &op->norm;
        const struct cuda_op *some = before ? before : after;

        if (!some || cuda_ops_overlap(be, add.x, add.out))
                return;
        if (before && after && before->norm.eps != after->norm.eps)
                after = NULL;
        memset(a, 0, sizeof(*a));
        op->kind = CUDA_OP_NORM;
        a->dim = add.dim;
        a->eps = some->norm.eps;
        a->x = before ? before->norm.x : add.x;
        a->x_stride = add.dim;
        a->post_norm = before ? before->norm.norm : NULL;
        a->residual = add.out;
        a->add_scale = add.scale;
        a->norm = after ? after->norm.norm : NULL;
        a->out.f32 = after ? after->norm.out.f32 : NULL;
        a->out.n_in = add.dim;
        if (before)
                before->kind = CUDA_OP_NONE;
        if (after)
                after->kind = CUDA_OP_NONE;
}

void cuda_fuse(const struct cuda_backend *be, struct cuda_ops *list) {
        for (size_t i = 0; i < list->n; i++)
                switch (list->ops[i].kind) {
                case CUDA_OP_MM:
                        split_product(be, list, i);
                        join_gate(be, list, i);
                        break;
                case CUDA_OP_ROPE_KV:
                        join_heads(be, list, i);
                        break;
                case CUDA_OP_ADD:
                        join_norms(be, list, i);
                        break;
                default:
                        break;
                }
}
