/* SPDX-License-Identifier: Apache-2.0 */

/* config.json -> hyper-parameters. Keys are those of the configuration classes of Hugging Face's library transformers. */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/macro.h"
#include "daemon/image/arch.h"
#include "daemon/image/schema.h"

#include "hf.h"

#define SWIGLU_LIMIT 7.0f /* of gpt-oss */

/* A family's name and the object that describes the text model: of models with images, it is a part of the file. */
static int find_family(struct hf *h, struct json_view *v) {
        const char *type = NULL;
        struct json_object *text = NULL;
        char show[LOADER_SHOW_MAX];

        if (json_get_object(v, "text_config", &text) < 0)
                return LOADER_E_INVALID;
        if (text) {
                v->object = text;
                v->where = "text_config.";
        }
        switch (json_get_name(v, "model_type", &type)) {
        case JSON_FOUND:
                break;
        case JSON_ABSENT:
                return json_invalid(v, "model_type", "is missing");
        default:
                return LOADER_E_INVALID;
        }
        h->family = hf_family_find(type);
        if (!h->family)
                return loader_fail(h->error, LOADER_E_UNSUPPORTED,
                                   "config.json: '%smodel_type' is '%s': models of this kind are not supported", v->where,
                                   loader_show(show, type, strlen(type)));
        return 0;
}

/* What methods with several formats have. */
static int check_format(const struct json_view *q) {
        static const char *const formats[] = { "float-quantized", "nvfp4-pack-quantized" }, *const algorithms[] = { "FP8", "NVFP4" };
        const struct {
                const char *key;
                const char *const *known;
        } fields[] = { { "format", formats }, { "quant_algo", algorithms } };
        const char *s = NULL;

        for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
                switch (json_get_name(q, fields[i].key, &s)) {
                case JSON_ABSENT:
                        break;
                case JSON_FOUND:
                        if (strcmp(s, fields[i].known[0]) != 0 && strcmp(s, fields[i].known[1]) != 0)
                                return json_unsupported(q, fields[i].key, "is a format that is not supported");
                        break;
                default:
                        return LOADER_E_INVALID;
                }
        return 0;
}

/* Which quantizations can be read; what each means for a tensor says its name and type. */
static int check_quantization(struct hf *h) {
        static const char *const methods[] = { "fp8", "mxfp4", "compressed-tensors", "modelopt" };
        struct json_view v = { "config.json", "", h->config, h->error };
        struct json_object *q = NULL;
        const char *method = NULL;
        char show[LOADER_SHOW_MAX];
        int r = json_get_object(&v, "quantization_config", &q);

        if (r != JSON_FOUND)
                return r < 0 ? LOADER_E_INVALID : 0;
        v.object = q;
        v.where = "quantization_config.";
        r = json_get_name(&v, "quant_method", &method);
        if (r != JSON_FOUND)
                return r < 0 ? LOADER_E_INVALID : json_invalid(&v, "quant_method", "is missing");
        for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
                if (strcmp(methods[i], method) == 0)
                        return check_format(&v);
        return loader_fail(h->error, LOADER_E_UNSUPPORTED,
                           "config.json: 'quantization_config.quant_method' is '%s': this quantization is not supported",
                           loader_show(show, method, strlen(method)));
}

static int read_sizes(const struct json_view *v, struct image_hparams *hp) {
        const struct {
                const char *key;
                uint32_t max;
                uint32_t *ret;
        } fields[] = {
                { "vocab_size", IMAGE_VOCAB_MAX, &hp->n_vocab },
                { "max_position_embeddings", IMAGE_CONTEXT_MAX, &hp->n_ctx },
                { "hidden_size", IMAGE_WIDTH_MAX, &hp->n_embd },
                { "num_hidden_layers", IMAGE_LAYERS_MAX, &hp->n_layer },
                { "intermediate_size", IMAGE_WIDTH_MAX, &hp->n_ff },
                { "num_attention_heads", 65536, &hp->n_head },
        };
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
                r = json_get_u32(v, fields[i].key, 1, fields[i].max, fields[i].ret);
                if (r != JSON_FOUND)
                        return r < 0 ? LOADER_E_INVALID : json_invalid(v, fields[i].key, "is missing");
        }
        r = json_get_float(v, "rms_norm_eps", &hp->norm_eps);
        if (r != JSON_FOUND)
                return r < 0 ? LOADER_E_INVALID : json_invalid(v, "rms_norm_eps", "is missing");
        return 0;
}

