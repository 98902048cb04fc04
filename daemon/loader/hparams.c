/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Hyper-parameters, from keys that begin with the architecture's name. Source: the GGUF specification's list of
 * standardized keys; what each architecture does without a key, arch.h. A key that would change the computation in a
 * way that the architecture here does not know is refused by its name.
 */

#include <stdio.h>
#include <string.h>

#include "daemon/image/arch.h"
#include "daemon/image/schema.h"
#include "base/macro.h"

#include "model.h"

#define KEY_MAX (IMAGE_NAME_MAX + 64)

static void key_of(char key[KEY_MAX], const struct image_hparams *hp, const char *name) {
        (void)snprintf(key, KEY_MAX, "%s.%s", hp->arch, name);
}

/* 1 = stored, 0 = absent, GGUF_E_FAULT. */
static int get_u32(struct gguf *g, const struct image_hparams *hp, const char *name, uint64_t min, uint64_t max,
                   uint32_t *ret) {
        char key[KEY_MAX];
        uint64_t v = 0;
        int r;

        key_of(key, hp, name);
        r = gguf_get_uint(g, key, min, max, &v);
        if (r == GGUF_FOUND)
                *ret = (uint32_t)v;
        return r;
}

static int get_float(struct gguf *g, const struct image_hparams *hp, const char *name, float *ret) {
        char key[KEY_MAX];

        key_of(key, hp, name);
        return gguf_get_float(g, key, ret);
}

/* A number, or one per layer that all are the same. As get_u32(). */
static int get_equal(struct gguf *g, const struct image_hparams *hp, const char *name, uint64_t min, uint64_t max,
                     uint32_t *ret) {
        char key[KEY_MAX];
        const struct gguf_kv *kv;
        int32_t first, v;

        key_of(key, hp, name);
        kv = gguf_find(g, key);
        if (!kv || kv->type != GGUF_ARRAY)
                return get_u32(g, hp, name, min, max, ret);
        if ((kv->elem != GGUF_INT32 && kv->elem != GGUF_UINT32) || kv->n == 0)
                return loader_fail(g->error, GGUF_E_FAULT, "'%s' at offset %llu is no array of numbers", key,
                                   (unsigned long long)kv->offset);
        memcpy(&first, g->data + kv->value, sizeof(first));
        for (uint64_t i = 1; i < kv->n; i++) {
                memcpy(&v, g->data + kv->value + i * sizeof(v), sizeof(v));
                if (v != first)
                        return loader_fail(g->error, GGUF_E_FAULT,
                                           "'%s' at offset %llu: layers that differ in it are not supported (%d and %d)",
                                           key, (unsigned long long)kv->offset, first, v);
        }
        if (first < 0 || (uint64_t)first < min || (uint64_t)first > max)
                return loader_fail(g->error, GGUF_E_FAULT, "'%s' at offset %llu is %d: out of range", key,
                                   (unsigned long long)kv->offset, first);
        *ret = (uint32_t)first;
        return GGUF_FOUND;
}

static int read_required(struct gguf *g, struct image_hparams *hp) {
        const struct {
                const char *name;
                uint64_t max;
                uint32_t *ret;
        } fields[] = {
                { "context_length", IMAGE_CONTEXT_MAX, &hp->n_ctx },
                { "embedding_length", IMAGE_WIDTH_MAX, &hp->n_embd },
                { "block_count", IMAGE_LAYERS_MAX, &hp->n_layer },
                { "feed_forward_length", IMAGE_WIDTH_MAX, &hp->n_ff },
                { "attention.head_count", 65536, &hp->n_head },
        };

        for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
                int r = get_equal(g, hp, fields[i].name, 1, fields[i].max, fields[i].ret);

                if (r < 0)
                        return LOADER_E_INVALID;
                if (r == GGUF_ABSENT)
                        return loader_fail(g->error, LOADER_E_INVALID, "'%s.%s' is missing", hp->arch, fields[i].name);
        }
        if (get_float(g, hp, "attention.layer_norm_rms_epsilon", &hp->norm_eps) < 0)
                return LOADER_E_INVALID;
        if (hp->norm_eps == 0)
                return loader_fail(g->error, LOADER_E_INVALID, "'%s.attention.layer_norm_rms_epsilon' is missing or 0",
                                   hp->arch);
        return 0;
}

