/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tables of tensors. A table row gives a tensor's name within its block, the part of a block that it belongs to, and its
 * shape in terms of the hyper-parameters; which parts there are says the architecture (arch.h). Names and shapes are
 * those of the GGUF specification's list of standardized tensor names.
 */

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"

#include "arch.h"
#include "schema.h"

enum width {
        WIDTH_NONE, /* a vector: no second dimension */
        WIDTH_EMBD,
        WIDTH_VOCAB,
        WIDTH_HEAD,
        WIDTH_N_HEADS,
        WIDTH_HEADS,
        WIDTH_HEADS_KV,
        WIDTH_QKV,
        WIDTH_FF,
        WIDTH_GATE_UP,
        WIDTH_FF_EXPERT,
        WIDTH_FF_SHARED,
        WIDTH_EXPERTS,
        WIDTH_ROT_HALF,
};

enum need {
        OPTIONAL,
        REQUIRED,
        SPLIT_QKV, /* required where there is no attn_qkv */
};

struct role {
        const char *name;
        enum need need;
        enum width in, out;
        uint32_t part;      /* any of these; 0 = every block has it */
        uint32_t not_part;  /* none of these */
        enum width third;   /* matrices */
};

static const struct role globals[] = {
        { "token_embd.weight", REQUIRED, WIDTH_EMBD, WIDTH_VOCAB, .part = 0 },
        { "output_norm.weight", REQUIRED, WIDTH_EMBD, WIDTH_NONE, .part = 0 },
        { "output.weight", OPTIONAL, WIDTH_EMBD, WIDTH_VOCAB, .part = 0 },
        { "output.bias", OPTIONAL, WIDTH_VOCAB, WIDTH_NONE, .part = 0 },
        { "rope_freqs.weight", OPTIONAL, WIDTH_ROT_HALF, WIDTH_NONE, .part = 0 },
        { "rope_factors_long.weight", OPTIONAL, WIDTH_ROT_HALF, WIDTH_NONE, .part = 0 },
        { "rope_factors_short.weight", OPTIONAL, WIDTH_ROT_HALF, WIDTH_NONE, .part = 0 },
};