static int read_heads(const struct json_view *v, struct image_hparams *hp) {
        float partial = 1;
        int r;

        hp->n_head_kv = hp->n_head;
        hp->head_dim = hp->n_embd / hp->n_head;
        if (json_get_u32(v, "num_key_value_heads", 1, 65536, &hp->n_head_kv) < 0)
                return LOADER_E_INVALID;
        r = json_get_u32(v, "head_dim", 1, 65536, &hp->head_dim);
        if (r < 0)
                return LOADER_E_INVALID;
        if (r == JSON_ABSENT && hp->n_embd % hp->n_head != 0)
                return json_invalid(v, "hidden_size", "is no multiple of 'num_attention_heads'");
        if (json_get_float(v, "partial_rotary_factor", &partial) < 0)
                return LOADER_E_INVALID;
        if (!(partial > 0 && partial <= 1))
                return json_invalid(v, "partial_rotary_factor", "is out of range");
        hp->n_rot = (uint32_t)((float)hp->head_dim * partial);
        return 0;
}

static int check_activation(const struct hf *h, const struct json_view *v) {
        const char *act = NULL, *key = "hidden_activation";
        int r = json_get_name(v, key, &act);

        if (r == JSON_ABSENT) {
                key = "hidden_act";
                r = json_get_name(v, key, &act);
        }
        if (r != JSON_FOUND)
                return r < 0 ? LOADER_E_INVALID : 0;
        if (strcmp(act, h->family->act) == 0)
                return 0;
        return json_unsupported(v, key, "is another activation than the one that this kind of model has");
}

static bool is_named(struct json_object *o, const char *name) {
        return json_object_is_type(o, json_type_string) && strcmp(json_object_get_string(o), name) == 0;
}

/* Layers with a window: listed, or by the family's rule. */
static int read_layers(const struct json_view *v, const struct image_arch *arch, struct image_hparams *hp) {
        struct json_object *types = NULL;
        uint32_t period = arch->window_period, full = 0;
        int r = json_get_array(v, "layer_types", &types);

        if (r < 0 || json_get_u32(v, "max_window_layers", 0, IMAGE_LAYERS_MAX, &full) < 0 || json_get_u32(v, "sliding_window_pattern", 1, IMAGE_LAYERS_MAX, &period) < 0)
                return LOADER_E_INVALID;
        if (r == JSON_ABSENT) {
                if (full == 0)
                        hp->window_layers = image_arch_pattern(hp->n_layer, period);
                for (uint32_t l = full; full > 0 && l < hp->n_layer; l++) /* the first ones have none */
                        image_layers_add(&hp->window_layers, l);
                return 0;
        }
        if (json_object_array_length(types) < hp->n_layer)
                return json_invalid(v, "layer_types", "has fewer entries than there are layers");
        for (uint32_t l = 0; l < hp->n_layer; l++) {
                struct json_object *o = json_object_array_get_idx(types, l);

                if (is_named(o, "sliding_attention"))
                        image_layers_add(&hp->window_layers, l);
                else if (!is_named(o, "full_attention"))
                        return json_unsupported(v, "layer_types", "has a kind of layer that is not known");
        }
        return 0;
}

