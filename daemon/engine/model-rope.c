/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Rotary embeddings of a model: an angle per position for each pair, in double until the last. Scaling: linear (Chen et
 * al. 2023) divides positions; llama 3 and LongRoPE (Ding et al. 2024) have a divisor per pair in the file, LongRoPE one
 * set for contexts up to the original length and one for longer ones; YaRN (Peng et al. 2023) divides slow pairs and
 * leaves fast ones, with a ramp between, and multiplies sines and cosines by a magnitude.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model-private.h"

#define BETA_FAST 32.0 /* of YaRN, where the model says nothing: turns within the original context */
#define BETA_SLOW 1.0
#define RAMP_MIN 0.001

struct yarn {
        double factor;
        double ext;       /* how much of the ramp counts: 1 */
        double low, high; /* pairs between which the ramp is */
};

static int alloc_pairs(uint32_t n_rot, float **ret) {
        *ret = calloc(n_rot / 2 + 1, sizeof(**ret));
        return *ret ? 0 : MODEL_E_NO_MEMORY;
}

int model_inv_freq(uint32_t n_rot, double base, double divisor, const float *factors, float **ret) {
        int r;

        r = alloc_pairs(n_rot, ret);
        for (uint32_t i = 0; r == 0 && i < n_rot / 2; i++)
                (*ret)[i] = (float)(pow(base, -2.0 * i / n_rot) / (factors ? (double)factors[i] : 1.0) / divisor);
        return r;
}

/* The pair that turns `turns` times within the original context. */
static double pair_of(const struct image_hparams *h, uint32_t n_rot, double turns, double base) {
        double n_ctx = h->rope_orig_ctx > 0 ? h->rope_orig_ctx : h->n_ctx;

        return n_rot * log(n_ctx / (turns * 2.0 * M_PI)) / (2.0 * log(base));
}

static struct yarn yarn_of(const struct image_hparams *h, uint32_t n_rot, double base) {
        struct yarn y = { .factor = (double)h->rope_scale_factor, .ext = h->yarn_ext_factor != 0 ? (double)h->yarn_ext_factor : 1.0 };

        y.low = pair_of(h, n_rot, h->yarn_beta_fast > 0 ? (double)h->yarn_beta_fast : BETA_FAST, base);
        y.high = pair_of(h, n_rot, h->yarn_beta_slow > 0 ? (double)h->yarn_beta_slow : BETA_SLOW, base);
        if (!h->yarn_exact) {
                y.low = floor(y.low);
                y.high = ceil(y.high);
        }
        y.low = fmax(y.low, 0.0);
        y.high = fmin(y.high, n_rot - 1.0);
        return y;
}

static int yarn_inv_freq(const struct yarn *y, uint32_t n_rot, double base, const float *factors, float **ret) {
        int r;

        r = alloc_pairs(n_rot, ret);
        for (uint32_t i = 0; r == 0 && i < n_rot / 2; i++) {
                double whole = pow(base, -2.0 * i / n_rot) / (factors ? (double)factors[i] : 1.0);
                double ramp = (i - y->low) / fmax(RAMP_MIN, y->high - y->low);
                double keep = (1.0 - fmin(1.0, fmax(0.0, ramp))) * y->ext;

                (*ret)[i] = (float)(whole / y->factor * (1.0 - keep) + whole * keep);
        }
        return r;
}

static double magnitude_of(double factor, double mul) {
        return factor <= 1.0 ? 1.0 : 0.1 * mul * log(factor) + 1.0;
}

static double yarn_magnitude(const struct image_hparams *h) {
        double factor = (double)h->rope_scale_factor;

        return magnitude_of(factor, 1.0) / (h->yarn_log_mul != 0 ? magnitude_of(factor, (double)h->yarn_log_mul) : 1.0);
}

static int read_factors(struct binder *b, const char *name, const float **ret) {
        const struct image_tensor *t = image_find(b->image, name);
        uint32_t n = b->m->shape.n_rot / 2;
        const float *factors;
        int r;

        *ret = NULL;
        if (!t)
                return 0;
        if (t->fmt != FMT_F32 || t->layout != WEIGHT_ROWS || t->dims[0] != n || t->dims[1] != 1)
                return model_refuse(b->error, MODEL_E_INVALID, "tensor %s is no vector of %u F32", name, n);
        r = model_await(b, t);
        if (r != 0)
                return r;
        factors = image_data(b->image, t);
        for (uint32_t i = 0; i < n; i++)
                if (!(factors[i] > 0) || !isfinite(factors[i]))
                        return model_refuse(b->error, MODEL_E_INVALID, "%s[%u] is not above 0", name, i);
        *ret = factors;
        return 0;
}

