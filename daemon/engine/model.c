/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "model-private.h"

#define LAYERS_MAX 1024u
#define DIM_MAX (1u << 20)

int model_refuse(struct model_error *error, int code, const char *format, ...) {
        va_list args;

        va_start(args, format);
        (void)vsnprintf(error->text, sizeof(error->text), format, args);
        va_end(args);
        return code;
}

void model_shape_defaults(struct model_shape *s) {
        float *const scales[] = { &s->embd_scale, &s->residual_scale, &s->logit_scale, &s->expert_scale, &s->rope_linear };

        for (size_t i = 0; i < ARRAY_SIZE(scales); i++)
                if (*scales[i] == 0)
                        *scales[i] = 1;
}

uint64_t model_kv_bytes(const struct model_shape *s, enum kv_format format) {
        return (uint64_t)s->n_layer * s->n_head_kv * kv_position_bytes(format, s->head_dim);
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
                        return model_refuse(error, MODEL_E_INVALID, "%s is %u, must be 1 to %u", counts[i].name,
                                      counts[i].value, counts[i].max);
        if (s->n_head % s->n_head_kv != 0)
                return model_refuse(error, MODEL_E_INVALID, "attention.head_count %u is no multiple of head_count_kv %u",
                              s->n_head, s->n_head_kv);
        if (s->n_rot % 2 != 0 || s->head_dim % 2 != 0)
                return model_refuse(error, MODEL_E_INVALID, "rope.dimension_count %u or key_length %u is odd", s->n_rot,
                              s->head_dim);
        if ((uint64_t)s->n_head * s->head_dim > DIM_MAX)
                return model_refuse(error, MODEL_E_INVALID, "%u heads of %u elements are too many", s->n_head, s->head_dim);
        if (!(s->norm_eps > 0 && s->norm_eps < 1) || !(s->rope_base >= 1 && s->rope_base < INFINITY) ||
            !(s->rope_linear > 0 && s->rope_linear < INFINITY) || !isfinite(s->attn_scale))
                return model_refuse(error, MODEL_E_INVALID, "norm epsilon, rope base or a scale is out of range");
        return 0;
}

static void read_experts(struct model_shape *s, const struct image_hparams *h) {
        if (h->n_expert == 0)
                return;
        s->n_expert = h->n_expert;
        s->n_expert_used = h->n_expert_used;
        s->n_ff_expert = h->n_ff_expert;
        s->n_ff_shared = h->n_ff_shared;
        s->gating = h->expert_gating == IMAGE_GATING_SIGMOID        ? GATING_SIGMOID :
                    h->expert_gating == IMAGE_GATING_SOFTMAX_CHOSEN ? GATING_SOFTMAX_CHOSEN :
                                                                      GATING_SOFTMAX;
        s->expert_norm = h->expert_norm != 0;
        s->expert_scale = h->expert_scale;
}

/* What an architecture says beyond the hyper-parameters. */
static void read_arch(struct model_shape *s, const struct image_arch *arch, const struct image_hparams *h) {
        static const enum activation acts[] = { [IMAGE_ACT_SILU] = ACT_SILU, [IMAGE_ACT_GELU] = ACT_GELU_TANH,
                                                [IMAGE_ACT_SILU_CLAMPED] = ACT_SILU_CLAMPED };
        uint32_t rope = h->rope_kind != IMAGE_ROPE_DEFAULT ? h->rope_kind : (uint32_t)arch->rope;

        s->rope_kind = rope == IMAGE_ROPE_NORM ? ROPE_NORM : ROPE_NEOX;
        s->act = acts[arch->act];
        s->post_norms = arch->parts & (IMAGE_ATTN_POST_NORM | IMAGE_FFN_POST_NORM);
        s->qk_norm_width = arch->parts & IMAGE_QK_NORM_WIDTH;
}

