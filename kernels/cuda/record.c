/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Operations written down, as the arguments of the kernels that do them. Shapes are checked here, where the caller can still be
 * told; nothing is launched before end().
 */

#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "cuda.h"

struct cuda_op *cuda_ops_add(struct cuda_ops *list) {
        if (list->n == list->allocated) {
                size_t more = list->allocated ? 2 * list->allocated : 256;
                struct cuda_op *grown = reallocarray(list->ops, more, sizeof(*grown));

                if (!grown)
                        return NULL;
                list->ops = grown;
                list->allocated = more;
        }
        memset(list->ops + list->n, 0, sizeof(*list->ops)); /* padding, too */
        return list->ops + list->n++;
}

/* Page numbers lead into the cache, as far as the step's rows see. */
static bool pages_fit(const struct batch *b, const struct kv_cache *kv) {
        for (uint32_t r = 0; r < b->n_rows; r++) {
                bool last = r + 1 == b->n_rows || b->seq[r + 1] != b->seq[r];

                if (b->seq[r] >= b->n_seqs)
                        return false;
                for (uint32_t p = 0; last && p <= b->pos[r] / kv->config.page_tokens; p++)
                        if (b->page_table[b->seq[r]][p] >= kv->config.n_pages)
                                return false;
        }
        return true;
}

int cuda_record_begin(struct backend *base, const struct batch *batch, struct kv_cache *kv) {
        struct cuda_backend *be = cuda_of(base);
        struct cuda_recorder *rec = &be->recorder;
        int r = atomic_load(&be->lost);

        if (r != 0)
                return r;
        rec->batch = NULL;
        if (kv && (!batch->page_table || !pages_fit(batch, kv)))
                return BACKEND_E_UNSUPPORTED;
        rec->kv = kv;
        rec->gathered = false;
        rec->n_gathered = 0;
        rec->list.n = 0;
        memset(&rec->needs, 0, sizeof(rec->needs)); /* compared as bytes */
        rec->batch = batch;
        return 0;
}

void cuda_record_close(struct cuda_backend *be) {
        free(be->recorder.gather);
        free(be->recorder.list.ops);
}

int cuda_record_span(struct cuda_backend *be, uint32_t n, struct cuda_span *ret) {
        const struct cuda_recorder *rec = &be->recorder;
        int r = atomic_load(&be->lost);
        uint32_t rows;

        if (r != 0)
                return r;
        if (!rec->batch)
                return BACKEND_E_UNSUPPORTED;
        rows = rec->gathered ? rec->n_gathered : rec->batch->n_rows;
        if (rows > 0 && n % rows == 0)
                *ret = (struct cuda_span){ rec->gathered ? CUDA_GATHERED : CUDA_ROWS, n / rows };
        else
                *ret = (struct cuda_span){ CUDA_FIXED, n };
        return 0;
}

int cuda_record_op(struct cuda_backend *be, enum cuda_op_kind kind, struct cuda_span span, struct cuda_op **ret) {
        struct cuda_op *op = cuda_ops_add(&be->recorder.list);

        if (!op)
                return BACKEND_E_NO_MEMORY;
        op->kind = kind;
        op->span = span;
        *ret = op;
        return 0;
}

/* An op on n rows, none where n is 0: *ret is NULL then. */
static int add_op(struct backend *base, enum cuda_op_kind kind, uint32_t n, struct cuda_op **ret) {
        struct cuda_span span;
        int r = cuda_record_span(cuda_of(base), n, &span);

        *ret = NULL;
        if (r != 0 || n == 0)
                return r;
        return cuda_record_op(cuda_of(base), kind, span, ret);
}

static bool is_step(const struct cuda_backend *be, const struct batch *batch, const struct kv_cache *kv) {
        const struct cuda_recorder *rec = &be->recorder;

        return rec->batch && batch == rec->batch && kv == rec->kv && !rec->gathered;
}

int cuda_record_embed(struct backend *base, const struct weight *w, const struct batch *batch, float scale, float *out) {
        struct cuda_coded coded;
        struct cuda_op *op;
        int r;

        if (!is_step(cuda_of(base), batch, cuda_of(base)->recorder.kv) || w->n_experts > 1 || !cuda_coded_parts(w, &coded))
                return BACKEND_E_UNSUPPORTED;
        for (uint32_t i = 0; i < batch->n_rows; i++)
                if (batch->token[i] < 0 || (uint32_t)batch->token[i] >= w->n_out)
                        return BACKEND_E_UNSUPPORTED;
        r = add_op(base, CUDA_OP_EMBED, batch->n_rows, &op);
        if (!op)
                return r;
        op->embed.w = w->data;
        op->embed.coded = coded;
        op->embed.fmt = w->info->fmt;
        op->embed.layout = w->layout;
        op->embed.n_in = w->n_in;
        op->embed.w_scale = w->scale;
        op->embed.scale = scale;
        op->embed.out = out;
        return 0;
}

