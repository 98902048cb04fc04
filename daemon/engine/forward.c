/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/image/scratch.h"
#include "forward.h"

struct forward {
        const struct lm *m;
        struct backend *be;
        struct kv_cache *kv; /* borrowed */
        uint32_t max_rows;
        uint32_t max_logits;
        /* enum image_scratch says what they are */
        float *x, *h, *block;
        float *q, *k, *v, *a;
        float *gate, *up, *wide;
        float *router, *chosen, *weights, *slots;
        float *last, *logits;
};

/* Blocks' results go straight into the residual stream. */
static bool is_plain(const struct model_shape *s) {
        return !s->post_norms && s->residual_scale == 1;
}

static void widths_of(const struct model_shape *s, struct image_scratch_widths *ret) {
        uint64_t q = (uint64_t)s->n_head * s->head_dim, kv = (uint64_t)s->n_head_kv * s->head_dim;
        uint64_t ff = MAX(MAX((uint64_t)s->n_ff, (uint64_t)s->n_ff_shared), (uint64_t)s->n_expert_used * s->n_ff_expert);
        uint64_t qkv = s->fused_qkv ? q + 2 * kv : 0, gate_up = s->fused_gate_up ? 2ull * s->n_ff : 0;
        uint64_t fused = MAX(qkv, gate_up);

        *ret = (struct image_scratch_widths){
                .embd = s->n_embd,
                .vocab = s->n_vocab,
                .q = q,
                .kv = kv,
                .ff = ff,
                .fused = fused,
                .expert = s->n_expert,
                .expert_used = s->n_expert_used,
                .block = !is_plain(s),
        };
}

static void list_buffers(struct forward *f, float **at[IMAGE_SCRATCH_COUNT]) {
        float **const all[IMAGE_SCRATCH_COUNT] = {
                [IMAGE_SCRATCH_X] = &f->x,           [IMAGE_SCRATCH_H] = &f->h,
                [IMAGE_SCRATCH_BLOCK] = &f->block,   [IMAGE_SCRATCH_Q] = &f->q,
                [IMAGE_SCRATCH_K] = &f->k,           [IMAGE_SCRATCH_V] = &f->v,
                [IMAGE_SCRATCH_A] = &f->a,           [IMAGE_SCRATCH_GATE] = &f->gate,
                [IMAGE_SCRATCH_UP] = &f->up,         [IMAGE_SCRATCH_WIDE] = &f->wide,
                [IMAGE_SCRATCH_ROUTER] = &f->router, [IMAGE_SCRATCH_CHOSEN] = &f->chosen,
                [IMAGE_SCRATCH_WEIGHTS] = &f->weights, [IMAGE_SCRATCH_SLOTS] = &f->slots,
                [IMAGE_SCRATCH_LAST] = &f->last,     [IMAGE_SCRATCH_LOGITS] = &f->logits,
        };

        memcpy((void *)at, (const void *)all, sizeof(all));
}

uint64_t forward_bytes(const struct model_shape *s, uint32_t max_rows, uint32_t max_logits) {
        struct image_scratch_widths w;

        widths_of(s, &w);
        return image_scratch_bytes(&w, max_rows, max_logits);
}

int forward_new(struct forward **ret, const struct lm *m, struct kv_cache *kv, uint32_t max_rows,
                uint32_t max_logits) {
        _cleanup_(forward_freep) struct forward *f = NULL;
        struct image_scratch_widths w;
        uint64_t floats[IMAGE_SCRATCH_COUNT];
        float **at[IMAGE_SCRATCH_COUNT];

        f = calloc(1, sizeof(*f));
        if (!f)
                return BACKEND_E_NO_MEMORY;
        f->m = m;
        f->be = m->backend;
        f->kv = kv;
        f->max_rows = max_rows;
        f->max_logits = max_logits;
        widths_of(&m->shape, &w);
        image_scratch_floats(&w, max_rows, max_logits, floats);
        list_buffers(f, at);
        for (size_t i = 0; i < IMAGE_SCRATCH_COUNT; i++) {
                void *dev = NULL;
                int r = f->be->ops->alloc(f->be, MAX(floats[i], (uint64_t)1) * sizeof(float), &dev);

                if (r != 0)
                        return r;
                *at[i] = dev;
        }
        *ret = steal_ptr(&f);
        return 0;
}