static int read_heads(struct gguf *g, struct image_hparams *hp) {
        uint32_t value_dim;

        hp->n_head_kv = hp->n_head;
        hp->head_dim = hp->n_embd / hp->n_head;
        if (get_equal(g, hp, "attention.head_count_kv", 1, 65536, &hp->n_head_kv) < 0)
                return LOADER_E_INVALID;
        switch (get_u32(g, hp, "attention.key_length", 1, 65536, &hp->head_dim)) {
        case GGUF_FOUND:
                break;
        case GGUF_ABSENT:
                if (hp->n_embd % hp->n_head == 0)
                        break;
                return loader_fail(g->error, LOADER_E_INVALID, "'%s.embedding_length' (%u) is no multiple of '%s.attention.head_count' (%u)",
                                   hp->arch, hp->n_embd, hp->arch, hp->n_head);
        default:
                return LOADER_E_INVALID;
        }
        value_dim = hp->n_embd / hp->n_head; /* the default for each, whatever the other says */
        hp->n_rot = hp->head_dim;
        if (get_u32(g, hp, "attention.value_length", 1, 65536, &value_dim) < 0 ||
            get_u32(g, hp, "rope.dimension_count", 0, 65536, &hp->n_rot) < 0)
                return LOADER_E_INVALID;
        if (value_dim != hp->head_dim)
                return loader_fail(g->error, LOADER_E_UNSUPPORTED,
                                   "'%s.attention.value_length' is %u (by default the embedding length by heads): it must be the size of keys, %u", hp->arch, value_dim,
                                   hp->head_dim);
        return 0;
}

/* 1 = there is one, 0 = absent, negative LOADER_E_*. */
static int read_scaling_type(struct gguf *g, struct image_hparams *hp) {
        static const char *const names[] = { [IMAGE_ROPE_SCALING_NONE] = "none", [IMAGE_ROPE_SCALING_LINEAR] = "linear",
                                             [IMAGE_ROPE_SCALING_YARN] = "yarn", [IMAGE_ROPE_SCALING_LONG] = "longrope" };
        char key[KEY_MAX], show[LOADER_SHOW_MAX];
        const char *s = NULL;
        size_t n = 0;
        int r;

        key_of(key, hp, "rope.scaling.type");
        r = gguf_get_string(g, key, &s, &n);
        if (r < 0)
                return -LOADER_E_INVALID;
        if (r == GGUF_ABSENT)
                return 0;
        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (n == strlen(names[i]) && memcmp(s, names[i], n) == 0) {
                        hp->rope_scaling = (uint32_t)i;
                        return GGUF_FOUND;
                }
        return -loader_fail(g->error, LOADER_E_UNSUPPORTED, "'%s' at offset %llu: RoPE scaling '%s' is not supported", key,
                            (unsigned long long)gguf_find(g, key)->value, loader_show(show, s, n));
}

static int read_floats(struct gguf *g, struct image_hparams *hp) {
        const struct {
                const char *name;
                float *ret;
        } fields[] = {
                { "rope.freq_base", &hp->rope_base },
                { "rope.freq_base_swa", &hp->rope_base_window },
                { "rope.scaling.factor", &hp->rope_scale_factor },
                { "rope.scaling.attn_factor", &hp->rope_attn_factor },
                { "rope.scaling.yarn_ext_factor", &hp->yarn_ext_factor },
                { "rope.scaling.yarn_attn_factor", &hp->yarn_attn_factor },
                { "rope.scaling.yarn_beta_fast", &hp->yarn_beta_fast },
                { "rope.scaling.yarn_beta_slow", &hp->yarn_beta_slow },
                { "rope.scaling.yarn_log_multiplier", &hp->yarn_log_mul },
                { "embedding_scale", &hp->embd_scale },
                { "residual_scale", &hp->residual_scale },
                { "attention.scale", &hp->attn_scale },
                { "logit_scale", &hp->logit_scale },
                { "attn_logit_softcapping", &hp->attn_softcap },
                { "final_logit_softcapping", &hp->logit_softcap },
                { "attention.temperature_scale", &hp->temp_scale },
                { "expert_weights_scale", &hp->expert_scale },
        };

        for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
                if (get_float(g, hp, fields[i].name, fields[i].ret) < 0)
                        return LOADER_E_INVALID;
        return 0;
}

