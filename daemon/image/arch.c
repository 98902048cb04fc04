/* SPDX-License-Identifier: Apache-2.0 */

#include <math.h>
#include <string.h>

#include "base/macro.h"

#include "arch.h"

#define PRE (IMAGE_ATTN_NORM | IMAGE_FFN_NORM)
#define POST (IMAGE_ATTN_POST_NORM | IMAGE_FFN_POST_NORM)
#define GEMMA_WINDOW 4096u

static const struct image_arch archs[] = {
        { .name = "llama",
          .parts = PRE | IMAGE_DENSE | IMAGE_EXPERTS,
          .rope = IMAGE_ROPE_NORM,
          .gating = IMAGE_GATING_SOFTMAX,
          .expert_norm = true },
        { .name = "mistral3",
          .parts = PRE | IMAGE_DENSE | IMAGE_EXPERTS,
          .keys = IMAGE_KEY_TEMPERATURE,
          .rope = IMAGE_ROPE_NORM,
          .gating = IMAGE_GATING_SOFTMAX,
          .expert_norm = true },
        { .name = "granite",
          .parts = PRE | IMAGE_DENSE | IMAGE_EXPERTS | IMAGE_SHARED,
          .keys = IMAGE_KEY_SCALES | IMAGE_KEY_ROPE_SWITCH,
          .rope = IMAGE_ROPE_NORM,
          .gating = IMAGE_GATING_SOFTMAX,
          .expert_norm = true },
        { .name = "smollm3", .parts = PRE | IMAGE_DENSE, .rope = IMAGE_ROPE_NORM, .rope_period = 4 },
        { .name = "qwen2", .parts = PRE | IMAGE_DENSE, .rope = IMAGE_ROPE_NEOX },
        { .name = "qwen3", .parts = PRE | IMAGE_QK_NORM_HEAD | IMAGE_DENSE, .rope = IMAGE_ROPE_NEOX },
        { .name = "qwen3moe",
          .parts = PRE | IMAGE_QK_NORM_HEAD | IMAGE_EXPERTS,
          .rope = IMAGE_ROPE_NEOX,
          .gating = IMAGE_GATING_SOFTMAX,
          .expert_norm = true,
          .expert_ff_split = true },
        { .name = "gpt-oss",
          .parts = IMAGE_ATTN_NORM | IMAGE_FFN_NORM_POST | IMAGE_SINKS | IMAGE_EXPERTS | IMAGE_EXPERT_BIAS,
          .keys = IMAGE_KEY_WINDOW,
          .rope = IMAGE_ROPE_NEOX,
          .act = IMAGE_ACT_SILU_CLAMPED,
          .window_period = 2,
          .gating = IMAGE_GATING_SOFTMAX_CHOSEN },
        { .name = "gemma2",
          .parts = PRE | POST | IMAGE_DENSE,
          .keys = IMAGE_KEY_WINDOW | IMAGE_KEY_ATTN_SOFTCAP | IMAGE_KEY_LOGIT_SOFTCAP,
          .rope = IMAGE_ROPE_NEOX,
          .act = IMAGE_ACT_GELU,
          .window_period = 2,
          .window_default = GEMMA_WINDOW,
          .embd_root = true,
          .embd_scaled = 46 },
        { .name = "gemma3",
          .parts = PRE | POST | IMAGE_QK_NORM_HEAD | IMAGE_DENSE,
          .keys = IMAGE_KEY_WINDOW | IMAGE_KEY_LOGIT_SOFTCAP,
          .rope = IMAGE_ROPE_NEOX,
          .act = IMAGE_ACT_GELU,
          .window_period = 6,
          .window_rope = IMAGE_WINDOW_ROPE_PLAIN_10K,
          .embd_root = true,
          .embd_scaled = 62 },
        { .name = "phi3",
          .parts = PRE | IMAGE_GATE_UP | IMAGE_DENSE,
          .keys = IMAGE_KEY_WINDOW,
          .rope = IMAGE_ROPE_NEOX },
        { .name = "olmo2",
          .parts = POST | IMAGE_QK_NORM_WIDTH | IMAGE_DENSE,
          .keys = IMAGE_KEY_WINDOW,
          .rope = IMAGE_ROPE_NEOX,
          .window_period = 4,
          .window_rope = IMAGE_WINDOW_ROPE_PLAIN },
        { .name = "glm4",
          .parts = PRE | POST | IMAGE_GATE_UP | IMAGE_DENSE,
          .keys = IMAGE_KEY_NEXTN,
          .rope = IMAGE_ROPE_NORM },
        { .name = "glm4moe",
          .parts = IMAGE_ATTN_NORM | IMAGE_FFN_NORM_POST | IMAGE_QK_NORM_MAYBE | IMAGE_DENSE | IMAGE_EXPERTS |
                   IMAGE_CHOICE_BIAS | IMAGE_SHARED,
          .keys = IMAGE_KEY_ROUTING | IMAGE_KEY_NEXTN,
          .rope = IMAGE_ROPE_NEOX,
          .gating = IMAGE_GATING_SIGMOID,
          .expert_ff_split = true },
};

