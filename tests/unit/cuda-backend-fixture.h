/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Small models of random weights, on the CUDA backend (its kernels emulated on the host) and on the CPU backend, the engine's
 * forward pass over them, and steps of one sequence cut as a test likes.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/engine/forward.h"
#include "kernels/cuda/cuda.h"
#include "kernels/lossless.h"
#include "tests/cuda-host/emu.h"

#define SUBJECT_TOKENS 112u
#define SUBJECT_PAGE 16u
#define SUBJECT_PAGES 32u
#define SUBJECT_VOCAB 80u
#define SUBJECT_SEED 20u

/* What of a model differs from a plain one. */
struct traits {
        const char *name;
        enum fmt fmt;
        enum kv_format kv;
        bool experts, shared, window, fused, post_norms, head_norms, width_norms, softcap, no_input_norm, fp8;
        bool whole; /* all widths are multiples of 64 */
        double limit; /* of the difference from the CPU backend */
};

struct subject {
        struct backend *be;
        struct lm *m;
        struct kv_cache *kv;
        struct forward *f;
        uint64_t random;
        float *vectors[16]; /* that lm does not know to be its own */
        unsigned n_vectors;
        void *matrices[24];
        unsigned n_matrices;
};

/* Opened, but without filling weights itself, so that they are those of other backends. NULL: *error may say why. */
static inline struct backend *open_cuda(const char *placement, unsigned hang_ms, struct backend_error *error) {
        const struct backend_config config = { .placement = placement, .hang_ms = hang_ms, .error = error };
        static struct backend_ops without_fill;
        const struct backend_ops *ops;
        const char *why = NULL;
        struct backend *be = NULL;

        ops = spark_backend_cuda(BACKEND_ABI, &why);
        if (!ops || ops->open(&config, &be) != 0)
                return NULL;
        without_fill = *ops;
        without_fill.fill = NULL;
        be->ops = &without_fill;
        return be;
}

static inline struct backend *open_cpu(void) {
        const struct backend_config config = { .threads = 1, .isa = "auto" };
        struct backend *be = NULL;

        assert_int_equal(backend_cpu.open(&config, &be), 0);
        return be;
}

/* Uniform, within -1 and 1. */
static inline float next_random(uint64_t *state) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        return (float)(int32_t)(*state >> 32) / 2147483648.0f;
}

static inline float *make_vector(struct subject *s, uint32_t n, float middle, float width) {
        float *host = calloc(n, sizeof(*host));
        void *dev = NULL;

        assert_non_null(host);
        for (uint32_t i = 0; i < n; i++)
                host[i] = middle + width * next_random(&s->random);
        assert_int_equal(s->be->ops->alloc(s->be, n * sizeof(*host), &dev), 0);
        assert_int_equal(s->be->ops->upload(s->be, dev, host, n * sizeof(*host)), 0);
        free(host);
        return dev;
}

/* Rows of BF16 losslessly coded; sets w->tail. To be freed. */
static inline void *code_matrix(const uint16_t *rows, struct weight *w) {
        size_t columns = w->n_in / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES, stride = w->n_in * sizeof(*rows);
        uint64_t escapes = 0, at = 0;
        struct lossless_parts parts;
        void *data = NULL;

        assert_true(lossless_layout(1, w->n_out, w->n_in, &parts));
        for (uint32_t r = 0; r < w->n_out; r += WEIGHT_PANEL)
                escapes += lossless_measure(rows + (size_t)r * w->n_in, stride, MIN(w->n_out - r, WEIGHT_PANEL), w->n_in);
        assert_int_equal(posix_memalign(&data, 64, parts.least + escapes), 0);
        for (uint32_t p = 0; p < parts.panels; p++)
                at += lossless_encode(rows + (size_t)p * WEIGHT_PANEL * w->n_in, stride,
                                      MIN(w->n_out - p * WEIGHT_PANEL, WEIGHT_PANEL), w->n_in, at, (uint8_t *)data + p * columns,
                                      (uint8_t *)data + parts.index + p * parts.units * sizeof(uint64_t),
                                      (uint8_t *)data + parts.escapes);
        memset((uint8_t *)data + parts.escapes + at, 0xff, LOSSLESS_SLACK);
        w->tail = parts.least + escapes - parts.index;
        return data;
}

