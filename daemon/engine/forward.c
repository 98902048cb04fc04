/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "forward.h"

struct forward {
        const struct lm *m;
        struct backend *be;
        struct kv_cache *kv; /* borrowed */
        uint32_t max_rows;
        uint32_t max_logits;
        float *x;      /* [max_rows][n_embd]: the residual stream */
        float *h;      /* [max_rows][n_embd]: normed */
        float *q;      /* [max_rows][n_head * head_dim] */
        float *k, *v;  /* [max_rows][n_head_kv * head_dim] */
        float *a;      /* [max_rows][n_head * head_dim]: attention's result */
        float *gate, *up; /* [max_rows][n_ff] */
        float *last;   /* [max_logits][n_embd] */
        float *logits; /* [max_logits][n_vocab] */
};

struct buffer {
        float **at;
        uint64_t floats;
};

#define N_BUFFERS 10u

static void list_buffers(struct forward *f, const struct model_shape *s, uint64_t rows, uint64_t logits,
                         struct buffer b[N_BUFFERS]) {
        const struct buffer all[N_BUFFERS] = {
                { &f->x, rows * s->n_embd },
                { &f->h, rows * s->n_embd },
                { &f->q, rows * s->n_head * s->head_dim },
                { &f->k, rows * s->n_head_kv * s->head_dim },
                { &f->v, rows * s->n_head_kv * s->head_dim },
                { &f->a, rows * s->n_head * s->head_dim },
                { &f->gate, rows * s->n_ff },
                { &f->up, rows * s->n_ff },
                { &f->last, logits * s->n_embd },
                { &f->logits, logits * s->n_vocab },
        };

        memcpy(b, all, sizeof(all));
}

uint64_t forward_bytes(const struct model_shape *s, uint32_t max_rows, uint32_t max_logits) {
        struct forward f;
        struct buffer b[N_BUFFERS];
        uint64_t sum = 0;

        list_buffers(&f, s, max_rows, max_logits, b);
        for (size_t i = 0; i < N_BUFFERS; i++)
                sum += b[i].floats * sizeof(float);
        return sum;
}

int forward_new(struct forward **ret, const struct lm *m, struct kv_cache *kv, uint32_t max_rows,
                uint32_t max_logits) {
        _cleanup_(forward_freep) struct forward *f = NULL;
        struct buffer b[N_BUFFERS];

        f = calloc(1, sizeof(*f));
        if (!f)
                return BACKEND_E_NO_MEMORY;
        f->m = m;
        f->be = m->backend;
        f->kv = kv;
        f->max_rows = max_rows;
        f->max_logits = max_logits;
        list_buffers(f, &m->shape, max_rows, max_logits, b);
        for (size_t i = 0; i < N_BUFFERS; i++) {
                void *dev = NULL;
                int r = f->be->ops->alloc(f->be, MAX(b[i].floats, (uint64_t)1) * sizeof(float), &dev);

                if (r != 0)
                        return r;
                *b[i].at = dev;
        }
        *ret = steal_ptr(&f);
        return 0;
}

struct forward *forward_free(struct forward *f) {
        struct buffer b[N_BUFFERS];

        if (!f)
                return NULL;
        list_buffers(f, &f->m->shape, 0, 0, b);
        for (size_t i = 0; i < N_BUFFERS; i++)
                if (*b[i].at)
                        f->be->ops->release(f->be, *b[i].at);
        free(f);
        return NULL;
}

static struct matmul product(const struct model_linear *l, float *out, bool accumulate) {
        return (struct matmul){
                .w = &l->w,
                .bias = l->bias,
                .out = out,
                .out_stride = l->w.n_out,
                .accumulate = accumulate,
        };
}