/* Names after "blk.N.". */
static const struct role blocks[] = {
        { "attn_norm.weight", REQUIRED, WIDTH_EMBD, WIDTH_NONE, .part = IMAGE_ATTN_NORM },
        { "attn_qkv.weight", OPTIONAL, WIDTH_EMBD, WIDTH_QKV, .part = 0 },
        { "attn_q.weight", SPLIT_QKV, WIDTH_EMBD, WIDTH_HEADS, .part = 0 },
        { "attn_k.weight", SPLIT_QKV, WIDTH_EMBD, WIDTH_HEADS_KV, .part = 0 },
        { "attn_v.weight", SPLIT_QKV, WIDTH_EMBD, WIDTH_HEADS_KV, .part = 0 },
        { "attn_output.weight", REQUIRED, WIDTH_HEADS, WIDTH_EMBD, .part = 0 },
        { "attn_qkv.bias", OPTIONAL, WIDTH_QKV, WIDTH_NONE, .part = 0 },
        { "attn_q.bias", OPTIONAL, WIDTH_HEADS, WIDTH_NONE, .part = 0 },
        { "attn_k.bias", OPTIONAL, WIDTH_HEADS_KV, WIDTH_NONE, .part = 0 },
        { "attn_v.bias", OPTIONAL, WIDTH_HEADS_KV, WIDTH_NONE, .part = 0 },
        { "attn_output.bias", OPTIONAL, WIDTH_EMBD, WIDTH_NONE, .part = 0 },
        { "attn_q_norm.weight", REQUIRED, WIDTH_HEAD, WIDTH_NONE, .part = IMAGE_QK_NORM_HEAD },
        { "attn_k_norm.weight", REQUIRED, WIDTH_HEAD, WIDTH_NONE, .part = IMAGE_QK_NORM_HEAD },
        { "attn_q_norm.weight", OPTIONAL, WIDTH_HEAD, WIDTH_NONE, .part = IMAGE_QK_NORM_MAYBE },
        { "attn_k_norm.weight", OPTIONAL, WIDTH_HEAD, WIDTH_NONE, .part = IMAGE_QK_NORM_MAYBE },
        { "attn_q_norm.weight", REQUIRED, WIDTH_HEADS, WIDTH_NONE, .part = IMAGE_QK_NORM_WIDTH },
        { "attn_k_norm.weight", REQUIRED, WIDTH_HEADS_KV, WIDTH_NONE, .part = IMAGE_QK_NORM_WIDTH },
        { "attn_sinks.weight", REQUIRED, WIDTH_N_HEADS, WIDTH_NONE, .part = IMAGE_SINKS },
        { "post_attention_norm.weight", REQUIRED, WIDTH_EMBD, WIDTH_NONE,
          .part = IMAGE_ATTN_POST_NORM | IMAGE_FFN_NORM_POST },
        { "ffn_norm.weight", REQUIRED, WIDTH_EMBD, WIDTH_NONE, .part = IMAGE_FFN_NORM },
        { "post_ffw_norm.weight", REQUIRED, WIDTH_EMBD, WIDTH_NONE, .part = IMAGE_FFN_POST_NORM },
        { "ffn_gate.weight", REQUIRED, WIDTH_EMBD, WIDTH_FF, .part = IMAGE_DENSE, .not_part = IMAGE_GATE_UP },
        { "ffn_up.weight", REQUIRED, WIDTH_EMBD, WIDTH_FF, .part = IMAGE_DENSE, .not_part = IMAGE_GATE_UP },
        { "ffn_up.weight", REQUIRED, WIDTH_EMBD, WIDTH_GATE_UP, .part = IMAGE_GATE_UP },
        { "ffn_down.weight", REQUIRED, WIDTH_FF, WIDTH_EMBD, .part = IMAGE_DENSE },
        { "ffn_gate.bias", OPTIONAL, WIDTH_FF, WIDTH_NONE, .part = IMAGE_DENSE, .not_part = IMAGE_GATE_UP },
        { "ffn_up.bias", OPTIONAL, WIDTH_FF, WIDTH_NONE, .part = IMAGE_DENSE, .not_part = IMAGE_GATE_UP },
        { "ffn_up.bias", OPTIONAL, WIDTH_GATE_UP, WIDTH_NONE, .part = IMAGE_GATE_UP },
        { "ffn_down.bias", OPTIONAL, WIDTH_EMBD, WIDTH_NONE, .part = IMAGE_DENSE },
        { "ffn_gate_inp.weight", REQUIRED, WIDTH_EMBD, WIDTH_EXPERTS, .part = IMAGE_EXPERTS },
        { "ffn_gate_exps.weight", REQUIRED, WIDTH_EMBD, WIDTH_FF_EXPERT, .part = IMAGE_EXPERTS, .third = WIDTH_EXPERTS },
        { "ffn_up_exps.weight", REQUIRED, WIDTH_EMBD, WIDTH_FF_EXPERT, .part = IMAGE_EXPERTS, .third = WIDTH_EXPERTS },
        { "ffn_down_exps.weight", REQUIRED, WIDTH_FF_EXPERT, WIDTH_EMBD, .part = IMAGE_EXPERTS, .third = WIDTH_EXPERTS },
        { "ffn_gate_inp.bias", REQUIRED, WIDTH_EXPERTS, WIDTH_NONE, .part = IMAGE_EXPERT_BIAS },
        { "ffn_gate_exps.bias", REQUIRED, WIDTH_FF_EXPERT, WIDTH_EXPERTS, .part = IMAGE_EXPERT_BIAS },
        { "ffn_up_exps.bias", REQUIRED, WIDTH_FF_EXPERT, WIDTH_EXPERTS, .part = IMAGE_EXPERT_BIAS },
        { "ffn_down_exps.bias", REQUIRED, WIDTH_EMBD, WIDTH_EXPERTS, .part = IMAGE_EXPERT_BIAS },
        { "exp_probs_b.bias", REQUIRED, WIDTH_EXPERTS, WIDTH_NONE, .part = IMAGE_CHOICE_BIAS },
        { "ffn_gate_shexp.weight", REQUIRED, WIDTH_EMBD, WIDTH_FF_SHARED, .part = IMAGE_SHARED },
        { "ffn_up_shexp.weight", REQUIRED, WIDTH_EMBD, WIDTH_FF_SHARED, .part = IMAGE_SHARED },
        { "ffn_down_shexp.weight", REQUIRED, WIDTH_FF_SHARED, WIDTH_EMBD, .part = IMAGE_SHARED },
};

