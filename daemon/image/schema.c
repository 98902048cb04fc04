/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tables of tensors per architecture. A table row gives a tensor's name within its block, whether it must be there, and
 * its shape in terms of the hyper-parameters; llama's names and shapes are those of the GGUF specification's list of
 * standardized tensor names.
 */

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"

#include "schema.h"

enum width {
        WIDTH_NONE, /* a vector: no second dimension */
        WIDTH_EMBD,
        WIDTH_VOCAB,
        WIDTH_HEADS,
        WIDTH_HEADS_KV,
        WIDTH_FF,
        WIDTH_ROT_HALF,
};

struct role {
        const char *name;
        bool required;
        enum width in, out;
};

struct schema {
        const char *arch;
        const struct role *global;
        size_t n_global;
        const struct role *block; /* names after "blk.N." */
        size_t n_block;
};

static const struct role llama_global[] = {
        { "token_embd.weight", true, WIDTH_EMBD, WIDTH_VOCAB },
        { "output_norm.weight", true, WIDTH_EMBD, WIDTH_NONE },
        { "output.weight", false, WIDTH_EMBD, WIDTH_VOCAB },
        { "rope_freqs.weight", false, WIDTH_ROT_HALF, WIDTH_NONE },
};

static const struct role llama_block[] = {
        { "attn_norm.weight", true, WIDTH_EMBD, WIDTH_NONE },
        { "attn_q.weight", true, WIDTH_EMBD, WIDTH_HEADS },
        { "attn_k.weight", true, WIDTH_EMBD, WIDTH_HEADS_KV },
        { "attn_v.weight", true, WIDTH_EMBD, WIDTH_HEADS_KV },
        { "attn_output.weight", true, WIDTH_HEADS, WIDTH_EMBD },
        { "ffn_norm.weight", true, WIDTH_EMBD, WIDTH_NONE },
        { "ffn_gate.weight", true, WIDTH_EMBD, WIDTH_FF },
        { "ffn_up.weight", true, WIDTH_EMBD, WIDTH_FF },
        { "ffn_down.weight", true, WIDTH_FF, WIDTH_EMBD },
        { "attn_q.bias", false, WIDTH_HEADS, WIDTH_NONE },
        { "attn_k.bias", false, WIDTH_HEADS_KV, WIDTH_NONE },
        { "attn_v.bias", false, WIDTH_HEADS_KV, WIDTH_NONE },
        { "attn_output.bias", false, WIDTH_EMBD, WIDTH_NONE },
        { "ffn_gate.bias", false, WIDTH_FF, WIDTH_NONE },
        { "ffn_up.bias", false, WIDTH_FF, WIDTH_NONE },
        { "ffn_down.bias", false, WIDTH_EMBD, WIDTH_NONE },
};

static const struct schema schemas[] = {
        { "llama", llama_global, ARRAY_SIZE(llama_global), llama_block, ARRAY_SIZE(llama_block) },
};

static const struct schema *schema_find(const char *arch) {
        for (size_t i = 0; i < ARRAY_SIZE(schemas); i++)
                if (strcmp(schemas[i].arch, arch) == 0)
                        return &schemas[i];
        return NULL;
}

bool image_schema_knows(const char *arch) {
        return schema_find(arch) != NULL;
}

static bool width_ok(uint64_t v) {
        return v >= 1 && v <= IMAGE_WIDTH_MAX;
}

static const char *check_heads(const struct image_hparams *hp) {
        if (hp->n_head < 1 || hp->n_head > 65536)
                return "the number of heads is out of range";
        if (hp->n_head_kv < 1 || hp->n_head_kv > hp->n_head || hp->n_head % hp->n_head_kv != 0)
                return "the number of heads is no multiple of the number of KV heads";
        if (hp->head_dim < 1 || hp->head_dim > 65536 || !width_ok((uint64_t)hp->n_head * hp->head_dim))
                return "the head size is out of range";
        if (hp->n_rot % 2 != 0 || hp->n_rot > hp->head_dim)
                return "the number of rotated elements is odd or more than the head size";
        return NULL;
}

static bool finite_all(const float *v, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (!isfinite(v[i]))
                        return false;
        return true;
}

static const char *check_floats(const struct image_hparams *hp) {
        const float v[] = {
                hp->norm_eps, hp->rope_base, hp->rope_scale_factor, hp->rope_attn_factor, hp->attn_softcap,
                hp->logit_softcap, hp->embd_scale, hp->residual_scale, hp->attn_scale, hp->logit_scale,
        };

        if (!finite_all(v, ARRAY_SIZE(v)))
                return "a parameter is not a finite number";
        if (hp->norm_eps <= 0 || hp->norm_eps > 1)
                return "the norm's epsilon is out of range";
        if (hp->rope_base <= 0)
                return "the RoPE base is not positive";
        if (hp->rope_scaling > IMAGE_ROPE_SCALING_YARN || hp->rope_scale_factor < 0)
                return "the RoPE scaling is out of range";
        if (hp->rope_scaling != IMAGE_ROPE_SCALING_NONE && hp->rope_scale_factor <= 0)
                return "the RoPE scaling factor is not positive";
        return NULL;
}

const char *image_schema_check_hparams(const struct image_hparams *hp) {
        const char *fault;

        if (hp->n_vocab < 1 || hp->n_vocab > IMAGE_VOCAB_MAX)
                return "the number of tokens is out of range";
        if (hp->n_ctx < 1 || hp->n_ctx > IMAGE_CONTEXT_MAX)
                return "the context length is out of range";
        if (!width_ok(hp->n_embd))
                return "the embedding length is out of range";
        if (hp->n_layer < 1 || hp->n_layer > IMAGE_LAYERS_MAX)
                return "the number of layers is out of range";
        if (!width_ok(hp->n_ff))
                return "the feed-forward length is out of range";
        fault = check_heads(hp);
        return fault ? fault : check_floats(hp);
}

