/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Hyper-parameters of the llama family, from keys that begin with the architecture's name. Source: the GGUF
 * specification's list of standardized keys.
 */

#include <stdio.h>
#include <string.h>

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
                int r = get_u32(g, hp, fields[i].name, 1, fields[i].max, fields[i].ret);

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
        if (get_u32(g, hp, "attention.head_count_kv", 1, 65536, &hp->n_head_kv) < 0)
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

static int read_scaling_type(struct gguf *g, struct image_hparams *hp) {
        char key[KEY_MAX], show[LOADER_SHOW_MAX];
        const char *s = NULL;
        size_t n = 0;
        int r;

        key_of(key, hp, "rope.scaling.type");
        r = gguf_get_string(g, key, &s, &n);
        if (r < 0)
                return LOADER_E_INVALID;
        if (r == GGUF_ABSENT)
                return 0;
        if (n == 4 && memcmp(s, "none", 4) == 0)
                hp->rope_scaling = IMAGE_ROPE_SCALING_NONE;
        else if (n == 6 && memcmp(s, "linear", 6) == 0)
                hp->rope_scaling = IMAGE_ROPE_SCALING_LINEAR;
        else if (n == 4 && memcmp(s, "yarn", 4) == 0)
                hp->rope_scaling = IMAGE_ROPE_SCALING_YARN;
        else
                return loader_fail(g->error, LOADER_E_UNSUPPORTED, "'%s' at offset %llu: RoPE scaling '%s' is not supported",
                                   key, (unsigned long long)gguf_find(g, key)->value, loader_show(show, s, n));
        return 0;
}

static int read_rope(struct gguf *g, struct image_hparams *hp) {
        float legacy = 0;
        int r;

        hp->rope_base = 10000.0f;
        if (get_float(g, hp, "rope.freq_base", &hp->rope_base) < 0)
                return LOADER_E_INVALID;
        r = read_scaling_type(g, hp);
        if (r)
                return r;
        if (get_float(g, hp, "rope.scaling.factor", &hp->rope_scale_factor) < 0 ||
            get_float(g, hp, "rope.scale_linear", &legacy) < 0 ||
            get_float(g, hp, "rope.scaling.attn_factor", &hp->rope_attn_factor) < 0 ||
            get_u32(g, hp, "rope.scaling.original_context_length", 0, IMAGE_CONTEXT_MAX, &hp->rope_orig_ctx) < 0)
                return LOADER_E_INVALID;
        /* the name that linear scaling had before it had a type */
        if (legacy != 0 && hp->rope_scale_factor == 0)
                hp->rope_scale_factor = legacy;
        if (hp->rope_scale_factor != 0 && !hp->rope_scaling && legacy != 0)
                hp->rope_scaling = IMAGE_ROPE_SCALING_LINEAR;
        return 0;
}

/* What would change the computation in ways that this version does not know. */
static int refuse_unknown(struct gguf *g, const struct image_hparams *hp) {
        uint32_t experts = 0, vocab = hp->n_vocab;

        if (get_u32(g, hp, "expert_count", 0, 65536, &experts) < 0 ||
            get_u32(g, hp, "vocab_size", 1, IMAGE_VOCAB_MAX, &vocab) < 0)
                return LOADER_E_INVALID;
        if (experts > 0)
                return loader_fail(g->error, LOADER_E_UNSUPPORTED,
                                   "'%s.expert_count' is %u: mixtures of experts are not supported", hp->arch, experts);
        if (vocab != hp->n_vocab)
                return loader_fail(g->error, LOADER_E_INVALID,
                                   "'%s.vocab_size' is %u, but 'tokenizer.ggml.tokens' has %u tokens", hp->arch, vocab,
                                   hp->n_vocab);
        return 0;
}

int model_read_hparams(struct gguf *g, struct image_hparams *hp) {
        const char *text;
        int r;

        r = refuse_unknown(g, hp);
        if (!r)
                r = read_required(g, hp);
        if (!r)
                r = read_heads(g, hp);
        if (!r)
                r = read_rope(g, hp);
        if (r)
                return r;
        text = image_schema_check_hparams(hp);
        if (text)
                return loader_fail(g->error, LOADER_E_INVALID,
                                   "'%s.*': %s (%u heads, %u KV heads of size %u, %u rotated; embedding %u, epsilon %g, RoPE "
                                   "base %g, factor %g)",
                                   hp->arch, text, hp->n_head, hp->n_head_kv, hp->head_dim, hp->n_rot, hp->n_embd,
                                   (double)hp->norm_eps, (double)hp->rope_base, (double)hp->rope_scale_factor);
        return 0;
}
