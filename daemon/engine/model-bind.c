/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Binding an image's weights: matrices in place, vectors as copies in the backend's memory. Which tensors there are and
 * that their shapes fit, the schema has made sure of; what is not there stays NULL or without data.
 */

#include <stdio.h>
#include <stdlib.h>

#include "daemon/image/tensor-size.h"

#include "model-private.h"

int model_await(const struct binder *b, const struct image_tensor *t) {
        struct image_error error;
        int r = image_await(b->image, t, &error);

        return r == IMAGE_E_INVALID ? model_refuse(b->error, MODEL_E_INVALID, "image: %s", error.text) : r;
}

static int from_backend(struct model_error *error, int r) {
        if (r <= 0)
                return r;
        if (r == BACKEND_E_NO_MEMORY)
                return model_refuse(error, MODEL_E_NO_MEMORY, "no memory for the model's tables");
        return model_refuse(error, MODEL_E_UNSUPPORTED, "the backend cannot compute with this model's weights");
}

static int upload(struct binder *b, const float *host, uint64_t n, float **ret) {
        struct backend *be = b->m->backend;
        void *dev = NULL;
        int r;

        r = be->ops->alloc(be, n * sizeof(*host), &dev);
        if (r == 0)
                r = be->ops->upload(be, dev, host, n * sizeof(*host));
        if (r != 0) {
                if (dev)
                        be->ops->release(be, dev);
                return from_backend(b->error, r);
        }
        b->m->dev_bytes += n * sizeof(*host);
        *ret = dev;
        return 0;
}

/* A tensor of n floats, or NULL where there is none; images have nothing but F32 in this layout. */
static int bind_vector(struct binder *b, const char *name, uint64_t n, float **ret) {
        const struct image_tensor *t = image_find(b->image, name);
        int r;

        if (!t)
                return 0;
        if (t->fmt != FMT_F32 || t->layout != WEIGHT_ROWS || t->dims[0] * t->dims[1] != n || t->dims[2] != 1)
                return model_refuse(b->error, MODEL_E_INVALID, "tensor %s is no vector of %llu elements", name,
                                    (unsigned long long)n);
        r = model_await(b, t);
        return r ? r : upload(b, image_data(b->image, t), n, ret);
}

/* The scales that go with a matrix: of all of it, or of each expert's. */
static int bind_scale(struct binder *b, const char *name, uint32_t n_experts, struct weight *w) {
        const struct image_tensor *t = image_find(b->image, name);
        const float *scales;
        int r;

        if (!t)
                return 0;
        if (t->fmt != FMT_F32 || t->layout != WEIGHT_ROWS || (t->dims[0] != 1 && t->dims[0] != n_experts))
                return model_refuse(b->error, MODEL_E_INVALID, "tensor %s is no scale", name);
        r = model_await(b, t);
        if (r != 0)
                return r;
        scales = image_data(b->image, t);
        if (t->dims[0] == 1)
                w->scale = scales[0];
        else
                w->scales = scales;
        return 0;
}

/* A device's memory is full: the error has the sums. */
static int refuse_memory(const struct binder *b, const struct image_tensor *t, const char *name) {
        uint64_t all = 0;

        for (size_t i = 0; i < b->image->n_segments; i++)
                all += b->image->map_size[i];
        return model_refuse(b->error, MODEL_E_NO_MEMORY,
                            "no memory for tensor %s, %llu bytes, behind %llu of the image's %llu bytes", name,
                            (unsigned long long)t->size, (unsigned long long)b->bound_bytes, (unsigned long long)all);
}