int model_read_shape(struct model_shape *s, const struct image_hparams *h, struct model_error *error) {
        const struct image_arch *arch = image_arch_find(h->arch);

        if (!arch)
                return model_refuse(error, MODEL_E_UNSUPPORTED, "architecture %.63s is not supported", h->arch);
        *s = (struct model_shape){
                .n_vocab = h->n_vocab,
                .n_ctx = h->n_ctx,
                .n_embd = h->n_embd,
                .n_layer = h->n_layer,
                .n_ff = h->n_ff,
                .n_head = h->n_head,
                .n_head_kv = h->n_head_kv ? h->n_head_kv : h->n_head,
                .head_dim = h->head_dim ? h->head_dim : h->n_head ? h->n_embd / h->n_head : 0,
                .norm_eps = h->norm_eps > 0 ? h->norm_eps : 1e-5f,
                .rope_base = h->rope_base > 0 ? h->rope_base : 10000.0f,
                .attn_softcap = h->attn_softcap,
                .logit_softcap = h->logit_softcap,
                .embd_scale = h->embd_scale,
                .residual_scale = h->residual_scale,
                .logit_scale = h->logit_scale != 0 ? 1 / h->logit_scale : 1,
                .window = h->window,
        };
        s->n_rot = h->n_rot ? h->n_rot : s->head_dim;
        s->attn_scale = h->attn_scale > 0 ? h->attn_scale : (float)(1 / sqrt(s->head_dim ? s->head_dim : 1));
        read_arch(s, arch, h);
        read_experts(s, h);
        model_shape_defaults(s);
        return check_shape(s, error);
}

int model_settle(const struct lm *m) {
        const struct backend_ops *ops = m->backend->ops;

        return ops->settle ? ops->settle(m->backend) : 0;
}

static const char *most_used_format(const struct binder *b) {
        size_t best = 0;

        for (size_t i = 0; i < ARRAY_SIZE(b->words_bytes); i++)
                if (b->words_bytes[i] > b->words_bytes[best])
                        best = i;
        return fmt_info((uint32_t)best) ? fmt_info((uint32_t)best)->name : "";
}

int model_new_image(struct lm **ret, struct backend *be, struct image *image, struct model_error *error) {
        _cleanup_(model_freep) struct lm *m = NULL;
        struct binder b;
        int r;

        m = calloc(1, sizeof(*m));
        if (!m)
                return model_refuse(error, MODEL_E_NO_MEMORY, "no memory for the model");
        m->backend = be;
        b = (struct binder){ .m = m, .image = image, .arch = image_arch_find(image->hparams->arch), .error = error };
        if (!b.arch)
                return model_refuse(error, MODEL_E_UNSUPPORTED, "architecture %.63s is not supported", image->hparams->arch);
        (void)snprintf(m->architecture, sizeof(m->architecture), "%s", image->hparams->arch);
        r = model_read_shape(&m->shape, image->hparams, error);
        if (r == 0)
                r = model_bind_rope(&b);
        if (r == 0)
                r = model_bind(&b);
        if (r == 0)
                r = model_settle(m);
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
        model_shape_defaults(&m->shape);
        m->output = (struct weight){ .info = fmt_info(FMT_F32), .n_out = n_likely, .n_in = 1 };
        m->format = "";
        (void)snprintf(m->architecture, sizeof(m->architecture), "null");
        *ret = m;
        return 0;
}

static void release_layer(struct backend *be, struct model_layer *l) {
        float *const vectors[] = {
                l->attn_norm, l->attn_post_norm, l->ffn_norm, l->ffn_post_norm, l->q_norm, l->k_norm, l->sinks,
                l->choice_bias, l->q.bias, l->k.bias, l->v.bias, l->o.bias, l->qkv.bias, l->ffn.gate.bias,
                l->ffn.up.bias, l->ffn.down.bias, l->router.bias, l->experts.gate.bias, l->experts.up.bias,
                l->experts.down.bias,
        };

        for (size_t i = 0; i < ARRAY_SIZE(vectors); i++)
                if (vectors[i])
                        be->ops->release(be, vectors[i]);
}

struct lm *model_free(struct lm *m) {
        if (!m)
                return NULL;
        (void)model_settle(m); /* the weights' memory goes next; an error comes again from the next call */
        for (uint32_t i = 0; m->layers && i < m->shape.n_layer; i++)
                release_layer(m->backend, &m->layers[i]);
        if (m->output_norm)
                m->backend->ops->release(m->backend, m->output_norm);
        if (m->output_bias)
                m->backend->ops->release(m->backend, m->output_bias);
        free(m->layers);
        for (size_t i = 0; i < MODEL_ROPES; i++)
                free(m->inv_freq[i]);
        free(m->inv_freq_long);
        if (m->synthetic)
                (void)munmap(m->synthetic, m->synthetic_size);
        free(m);
        return NULL;
}