static int read_window(const struct json_view *v, const struct image_arch *arch, struct image_hparams *hp) {
        bool use = true;
        int r;

        if (json_get_bool(v, "use_sliding_window", &use) < 0 ||
            json_get_u32(v, "sliding_window", 0, IMAGE_CONTEXT_MAX, &hp->window) < 0)
                return LOADER_E_INVALID;
        if (!use)
                hp->window = 0;
        if (hp->window == 0)
                return 0;
        r = read_layers(v, arch, hp);
        if (r)
                return r;
        for (size_t i = 0; i < ARRAY_SIZE(hp->window_layers.words); i++)
                if (hp->window_layers.words[i])
                        return 0;
        hp->window = 0;
        return 0;
}

/* 1 = this layer rotates. */
static int read_no_rope(const struct json_view *v, const struct image_arch *arch, struct image_hparams *hp) {
        struct json_object *list = NULL;
        uint32_t period = arch->rope_period;
        int r = json_get_array(v, "no_rope_layers", &list);

        if (r < 0 || json_get_u32(v, "no_rope_layer_interval", 1, IMAGE_LAYERS_MAX, &period) < 0)
                return LOADER_E_INVALID;
        if (!arch->rope_period)
                return r == JSON_FOUND ? json_unsupported(v, "no_rope_layers", "is not known of this kind of model") : 0;
        if (r == JSON_FOUND && json_object_array_length(list) < hp->n_layer)
                return json_invalid(v, "no_rope_layers", "has fewer entries than there are layers");
        for (uint32_t l = 0; l < hp->n_layer; l++)
                if (list ? json_object_get_int(json_object_array_get_idx(list, l)) == 0 : (l + 1) % period == 0)
                        image_layers_add(&hp->no_rope_layers, l);
        return 0;
}

static int read_floats(const struct json_view *v, const struct image_arch *arch, struct image_hparams *hp) {
        const struct {
                const char *key;
                uint32_t known; /* enum image_key, 0 = to all */
                float *ret;
        } fields[] = {
                { "attn_logit_softcapping", IMAGE_KEY_ATTN_SOFTCAP, &hp->attn_softcap },
                { "final_logit_softcapping", IMAGE_KEY_LOGIT_SOFTCAP, &hp->logit_softcap },
                { "embedding_multiplier", IMAGE_KEY_SCALES, &hp->embd_scale },
                { "residual_multiplier", IMAGE_KEY_SCALES, &hp->residual_scale },
                { "attention_multiplier", IMAGE_KEY_SCALES, &hp->attn_scale },
                { "logits_scaling", IMAGE_KEY_SCALES, &hp->logit_scale },
        };
        float scalar = 0;

        for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
                int r = json_get_float(v, fields[i].key, fields[i].ret);

                if (r < 0)
                        return LOADER_E_INVALID;
                if (r == JSON_FOUND && !(arch->keys & fields[i].known))
                        return json_unsupported(v, fields[i].key, "is not known of this kind of model");
        }
        if (json_get_float(v, "query_pre_attn_scalar", &scalar) < 0)
                return LOADER_E_INVALID;
        if (scalar < 0)
                return json_invalid(v, "query_pre_attn_scalar", "is negative");
        if (scalar > 0)
                hp->attn_scale = 1.0f / sqrtf(scalar);
        return 0;
}