/* A matrix, in place, or one of each expert (0: no experts). share: how much of it a decoded token reads. */
static int bind_matrix(struct binder *b, const char *name, uint32_t n_out, uint32_t n_in, uint32_t n_experts,
                       double share, struct weight *ret) {
        const struct image_tensor *t = image_find(b->image, name);
        struct lossless_parts parts;
        struct weight w;
        int r;

        if (!t)
                return model_refuse(b->error, MODEL_E_INVALID, "tensor %s is missing", name);
        if (t->dims[0] != n_in || t->dims[1] != n_out || t->dims[2] != MAX(n_experts, 1u) || t->dims[3] != 1)
                return model_refuse(b->error, MODEL_E_INVALID, "tensor %s is %llu x %llu x %llu, not %u x %u x %u", name,
                                    (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                                    (unsigned long long)t->dims[2], n_in, n_out, MAX(n_experts, 1u));
        w = (struct weight){
                .info = fmt_info(t->fmt),
                .layout = t->layout,
                .n_out = n_out,
                .n_in = n_in,
                .n_experts = n_experts,
                .data = image_data(b->image, t),
        };
        if (image_tensor_parts(t, &parts))
                w.tail = t->size - parts.index; /* which begins right behind the columns */
        if (!w.info)
                return model_refuse(b->error, MODEL_E_UNSUPPORTED, "tensor %s has format %u, which is not known", name,
                                    t->fmt);
        r = model_await(b, t);
        if (r != 0)
                return r;
        r = b->m->backend->ops->bind(b->m->backend, &w);
        if (r == BACKEND_E_NO_MEMORY)
                return refuse_memory(b, t, name);
        if (r != 0)
                return r < 0 ? r : model_refuse(b->error, MODEL_E_UNSUPPORTED,
                                                "tensor %s: the backend does not compute with format %s in this layout",
                                                name, w.info->name);
        b->bound_bytes += t->size;
        if (share > 0) {
                b->m->weight_bytes += (uint64_t)((double)t->size * share);
                b->words_bytes[w.info->fmt] += t->size;
        }
        *ret = w;
        return 0;
}

static const char *part_name(char name[IMAGE_NAME_MAX], uint32_t layer, const char *part, const char *what) {
        (void)snprintf(name, IMAGE_NAME_MAX, "blk.%u.%s.%s", layer, part, what);
        return name;
}

struct part {
        const char *name;
        uint32_t n_out, n_in;
        struct model_linear *linear;
};

/* Matrix, bias and scale of each part. */
static int bind_parts(struct binder *b, uint32_t layer, const struct part *parts, size_t n, uint32_t n_experts) {
        double share = n_experts > 0 ? (double)b->m->shape.n_expert_used / n_experts : 1;
        char name[IMAGE_NAME_MAX];
        int r = 0;

        for (const struct part *p = parts; r == 0 && p < parts + n; p++) {
                r = bind_matrix(b, part_name(name, layer, p->name, "weight"), p->n_out, p->n_in, n_experts, share,
                                &p->linear->w);
                if (r == 0)
                        r = bind_scale(b, part_name(name, layer, p->name, "scale"), n_experts, &p->linear->w);
                if (r == 0)
                        r = bind_vector(b, part_name(name, layer, p->name, "bias"),
                                        (uint64_t)p->n_out * MAX(n_experts, 1u), &p->linear->bias);
        }
        return r;
}

static int bind_norms(struct binder *b, uint32_t layer, uint32_t parts) {
        const struct model_shape *s = &b->m->shape;
        struct model_layer *l = &b->m->layers[layer];
        uint32_t q = s->qk_norm_width ? s->n_head * s->head_dim : s->head_dim;
        uint32_t k = s->qk_norm_width ? s->n_head_kv * s->head_dim : s->head_dim;
        const struct {
                const char *part;
                uint32_t n;
                float **ret;
        } norms[] = {
                { "attn_norm", s->n_embd, &l->attn_norm },
                { "post_attention_norm", s->n_embd, parts & IMAGE_FFN_NORM_POST ? &l->ffn_norm : &l->attn_post_norm },
                { "ffn_norm", s->n_embd, &l->ffn_norm },
                { "post_ffw_norm", s->n_embd, &l->ffn_post_norm },
                { "attn_q_norm", q, &l->q_norm },
                { "attn_k_norm", k, &l->k_norm },
                { "attn_sinks", s->n_head, &l->sinks },
        };
        char name[IMAGE_NAME_MAX];
        int r = 0;

        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(norms); i++)
                r = bind_vector(b, part_name(name, layer, norms[i].part, "weight"), norms[i].n, norms[i].ret);
        return r;
}

static int bind_attention(struct binder *b, uint32_t layer) {
        const struct model_shape *s = &b->m->shape;
        struct model_layer *l = &b->m->layers[layer];
        uint32_t n_q = s->n_head * s->head_dim, n_kv = s->n_head_kv * s->head_dim;
        const struct part split[] = { { "attn_q", n_q, s->n_embd, &l->q }, { "attn_k", n_kv, s->n_embd, &l->k },
                                      { "attn_v", n_kv, s->n_embd, &l->v } };
        const struct part fused = { "attn_qkv", n_q + 2 * n_kv, s->n_embd, &l->qkv };
        const struct part out = { "attn_output", s->n_embd, n_q, &l->o };
        char name[IMAGE_NAME_MAX];
        int r;

        if (!image_find(b->image, part_name(name, layer, "attn_qkv", "weight"))) {
                r = bind_parts(b, layer, split, ARRAY_SIZE(split), 0);
        } else {
                r = bind_parts(b, layer, &fused, 1, 0);
                b->m->shape.fused_qkv = true;
                if (image_find(b->image, part_name(name, layer, "attn_q", "bias")))
                        return model_refuse(b->error, MODEL_E_UNSUPPORTED, "%s does not go with a fused attn_qkv", name);
        }
        return r ? r : bind_parts(b, layer, &out, 1, 0);
}

