/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "model.h"

#define LAYERS_MAX 1024u
#define DIM_MAX (1u << 20)

/* Which architectures are this family, and how they pair elements for the rotary embedding. */
static const struct {
        const char *name;
        enum rope_kind rope;
} architectures[] = {
        { "llama", ROPE_NORM },
};

struct binder {
        struct lm *m;
        const struct image *image;
        struct model_error *error;
        uint64_t format_bytes[FMT_END]; /* of matrices, to tell the most used format */
};

static int refuse(struct model_error *error, int code, const char *format, ...) _printf_(3, 4);
static int refuse(struct model_error *error, int code, const char *format, ...) {
        va_list args;

        va_start(args, format);
        (void)vsnprintf(error->text, sizeof(error->text), format, args);
        va_end(args);
        return code;
}

static int from_backend(struct model_error *error, int r) {
        if (r <= 0)
                return r;
        if (r == BACKEND_E_NO_MEMORY)
                return refuse(error, MODEL_E_NO_MEMORY, "no memory for the model's tables");
        return refuse(error, MODEL_E_UNSUPPORTED, "the backend cannot compute with this model's weights");
}

uint64_t model_kv_bytes(const struct model_shape *s, enum kv_format format) {
        return (uint64_t)s->n_layer * s->n_head_kv * kv_position_bytes(format, s->head_dim);
}