/* A matrix of random values; one that is bound. */
static inline struct weight make_matrix(struct subject *s, const struct fmt_info *info, uint32_t n_out, uint32_t n_in) {
        struct weight w = { .info = info, .layout = WEIGHT_PANELS, .n_out = n_out, .n_in = n_in };
        const struct fmt_info *file = fmt_is_coded(info) ? fmt_info(FMT_BF16) : info;
        uint64_t rows = fmt_row_bytes(file, (uint64_t)n_out * n_in), bytes;
        float *x = calloc((size_t)n_out * n_in, sizeof(*x));
        void *coded = malloc(rows), *data = NULL;

        assert_true(x && coded && s->n_matrices < ARRAY_SIZE(s->matrices));
        assert_true(weight_bytes(info, WEIGHT_PANELS, n_out, n_in, &bytes));
        for (size_t i = 0; i < (size_t)n_out * n_in; i++)
                x[i] = 0.2f * next_random(&s->random);
        assert_true(fmt_encode(file, x, (size_t)n_out * n_in, coded));
        if (fmt_is_coded(info)) {
                data = code_matrix(coded, &w);
        } else {
                assert_int_equal(posix_memalign(&data, 64, bytes), 0);
                weight_pack(info, n_out, n_in, 0, n_out, coded, data);
        }
        free(x);
        free(coded);
        s->matrices[s->n_matrices++] = data;
        w.data = data;
        assert_int_equal(s->be->ops->bind(s->be, &w), 0);
        return w;
}

static inline struct model_shape shape_of(const struct traits *t) {
        struct model_shape s = { .n_vocab = SUBJECT_VOCAB, .n_ctx = 4096, .n_embd = 64, .n_layer = 2, .n_ff = 96, .n_head = 4,
                                 .n_head_kv = 2, .head_dim = 32, .n_rot = 32, .rope_kind = ROPE_NEOX, .norm_eps = 1e-5f,
                                 .rope_base = 10000, .attn_scale = 0.1767767f };

        if (t->fmt == FMT_Q4_K || t->fmt == FMT_Q6_K) {
                s.n_embd = 256;
                s.n_ff = 256;
                s.n_head = 8;
        }
        if (t->whole)
                s.n_ff = 128;
        if (t->experts) {
                s.n_expert = 6;
                s.n_expert_used = 2;
                s.n_ff_expert = 64;
                s.gating = GATING_SOFTMAX;
                s.expert_norm = true;
        }
        if (t->window)
                s.window = 20;
        if (t->softcap) {
                s.logit_softcap = 20;
                s.attn_softcap = 15;
        }
        return s;
}

static inline void add_norms(struct subject *s, const struct traits *t, struct model_layer *l) {
        const struct model_shape *h = &s->m->shape;
        bool width = t->width_norms;

        if (t->head_norms || width) {
                l->q_norm = make_vector(s, width ? h->n_head * h->head_dim : h->head_dim, 1, 0.2f);
                l->k_norm = make_vector(s, width ? h->n_head_kv * h->head_dim : h->head_dim, 1, 0.2f);
        }
        if (t->post_norms) {
                l->attn_post_norm = make_vector(s, h->n_embd, 1, 0.2f);
                l->ffn_post_norm = make_vector(s, h->n_embd, 1, 0.2f);
        }
        if (t->no_input_norm) {
                s->be->ops->release(s->be, l->attn_norm);
                s->be->ops->release(s->be, l->ffn_norm);
                l->attn_norm = l->ffn_norm = NULL;
        }
}

static inline void add_matrices(struct subject *s, const struct traits *t, struct model_layer *l) {
        const struct fmt_info *info = fmt_info(t->fmt);
        struct model_shape *h = &s->m->shape;

        if (t->fused) {
                l->qkv.w = make_matrix(s, info, (h->n_head + 2 * h->n_head_kv) * h->head_dim, h->n_embd);
                l->qkv.bias = make_vector(s, l->qkv.w.n_out, 0, 0.1f);
                h->fused_qkv = true;
        }
        if (t->fused && !t->experts) {
                l->ffn.up.w = make_matrix(s, info, 2 * h->n_ff, h->n_embd);
                l->ffn.gate.w = (struct weight){ 0 };
                h->fused_gate_up = true;
        }
        if (t->shared) {
                h->n_ff_shared = t->whole ? 64 : 32;
                l->ffn.gate.w = make_matrix(s, info, h->n_ff_shared, h->n_embd);
                l->ffn.up.w = make_matrix(s, info, h->n_ff_shared, h->n_embd);
                l->ffn.down.w = make_matrix(s, info, h->n_embd, h->n_ff_shared);
        }
}