static int fill(struct binder *b, enum model_rope which, double base, bool scaled, const float *factors) {
        const struct image_hparams *h = b->image->hparams;
        struct lm *m = b->m;
        double divisor = scaled && h->rope_scaling != IMAGE_ROPE_SCALING_NONE && h->rope_scale_factor > 0 ?
                         (double)h->rope_scale_factor : 1.0;
        struct rope *rope = &m->ropes[which];
        int r;

        *rope = (struct rope){ .kind = m->shape.rope_kind, .n_rot = m->shape.n_rot, .magnitude = 1.0f,
                               .temp_scale = h->temp_scale, .temp_length = h->temp_length };
        if (scaled && h->rope_scaling == IMAGE_ROPE_SCALING_YARN) {
                const struct yarn y = yarn_of(h, m->shape.n_rot, base);

                rope->magnitude = h->yarn_attn_factor > 0 ? h->yarn_attn_factor : (float)yarn_magnitude(h);
                r = yarn_inv_freq(&y, m->shape.n_rot, base, factors, &m->inv_freq[which]);
        } else {
                r = model_inv_freq(m->shape.n_rot, base, divisor, factors, &m->inv_freq[which]);
        }
        if (scaled && h->rope_attn_factor > 0)
                rope->magnitude *= h->rope_attn_factor;
        rope->inv_freq = m->inv_freq[which];
        return r;
}

/* LongRoPE's factors for long contexts; those for short ones are the usual ones. */
static int fill_long(struct binder *b, const float *factors) {
        const struct image_hparams *h = b->image->hparams;
        struct lm *m = b->m;
        double divisor = h->rope_scaling != IMAGE_ROPE_SCALING_NONE && h->rope_scale_factor > 0 ?
                         (double)h->rope_scale_factor : 1.0;

        m->long_from = h->rope_orig_ctx > 0 ? h->rope_orig_ctx : h->n_ctx;
        return model_inv_freq(m->shape.n_rot, (double)m->shape.rope_base, divisor, factors, &m->inv_freq_long);
}

int model_bind_rope(struct binder *b) {
        const struct image_hparams *h = b->image->hparams;
        const float *factors = NULL, *longer = NULL, *shorter = NULL;
        double base = (double)b->m->shape.rope_base, base_window = h->rope_base_window > 0 ? (double)h->rope_base_window : base;
        int r;

        r = read_factors(b, "rope_freqs.weight", &factors);
        r = r ? r : read_factors(b, "rope_factors_long.weight", &longer);
        r = r ? r : read_factors(b, "rope_factors_short.weight", &shorter);
        if (r != 0)
                return r;
        if (!longer != !shorter || (factors && longer))
                return model_refuse(b->error, MODEL_E_INVALID, "RoPE factors for long contexts and short ones go together, and not with rope_freqs");
        b->m->ropes[MODEL_ROPE_NONE] = (struct rope){ .kind = ROPE_NONE, .magnitude = 1.0f, .temp_scale = h->temp_scale,
                                                      .temp_length = h->temp_length };
        r = fill(b, MODEL_ROPE_FULL, base, true, factors ? factors : shorter);
        if (r == 0)
                r = fill(b, MODEL_ROPE_WINDOW, base_window, !h->rope_window_plain, factors ? factors : shorter);
        if (r == 0 && longer)
                r = fill_long(b, longer);
        return r == 0 ? 0 : model_refuse(b->error, r, "no memory for rotary frequencies");
}

bool model_is_long(const struct lm *m) {
        return m->inv_freq_long && m->ropes[MODEL_ROPE_FULL].inv_freq == m->inv_freq_long;
}

void model_set_context(struct lm *m, uint32_t n_ctx) {
        bool longer = m->inv_freq_long && n_ctx > m->long_from;

        for (unsigned i = MODEL_ROPE_FULL; i < MODEL_ROPES; i++)
                m->ropes[i].inv_freq = longer ? m->inv_freq_long : m->inv_freq[i];
}