/* A vector as floats in the backend's memory. Absent ones stay NULL unless required. */
static int bind_vector(struct binder *b, const char *name, uint64_t n, bool required, float **ret) {
        const struct image_tensor *t = image_find(b->image, name);
        struct backend *be = b->m->backend;
        _cleanup_free_ float *host = NULL;
        const struct fmt_info *info;
        void *dev = NULL;
        int r;

        if (!t)
                return required ? refuse(b->error, MODEL_E_INVALID, "tensor %s is missing", name) : 0;
        info = fmt_info(t->fmt);
        if (!info || t->layout != WEIGHT_ROWS || t->dims[0] != n || t->dims[1] != 1 || t->dims[2] != 1 ||
            t->dims[3] != 1 || n % info->block != 0)
                return refuse(b->error, MODEL_E_INVALID, "tensor %s is no vector of %llu elements", name,
                              (unsigned long long)n);
        host = calloc(n, sizeof(*host));
        if (!host)
                return refuse(b->error, MODEL_E_NO_MEMORY, "no memory for tensor %s", name);
        fmt_decode(info, image_data(b->image, t), n, host);
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

/* A matrix, in place. reads: how much of it a decoded token reads. */
static int bind_matrix(struct binder *b, const char *name, uint32_t n_out, uint32_t n_in, bool reads,
                       struct weight *ret) {
        const struct image_tensor *t = image_find(b->image, name);
        struct weight w;
        int r;

        if (!t)
                return refuse(b->error, MODEL_E_INVALID, "tensor %s is missing", name);
        if (t->dims[0] != n_in || t->dims[1] != n_out || t->dims[2] != 1 || t->dims[3] != 1)
                return refuse(b->error, MODEL_E_INVALID, "tensor %s is %llu x %llu, not %u x %u", name,
                              (unsigned long long)t->dims[0], (unsigned long long)t->dims[1], n_in, n_out);
        w = (struct weight){
                .info = fmt_info(t->fmt),
                .layout = t->layout,
                .n_out = n_out,
                .n_in = n_in,
                .data = image_data(b->image, t),
        };
        if (!w.info)
                return refuse(b->error, MODEL_E_UNSUPPORTED, "tensor %s has format %u, which is not known", name, t->fmt);
        r = b->m->backend->ops->bind(b->m->backend, &w);
        if (r != 0)
                return r < 0 ? r : refuse(b->error, MODEL_E_UNSUPPORTED,
                                          "tensor %s: the backend does not compute with format %s in this layout", name,
                                          w.info->name);
        if (reads) {
                b->m->weight_bytes += t->size;
                b->format_bytes[w.info->fmt] += t->size;
        }
        *ret = w;
        return 0;
}

static int bind_linear(struct binder *b, uint32_t layer, const char *part, uint32_t n_out, uint32_t n_in,
                       struct model_linear *ret) {
        char name[IMAGE_NAME_MAX];
        int r;

        (void)snprintf(name, sizeof(name), "blk.%u.%s.weight", layer, part);
        r = bind_matrix(b, name, n_out, n_in, true, &ret->w);
        if (r != 0)
                return r;
        (void)snprintf(name, sizeof(name), "blk.%u.%s.bias", layer, part);
        return bind_vector(b, name, n_out, false, &ret->bias);
}

static int bind_norm(struct binder *b, uint32_t layer, const char *part, float **ret) {
        char name[IMAGE_NAME_MAX];

        (void)snprintf(name, sizeof(name), "blk.%u.%s.weight", layer, part);
        return bind_vector(b, name, b->m->shape.n_embd, true, ret);
}

static int bind_layer(struct binder *b, uint32_t i) {
        const struct model_shape *s = &b->m->shape;
        struct model_layer *l = &b->m->layers[i];
        uint32_t n_q = s->n_head * s->head_dim, n_kv = s->n_head_kv * s->head_dim;
        const struct {
                const char *part;
                uint32_t n_out, n_in;
                struct model_linear *linear;
        } parts[] = {
                { "attn_q", n_q, s->n_embd, &l->q },        { "attn_k", n_kv, s->n_embd, &l->k },
                { "attn_v", n_kv, s->n_embd, &l->v },       { "attn_output", s->n_embd, n_q, &l->o },
                { "ffn_gate", s->n_ff, s->n_embd, &l->gate }, { "ffn_up", s->n_ff, s->n_embd, &l->up },
                { "ffn_down", s->n_embd, s->n_ff, &l->down },
        };
        int r;

        r = bind_norm(b, i, "attn_norm", &l->attn_norm);
        if (r == 0)
                r = bind_norm(b, i, "ffn_norm", &l->ffn_norm);
        for (size_t k = 0; r == 0 && k < ARRAY_SIZE(parts); k++)
                r = bind_linear(b, i, parts[k].part, parts[k].n_out, parts[k].n_in, parts[k].linear);
        return r;
}

/* Angle per position of each pair, in double until the last. `factors` divide (llama 3's rope_freqs), or NULL. */
static int fill_inv_freq(struct lm *m, const float *factors) {
        uint32_t n = m->shape.n_rot / 2;

        m->inv_freq = calloc(n, sizeof(*m->inv_freq));
        if (!m->inv_freq)
                return MODEL_E_NO_MEMORY;
        for (uint32_t i = 0; i < n; i++) {
                double f = pow((double)m->shape.rope_base, -2.0 * i / m->shape.n_rot);

                if (factors)
                        f /= (double)factors[i];
                m->inv_freq[i] = (float)(f / (double)m->shape.rope_linear);
        }
        return 0;
}

static int bind_rope(struct binder *b) {
        const struct image_tensor *t = image_find(b->image, "rope_freqs.weight");
        uint32_t n = b->m->shape.n_rot / 2;
        _cleanup_free_ float *factors = NULL;
        int r;

        if (t) {
                if (t->fmt != FMT_F32 || t->layout != WEIGHT_ROWS || t->dims[0] != n || t->dims[1] != 1)
                        return refuse(b->error, MODEL_E_INVALID, "tensor rope_freqs.weight is no vector of %u F32", n);
                factors = malloc(n * sizeof(*factors));
                if (!factors)
                        return refuse(b->error, MODEL_E_NO_MEMORY, "no memory for rope_freqs.weight");
                memcpy(factors, image_data(b->image, t), n * sizeof(*factors));
                for (uint32_t i = 0; i < n; i++)
                        if (!(factors[i] > 0) || !isfinite(factors[i]))
                                return refuse(b->error, MODEL_E_INVALID, "rope_freqs.weight[%u] is not above 0", i);
        }
        r = fill_inv_freq(b->m, factors);
        return r == 0 ? 0 : refuse(b->error, r, "no memory for rotary frequencies");
}

static int check_shape(const struct model_shape *s, struct model_error *error) {
        const struct {
                const char *name;
                uint32_t value, max;
        } counts[] = {
                { "vocabulary", s->n_vocab, INT32_MAX },
                { "context_length", s->n_ctx, INT32_MAX },
                { "embedding_length", s->n_embd, DIM_MAX },
                { "block_count", s->n_layer, LAYERS_MAX },
                { "feed_forward_length", s->n_ff, DIM_MAX },
                { "attention.head_count", s->n_head, DIM_MAX },
                { "attention.head_count_kv", s->n_head_kv, s->n_head },
                { "attention.key_length", s->head_dim, 4096 },
                { "rope.dimension_count", s->n_rot, s->head_dim },
        };

        for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
                if (counts[i].value == 0 || counts[i].value > counts[i].max)
                        return refuse(error, MODEL_E_INVALID, "%s is %u, must be 1 to %u", counts[i].name,
                                      counts[i].value, counts[i].max);
        if (s->n_head % s->n_head_kv != 0)
                return refuse(error, MODEL_E_INVALID, "attention.head_count %u is no multiple of head_count_kv %u",
                              s->n_head, s->n_head_kv);
        if (s->n_rot % 2 != 0 || s->head_dim % 2 != 0)
                return refuse(error, MODEL_E_INVALID, "rope.dimension_count %u or key_length %u is odd", s->n_rot,
                              s->head_dim);
        if ((uint64_t)s->n_head * s->head_dim > DIM_MAX)
                return refuse(error, MODEL_E_INVALID, "%u heads of %u elements are too many", s->n_head, s->head_dim);
        if (!(s->norm_eps > 0 && s->norm_eps < 1) || !(s->rope_base >= 1 && s->rope_base < INFINITY) ||
            !(s->rope_linear > 0 && s->rope_linear < INFINITY) || !isfinite(s->attn_scale))
                return refuse(error, MODEL_E_INVALID, "norm epsilon, rope base or a scale is out of range");
        return 0;
}

static int read_shape(struct lm *m, const struct image_hparams *h, struct model_error *error) {
        struct model_shape *s = &m->shape;
        size_t a;

        for (a = 0; a < ARRAY_SIZE(architectures); a++)
                if (strcmp(h->arch, architectures[a].name) == 0)
                        break;
        if (a == ARRAY_SIZE(architectures))
                return refuse(error, MODEL_E_UNSUPPORTED, "architecture %.63s is not supported", h->arch);
        if (h->n_expert > 0)
                return refuse(error, MODEL_E_UNSUPPORTED, "models with experts are not supported");
        if (h->rope_scaling != IMAGE_ROPE_SCALING_NONE && h->rope_scaling != IMAGE_ROPE_SCALING_LINEAR)
                return refuse(error, MODEL_E_UNSUPPORTED, "rope scaling %u is not supported", h->rope_scaling);
        (void)snprintf(m->architecture, sizeof(m->architecture), "%s", h->arch);
        *s = (struct model_shape){
                .n_vocab = h->n_vocab,
                .n_ctx = h->n_ctx,
                .n_embd = h->n_embd,
                .n_layer = h->n_layer,
                .n_ff = h->n_ff,
                .n_head = h->n_head,
                .n_head_kv = h->n_head_kv ? h->n_head_kv : h->n_head,
                .head_dim = h->head_dim ? h->head_dim : h->n_head ? h->n_embd / h->n_head : 0,
                .rope_kind = architectures[a].rope,
                .norm_eps = h->norm_eps > 0 ? h->norm_eps : 1e-5f,
                .rope_base = h->rope_base > 0 ? h->rope_base : 10000.0f,
                .rope_linear = h->rope_scaling == IMAGE_ROPE_SCALING_LINEAR && h->rope_scale_factor > 0 ?
                               h->rope_scale_factor : 1,
        };
        s->n_rot = h->n_rot ? h->n_rot : s->head_dim;
        s->attn_scale = h->attn_scale > 0 ? h->attn_scale : (float)(1 / sqrt(s->head_dim ? s->head_dim : 1));
        return check_shape(s, error);
}

static int bind_all(struct binder *b) {
        struct lm *m = b->m;
        const struct model_shape *s = &m->shape;
        bool tied = !image_find(b->image, "output.weight");
        int r;

        m->layers = calloc(s->n_layer, sizeof(*m->layers));
        if (!m->layers)
                return refuse(b->error, MODEL_E_NO_MEMORY, "no memory for %u layers", s->n_layer);
        r = bind_matrix(b, "token_embd.weight", s->n_vocab, s->n_embd, tied, &m->embedding);
        if (r == 0 && tied)
                m->output = m->embedding;
        else if (r == 0)
                r = bind_matrix(b, "output.weight", s->n_vocab, s->n_embd, true, &m->output);
        if (r == 0)
                r = bind_vector(b, "output_norm.weight", s->n_embd, true, &m->output_norm);
        if (r == 0)
                r = bind_rope(b);
        for (uint32_t i = 0; r == 0 && i < s->n_layer; i++)
                r = bind_layer(b, i);
        return r;
}

static const char *most_used_format(const struct binder *b) {
        size_t best = 0;

        for (size_t i = 0; i < ARRAY_SIZE(b->format_bytes); i++)
                if (b->format_bytes[i] > b->format_bytes[best])
                        best = i;
        return fmt_info((uint32_t)best) ? fmt_info((uint32_t)best)->name : "";
}

int model_new_image(struct lm **ret, struct backend *be, const struct image *image, struct model_error *error) {
        _cleanup_(model_freep) struct lm *m = NULL;
        struct binder b;
        int r;

        m = calloc(1, sizeof(*m));
        if (!m)
                return refuse(error, MODEL_E_NO_MEMORY, "no memory for the model");
        m->backend = be;
        b = (struct binder){ .m = m, .image = image, .error = error };
        r = read_shape(m, image->hparams, error);
        if (r == 0)
                r = bind_all(&b);
        if (r != 0)
                return r;
        m->n_params = image->n_params;
        m->format = most_used_format(&b);
        *ret = steal_ptr(&m);
        return 0;
}

int model_new_fake(struct lm **ret, struct backend *be, uint32_t n_vocab, uint32_t n_likely, uint32_t n_ctx) {
        struct lm *m = calloc(1, sizeof(*m));

        if (!m)
                return MODEL_E_NO_MEMORY;
        m->backend = be;
        m->fake = true;
        m->shape = (struct model_shape){ .n_vocab = n_vocab, .n_ctx = n_ctx, .n_embd = 1 };
        m->output = (struct weight){ .info = fmt_info(FMT_F32), .n_out = n_likely, .n_in = 1 };
        m->format = "";
        (void)snprintf(m->architecture, sizeof(m->architecture), "null");
        *ret = m;
        return 0;
}

static void release_linear(struct backend *be, struct model_linear *l) {
        if (l->bias)
                be->ops->release(be, l->bias);
}

static void release_layer(struct backend *be, struct model_layer *l) {
        if (l->attn_norm)
                be->ops->release(be, l->attn_norm);
        if (l->ffn_norm)
                be->ops->release(be, l->ffn_norm);
        release_linear(be, &l->q);
        release_linear(be, &l->k);
        release_linear(be, &l->v);
        release_linear(be, &l->o);
        release_linear(be, &l->gate);
        release_linear(be, &l->up);
        release_linear(be, &l->down);
}

struct lm *model_free(struct lm *m) {
        if (!m)
                return NULL;
        for (uint32_t i = 0; m->layers && i < m->shape.n_layer; i++)
                release_layer(m->backend, &m->layers[i]);
        if (m->output_norm)
                m->backend->ops->release(m->backend, m->output_norm);
        free(m->layers);
        free(m->inv_freq);
        if (m->synthetic)
                (void)munmap(m->synthetic, m->synthetic_size);
        free(m);
        return NULL;
}