static int read_rope(struct gguf *g, struct image_hparams *hp) {
        float legacy = 0;
        int r;

        r = read_scaling_type(g, hp);
        if (r < 0)
                return -r;
        if (get_float(g, hp, "rope.scale_linear", &legacy) < 0 ||
            get_u32(g, hp, "rope.scaling.original_context_length", 0, IMAGE_CONTEXT_MAX, &hp->rope_orig_ctx) < 0)
                return LOADER_E_INVALID;
        if (hp->rope_scale_factor == 0)
                hp->rope_scale_factor = legacy; /* the name that it had before scaling had a type */
        if (r == GGUF_ABSENT && hp->rope_scale_factor != 0)
                hp->rope_scaling = IMAGE_ROPE_SCALING_LINEAR;
        return 0;
}

/* A period, or a flag per layer. */
static int read_window_layers(struct gguf *g, const struct image_arch *arch, struct image_hparams *hp) {
        uint32_t period = arch->window_period;
        const struct gguf_kv *kv;
        char key[KEY_MAX];
        int r;

        key_of(key, hp, "attention.sliding_window_pattern");
        kv = gguf_find(g, key);
        if (!kv || kv->type != GGUF_ARRAY) {
                r = get_u32(g, hp, "attention.sliding_window_pattern", 0, IMAGE_LAYERS_MAX, &period);
                hp->window_layers = image_arch_pattern(hp->n_layer, period);
                return r < 0 ? LOADER_E_INVALID : 0;
        }
        if ((kv->elem != GGUF_BOOL && kv->elem != GGUF_INT32 && kv->elem != GGUF_UINT32) || kv->n < hp->n_layer)
                return loader_fail(g->error, LOADER_E_INVALID, "'%s' at offset %llu is no array of a flag for each layer", key,
                                   (unsigned long long)kv->offset);
        for (uint32_t l = 0; l < hp->n_layer; l++) {
                uint32_t v = 0;

                if (kv->elem == GGUF_BOOL)
                        v = (unsigned char)g->data[kv->value + l];
                else
                        memcpy(&v, g->data + kv->value + 4ull * l, sizeof(v));
                if (v != 0)
                        image_layers_add(&hp->window_layers, l);
        }
        return 0;
}

static int read_window(struct gguf *g, const struct image_arch *arch, struct image_hparams *hp) {
        hp->window = arch->window_default;
        if (get_u32(g, hp, "attention.sliding_window", 0, UINT32_MAX, &hp->window) < 0)
                return LOADER_E_INVALID;
        return hp->window > 0 ? read_window_layers(g, arch, hp) : 0;
}

/* Layers without rotary embedding. */
static int read_no_rope(struct gguf *g, const struct image_arch *arch, struct image_hparams *hp) {
        bool finetuned = true;
        char key[KEY_MAX];

        key_of(key, hp, "rope.scaling.finetuned");
        if ((arch->keys & IMAGE_KEY_ROPE_SWITCH) && gguf_get_bool(g, key, &finetuned) < 0)
                return LOADER_E_INVALID;
        for (uint32_t l = 0; l < hp->n_layer; l++)
                if (!finetuned || (arch->rope_period > 0 && (l + 1) % arch->rope_period == 0))
                        image_layers_add(&hp->no_rope_layers, l);
        return 0;
}

