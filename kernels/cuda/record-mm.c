/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Matrix products and what chooses and combines experts, written down. The products of a call that have one format become one
 * operation, as many as a launch takes.
 */

#include <string.h>

#include "base/macro.h"
#include "cuda.h"

#define PRODUCTS_MAX 16u /* of a call */

/* What the products of a call have in common. */
struct call {
        const struct matmul *products;
        size_t n;
        const float *x;
        size_t x_stride;
        struct cuda_span span, x_span; /* of out and of x */
        const struct cuda_choice *choice; /* NULL: no experts */
        uint32_t index;
        bool x_per_row;
};

static bool fits(const struct call *c) {
        const struct weight *first = c->products->w;

        if (c->n > PRODUCTS_MAX || c->x_stride < first->n_in)
                return false;
        for (size_t i = 0; i < c->n; i++) {
                const struct weight *w = c->products[i].w;

                if (w->layout != WEIGHT_PANELS || w->n_in != first->n_in || w->n_in == 0 || w->n_out == 0 ||
                    w->n_in % w->info->block != 0 || !cuda_mm_has(w->info->fmt) ||
                    (c->choice ? w->n_experts != c->choice->n_experts : w->n_experts > 1))
                        return false;
                if (!c->choice && c->products[i].out_stride < w->n_out)
                        return false;
        }
        return true;
}

static int put_product(struct cuda_backend *be, const struct call *c, const struct matmul *m, struct cuda_mm *mm) {
        struct cuda_mm_product *p = mm->product + mm->n_products;
        const float *scales = NULL;
        int r;

        if (!cuda_coded_parts(m->w, &p->coded))
                return BACKEND_E_UNSUPPORTED;
        if (m->w->scales) {
                r = cuda_memory_constant(be, m->w->scales, MAX(m->w->n_experts, 1u), &scales);
                if (r != 0)
                        return r;
        }
        p->w = m->w->data;
        p->n_out = m->w->n_out;
        p->scale = m->w->scale;
        p->scales = scales;
        p->bias = m->bias;
        p->out = m->out;
        p->out_stride = c->choice ? m->w->n_out : m->out_stride;
        p->accumulate = !c->choice && m->accumulate;
        mm->n_products++;
        return 0;
}

/* An op of product i and of those after it that go with it; `put` says which have one. */
static int add_products(struct cuda_backend *be, const struct call *c, size_t i, bool put[PRODUCTS_MAX]) {
        const struct weight *w = c->products[i].w;
        struct cuda_op *op;
        int r = cuda_record_op(be, CUDA_OP_MM, c->span, &op);

        if (r != 0)
                return r;
        op->index = c->index;
        op->mm.x = c->x;
        op->mm.x_stride = c->x_stride;
        op->mm.x_span = c->x_span;
        op->mm.mm.fmt = w->info->fmt;
        op->mm.mm.n_in = w->n_in;
        op->mm.mm.activations = be->fp8 && w->info->fmt == FMT_MXFP4 ? CUDA_ACTIVATIONS_FP8 : CUDA_ACTIVATIONS_BF16;
        op->mm.mm.x_per_row = c->x_per_row;
        for (; r == 0 && i < c->n && op->mm.mm.n_products < CUDA_MM_PRODUCTS; i++) {
                if (put[i] || c->products[i].w->info->fmt != w->info->fmt)
                        continue;
                put[i] = true;
                r = put_product(be, c, c->products + i, &op->mm.mm);
        }
        return r;
}

/* All of a call or nothing. */
static int add_call(struct cuda_backend *be, const struct call *c) {
        size_t before = be->recorder.list.n;
        bool put[PRODUCTS_MAX] = {};
        int r = 0;

        for (size_t i = 0; r == 0 && i < c->n; i++)
                if (!put[i])
                        r = add_products(be, c, i, put);
        if (r != 0)
                be->recorder.list.n = before;
        return r;
}

int cuda_record_matmul(struct backend *base, const struct matmul *products, size_t n, const float *x, size_t x_stride,
                       uint32_t n_rows) {
        struct cuda_backend *be = cuda_of(base);
        struct call c = { .products = products, .n = n, .x = x, .x_stride = x_stride };
        int r = cuda_record_span(be, n_rows, &c.span);

        if (r != 0 || n == 0 || n_rows == 0)
                return r;
        c.x_span = c.span;
        return fits(&c) ? add_call(be, &c) : BACKEND_E_UNSUPPORTED;
}