int cuda_record_rmsnorm(struct backend *base, const float *x, const float *weight, float eps, uint32_t n, uint32_t dim,
                        float *out) {
        struct cuda_op *op;
        int r = add_op(base, CUDA_OP_NORM, n, &op);

        if (!op)
                return r;
        op->norm.dim = dim;
        op->norm.eps = eps;
        op->norm.x = x;
        op->norm.x_stride = dim;
        op->norm.norm = weight;
        op->norm.out.f32 = out;
        op->norm.out.n_in = dim;
        return 0;
}

int cuda_record_rope_kv(struct backend *base, const struct rope *rope, struct kv_cache *kv, uint32_t layer,
                        const struct batch *batch, uint32_t n_heads, float *q, float *k, const float *v) {
        struct cuda_backend *be = cuda_of(base);
        const float *inv_freq = NULL;
        struct cuda_rope_kv *a;
        struct cuda_op *op;
        int r;

        if (!kv || !is_step(be, batch, kv) || layer >= kv->config.n_layers || !cuda_attn_has(&kv->config, n_heads) ||
            (rope->kind != ROPE_NONE && (rope->n_rot > kv->config.head_dim || rope->n_rot % 2 != 0)))
                return BACKEND_E_UNSUPPORTED;
        if (rope->kind != ROPE_NONE && rope->n_rot > 0) {
                r = cuda_memory_constant(be, rope->inv_freq, rope->n_rot / 2, &inv_freq);
                if (r != 0)
                        return r;
        }
        r = add_op(base, CUDA_OP_ROPE_KV, batch->n_rows, &op);
        if (!op)
                return r;
        a = &op->rope;
        a->kv = kv->kv;
        a->layer = layer;
        a->n_heads = n_heads;
        a->q = q;
        a->k = k;
        a->v = v;
        a->q_stride = (size_t)n_heads * kv->config.head_dim;
        a->k_stride = a->v_stride = (size_t)kv->config.n_kv_heads * kv->config.head_dim;
        a->rope.kind = rope->kind;
        a->rope.n_rot = rope->n_rot;
        a->rope.inv_freq = inv_freq;
        a->rope.magnitude = rope->magnitude;
        a->rope.temp_scale = rope->temp_scale;
        a->rope.temp_length = rope->temp_length;
        return 0;
}

/* The number of the window's plan among the step's, a new one if there is none like it; 0: too many. KV_F32 has no plans. */
static uint32_t find_window(struct cuda_needs *needs, const struct cuda_window *w) {
        for (uint32_t i = 0; i < needs->n_windows; i++)
                if (memcmp(needs->windows + i, w, sizeof(*w)) == 0)
                        return i + 1;
        if (needs->n_windows == CUDA_WINDOWS)
                return 0;
        needs->windows[needs->n_windows] = *w;
        return ++needs->n_windows;
}

int cuda_record_attention(struct backend *base, const struct attention *a, const struct kv_cache *kv,
                          const struct batch *batch, const float *q, float *out) {
        struct cuda_backend *be = cuda_of(base);
        struct cuda_window window;
        struct cuda_op *op;
        uint32_t index;
        int r;

        if (!kv || !is_step(be, batch, kv) || a->layer >= kv->config.n_layers || !cuda_attn_has(&kv->config, a->n_heads))
                return BACKEND_E_UNSUPPORTED;
        window = (struct cuda_window){ .window = a->window, .n_heads = a->n_heads, .head_dim = kv->config.head_dim };
        window.tile_rows = cuda_attn_tile_rows(a->n_heads, kv->config.n_kv_heads, kv->config.head_dim);
        index = kv->config.format == KV_F32 ? 0 : find_window(&be->recorder.needs, &window);
        if ((index == 0 && kv->config.format != KV_F32) || (uintptr_t)q % 16 != 0 || (uintptr_t)out % 16 != 0)
                return BACKEND_E_UNSUPPORTED;
        r = add_op(base, CUDA_OP_ATTN, batch->n_rows, &op);
        if (!op)
                return r;
        op->index = index;
        op->attn.kv = kv->kv;
        op->attn.attention.n_heads = a->n_heads;
        op->attn.attention.layer = a->layer;
        op->attn.attention.scale = a->scale;
        op->attn.attention.softcap = a->softcap;
        op->attn.attention.window = a->window;
        op->attn.attention.sinks = a->sinks;
        op->attn.q = q;
        op->attn.q_stride = (size_t)a->n_heads * kv->config.head_dim;
        op->attn.out.f32 = out;
        op->attn.out.n_in = a->n_heads * kv->config.head_dim;
        return 0;
}

