/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A model as the engine computes with it: weights bound to a backend, hyper-parameters, rotary frequencies. Made from a
 * resident image, from random numbers (spark-bench's synthetic shapes), or, for backends that fake, from nothing.
 *
 * Architecture: the llama family, a stack of pre-norm blocks with grouped-query attention, rotary embedding and a gated
 * feed-forward network (Touvron et al. 2023); biases, tied embeddings and llama 3's rope_freqs where the image has them.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macro.h"
#include "daemon/image/image.h"
#include "kernels/backend.h"

enum {
        MODEL_E_INVALID = 1,     /* the image lacks something or contradicts itself; see struct model_error */
        MODEL_E_UNSUPPORTED = 2, /* sound, but of a kind this version does not compute */
        MODEL_E_NO_MEMORY = 3,
};

struct model_error {
        char text[256];
};

/* w x + bias; no bias: NULL. */
struct model_linear {
        struct weight w;
        float *bias; /* dev */
};

struct model_layer {
        float *attn_norm; /* dev, [n_embd] */
        float *ffn_norm;
        struct model_linear q, k, v, o;
        struct model_linear gate, up, down;
};

struct model_shape {
        uint32_t n_vocab;
        uint32_t n_ctx; /* that it was trained for */
        uint32_t n_embd;
        uint32_t n_layer;
        uint32_t n_ff;
        uint32_t n_head;
        uint32_t n_head_kv;
        uint32_t head_dim;
        uint32_t n_rot;
        enum rope_kind rope_kind;
        float norm_eps;
        float rope_base;
        float rope_linear; /* positions are divided by this; 1 */
        float attn_scale;
};

struct lm {
        struct backend *backend; /* borrowed */
        char architecture[IMAGE_NAME_MAX];
        struct model_shape shape;
        bool fake;               /* no weights: a backend that fakes computes */
        struct weight embedding;
        struct model_layer *layers;
        float *output_norm;
        struct weight output;    /* the embedding, where tied */
        float *inv_freq;         /* host, [n_rot / 2] */
        uint64_t n_params;
        uint64_t weight_bytes;   /* that one decoded token reads, the embedding excepted where it is not tied */
        uint64_t dev_bytes;      /* allocated here: norms and biases */
        const char *format;      /* of most weights */
        void *synthetic;         /* memory of random weights */
        size_t synthetic_size;
};

/* Binds an image's weights (the image must outlive the model). 0, MODEL_E_*, or negative: the backend is lost. */
int model_new_image(struct lm **ret, struct backend *be, const struct image *image, struct model_error *error);
/* A model for backends that fake: n_vocab logits, of which only the first n_likely are ever high. */
int model_new_fake(struct lm **ret, struct backend *be, uint32_t n_vocab, uint32_t n_likely, uint32_t n_ctx);
/* Random weights of this format, the same for every seed on every machine. */
int model_new_synthetic(struct lm **ret, struct backend *be, const struct model_shape *shape,
                        const struct fmt_info *info, uint64_t seed, struct model_error *error);
/* Bytes that the weights of such a model take. */
uint64_t model_synthetic_bytes(const struct model_shape *shape, const struct fmt_info *info);
struct lm *model_free(struct lm *m);
DEFINE_CLEANUP(struct lm *, model_free)

/* Bytes of K and V that a position takes in all layers. */
uint64_t model_kv_bytes(const struct model_shape *shape, enum kv_format format);