/* The choice that was written to `experts` last. */
static const struct cuda_choice *find_choice(const struct cuda_needs *needs, const uint32_t *experts) {
        for (uint32_t i = 0; i < needs->n_choices; i++)
                if (needs->choices[i].experts == experts && !needs->stale[i])
                        return needs->choices + i;
        return NULL;
}

/* The number of a choice, whose slots have memory of their own; 0: too many. What was written to the same place before is gone. */
static uint32_t place_choice(struct cuda_needs *needs, const struct cuda_choice *wanted) {
        uint32_t i = 0;

        while (i < needs->n_choices && memcmp(needs->choices + i, wanted, sizeof(*wanted)) != 0)
                i++;
        if (i == CUDA_ROUTES)
                return 0;
        if (i == needs->n_choices)
                needs->choices[needs->n_choices++] = *wanted;
        for (uint32_t k = 0; k < needs->n_choices; k++)
                if (needs->choices[k].experts == wanted->experts)
                        needs->stale[k] = k != i;
        return i + 1;
}

int cuda_record_route(struct backend *base, const struct routing *routing, const float *logits, uint32_t n_rows,
                      uint32_t *experts, float *weights) {
        struct cuda_backend *be = cuda_of(base);
        struct cuda_choice choice;
        struct cuda_op *op;
        uint32_t index;
        int r;

        if (routing->n_used < 1 || routing->n_used > MIN(routing->n_experts, CUDA_ROUTE_USED) ||
            routing->n_experts > CUDA_ROUTE_EXPERTS || routing->gating > GATING_SOFTMAX_CHOSEN ||
            n_rows > CUDA_ROUTE_ROWS || (uint64_t)n_rows * routing->n_used > CUDA_ROUTE_SLOTS)
                return BACKEND_E_UNSUPPORTED;
        memset(&choice, 0, sizeof(choice));
        r = cuda_record_span(be, n_rows, &choice.span);
        if (r != 0 || n_rows == 0)
                return r;
        choice.experts = experts;
        choice.n_experts = routing->n_experts;
        choice.n_used = routing->n_used;
        index = place_choice(&be->recorder.needs, &choice);
        if (index == 0)
                return BACKEND_E_UNSUPPORTED;
        r = cuda_record_op(be, CUDA_OP_ROUTE, choice.span, &op);
        if (r != 0)
                return r;
        op->index = index;
        op->route.routing.n_experts = routing->n_experts;
        op->route.routing.n_used = routing->n_used;
        op->route.routing.gating = routing->gating;
        op->route.routing.bias = routing->bias;
        op->route.routing.normalize = routing->normalize;
        op->route.routing.scale = routing->scale;
        op->route.logits = logits;
        op->route.experts = experts;
        op->route.weights = weights;
        return 0;
}

static struct cuda_span times(struct cuda_span s, uint32_t n) {
        return (struct cuda_span){ s.base, s.per * n };
}

int cuda_record_experts(struct backend *base, const struct matmul *products, size_t n, const struct chosen *chosen,
                        const float *x, bool x_per_row) {
        struct cuda_backend *be = cuda_of(base);
        struct call c = { .products = products, .n = n, .x = x, .x_per_row = x_per_row };
        struct cuda_span span;
        int r = cuda_record_span(be, chosen->n_rows, &span);

        if (r != 0 || n == 0 || chosen->n_rows == 0)
                return r;
        /* Slots are sorted by route(): a choice that this step did not make has none. */
        c.choice = find_choice(&be->recorder.needs, chosen->experts);
        if (!c.choice || c.choice->n_used != chosen->n_used || !cuda_span_equal(c.choice->span, span))
                return BACKEND_E_UNSUPPORTED;
        c.index = (uint32_t)(c.choice - be->recorder.needs.choices) + 1;
        c.x_stride = products->w->n_in;
        c.span = times(span, chosen->n_used);
        c.x_span = x_per_row ? span : c.span;
        return fits(&c) ? add_call(be, &c) : BACKEND_E_UNSUPPORTED;
}

int cuda_record_combine(struct backend *base, const struct chosen *chosen, const float *x, uint32_t dim, bool accumulate,
                        float *out) {
        struct cuda_backend *be = cuda_of(base);
        struct cuda_span span;
        struct cuda_op *op;
        int r = cuda_record_span(be, chosen->n_rows, &span);

        if (r != 0 || chosen->n_rows == 0)
                return r;
        r = cuda_record_op(be, CUDA_OP_COMBINE, span, &op);
        if (r != 0)
                return r;
        op->combine.n_used = chosen->n_used;
        op->combine.weights = chosen->weights;
        op->combine.x = x;
        op->combine.dim = dim;
        op->combine.accumulate = accumulate;
        op->combine.out = out;
        return 0;
}