static int bind_dense(struct binder *b, uint32_t layer, bool gate_up) {
        const struct model_shape *s = &b->m->shape;
        struct model_ffn *f = &b->m->layers[layer].ffn;
        const struct part parts[] = {
                { "ffn_down", s->n_embd, s->n_ff, &f->down },
                { "ffn_up", gate_up ? 2 * s->n_ff : s->n_ff, s->n_embd, &f->up },
                { "ffn_gate", s->n_ff, s->n_embd, &f->gate },
        };

        b->m->shape.fused_gate_up |= gate_up;
        return bind_parts(b, layer, parts, gate_up ? 2 : 3, 0);
}

static int bind_experts(struct binder *b, uint32_t layer, uint32_t parts) {
        const struct model_shape *s = &b->m->shape;
        struct model_layer *l = &b->m->layers[layer];
        const struct part router = { "ffn_gate_inp", s->n_expert, s->n_embd, &l->router };
        const struct part experts[] = {
                { "ffn_gate_exps", s->n_ff_expert, s->n_embd, &l->experts.gate },
                { "ffn_up_exps", s->n_ff_expert, s->n_embd, &l->experts.up },
                { "ffn_down_exps", s->n_embd, s->n_ff_expert, &l->experts.down },
        };
        const struct part shared[] = {
                { "ffn_gate_shexp", s->n_ff_shared, s->n_embd, &l->ffn.gate },
                { "ffn_up_shexp", s->n_ff_shared, s->n_embd, &l->ffn.up },
                { "ffn_down_shexp", s->n_embd, s->n_ff_shared, &l->ffn.down },
        };
        char name[IMAGE_NAME_MAX];
        int r;

        r = bind_parts(b, layer, &router, 1, 0);
        if (r == 0)
                r = bind_parts(b, layer, experts, ARRAY_SIZE(experts), s->n_expert);
        if (r == 0 && parts & IMAGE_CHOICE_BIAS)
                r = bind_vector(b, part_name(name, layer, "exp_probs_b", "bias"), s->n_expert, &l->choice_bias);
        if (r == 0 && parts & IMAGE_SHARED)
                r = bind_parts(b, layer, shared, ARRAY_SIZE(shared), 0);
        return r;
}

static void place_layer(struct binder *b, uint32_t layer) {
        const struct image_hparams *h = b->image->hparams;
        struct model_layer *l = &b->m->layers[layer];

        if (h->window > 0 && image_layers_has(&h->window_layers, layer))
                l->window = h->window;
        l->rope = l->window > 0 ? MODEL_ROPE_WINDOW : MODEL_ROPE_FULL;
        if (image_layers_has(&h->no_rope_layers, layer))
                l->rope = MODEL_ROPE_NONE;
}

static int bind_layer(struct binder *b, uint32_t layer) {
        uint32_t parts = image_arch_parts(b->arch, b->image->hparams, layer);
        int r;

        place_layer(b, layer);
        r = bind_norms(b, layer, parts);
        if (r == 0)
                r = bind_attention(b, layer);
        if (r == 0 && parts & IMAGE_EXPERTS)
                r = bind_experts(b, layer, parts);
        else if (r == 0)
                r = bind_dense(b, layer, parts & IMAGE_GATE_UP);
        return r;
}

int model_bind(struct binder *b) {
        struct lm *m = b->m;
        const struct model_shape *s = &m->shape;
        bool tied = !image_find(b->image, "output.weight");
        int r;

        m->layers = calloc(s->n_layer, sizeof(*m->layers));
        if (!m->layers)
                return model_refuse(b->error, MODEL_E_NO_MEMORY, "no memory for %u layers", s->n_layer);
        r = bind_matrix(b, "token_embd.weight", s->n_vocab, s->n_embd, 0, tied, &m->embedding);
        if (r == 0)
                r = bind_scale(b, "token_embd.scale", 0, &m->embedding);
        if (r == 0 && tied)
                m->output = m->embedding;
        else if (r == 0)
                r = bind_matrix(b, "output.weight", s->n_vocab, s->n_embd, 0, 1, &m->output);
        if (r == 0 && !tied)
                r = bind_scale(b, "output.scale", 0, &m->output);
        if (r == 0)
                r = bind_vector(b, "output.bias", s->n_vocab, &m->output_bias);
        if (r == 0)
                r = bind_vector(b, "output_norm.weight", s->n_embd, &m->output_norm);
        for (uint32_t i = 0; r == 0 && i < s->n_layer; i++)
                r = bind_layer(b, i);
        return r;
}