static uint64_t width_of(const struct image_hparams *hp, enum width w) {
        switch (w) {
        case WIDTH_NONE:
                return 1;
        case WIDTH_EMBD:
                return hp->n_embd;
        case WIDTH_VOCAB:
                return hp->n_vocab;
        case WIDTH_HEADS:
                return (uint64_t)hp->n_head * hp->head_dim;
        case WIDTH_HEADS_KV:
                return (uint64_t)hp->n_head_kv * hp->head_dim;
        case WIDTH_FF:
                return hp->n_ff;
        case WIDTH_ROT_HALF:
                return hp->n_rot / 2;
        }
        return 0;
}

/* "blk.12.attn_q.weight" -> 12 and "attn_q.weight". Only the canonical spelling: no sign, no leading zero. */
static const char *split_block(const char *name, uint32_t *ret_layer) {
        uint32_t layer = 0;
        const char *p = name + 4;

        if (strncmp(name, "blk.", 4) != 0 || *p < '0' || *p > '9' || (p[0] == '0' && p[1] != '.'))
                return NULL;
        for (; *p >= '0' && *p <= '9'; p++) {
                layer = layer * 10 + (uint32_t)(*p - '0');
                if (layer >= IMAGE_LAYERS_MAX)
                        return NULL;
        }
        if (*p != '.')
                return NULL;
        *ret_layer = layer;
        return p + 1;
}

static const struct role *role_find(const struct schema *s, const struct image_hparams *hp, const char *name,
                                    size_t *ret_slot) {
        uint32_t layer = 0;
        const char *local = split_block(name, &layer);
        const struct role *roles = local ? s->block : s->global;
        size_t n = local ? s->n_block : s->n_global;

        if (local && layer >= hp->n_layer)
                return NULL;
        for (size_t i = 0; i < n; i++)
                if (strcmp(roles[i].name, local ? local : name) == 0) {
                        *ret_slot = local ? s->n_global + layer * s->n_block + i : i;
                        return &roles[i];
                }
        return NULL;
}

static int check_shape(const struct role *role, const struct image_hparams *hp, const struct image_tensor *t,
                       struct image_error *error) {
        uint64_t in = width_of(hp, role->in), out = width_of(hp, role->out);
        uint32_t n_dims = role->out == WIDTH_NONE ? 1 : 2;

        if (t->n_dims == n_dims && t->dims[0] == in && (n_dims == 1 || t->dims[1] == out))
                return 0;
        (void)snprintf(error->text, sizeof(error->text),
                       "tensor '%s' has the shape %llu x %llu (%u dimensions), by the metadata it should be %llu x %llu",
                       t->name, (unsigned long long)t->dims[0], (unsigned long long)t->dims[1], t->n_dims,
                       (unsigned long long)in, (unsigned long long)out);
        return IMAGE_SCHEMA_E_FAULT;
}

static int check_missing(const struct schema *s, const struct image_hparams *hp, const bool *seen,
                         struct image_error *error) {
        for (size_t i = 0; i < s->n_global; i++)
                if (s->global[i].required && !seen[i]) {
                        (void)snprintf(error->text, sizeof(error->text), "tensor '%s' is missing", s->global[i].name);
                        return IMAGE_SCHEMA_E_FAULT;
                }
        for (uint32_t l = 0; l < hp->n_layer; l++)
                for (size_t i = 0; i < s->n_block; i++)
                        if (s->block[i].required && !seen[s->n_global + l * s->n_block + i]) {
                                (void)snprintf(error->text, sizeof(error->text), "tensor 'blk.%u.%s' is missing", l,
                                               s->block[i].name);
                                return IMAGE_SCHEMA_E_FAULT;
                        }
        return 0;
}

int image_schema_check(const struct image_hparams *hp, const struct image_tensor *tensors, size_t n_tensors,
                       size_t *ret_tensor, struct image_error *error) {
        _cleanup_free_ bool *seen = NULL;
        const struct schema *s = schema_find(hp->arch);
        size_t slot = 0;
        int r;

        *ret_tensor = IMAGE_SCHEMA_NO_TENSOR;
        if (!s || hp->n_layer > IMAGE_LAYERS_MAX) {
                (void)snprintf(error->text, sizeof(error->text), "models of architecture '%s' are not supported", hp->arch);
                return IMAGE_SCHEMA_E_UNSUPPORTED;
        }
        seen = calloc(s->n_global + hp->n_layer * s->n_block, sizeof(*seen));
        if (!seen)
                return -ENOMEM;
        for (size_t i = 0; i < n_tensors; i++) {
                const struct role *role = role_find(s, hp, tensors[i].name, &slot);

                *ret_tensor = i;
                if (!role) {
                        (void)snprintf(error->text, sizeof(error->text),
                                       "tensor '%s' is not one of a '%s' model with %u layers", tensors[i].name, hp->arch,
                                       hp->n_layer);
                        return IMAGE_SCHEMA_E_UNSUPPORTED;
                }
                r = check_shape(role, hp, &tensors[i], error);
                if (r)
                        return r;
                seen[slot] = true;
        }
        *ret_tensor = IMAGE_SCHEMA_NO_TENSOR;
        return check_missing(s, hp, seen, error);
}