static int read_experts(struct gguf *g, const struct image_arch *arch, struct image_hparams *hp) {
        bool norm = arch->expert_norm;
        char key[KEY_MAX];

        if (get_u32(g, hp, "expert_count", 0, IMAGE_EXPERTS_MAX, &hp->n_expert) < 0)
                return LOADER_E_INVALID;
        if (hp->n_expert > 0 && !(arch->parts & IMAGE_EXPERTS))
                return loader_fail(g->error, LOADER_E_UNSUPPORTED,
                                   "'%s.expert_count' is %u: models of this architecture are not supported with experts",
                                   hp->arch, hp->n_expert);
        if (hp->n_expert == 0 && !(arch->parts & IMAGE_DENSE))
                return loader_fail(g->error, LOADER_E_INVALID, "'%s.expert_count' is missing or 0", hp->arch);
        if (hp->n_expert == 0)
                return 0;
        key_of(key, hp, "expert_weights_norm");
        if (get_equal(g, hp, "expert_used_count", 1, IMAGE_EXPERTS_USED_MAX, &hp->n_expert_used) < 0 ||
            get_equal(g, hp, "expert_feed_forward_length", 0, IMAGE_WIDTH_MAX, &hp->n_ff_expert) < 0 ||
            get_u32(g, hp, "expert_shared_count", 0, IMAGE_EXPERTS_MAX, &hp->n_expert_shared) < 0 ||
            get_u32(g, hp, "expert_shared_feed_forward_length", 0, IMAGE_WIDTH_MAX, &hp->n_ff_shared) < 0 ||
            get_u32(g, hp, "leading_dense_block_count", 0, IMAGE_LAYERS_MAX, &hp->n_layer_dense) < 0 ||
            get_u32(g, hp, "expert_gating_func", 0, IMAGE_GATING_SOFTMAX_CHOSEN, &hp->expert_gating) < 0 ||
            gguf_get_bool(g, key, &norm) < 0)
                return LOADER_E_INVALID;
        hp->expert_norm = norm;
        return 0;
}

/* Layers that predict further tokens come last and are left out. */
static int read_nextn(struct gguf *g, struct image_hparams *hp) {
        uint32_t n = 0;

        if (get_u32(g, hp, "nextn_predict_layers", 0, IMAGE_LAYERS_MAX, &n) < 0)
                return LOADER_E_INVALID;
        if (n >= hp->n_layer)
                return loader_fail(g->error, LOADER_E_INVALID, "'%s.nextn_predict_layers' is %u of %u layers", hp->arch, n,
                                   hp->n_layer);
        hp->n_layer -= n;
        return 0;
}

/* Is this key's value one that changes nothing? Zero, false, empty, or `neutral`. Strings and arrays of anything else
 * are not. */
static bool is_neutral(struct gguf *g, const char *key, const struct gguf_kv *kv, double neutral) {
        struct loader_error ignored, *error = g->error;
        uint64_t u = 0;
        float f = 0;
        bool b = false, found;

        g->error = &ignored;
        if (kv->type == GGUF_BOOL)
                found = gguf_get_bool(g, key, &b) == GGUF_FOUND && (b ? 1.0 : 0.0) == neutral;
        else if (kv->type == GGUF_FLOAT32 || kv->type == GGUF_FLOAT64)
                found = gguf_get_float(g, key, &f) == GGUF_FOUND && (f == 0 || (double)f == neutral);
        else if (kv->type == GGUF_ARRAY || kv->type == GGUF_STRING)
                found = kv->n == 0;
        else
                found = gguf_get_uint(g, key, 0, UINT64_MAX, &u) == GGUF_FOUND && (u == 0 || (double)u == neutral);
        g->error = error;
        return found;
}