#define N_GLOBALS ARRAY_SIZE(globals)
#define N_BLOCKS ARRAY_SIZE(blocks)

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
                hp->rope_base_window, hp->yarn_ext_factor, hp->yarn_attn_factor, hp->yarn_beta_fast, hp->yarn_beta_slow,
                hp->yarn_log_mul, hp->temp_scale, hp->expert_scale,
        };

        if (!finite_all(v, ARRAY_SIZE(v)))
                return "a parameter is not a finite number";
        if (hp->norm_eps <= 0 || hp->norm_eps > 1)
                return "the norm's epsilon is out of range";
        if (hp->rope_base <= 0)
                return "the RoPE base is not positive";
        if (hp->rope_scaling > IMAGE_ROPE_SCALING_LONG || hp->rope_kind > IMAGE_ROPE_NEOX || hp->rope_scale_factor < 0)
                return "the RoPE scaling is out of range";
        if ((hp->rope_scaling == IMAGE_ROPE_SCALING_LINEAR || hp->rope_scaling == IMAGE_ROPE_SCALING_YARN) &&
            hp->rope_scale_factor <= 0)
                return "the RoPE scaling factor is not positive";
        if (hp->attn_softcap < 0 || hp->logit_softcap < 0 || hp->rope_attn_factor < 0 || hp->rope_base_window < 0 ||
            hp->yarn_attn_factor < 0 || hp->yarn_beta_fast < 0 || hp->yarn_beta_slow < 0)
                return "a softcap or a parameter of RoPE is negative";
        return NULL;
}

static const char *check_experts(const struct image_hparams *hp) {
        if (hp->n_expert == 0)
                return hp->n_layer_dense > hp->n_layer ? "more leading dense layers than layers" : NULL;
        if (hp->n_expert > IMAGE_EXPERTS_MAX || hp->n_expert_used < 1 || hp->n_expert_used > hp->n_expert ||
            hp->n_expert_used > IMAGE_EXPERTS_USED_MAX)
                return "the number of experts is out of range";
        if (!width_ok(hp->n_ff_expert) || hp->n_ff_shared > IMAGE_WIDTH_MAX || hp->n_expert_shared > hp->n_expert)
                return "the experts' feed-forward length is out of range";
        if (hp->expert_gating > IMAGE_GATING_SOFTMAX_CHOSEN)
                return "the experts' gating is not known";
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
        if (!fault)
                fault = check_experts(hp);
        return fault ? fault : check_floats(hp);
}

static uint64_t width_of(const struct image_hparams *hp, enum width w) {
        uint64_t heads = (uint64_t)hp->n_head * hp->head_dim, heads_kv = (uint64_t)hp->n_head_kv * hp->head_dim;

        switch (w) {
        case WIDTH_NONE: return 1;
        case WIDTH_EMBD: return hp->n_embd;
        case WIDTH_VOCAB: return hp->n_vocab;
        case WIDTH_HEAD: return hp->head_dim;
        case WIDTH_N_HEADS: return hp->n_head;
        case WIDTH_HEADS: return heads;
        case WIDTH_HEADS_KV: return heads_kv;
        case WIDTH_QKV: return heads + 2 * heads_kv;
        case WIDTH_FF: return hp->n_ff;
        case WIDTH_GATE_UP: return 2ull * hp->n_ff;
        case WIDTH_FF_EXPERT: return hp->n_ff_expert;
        case WIDTH_FF_SHARED: return hp->n_ff_shared;
        case WIDTH_EXPERTS: return hp->n_expert;
        case WIDTH_ROT_HALF: return hp->n_rot / 2;
        }
        return 0;
}

