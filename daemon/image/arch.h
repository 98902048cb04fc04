/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Architectures: what tells one model family from another, in one table. Blocks are all made of the same parts
 * (daemon/engine/forward.c); an entry says which ones, and what GGUF files leave unsaid. The loader reads keys by it,
 * the schema derives the tensors, the engine computes. docs/architectures.md tells how to add one.
 */

#include "hparams.h"

/* Parts of a block: whether it has them, and so which tensors. */
enum image_part {
        IMAGE_ATTN_NORM = 1u << 0,      /* attn_norm: of the attention's input */
        IMAGE_ATTN_POST_NORM = 1u << 1, /* post_attention_norm: of the attention's result, before it is added */
        IMAGE_FFN_NORM = 1u << 2,       /* ffn_norm: of the feed-forward network's input */
        IMAGE_FFN_NORM_POST = 1u << 3,  /* the same, under the name post_attention_norm */
        IMAGE_FFN_POST_NORM = 1u << 4,  /* post_ffw_norm: of its result */
        IMAGE_QK_NORM_HEAD = 1u << 5,   /* attn_q_norm, attn_k_norm: of each head */
        IMAGE_QK_NORM_WIDTH = 1u << 6,  /* the same, of all heads together */
        IMAGE_QK_NORM_MAYBE = 1u << 7,  /* of each head, in some models */
        IMAGE_SINKS = 1u << 8,          /* attn_sinks */
        IMAGE_GATE_UP = 1u << 9,        /* ffn_up has gate and up, in this order */
        IMAGE_DENSE = 1u << 10,         /* a feed-forward network without experts */
        IMAGE_EXPERTS = 1u << 11,
        IMAGE_EXPERT_BIAS = 1u << 12,   /* router, gate, up and down of experts have biases */
        IMAGE_CHOICE_BIAS = 1u << 13,   /* exp_probs_b: added to what experts are chosen by, not to their weights */
        IMAGE_SHARED = 1u << 14,        /* experts that every token uses */
};

/* Keys that mean something to some architectures; where one does not know it, a file that has it is refused. */
enum image_key {
        IMAGE_KEY_SCALES = 1u << 0,       /* embedding_scale, residual_scale, attention.scale, logit_scale */
        IMAGE_KEY_ATTN_SOFTCAP = 1u << 1,
        IMAGE_KEY_LOGIT_SOFTCAP = 1u << 2,
        IMAGE_KEY_WINDOW = 1u << 3,
        IMAGE_KEY_TEMPERATURE = 1u << 4,
        IMAGE_KEY_ROUTING = 1u << 5,      /* expert_gating_func, expert_weights_norm, expert_weights_scale */
        IMAGE_KEY_NEXTN = 1u << 6,        /* layers after the last that predict further tokens; left out */
        IMAGE_KEY_ROPE_SWITCH = 1u << 7,  /* rope.scaling.finetuned false: no rotary embedding at all */
};

enum image_act {
        IMAGE_ACT_SILU = 0,
        IMAGE_ACT_GELU = 1,         /* tanh form, in half precision */
        IMAGE_ACT_SILU_CLAMPED = 2, /* gpt-oss: min(g, 7) sigmoid(1.702 g) times (up within 7) + 1 */
};

/* Where layers with a window take their rotary embedding from. */
enum image_window_rope {
        IMAGE_WINDOW_ROPE_SAME = 0,
        IMAGE_WINDOW_ROPE_PLAIN = 1,      /* the same base, no scaling */
        IMAGE_WINDOW_ROPE_PLAIN_10K = 2,  /* base 10000 where no key says otherwise, no scaling */
};

struct image_arch {
        const char *name;
        uint32_t parts; /* IMAGE_DENSE and IMAGE_EXPERTS: what it can have; a model with experts has these */
        uint32_t keys;
        enum image_rope_kind rope;
        enum image_act act;
        /* Of n layers the last one sees all, the others have a window; 1 = no layer has one, 0 = all have. */
        uint32_t window_period;
        uint32_t window_default; /* where there is no key */
        enum image_window_rope window_rope;
        uint32_t rope_period;    /* every n-th layer goes without rotary embedding; 0 = none does */
        enum image_gating gating;
        bool expert_norm;
        bool expert_ff_split;    /* n_ff_expert, where there is no key: n_ff / n_expert_used instead of n_ff */
        bool embd_root;          /* embeddings are multiplied by the square root of their length */
        uint32_t embd_scaled;    /* with so many layers, 1 / attn_scale^2 is n_embd / n_head, not head_dim; 0 = never */
};

/* NULL where this version does not know it. */
const struct image_arch *image_arch_find(const char *name);
/* Layers that have a window if of `period` layers the last has none. */
struct image_layers image_arch_pattern(uint32_t n_layer, uint32_t period);
/* Fills in what the architecture implies where a field is 0; window_layers and no_rope_layers must be decided already. */
void image_arch_defaults(const struct image_arch *arch, struct image_hparams *hp);
/* The parts that this layer has (IMAGE_QK_NORM_MAYBE: may have). */
uint32_t image_arch_parts(const struct image_arch *arch, const struct image_hparams *hp, uint32_t layer);