/* What would change the computation in ways that this version, or the architecture here, does not know. */
static int refuse_unknown(struct gguf *g, const struct image_arch *arch, const struct image_hparams *hp) {
        const struct {
                const char *name;
                uint32_t key; /* known where the architecture has this; 0 = nowhere */
                double neutral;
        } keys[] = {
                { "embedding_scale", IMAGE_KEY_SCALES, 1 },
                { "residual_scale", IMAGE_KEY_SCALES, 1 },
                { "logit_scale", IMAGE_KEY_SCALES, 1 },
                { "attention.scale", IMAGE_KEY_SCALES, 0 },
                { "attn_logit_softcapping", IMAGE_KEY_ATTN_SOFTCAP, 0 },
                { "final_logit_softcapping", IMAGE_KEY_LOGIT_SOFTCAP, 0 },
                { "attention.sliding_window", IMAGE_KEY_WINDOW, 0 },
                { "attention.temperature_scale", IMAGE_KEY_TEMPERATURE, 0 },
                { "expert_gating_func", IMAGE_KEY_ROUTING, arch->gating },
                { "expert_weights_norm", IMAGE_KEY_ROUTING, arch->expert_norm },
                { "expert_weights_scale", IMAGE_KEY_ROUTING, 1 },
                { "nextn_predict_layers", IMAGE_KEY_NEXTN, 0 },
                { "attention.causal", 0, 1 },
                { "attention.clamp_kqv", 0, 0 },
                { "attention.max_alibi_bias", 0, 0 },
                { "attention.output_scale", 0, 1 },
                { "attention.value_scale", 0, 1 },
                { "attention.key_length_mla", 0, 0 },
                { "attention.q_lora_rank", 0, 0 },
                { "attention.kv_lora_rank", 0, 0 },
                { "attention.key_length_swa", 0, hp->head_dim },
                { "attention.value_length_swa", 0, hp->head_dim },
                { "attention.rope_pattern", 0, 0 },
                { "attention.shared_kv_layers", 0, 0 },
                { "attention.temperature_length", 0, 0 },
                { "rope.dimension_count_swa", 0, hp->n_rot },
                { "rope.dimension_sections", 0, 0 },
                { "rope.scaling.alpha", 0, 1 },
                { "expert_group_count", 0, 1 },
                { "expert_group_used_count", 0, 1 },
                { "expert_group_scale", 0, 1 },
                { "router_logit_softcapping", 0, 0 },
                { "swiglu_clamp_exp", 0, 0 },
                { "swiglu_clamp_shexp", 0, 0 },
                { "use_parallel_residual", 0, 0 },
                { "deepstack_mapping", 0, 0 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                const struct gguf_kv *kv;
                char key[KEY_MAX];

                key_of(key, hp, keys[i].name);
                kv = gguf_find(g, key);
                if (kv && !(arch->keys & keys[i].key) && !is_neutral(g, key, kv, keys[i].neutral))
                        return loader_fail(g->error, LOADER_E_UNSUPPORTED,
                                           "'%s' at offset %llu: '%s' models that have this are not supported", key,
                                           (unsigned long long)kv->offset, hp->arch);
        }
        return 0;
}

static int check_vocab(struct gguf *g, const struct image_hparams *hp) {
        uint32_t vocab = hp->n_vocab;

        if (get_u32(g, hp, "vocab_size", 1, IMAGE_VOCAB_MAX, &vocab) < 0)
                return LOADER_E_INVALID;
        if (vocab != hp->n_vocab)
                return loader_fail(g->error, LOADER_E_INVALID,
                                   "'%s.vocab_size' is %u, but 'tokenizer.ggml.tokens' has %u tokens", hp->arch, vocab,
                                   hp->n_vocab);
        return 0;
}

int model_read_hparams(struct gguf *g, struct image_hparams *hp, uint32_t *ret_layers) {
        const struct image_arch *arch = image_arch_find(hp->arch);
        uint32_t n_layer_file;
        const char *text;
        int r;

        hp->rope_base = 10000.0f;
        r = check_vocab(g, hp);
        r = r ? r : read_required(g, hp);
        n_layer_file = hp->n_layer;
        r = r ? r : read_nextn(g, hp);
        r = r ? r : read_heads(g, hp);
        r = r ? r : refuse_unknown(g, arch, hp);
        r = r ? r : read_floats(g, hp);
        r = r ? r : read_rope(g, hp);
        r = r ? r : read_window(g, arch, hp);
        r = r ? r : read_no_rope(g, arch, hp);
        r = r ? r : read_experts(g, arch, hp);
        if (r)
                return r;
        *ret_layers = n_layer_file;
        image_arch_defaults(arch, hp);
        text = image_schema_check_hparams(hp);
        if (text)
                return loader_fail(g->error, LOADER_E_INVALID,
                                   "'%s.*': %s (%u heads, %u KV heads of size %u, %u rotated; embedding %u, epsilon %g, RoPE "
                                   "base %g, factor %g; %u of %u experts)",
                                   hp->arch, text, hp->n_head, hp->n_head_kv, hp->head_dim, hp->n_rot, hp->n_embd,
                                   (double)hp->norm_eps, (double)hp->rope_base, (double)hp->rope_scale_factor,
                                   hp->n_expert_used, hp->n_expert);
        return 0;
}
