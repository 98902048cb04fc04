/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The hyper-parameters of a model, as an image has them: what loaders fill in, and engines and plans go by. */

#include <stdbool.h>
#include <stdint.h>

#define IMAGE_NAME_MAX 64u /* NUL included */
#define IMAGE_LAYERS_MAX 1024u

enum image_rope_scaling {
        IMAGE_ROPE_SCALING_NONE = 0,
        IMAGE_ROPE_SCALING_LINEAR = 1,
        IMAGE_ROPE_SCALING_YARN = 2,
        IMAGE_ROPE_SCALING_LONG = 3, /* factors in rope_factors_long and rope_factors_short; the factor as with linear */
};

/* How elements of a head pair up for the rotary embedding. */
enum image_rope_kind {
        IMAGE_ROPE_DEFAULT = 0, /* the architecture's, in GGUF files */
        IMAGE_ROPE_NORM = 1,    /* (2i, 2i + 1) */
        IMAGE_ROPE_NEOX = 2,    /* (i, i + n_rot / 2) */
};

/* How a router's outputs become weights of experts; GGUF's numbers. */
enum image_gating {
        IMAGE_GATING_DEFAULT = 0,        /* the architecture's */
        IMAGE_GATING_SOFTMAX = 1,        /* over all experts */
        IMAGE_GATING_SIGMOID = 2,
        IMAGE_GATING_SOFTMAX_CHOSEN = 3, /* over the chosen ones */
};

/* One bit per layer: layer l is bit l % 32 of word l / 32. */
struct image_layers {
        uint32_t words[IMAGE_LAYERS_MAX / 32];
};

/* Hyper-parameters, GGUF's names in comments. Zero where a model has none. What an architecture implies without a key
 * (arch.h) is filled in by image_arch_defaults(), so that readers need not know defaults; scales of 0 count as 1. */
struct image_hparams {
        char arch[IMAGE_NAME_MAX]; /* general.architecture */
        char name[IMAGE_NAME_MAX]; /* general.name, cut */
        uint32_t n_vocab;
        uint32_t n_ctx;          /* context_length */
        uint32_t n_embd;         /* embedding_length */
        uint32_t n_layer;        /* block_count, without layers that predict further tokens (nextn_predict_layers) */
        uint32_t n_ff;           /* feed_forward_length */
        uint32_t n_head;         /* attention.head_count */
        uint32_t n_head_kv;      /* attention.head_count_kv */
        uint32_t head_dim;       /* attention.key_length, else n_embd / n_head */
        uint32_t n_rot;          /* rope.dimension_count, else head_dim */
        float norm_eps;          /* attention.layer_norm_rms_epsilon */
        float rope_base;         /* rope.freq_base */
        uint32_t rope_scaling;   /* rope.scaling.type: enum image_rope_scaling */
        float rope_scale_factor; /* rope.scaling.factor */
        uint32_t rope_orig_ctx;  /* rope.scaling.original_context_length */
        float rope_attn_factor;  /* rope.scaling.attn_factor */
        float attn_softcap;      /* attn_logit_softcapping */
        float logit_softcap;     /* final_logit_softcapping */
        uint32_t window;         /* attention.sliding_window */
        uint32_t n_expert;       /* expert_count */
        uint32_t n_expert_used;  /* expert_used_count */
        uint32_t n_ff_expert;    /* expert_feed_forward_length */
        float embd_scale;        /* embedding_scale */
        float residual_scale;    /* residual_scale */
        float attn_scale;        /* attention.scale */
        float logit_scale;       /* logit_scale: logits are divided by it */
        uint32_t rope_kind;      /* enum image_rope_kind */
        float rope_base_window;  /* rope.freq_base_swa: of layers with a window; 0 = rope_base */
        uint32_t rope_window_plain; /* layers with a window have no RoPE scaling */
        float yarn_ext_factor;   /* rope.scaling.yarn_ext_factor, 0 = 1 */
        float yarn_attn_factor;  /* rope.scaling.yarn_attn_factor: the magnitude, instead of what the factor gives; 0 = none */
        float yarn_beta_fast;    /* rope.scaling.yarn_beta_fast, 0 = 32 */
        float yarn_beta_slow;    /* rope.scaling.yarn_beta_slow, 0 = 1 */
        float yarn_log_mul;      /* rope.scaling.yarn_log_multiplier (mscale_all_dim) */
        uint32_t yarn_exact;     /* the ends of the ramp are not rounded to whole pairs ("truncate": false) */
        float temp_scale;        /* attention.temperature_scale: queries times 1 + this * ln(floor(pos / length) + 1) */
        uint32_t temp_length;    /* positions */
        uint32_t n_layer_dense;  /* leading_dense_block_count: first layers without experts */
        uint32_t n_expert_shared; /* expert_shared_count */
        uint32_t n_ff_shared;    /* expert_shared_feed_forward_length: of all shared experts together */
        uint32_t expert_gating;  /* expert_gating_func: enum image_gating */
        uint32_t expert_norm;    /* expert_weights_norm: weights of the chosen add up to 1 */
        float expert_scale;      /* expert_weights_scale */
        struct image_layers window_layers; /* attention.sliding_window_pattern: those with the window */
        struct image_layers no_rope_layers;
        uint32_t reserved[32];
};

static inline bool image_layers_has(const struct image_layers *set, uint32_t layer) {
        return set->words[layer / 32] >> layer % 32 & 1;
}

static inline void image_layers_add(struct image_layers *set, uint32_t layer) {
        set->words[layer / 32] |= 1u << layer % 32;
}
