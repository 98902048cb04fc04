/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Rotary embeddings of config.json: one base and one way to stretch it, in `rope_theta` and `rope_scaling` or together in
 * `rope_parameters`, there also apart for layers with a window and without. Sources: "YaRN" (Peng et al. 2023), "LongRoPE"
 * (Ding et al. 2024), and for llama3 the formula in the release of Llama 3.1.
 */

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/image/schema.h"

#include "hf.h"

static int factors_new(struct hf *h, size_t n, float **ret) {
        free(h->factors);
        h->factors = calloc(n ? n : 1, sizeof(float));
        h->n_factors = n;
        *ret = h->factors;
        return h->factors ? 0 : -ENOMEM;
}

static int add_factors(struct hf *h, const char *name, const float *factors, size_t n) {
        struct hf_part part = { .how = HF_FACTORS, .factors = factors, .step = 1, .n_rows = 1, .n_in = n };

        (void)snprintf(part.target, sizeof(part.target), "%s", name);
        return hf_add_part(h, &part);
}

/* Long waves by the factor, short ones not, between them a blend. */
static int read_llama3(struct hf *h, const struct json_view *v, struct image_hparams *hp) {
        float factor = 0, low = 1, high = 4, *f = NULL;
        uint32_t context = hp->rope_orig_ctx;
        size_t n = hp->n_rot / 2;
        int r;

        if (json_get_float(v, "factor", &factor) < 0 || json_get_float(v, "low_freq_factor", &low) < 0 ||
            json_get_float(v, "high_freq_factor", &high) < 0)
                return LOADER_E_INVALID;
        if (!(factor > 0))
                return json_invalid(v, "factor", "is missing or not positive");
        if (!(low > 0) || !(high > low) || context == 0)
                return json_invalid(v, "high_freq_factor", "makes no sense with 'low_freq_factor' or the original context");
        r = factors_new(h, n, &f);
        if (r)
                return r;
        for (size_t i = 0; i < n; i++) {
                double wave = 2 * M_PI * pow((double)hp->rope_base, 2.0 * (double)i / hp->n_rot), waves = context / wave;
                double blend = (waves - (double)low) / (double)(high - low);

                if (waves < (double)low)
                        f[i] = factor;
                else if (waves > (double)high)
                        f[i] = 1;
                else
                        f[i] = (float)(1 / ((1 - blend) / (double)factor + blend));
        }
        hp->rope_scaling = IMAGE_ROPE_SCALING_NONE;
        return add_factors(h, "rope_freqs.weight", f, n);
}

static double yarn_magnitude(double factor, double scale) {
        return factor <= 1 ? 1 : 0.1 * scale * log(factor) + 1;
}

static int read_yarn(const struct json_view *v, struct image_hparams *hp) {
        float magnitude = 0, scale = 0, scale_all = 0;
        bool truncate = true;
        int r;

        hp->rope_scaling = IMAGE_ROPE_SCALING_YARN;
        r = json_get_float(v, "attention_factor", &magnitude);
        if (r < 0 || json_get_float(v, "factor", &hp->rope_scale_factor) < 0 ||
            json_get_float(v, "beta_fast", &hp->yarn_beta_fast) < 0 || json_get_float(v, "beta_slow", &hp->yarn_beta_slow) < 0 ||
            json_get_float(v, "mscale", &scale) < 0 || json_get_float(v, "mscale_all_dim", &scale_all) < 0 ||
            json_get_bool(v, "truncate", &truncate) < 0)
                return LOADER_E_INVALID;
        if (!(hp->rope_scale_factor > 0))
                return json_invalid(v, "factor", "is missing or not positive");
        hp->yarn_exact = !truncate;
        if (r == JSON_ABSENT && scale > 0 && scale_all > 0)
                magnitude = (float)(yarn_magnitude((double)hp->rope_scale_factor, (double)scale) /
                                    yarn_magnitude((double)hp->rope_scale_factor, (double)scale_all));
        /* the image's is on top of what follows from the factor alone */
        if (magnitude > 0)
                hp->rope_attn_factor = (float)((double)magnitude / yarn_magnitude((double)hp->rope_scale_factor, 1));
        return 0;
}

static int read_list(const struct json_view *v, const char *key, float *ret, size_t n) {
        struct json_object *list = NULL;
        int r = json_get_array(v, key, &list);

        if (r < 0)
                return LOADER_E_INVALID;
        if (r == JSON_ABSENT || json_object_array_length(list) != n)
                return json_invalid(v, key, "is missing or has another length than half the rotated elements");
        for (size_t i = 0; i < n; i++) {
                struct json_object *o = json_object_array_get_idx(list, i);

                if (!json_object_is_type(o, json_type_double) && !json_object_is_type(o, json_type_int))
                        return json_invalid(v, key, "has an entry that is no number");
                ret[i] = (float)json_object_get_double(o);
                if (!(ret[i] > 0) || !isfinite(ret[i]))
                        return json_invalid(v, key, "has an entry that is not positive");
        }
        return 0;
}