const struct image_arch *image_arch_find(const char *name) {
        for (size_t i = 0; i < ARRAY_SIZE(archs); i++)
                if (strcmp(archs[i].name, name) == 0)
                        return &archs[i];
        return NULL;
}

struct image_layers image_arch_pattern(uint32_t n_layer, uint32_t period) {
        struct image_layers set = { 0 };

        for (uint32_t l = 0; l < n_layer && l < IMAGE_LAYERS_MAX; l++)
                if (period == 0 || l % period < period - 1)
                        image_layers_add(&set, l);
        return set;
}

static void default_experts(const struct image_arch *arch, struct image_hparams *hp) {
        if (hp->n_expert == 0)
                return;
        if (hp->n_ff_expert == 0)
                hp->n_ff_expert = arch->expert_ff_split && hp->n_expert_used > 0 ? hp->n_ff / hp->n_expert_used : hp->n_ff;
        if (hp->n_ff_shared == 0)
                hp->n_ff_shared = hp->n_ff_expert * hp->n_expert_shared;
        if (hp->expert_gating == IMAGE_GATING_DEFAULT)
                hp->expert_gating = arch->gating;
}

void image_arch_defaults(const struct image_arch *arch, struct image_hparams *hp) {
        uint32_t width = hp->n_embd / hp->n_head;

        default_experts(arch, hp);
        if (hp->rope_kind == IMAGE_ROPE_DEFAULT)
                hp->rope_kind = arch->rope;
        if (hp->embd_scale == 0 && arch->embd_root)
                hp->embd_scale = sqrtf((float)hp->n_embd);
        if (hp->attn_scale == 0 && arch->embd_scaled > 0 && hp->n_layer == arch->embd_scaled)
                hp->attn_scale = 1.0f / sqrtf((float)width);
        if (hp->window > 0 && hp->rope_base_window == 0)
                hp->rope_base_window = arch->window_rope == IMAGE_WINDOW_ROPE_PLAIN_10K ? 10000.0f : hp->rope_base;
        if (hp->window > 0 && arch->window_rope != IMAGE_WINDOW_ROPE_SAME)
                hp->rope_window_plain = 1;
        if (hp->temp_scale != 0 && hp->temp_length == 0)
                hp->temp_length = hp->rope_orig_ctx ? hp->rope_orig_ctx : hp->n_ctx;
}

uint32_t image_arch_parts(const struct image_arch *arch, const struct image_hparams *hp, uint32_t layer) {
        uint32_t parts = arch->parts, experts = IMAGE_EXPERTS | IMAGE_EXPERT_BIAS | IMAGE_CHOICE_BIAS | IMAGE_SHARED;

        if (hp->n_expert == 0 || layer < hp->n_layer_dense)
                parts &= ~experts;
        else
                parts &= ~(uint32_t)IMAGE_DENSE;
        return hp->n_ff_shared > 0 ? parts : parts & ~(uint32_t)IMAGE_SHARED;
}