/* "blk.12.attn_q.weight" -> 12 and "attn_q.weight". Only the canonical spelling: no sign, no leading zero. */
const char *image_schema_split(const char *name, uint32_t *ret_layer) {
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

struct checker {
        const struct image_hparams *hp;
        const struct image_arch *arch;
        struct image_error *error;
        bool *seen; /* [N_GLOBALS + n_layer * N_BLOCKS] */
};

static bool has_role(const struct checker *c, const struct role *role, uint32_t layer) {
        uint32_t parts = image_arch_parts(c->arch, c->hp, layer);

        return (role->part == 0 || (role->part & parts) != 0) && (role->not_part & parts) == 0;
}

static bool ends_with(const char *s, size_t n, const char *end) {
        return n >= strlen(end) && memcmp(s + n - strlen(end), end, strlen(end)) == 0;
}

/* A matrix may have scales, NAME.scale, one or one per expert; NAME.input_scale is of no use here. */
static bool scale_of(const char *name, char weight[IMAGE_NAME_MAX + 8]) {
        size_t n = strlen(name), base = ends_with(name, n, ".input_scale") ? n - 12 : ends_with(name, n, ".scale") ? n - 6 : 0;

        if (base == 0)
                return false;
        (void)snprintf(weight, IMAGE_NAME_MAX + 8, "%.*s.weight", (int)base, name);
        return true;
}

static const struct role *role_find(const struct checker *c, const char *name, size_t *ret_slot) {
        uint32_t layer = 0;
        const char *local = image_schema_split(name, &layer);
        const struct role *roles = local ? blocks : globals;
        size_t n = local ? N_BLOCKS : N_GLOBALS;

        if (local && layer >= c->hp->n_layer)
                return NULL;
        for (size_t i = 0; i < n; i++)
                if (strcmp(roles[i].name, local ? local : name) == 0 && (!local || has_role(c, &roles[i], layer))) {
                        *ret_slot = local ? N_GLOBALS + layer * N_BLOCKS + i : i;
                        return &roles[i];
                }
        return NULL;
}

static uint32_t role_dims(const struct role *role) {
        return role->out == WIDTH_NONE ? 1 : role->third == WIDTH_NONE ? 2 : 3;
}

static int check_shape(const struct checker *c, const struct role *role, const struct image_tensor *t) {
        uint64_t in = width_of(c->hp, role->in), out = width_of(c->hp, role->out), third = width_of(c->hp, role->third);
        uint32_t n_dims = role_dims(role);

        if (t->n_dims == n_dims && t->dims[0] == in && (n_dims < 2 || t->dims[1] == out) &&
            (n_dims < 3 || t->dims[2] == third))
                return 0;
        (void)snprintf(c->error->text, sizeof(c->error->text),
                       "tensor '%s' has the shape %llu x %llu x %llu (%u dimensions), by the metadata it should be %llu x "
                       "%llu x %llu",
                       t->name, (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                       (unsigned long long)t->dims[2], t->n_dims, (unsigned long long)in, (unsigned long long)out,
                       (unsigned long long)third);
        return IMAGE_SCHEMA_E_FAULT;
}

static int check_scale(const struct checker *c, const char *weight, const struct image_tensor *t) {
        size_t slot;
        const struct role *role = role_find(c, weight, &slot);
        uint64_t n = role && role->third != WIDTH_NONE ? width_of(c->hp, role->third) : 1;

        if (role && role->out != WIDTH_NONE && t->n_dims == 1 && (t->dims[0] == 1 || t->dims[0] == n))
                return 0;
        (void)snprintf(c->error->text, sizeof(c->error->text), "tensor '%s' is no scale of a matrix of this model", t->name);
        return IMAGE_SCHEMA_E_FAULT;
}

static int check_tensor(const struct checker *c, const struct image_tensor *t) {
        char weight[IMAGE_NAME_MAX + 8];
        const struct role *role;
        size_t slot = 0;
        int r;

        if (scale_of(t->name, weight))
                return check_scale(c, weight, t);
        role = role_find(c, t->name, &slot);
        if (!role) {
                (void)snprintf(c->error->text, sizeof(c->error->text), "tensor '%s' is not one of a '%s' model with %u layers",
                               t->name, c->hp->arch, c->hp->n_layer);
                return IMAGE_SCHEMA_E_UNSUPPORTED;
        }
        r = check_shape(c, role, t);
        c->seen[slot] = true;
        return r;
}

static int missing(const struct checker *c, uint32_t layer, const char *name) {
        (void)snprintf(c->error->text, sizeof(c->error->text), "tensor 'blk.%u.%s' is missing", layer, name);
        return IMAGE_SCHEMA_E_FAULT;
}

static int check_missing(const struct checker *c) {
        const size_t qkv = 1; /* attn_qkv.weight */

        for (size_t i = 0; i < N_GLOBALS; i++)
                if (globals[i].need == REQUIRED && !c->seen[i]) {
                        (void)snprintf(c->error->text, sizeof(c->error->text), "tensor '%s' is missing", globals[i].name);
                        return IMAGE_SCHEMA_E_FAULT;
                }
        for (uint32_t l = 0; l < c->hp->n_layer; l++) {
                const bool *seen = c->seen + N_GLOBALS + l * N_BLOCKS;

                for (size_t i = 0; i < N_BLOCKS; i++) {
                        enum need need = blocks[i].need;

                        if (need == SPLIT_QKV)
                                need = seen[qkv] ? OPTIONAL : REQUIRED;
                        if (need == REQUIRED && !seen[i] && has_role(c, &blocks[i], l))
                                return missing(c, l, blocks[i].name);
                }
        }
        return 0;
}

int image_schema_check(const struct image_hparams *hp, const struct image_tensor *tensors, size_t n_tensors,
                       size_t *ret_tensor, struct image_error *error) {
        _cleanup_free_ bool *seen = NULL;
        struct checker c = { .hp = hp, .arch = image_arch_find(hp->arch), .error = error };
        int r;

        *ret_tensor = IMAGE_SCHEMA_NO_TENSOR;
        if (!c.arch || hp->n_layer > IMAGE_LAYERS_MAX) {
                (void)snprintf(error->text, sizeof(error->text), "models of architecture '%s' are not supported", hp->arch);
                return IMAGE_SCHEMA_E_UNSUPPORTED;
        }
        seen = calloc(N_GLOBALS + hp->n_layer * N_BLOCKS, sizeof(*seen));
        if (!seen)
                return -ENOMEM;
        c.seen = seen;
        for (size_t i = 0; i < n_tensors; i++) {
                *ret_tensor = i;
                r = check_tensor(&c, &tensors[i]);
                if (r)
                        return r;
        }
        *ret_tensor = IMAGE_SCHEMA_NO_TENSOR;
        return check_missing(&c);
}

static int list_role(const struct image_hparams *hp, const struct role *role, const char *prefix,
                     int (*fn)(void *userdata, const char *name, uint32_t n_dims, const uint64_t *dims), void *userdata) {
        const uint64_t dims[IMAGE_DIMS_MAX] = { width_of(hp, role->in), width_of(hp, role->out), width_of(hp, role->third), 1 };
        char name[IMAGE_NAME_MAX];

        (void)snprintf(name, sizeof(name), "%s%s", prefix, role->name);
        return fn(userdata, name, role_dims(role), dims);
}

int image_schema_list(const struct image_hparams *hp,
                      int (*fn)(void *userdata, const char *name, uint32_t n_dims, const uint64_t *dims), void *userdata) {
        const struct checker c = { .hp = hp, .arch = image_arch_find(hp->arch) };
        int r = 0;

        for (size_t i = 0; i < N_GLOBALS && !r; i++)
                if (globals[i].need == REQUIRED)
                        r = list_role(hp, &globals[i], "", fn, userdata);
        for (uint32_t l = 0; c.arch && l < hp->n_layer; l++) {
                char prefix[24];

                (void)snprintf(prefix, sizeof(prefix), "blk.%u.", l);
                for (size_t i = 0; i < N_BLOCKS && !r; i++)
                        if (blocks[i].need != OPTIONAL && has_role(&c, &blocks[i], l))
                                r = list_role(hp, &blocks[i], prefix, fn, userdata);
        }
        return r;
}