static int read_long(struct hf *h, const struct json_view *v, struct image_hparams *hp) {
        size_t n = hp->n_rot / 2;
        float *f = NULL, magnitude = 0;
        double stretch;
        int r = factors_new(h, 2 * n, &f);

        if (!r)
                r = read_list(v, "long_factor", f, n);
        if (!r)
                r = read_list(v, "short_factor", f + n, n);
        if (!r && (json_get_float(v, "attention_factor", &magnitude) < 0 ||
                   json_get_float(v, "factor", &hp->rope_scale_factor) < 0))
                r = LOADER_E_INVALID;
        if (!r && hp->rope_orig_ctx == 0)
                r = json_invalid(v, "original_max_position_embeddings", "is missing");
        if (r)
                return r;
        stretch = hp->rope_scale_factor > 0 ? (double)hp->rope_scale_factor : (double)hp->n_ctx / hp->rope_orig_ctx;
        hp->rope_scale_factor = 0; /* it is in the factors */
        hp->rope_scaling = IMAGE_ROPE_SCALING_LONG;
        if (!(magnitude > 0) && stretch > 1)
                magnitude = (float)sqrt(1 + log(stretch) / log((double)hp->rope_orig_ctx));
        if (magnitude > 0)
                hp->rope_attn_factor = magnitude;
        r = add_factors(h, "rope_factors_long.weight", f, n);
        return r ? r : add_factors(h, "rope_factors_short.weight", f + n, n);
}

/* One object that has a type, or none. */
static int read_scaling(struct hf *h, const struct json_view *v, struct image_hparams *hp) {
        const char *type = NULL;
        char show[LOADER_SHOW_MAX];
        int r = json_get_name(v, "rope_type", &type);

        if (r == JSON_ABSENT)
                r = json_get_name(v, "type", &type);
        if (r < 0 || json_get_float(v, "rope_theta", &hp->rope_base) < 0 ||
            json_get_u32(v, "original_max_position_embeddings", 1, IMAGE_CONTEXT_MAX, &hp->rope_orig_ctx) < 0)
                return LOADER_E_INVALID;
        if (!type || strcmp(type, "default") == 0)
                return 0;
        if (strcmp(type, "llama3") == 0)
                return read_llama3(h, v, hp);
        if (strcmp(type, "yarn") == 0)
                return read_yarn(v, hp);
        if (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0)
                return read_long(h, v, hp);
        if (strcmp(type, "linear") != 0)
                return loader_fail(h->error, LOADER_E_UNSUPPORTED, "%s: '%srope_type' is '%s': this is not supported", v->file,
                                   v->where, loader_show(show, type, strlen(type)));
        hp->rope_scaling = IMAGE_ROPE_SCALING_LINEAR;
        if (json_get_float(v, "factor", &hp->rope_scale_factor) < 0)
                return LOADER_E_INVALID;
        return hp->rope_scale_factor > 0 ? 0 : json_invalid(v, "factor", "is missing or not positive");
}

/* Layers with a window may have a base of their own, and no scaling. */
static int read_window_base(const struct json_view *v, struct image_hparams *hp) {
        const char *type = NULL;

        if (json_get_float(v, "rope_theta", &hp->rope_base_window) < 0 || json_get_name(v, "rope_type", &type) < 0)
                return LOADER_E_INVALID;
        if (type && strcmp(type, "default") != 0)
                return json_unsupported(v, "rope_type", "is not \"default\": scaling under a window is not supported");
        hp->rope_window_plain = 1;
        return 0;
}

static int read_partial(const struct json_view *v, struct image_hparams *hp) {
        float partial = 0;
        int r = json_get_float(v, "partial_rotary_factor", &partial);

        if (r != JSON_FOUND)
                return r < 0 ? LOADER_E_INVALID : 0;
        if (!(partial > 0 && partial <= 1))
                return json_invalid(v, "partial_rotary_factor", "is out of range");
        hp->n_rot = (uint32_t)((float)hp->head_dim * partial);
        return 0;
}

int hf_read_rope(struct hf *h, const struct json_view *config, struct image_hparams *hp) {
        struct json_view v = *config;
        struct json_object *full = NULL, *window = NULL, *both = NULL;
        int r;

        hp->rope_base = 10000.0f;
        if (json_get_float(config, "rope_theta", &hp->rope_base) < 0 ||
            json_get_float(config, "rope_local_base_freq", &hp->rope_base_window) < 0 ||
            json_get_u32(config, "original_max_position_embeddings", 1, IMAGE_CONTEXT_MAX, &hp->rope_orig_ctx) < 0)
                return LOADER_E_INVALID;
        r = json_get_object(config, "rope_parameters", &both);
        v.where = "rope_parameters.";
        if (r == JSON_ABSENT) {
                r = json_get_object(config, "rope_scaling", &both);
                v.where = "rope_scaling.";
        }
        if (r != JSON_FOUND)
                return r < 0 ? LOADER_E_INVALID : 0;
        v.object = both;
        if (json_get_object(&v, "full_attention", &full) < 0 || json_get_object(&v, "sliding_attention", &window) < 0)
                return LOADER_E_INVALID;
        if (window) {
                struct json_view w = v;

                w.object = window;
                w.where = "rope_parameters.sliding_attention.";
                r = read_window_base(&w, hp);
                if (r)
                        return r;
        }
        if (full) {
                v.object = full;
                v.where = "rope_parameters.full_attention.";
        }
        r = read_partial(&v, hp);
        return r ? r : read_scaling(h, &v, hp);
}