struct forward *forward_free(struct forward *f) {
        float **at[IMAGE_SCRATCH_COUNT];

        if (!f)
                return NULL;
        list_buffers(f, at);
        for (size_t i = 0; i < IMAGE_SCRATCH_COUNT; i++)
                if (*at[i])
                        f->be->ops->release(f->be, *at[i]);
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

/* Where a block's result goes to: the residual stream, or a buffer that finish_block() adds to it. */
static float *block_out(struct forward *f) {
        return is_plain(&f->m->shape) ? f->x : f->block;
}

static int finish_block(struct forward *f, const struct batch *b, const float *post_norm) {
        const struct backend_ops *ops = f->be->ops;
        const struct model_shape *s = &f->m->shape;
        int r = 0;

        if (is_plain(s))
                return 0;
        if (post_norm)
                r = ops->rmsnorm(f->be, f->block, post_norm, s->norm_eps, b->n_rows, s->n_embd, f->block);
        return r ? r : ops->add(f->be, f->block, s->residual_scale, b->n_rows, s->n_embd, f->x);
}

/* A block's input: normed, where it has a norm. */
static int norm_input(struct forward *f, const struct batch *b, const float *norm, const float **ret) {
        const struct model_shape *s = &f->m->shape;

        *ret = norm ? f->h : f->x;
        return norm ? f->be->ops->rmsnorm(f->be, f->x, norm, s->norm_eps, b->n_rows, s->n_embd, f->h) : 0;
}

static int project(struct forward *f, const struct batch *b, const struct model_layer *l, const float *in) {
        const struct backend_ops *ops = f->be->ops;
        const struct model_shape *s = &f->m->shape;
        uint32_t q = s->n_head * s->head_dim, kv = s->n_head_kv * s->head_dim, all = q + 2 * kv;
        const struct matmul split[] = { product(&l->q, f->q, false), product(&l->k, f->k, false),
                                        product(&l->v, f->v, false) };
        const struct matmul fused = product(&l->qkv, f->wide, false);
        int r;

        if (!l->qkv.w.data)
                return ops->matmul(f->be, split, ARRAY_SIZE(split), in, s->n_embd, b->n_rows);
        r = ops->matmul(f->be, &fused, 1, in, s->n_embd, b->n_rows);
        r = r ? r : ops->slice(f->be, f->wide, all, 0, b->n_rows, q, f->q);
        r = r ? r : ops->slice(f->be, f->wide, all, q, b->n_rows, kv, f->k);
        return r ? r : ops->slice(f->be, f->wide, all, q + kv, b->n_rows, kv, f->v);
}

/* Heads' norms are many short ones, those over the width of all heads one per row. */
static int norm_heads(struct forward *f, const struct batch *b, const float *norm, uint32_t n_heads, float *x) {
        const struct model_shape *s = &f->m->shape;
        uint32_t n = s->qk_norm_width ? b->n_rows : b->n_rows * n_heads;
        uint32_t dim = s->qk_norm_width ? n_heads * s->head_dim : s->head_dim;

        return norm ? f->be->ops->rmsnorm(f->be, x, norm, s->norm_eps, n, dim, x) : 0;
}

static int run_attention(struct forward *f, const struct batch *b, uint32_t layer) {
        const struct backend_ops *ops = f->be->ops;
        const struct model_shape *s = &f->m->shape;
        const struct model_layer *l = &f->m->layers[layer];
        const struct matmul o = product(&l->o, block_out(f), is_plain(s));
        const struct attention attention = { .n_heads = s->n_head, .layer = layer, .scale = s->attn_scale,
                                             .softcap = s->attn_softcap, .window = l->window, .sinks = l->sinks };
        const float *in;
        int r;

        r = norm_input(f, b, l->attn_norm, &in);
        r = r ? r : project(f, b, l, in);
        r = r ? r : norm_heads(f, b, l->q_norm, s->n_head, f->q);
        r = r ? r : norm_heads(f, b, l->k_norm, s->n_head_kv, f->k);
        r = r ? r : ops->rope_kv(f->be, &f->m->ropes[l->rope], f->kv, layer, b, s->n_head, f->q, f->k, f->v);
        r = r ? r : ops->attention(f->be, &attention, f->kv, b, f->q, f->a);
        r = r ? r : ops->matmul(f->be, &o, 1, f->a, (size_t)s->n_head * s->head_dim, b->n_rows);
        return r ? r : finish_block(f, b, l->attn_post_norm);
}

static int run_dense(struct forward *f, const struct batch *b, const struct model_ffn *n, const float *in,
                     bool accumulate) {
        const struct backend_ops *ops = f->be->ops;
        const struct model_shape *s = &f->m->shape;
        uint32_t ff = n->down.w.n_in;
        const struct matmul split[] = { product(&n->gate, f->gate, false), product(&n->up, f->up, false) };
        const struct matmul fused = product(&n->up, f->wide, false), down = product(&n->down, block_out(f), accumulate);
        int r;

        if (n->gate.w.data) {
                r = ops->matmul(f->be, split, ARRAY_SIZE(split), in, s->n_embd, b->n_rows);
        } else {
                r = ops->matmul(f->be, &fused, 1, in, s->n_embd, b->n_rows);
                r = r ? r : ops->slice(f->be, f->wide, 2ull * ff, 0, b->n_rows, ff, f->gate);
                r = r ? r : ops->slice(f->be, f->wide, 2ull * ff, ff, b->n_rows, ff, f->up);
        }
        r = r ? r : ops->gate(f->be, s->act, f->gate, f->up, b->n_rows, ff, f->gate);
        return r ? r : ops->matmul(f->be, &down, 1, f->gate, ff, b->n_rows);
}

static int run_experts(struct forward *f, const struct batch *b, const struct model_layer *l, const float *in) {
        const struct backend_ops *ops = f->be->ops;
        const struct model_shape *s = &f->m->shape;
        const struct routing routing = { .n_experts = s->n_expert, .n_used = s->n_expert_used, .gating = s->gating,
                                         .bias = l->choice_bias, .normalize = s->expert_norm, .scale = s->expert_scale };
        const struct chosen chosen = { .experts = (const uint32_t *)(const void *)f->chosen, .weights = f->weights,
                                       .n_rows = b->n_rows, .n_used = s->n_expert_used };
        const struct matmul router = product(&l->router, f->router, false);
        const struct matmul wide[] = { product(&l->experts.gate, f->gate, false), product(&l->experts.up, f->up, false) };
        const struct matmul down = product(&l->experts.down, f->slots, false);
        int r;

        r = ops->matmul(f->be, &router, 1, in, s->n_embd, b->n_rows);
        r = r ? r : ops->route(f->be, &routing, f->router, b->n_rows, (uint32_t *)(void *)f->chosen, f->weights);
        r = r ? r : ops->experts(f->be, wide, ARRAY_SIZE(wide), &chosen, in, true);
        r = r ? r : ops->gate(f->be, s->act, f->gate, f->up, b->n_rows * s->n_expert_used, s->n_ff_expert, f->gate);
        r = r ? r : ops->experts(f->be, &down, 1, &chosen, f->gate, false);
        r = r ? r : ops->combine(f->be, &chosen, f->slots, s->n_embd, is_plain(s), block_out(f));
        if (r == 0 && l->ffn.down.w.data)
                r = run_dense(f, b, &l->ffn, in, true); /* shared experts */
        return r;
}

static int run_ffn(struct forward *f, const struct batch *b, uint32_t layer) {
        const struct model_layer *l = &f->m->layers[layer];
        const float *in;
        int r;

        r = norm_input(f, b, l->ffn_norm, &in);
        if (r == 0)
                r = l->router.w.data ? run_experts(f, b, l, in) : run_dense(f, b, &l->ffn, in, is_plain(&f->m->shape));
        return r ? r : finish_block(f, b, l->ffn_post_norm);
}

static int run_blocks(struct forward *f, const struct batch *b) {
        int r;

        r = f->be->ops->embed(f->be, &f->m->embedding, b, f->m->shape.embd_scale, f->x);
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
        const struct matmul logits = { .w = &f->m->output, .bias = f->m->output_bias, .out = f->logits,
                                       .out_stride = s->n_vocab };
        int r;

        r = ops->gather(f->be, f->x, rows, n, s->n_embd, f->last);
        if (r == 0)
                r = ops->rmsnorm(f->be, f->last, f->m->output_norm, s->norm_eps, n, s->n_embd, f->last);
        if (r == 0)
                r = ops->matmul(f->be, &logits, 1, f->last, s->n_embd, n);
        if (r == 0 && (s->logit_scale != 1 || s->logit_softcap > 0))
                r = ops->softcap(f->be, s->logit_scale, s->logit_softcap, n, s->n_vocab, f->logits);
        return r;
}

/* What the caller might handle elsewhere can't be handled in the middle of a step: the engine ends. */
static int lost(int r) {
        return r == BACKEND_E_NO_MEMORY ? -ENOMEM : r > 0 ? -EOPNOTSUPP : r;
}

/* All of a step but its end. */
static int begin(struct forward *f, const struct batch *b, const uint32_t *logit_rows, uint32_t n,
                 const struct forward_top *top) {
        const struct backend_ops *ops = f->be->ops;
        int r;

        r = ops->begin(f->be, b, f->kv);
        if (r == 0 && !f->m->fake)
                r = run_blocks(f, b);
        if (r == 0 && n > 0)
                r = run_logits(f, logit_rows, n);
        if (r == 0 && n > 0 && top && top->k > 0)
                r = ops->top(f->be, f->logits, n, f->m->shape.n_vocab, top->k, top->rows, top->values, top->ids);
        return r;
}

int forward_run(struct forward *f, const struct batch *b, const uint32_t *logit_rows, uint32_t n,
                const struct forward_top *top) {
        int r;

        if (b->n_rows > f->max_rows || n > f->max_logits)
                return -EINVAL;
        r = begin(f, b, logit_rows, n, top);
        if (r == 0)
                r = f->be->ops->end(f->be);
        return lost(r);
}

/* The operations of a step are those of one row, of three kinds: no logits are wanted, logits, or the best of them. */
int forward_reserve(struct forward *f, struct forward_reserve *reserve) {
        const struct backend_ops *ops = f->be->ops;
        const struct backend_limits limits = { .rows = f->max_rows, .gathered = f->max_logits,
                                               .sequences = reserve->sequences, .context = reserve->context };
        const int32_t token = 0;
        const uint32_t zero = 0, *table = &zero;
        const struct batch b = { .n_rows = 1, .token = &token, .pos = &zero, .seq = &zero, .n_seqs = 1, .page_table = &table };
        struct forward_top top = { .k = reserve->top };
        uint64_t bytes;
        int r = 0;

        reserve->bytes = 0;
        if (!ops->reserve || f->m->fake)
                return 0;
        for (uint32_t kind = 0; r == 0 && kind < (top.k > 0 ? 3 : 2); kind++) {
                r = begin(f, &b, &zero, kind > 0, kind > 1 ? &top : NULL);
                while (r == BACKEND_E_UNSUPPORTED && kind > 1 && top.k > 1) { /* of a large vocabulary fewer are found */
                        top.k /= 2;
                        r = begin(f, &b, &zero, 1, &top);
                }
                if (r != 0)
                        break;
                r = ops->reserve(f->be, &limits, &bytes);
                reserve->bytes = MAX(reserve->bytes, bytes);
        }
        return r;
}

int forward_logits(struct forward *f, uint32_t first, uint32_t n, float *out) {
        size_t n_vocab = f->m->shape.n_vocab;

        if (n > f->max_logits || first > f->max_logits - n)
                return -EINVAL;
        return lost(f->be->ops->download(f->be, out, f->logits + first * n_vocab, n * n_vocab * sizeof(*out)));
}