static int run_attention(struct forward *f, const struct batch *b, uint32_t layer) {
        const struct backend_ops *ops = f->be->ops;
        const struct model_shape *s = &f->m->shape;
        const struct model_layer *l = &f->m->layers[layer];
        const struct matmul qkv[] = { product(&l->q, f->q, false), product(&l->k, f->k, false),
                                      product(&l->v, f->v, false) };
        const struct matmul o = product(&l->o, f->x, true);
        const struct rope rope = {
                .kind = s->rope_kind,
                .n_rot = s->n_rot,
                .inv_freq = f->m->inv_freq,
                .magnitude = 1,
        };
        const struct attention attention = { .n_heads = s->n_head, .layer = layer, .scale = s->attn_scale };
        int r;

        r = ops->rmsnorm(f->be, f->x, l->attn_norm, s->norm_eps, b->n_rows, s->n_embd, f->h);
        if (r == 0)
                r = ops->matmul(f->be, qkv, ARRAY_SIZE(qkv), f->h, s->n_embd, b->n_rows);
        if (r == 0)
                r = ops->rope_kv(f->be, &rope, f->kv, layer, b, s->n_head, f->q, f->k, f->v);
        if (r == 0)
                r = ops->attention(f->be, &attention, f->kv, b, f->q, f->a);
        if (r == 0)
                r = ops->matmul(f->be, &o, 1, f->a, (size_t)s->n_head * s->head_dim, b->n_rows);
        return r;
}

static int run_ffn(struct forward *f, const struct batch *b, uint32_t layer) {
        const struct backend_ops *ops = f->be->ops;
        const struct model_shape *s = &f->m->shape;
        const struct model_layer *l = &f->m->layers[layer];
        const struct matmul in[] = { product(&l->gate, f->gate, false), product(&l->up, f->up, false) };
        const struct matmul down = product(&l->down, f->x, true);
        int r;

        r = ops->rmsnorm(f->be, f->x, l->ffn_norm, s->norm_eps, b->n_rows, s->n_embd, f->h);
        if (r == 0)
                r = ops->matmul(f->be, in, ARRAY_SIZE(in), f->h, s->n_embd, b->n_rows);
        if (r == 0)
                r = ops->gate(f->be, ACT_SILU, f->gate, f->up, b->n_rows, s->n_ff, f->gate);
        if (r == 0)
                r = ops->matmul(f->be, &down, 1, f->gate, s->n_ff, b->n_rows);
        return r;
}

static int run_blocks(struct forward *f, const struct batch *b) {
        int r;

        r = f->be->ops->embed(f->be, &f->m->embedding, b, 1, f->x);
        for (uint32_t layer = 0; r == 0 && layer < f->m->shape.n_layer; layer++) {
                r = run_attention(f, b, layer);
                if (r == 0)
                        r = run_ffn(f, b, layer);
        }
        return r;
}

static int run_logits(struct forward *f, const uint32_t *rows, uint32_t n) {
        const struct backend_ops *ops = f->be->ops;
        const struct model_shape *s = &f->m->shape;
        const struct matmul logits = { .w = &f->m->output, .out = f->logits, .out_stride = s->n_vocab };
        int r;

        r = ops->gather(f->be, f->x, rows, n, s->n_embd, f->last);
        if (r == 0)
                r = ops->rmsnorm(f->be, f->last, f->m->output_norm, s->norm_eps, n, s->n_embd, f->last);
        if (r == 0)
                r = ops->matmul(f->be, &logits, 1, f->last, s->n_embd, n);
        return r;
}

/* What the caller might handle elsewhere can't be handled in the middle of a step: the engine ends. */
static int lost(int r) {
        return r == BACKEND_E_NO_MEMORY ? -ENOMEM : r > 0 ? -EOPNOTSUPP : r;
}

int forward_run(struct forward *f, const struct batch *b, const uint32_t *logit_rows, uint32_t n, float *out) {
        const struct backend_ops *ops = f->be->ops;
        int r;

        if (b->n_rows > f->max_rows || n > f->max_logits)
                return -EINVAL;
        r = ops->begin(f->be, b, f->kv);
        if (r == 0 && !f->m->fake)
                r = run_blocks(f, b);
        if (r == 0 && n > 0)
                r = run_logits(f, logit_rows, n);
        if (r == 0)
                r = ops->end(f->be);
        if (r == 0 && n > 0)
                r = ops->download(f->be, out, f->logits, (size_t)n * f->m->shape.n_vocab * sizeof(*out));
        return lost(r);
}