int cuda_record_gate(struct backend *base, enum activation act, const float *gate, const float *up, uint32_t n_rows,
                     uint32_t dim, float *out) {
        struct cuda_op *op;
        int r;

        if (act >= ACTIVATIONS)
                return BACKEND_E_UNSUPPORTED;
        r = add_op(base, CUDA_OP_GATE, n_rows, &op);
        if (!op)
                return r;
        op->gate.act = act;
        op->gate.dim = dim;
        op->gate.gate = gate;
        op->gate.up = up;
        op->gate.stride = dim;
        op->gate.out.f32 = out;
        op->gate.out.n_in = dim;
        return 0;
}

int cuda_record_softcap(struct backend *base, float scale, float cap, uint32_t n_rows, uint32_t dim, float *x) {
        struct cuda_op *op;
        int r = add_op(base, CUDA_OP_SOFTCAP, n_rows, &op);

        if (!op)
                return r;
        op->softcap.scale = scale;
        op->softcap.cap = cap;
        op->softcap.dim = dim;
        op->softcap.x = x;
        return 0;
}

int cuda_record_add(struct backend *base, const float *x, float scale, uint32_t n_rows, uint32_t dim, float *out) {
        struct cuda_op *op;
        int r = add_op(base, CUDA_OP_ADD, n_rows, &op);

        if (!op)
                return r;
        op->add.x = x;
        op->add.scale = scale;
        op->add.dim = dim;
        op->add.out = out;
        return 0;
}

int cuda_record_slice(struct backend *base, const float *x, size_t x_stride, uint32_t first, uint32_t n_rows,
                      uint32_t dim, float *out) {
        struct cuda_op *op;
        int r;

        if (first + (size_t)dim > x_stride)
                return BACKEND_E_UNSUPPORTED;
        r = add_op(base, CUDA_OP_SLICE, n_rows, &op);
        if (!op)
                return r;
        op->slice.x = x;
        op->slice.x_stride = x_stride;
        op->slice.first = first;
        op->slice.dim = dim;
        op->slice.out = out;
        return 0;
}

int cuda_record_take_gather(struct cuda_recorder *rec, uint32_t n) {
        uint32_t *grown;

        if (n <= rec->gather_allocated)
                return 0;
        grown = reallocarray(rec->gather, n, sizeof(*grown));
        if (!grown)
                return BACKEND_E_NO_MEMORY;
        rec->gather = grown;
        rec->gather_allocated = n;
        return 0;
}

int cuda_record_gather(struct backend *base, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim, float *out) {
        struct cuda_backend *be = cuda_of(base);
        struct cuda_recorder *rec = &be->recorder;
        struct cuda_op *op;
        int r = atomic_load(&be->lost);

        if (r != 0)
                return r;
        if (!rec->batch || rec->gathered)
                return BACKEND_E_UNSUPPORTED;
        for (uint32_t i = 0; i < n; i++)
                if (rows[i] >= rec->batch->n_rows)
                        return BACKEND_E_UNSUPPORTED;
        r = cuda_record_take_gather(rec, n);
        if (r == 0 && n > 0)
                memcpy(rec->gather, rows, n * sizeof(*rows));
        if (r == 0 && n > 0)
                r = cuda_record_op(be, CUDA_OP_GATHER, (struct cuda_span){ CUDA_GATHERED, 1 }, &op);
        if (r != 0)
                return r;
        rec->gathered = true;
        rec->n_gathered = n;
        if (n == 0)
                return 0;
        op->gather.x = x;
        op->gather.dim = dim;
        op->gather.out = out;
        return 0;
}

int cuda_record_top(struct backend *base, const float *logits, uint32_t n, uint32_t dim, uint32_t k,
                    struct backend_top *rows, float *values, int32_t *ids) {
        struct cuda_needs *needs = &cuda_of(base)->recorder.needs;
        struct cuda_op *op;
        int r;

        if (!cuda_top_has(dim, k) || needs->n_tops == CUDA_TOPS)
                return BACKEND_E_UNSUPPORTED;
        r = add_op(base, CUDA_OP_TOP, n, &op);
        if (!op)
                return r;
        cuda_of(base)->recorder.tops[needs->n_tops] = (struct cuda_top_result){ rows, values, ids };
        needs->tops[needs->n_tops].span = op->span;
        needs->tops[needs->n_tops].dim = dim;
        needs->tops[needs->n_tops].k = k;
        op->index = ++needs->n_tops;
        op->top.dim = dim;
        op->top.k = k;
        op->top.logits = logits;
        return 0;
}