static int read_experts(const struct json_view *v, struct image_hparams *hp) {
        static const char *const counts[] = { "num_local_experts", "num_experts", "n_routed_experts" };
        bool norm = hp->expert_norm;
        int r = JSON_ABSENT;

        for (size_t i = 0; i < ARRAY_SIZE(counts) && r == JSON_ABSENT; i++)
                r = json_get_u32(v, counts[i], 0, IMAGE_EXPERTS_MAX, &hp->n_expert);
        if (r < 0)
                return LOADER_E_INVALID;
        if (hp->n_expert == 0)
                return 0;
        if (json_get_u32(v, "num_experts_per_tok", 1, IMAGE_EXPERTS_USED_MAX, &hp->n_expert_used) < 0 ||
            json_get_u32(v, "moe_intermediate_size", 1, IMAGE_WIDTH_MAX, &hp->n_ff_expert) < 0 ||
            json_get_u32(v, "n_shared_experts", 0, IMAGE_EXPERTS_MAX, &hp->n_expert_shared) < 0 ||
            json_get_u32(v, "first_k_dense_replace", 0, IMAGE_LAYERS_MAX, &hp->n_layer_dense) < 0 ||
            json_get_float(v, "routed_scaling_factor", &hp->expert_scale) < 0 ||
            json_get_bool(v, "norm_topk_prob", &norm) < 0)
                return LOADER_E_INVALID;
        hp->expert_norm = norm;
        if (hp->n_ff_expert == 0)
                hp->n_ff_expert = hp->n_ff;
        return 0;
}

/* What would change the computation in ways that are not known here. */
static int refuse_unknown(const struct json_view *v) {
        uint32_t groups = 1, step = 1;
        float limit = SWIGLU_LIMIT;
        struct json_object *list = NULL;

        if (json_get_u32(v, "n_group", 0, 65536, &groups) < 0 || json_get_u32(v, "decoder_sparse_step", 0, 65536, &step) < 0 ||
            json_get_array(v, "mlp_only_layers", &list) < 0 || json_get_float(v, "swiglu_limit", &limit) < 0)
                return LOADER_E_INVALID;
        if (groups > 1)
                return json_unsupported(v, "n_group", "is more than 1: groups of experts are not supported");
        if (limit != SWIGLU_LIMIT)
                return json_unsupported(v, "swiglu_limit", "is not 7");
        if (step > 1)
                return json_unsupported(v, "decoder_sparse_step", "is more than 1: this is not supported");
        if (list && json_object_array_length(list) > 0)
                return json_unsupported(v, "mlp_only_layers", "is not empty: this is not supported");
        return 0;
}

static void name_model(struct hf *h, struct image_hparams *hp) {
        struct json_view v = { "config.json", "", h->config, h->error };
        const char *name = NULL;

        (void)snprintf(hp->arch, sizeof(hp->arch), "%s", h->family->arch);
        if (json_get_name(&v, "_name_or_path", &name) == JSON_FOUND && strlen(name) < sizeof(hp->name))
                (void)snprintf(hp->name, sizeof(hp->name), "%s", name);
}

int hf_read_config(struct hf *h, struct image_hparams *hp) {
        struct json_view v = { "config.json", "", h->config, h->error };
        const struct image_arch *arch;
        const char *text;
        int r = find_family(h, &v);

        if (r)
                return r;
        name_model(h, hp);
        arch = image_arch_find(hp->arch);
        if (!arch)
                return json_unsupported(&v, "model_type", "is a kind of model that is not supported");
        hp->expert_norm = arch->expert_norm;
        hp->rope_kind = h->family->flags & HF_ROPE_INTERLEAVED ? IMAGE_ROPE_NORM : IMAGE_ROPE_NEOX;
        r = check_quantization(h);
        r = r ? r : read_sizes(&v, hp);
        r = r ? r : read_heads(&v, hp);
        r = r ? r : check_activation(h, &v);
        r = r ? r : refuse_unknown(&v);
        r = r ? r : read_window(&v, arch, hp);
        r = r ? r : read_no_rope(&v, arch, hp);
        r = r ? r : read_floats(&v, arch, hp);
        r = r ? r : read_experts(&v, hp);
        r = r ? r : hf_read_rope(h, &v, hp);
        if (r)
                return r;
        if (hp->n_rot < 2)
                return json_invalid(&v, "partial_rotary_factor", "leaves nothing to rotate");
        image_arch_defaults(arch, hp);
        text = image_schema_check_hparams(hp);
        return text ? loader_fail(h->error, LOADER_E_INVALID, "config.json: %s", text) : 0;
}
