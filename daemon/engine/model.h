/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A model as the engine computes with it: weights bound to a backend, hyper-parameters, rotary frequencies. Made from a
 * resident image, from random numbers (spark-bench's synthetic shapes), or, for backends that fake, from nothing.
 *
 * Architectures are made of the same parts (daemon/image/arch.h): blocks of grouped-query attention and a gated
 * feed-forward network or a mixture of such, with norms before or after, windows, biases, scales. What a part's absence
 * means stands with it: a NULL or a zero.
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

/* A gated feed-forward network. gate without data: up makes both, gate first. */
struct model_ffn {
        struct model_linear gate, up, down;
};

/* Which of a model's rotary embeddings a layer has. */
enum model_rope {
        MODEL_ROPE_NONE,
        MODEL_ROPE_FULL,
        MODEL_ROPE_WINDOW, /* of layers with a window, where it is another one */
        MODEL_ROPES,
};

struct model_layer {
        float *attn_norm; /* dev, [n_embd]; these may be NULL */
        float *attn_post_norm;
        float *ffn_norm;
        float *ffn_post_norm;
        float *q_norm, *k_norm; /* dev, [head_dim], or of all heads */
        float *sinks;           /* dev, [n_head], or NULL */
        struct model_linear q, k, v, o;
        struct model_linear qkv;     /* instead of q, k and v, where it has data */
        struct model_ffn ffn;        /* with experts: those that are shared, or nothing */
        struct model_linear router;  /* no data: no experts */
        float *choice_bias;          /* dev, [n_expert], or NULL */
        struct model_ffn experts;    /* weights of many experts; biases [n_expert][n_out] */
        uint32_t window;             /* 0 = none */
        enum model_rope rope;
};

/* What a model computes. Zero is "none" or, for scales, 1 until model_shape_defaults(). */
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
        float attn_softcap;
        float logit_softcap;
        float embd_scale;
        float residual_scale;
        float logit_scale; /* logits are multiplied by it */
        enum activation act;
        bool post_norms;    /* some layer norms a block's result */
        bool qk_norm_width; /* norms of queries and keys are over all heads */
        bool fused_qkv, fused_gate_up; /* some layer has such a matrix */
        uint32_t window;    /* the largest of a layer; 0 = no layer has one */
        uint32_t n_expert;
        uint32_t n_expert_used;
        uint32_t n_ff_expert;
        uint32_t n_ff_shared;
        enum gating gating;
        bool expert_norm;
        float expert_scale;
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
        float *output_bias;      /* dev, or NULL */
        struct rope ropes[MODEL_ROPES];
        float *inv_freq[MODEL_ROPES]; /* host, [n_rot / 2]: what ropes point to */
        float *inv_freq_long;    /* LongRoPE: of contexts longer than long_from, or NULL */
        uint32_t long_from;
        uint64_t n_params;
        uint64_t weight_bytes;   /* that one decoded token reads, the embedding excepted where it is not tied */
        uint64_t dev_bytes;      /* allocated here: norms and biases */
        const char *format;      /* of most weights */
        void *synthetic;         /* memory of random weights */
        size_t synthetic_size;
};

/* Binds an image's weights (the image must outlive the model). 0, MODEL_E_*, or negative: the backend is lost. */
int model_new_image(struct lm **ret, struct backend *be, struct image *image, struct model_error *error);
/* A model for backends that fake: n_vocab logits, of which only the first n_likely are ever high. */
int model_new_fake(struct lm **ret, struct backend *be, uint32_t n_vocab, uint32_t n_likely, uint32_t n_ctx);
/* Random weights of this format, the same for every seed on every machine. */
int model_new_synthetic(struct lm **ret, struct backend *be, const struct model_shape *shape,
                        const struct fmt_info *info, uint64_t seed, struct model_error *error);
/* Bytes that the weights of such a model take. */
uint64_t model_synthetic_bytes(const struct model_shape *shape, const struct fmt_info *info);
struct lm *model_free(struct lm *m);
DEFINE_CLEANUP(struct lm *, model_free)

/* What hyper-parameters say (with their architecture's defaults filled in); what only tensors tell is false. 0 or MODEL_E_*. */
int model_read_shape(struct model_shape *ret, const struct image_hparams *h, struct model_error *error);
/* Scales of 0 become 1, the rotary embedding's where it was left out. */
void model_shape_defaults(struct model_shape *shape);
/* Angle per position of each pair: *ret [n_rot / 2], which the caller frees. MODEL_E_NO_MEMORY. */
int model_inv_freq(uint32_t n_rot, double base, double divisor, const float *factors, float **ret);
/* Sequences can get this long: chooses between LongRoPE's factors. Before the first step. */
void model_set_context(struct lm *m, uint32_t n_ctx);
/* Whether those for long contexts were chosen: keys are other ones with them. */
bool model_is_long(const struct lm *m);
/* Bytes of K and V that a position takes in all layers. */
uint64_t model_kv_bytes(const struct model_shape *shape, enum kv_format format);