/* A model with these traits on a backend, which it owns from now on. 0, or what the first failing call returned. */
static inline int subject_try(struct subject *s, const struct traits *t, struct backend *be, uint32_t max_rows) {
        const struct model_shape shape = shape_of(t);
        const struct kv_config kv = { .n_layers = shape.n_layer, .n_kv_heads = shape.n_head_kv, .head_dim = shape.head_dim,
                                      .n_pages = SUBJECT_PAGES, .page_tokens = SUBJECT_PAGE, .format = t->kv };
        struct model_error error = { .text = "" };
        int r;

        *s = (struct subject){ .be = be, .random = SUBJECT_SEED };
        r = model_new_synthetic(&s->m, be, &shape, fmt_info(t->fmt), SUBJECT_SEED, &error);
        for (uint32_t i = 0; r == 0 && i < shape.n_layer; i++) {
                add_norms(s, t, s->m->layers + i);
                add_matrices(s, t, s->m->layers + i);
        }
        if (r == 0) {
                s->m->shape.post_norms = t->post_norms;
                s->m->shape.qk_norm_width = t->width_norms;
        }
        r = r ? r : be->ops->kv_new(be, &kv, &s->kv);
        return r ? r : forward_new(&s->f, s->m, s->kv, max_rows, max_rows);
}

static inline void subject_make(struct subject *s, const struct traits *t, struct backend *be, uint32_t max_rows) {
        assert_non_null(be);
        assert_int_equal(subject_try(s, t, be, max_rows), 0);
}

static inline void subject_free(struct subject *s) {
        forward_free(s->f);
        if (s->kv)
                s->be->ops->kv_free(s->be, s->kv);
        model_free(s->m);
        for (unsigned i = 0; i < s->n_matrices; i++)
                free(s->matrices[i]);
        s->be->ops->close(s->be);
}

/* Rows of a sequence: n of them from position `first` on, its pages from `page` on. */
struct part {
        uint32_t first, n, page;
};

static inline int32_t token_at(uint32_t page, uint32_t pos) {
        return (int32_t)((pos * 37 + page * 11) % SUBJECT_VOCAB);
}

/* A step of several sequences; logits of all rows to out [rows][vocab]. */
static inline int subject_parts(struct subject *s, const struct part *parts, uint32_t n_parts, const struct forward_top *top,
                                float *out) {
        int32_t token[SUBJECT_TOKENS];
        uint32_t pos[SUBJECT_TOKENS], seq[SUBJECT_TOKENS], rows[SUBJECT_TOKENS], pages[8][SUBJECT_PAGES];
        const uint32_t *tables[8];
        struct batch b = { .token = token, .pos = pos, .seq = seq, .n_seqs = n_parts, .page_table = tables };
        int r;

        assert_true(n_parts <= ARRAY_SIZE(pages));
        for (uint32_t p = 0; p < n_parts; p++) {
                for (uint32_t i = 0; i < parts[p].n; i++, b.n_rows++) {
                        assert_true(b.n_rows < SUBJECT_TOKENS);
                        token[b.n_rows] = token_at(parts[p].page, parts[p].first + i);
                        pos[b.n_rows] = parts[p].first + i;
                        seq[b.n_rows] = p;
                        rows[b.n_rows] = b.n_rows;
                }
                for (uint32_t i = 0; i < SUBJECT_PAGES; i++)
                        pages[p][i] = (parts[p].page + i) % SUBJECT_PAGES;
                tables[p] = pages[p];
        }
        r = forward_run(s->f, &b, rows, b.n_rows, top);
        return r ? r : forward_logits(s->f, 0, b.n_rows, out);
}

static inline int subject_step(struct subject *s, uint32_t first, uint32_t n, uint32_t page, float *out) {
        const struct part part = { first, n, page };

        return subject_parts(s, &part, 1, NULL, out);
}

/* Squared error by squared values. */
static inline double distance(const float *x, const float *reference, size_t n) {
        double error = 0, norm = 0;

        for (size_t i = 0; i < n; i++) {
                error += ((double)x[i] - (double)reference[i]) * ((double)x[i] - (double)reference[i]);
                norm += (double)reference[i] * (double)reference[i];
        }
        return norm > 0 ? error / norm : error;
}
