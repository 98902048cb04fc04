/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Models of random weights, for measuring and for tests without a file. Every weight of a matrix is drawn as long as
 * that is quick; of large matrices only the first panels are, and the others repeat them, which takes as long to
 * compute with. A backend with memory of its own draws them there.
 *
 * Weights are spread evenly, but for BF16, plain and coded: those are about normally distributed, because it is their exponents
 * that a code is about. Both have the same weights for the same seed, and coded panels that repeat have escapes of their own, so that
 * computing reads as much as it does with a trained model.
 */

#include <endian.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "kernels/lossless.h"
#include "model-private.h"

#define DRAWN_MAX (1u << 20) /* weights of a matrix that are drawn */
#define ALIGN 4096u

struct maker {
        struct lm *m;
        const struct fmt_info *info;
        uint64_t random; /* state */
        uint8_t *next;   /* in m->synthetic; NULL: the backend fills */
};

/* SplitMix64 (Steele, Lea and Flood 2014) */
static uint64_t draw_bits(uint64_t *state) {
        uint64_t z = *state += 0x9E3779B97F4A7C15u;

        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        return z ^ z >> 31;
}

/* To about [-1.7, 1.7): variance 1. */
static float draw(uint64_t *state) {
        return ((float)(draw_bits(state) >> 40) * 0x1p-23f - 1.0f) * 1.7320508f;
}

/* About normally distributed: the sum of four even ones. Variance 1. */
static float draw_normal(uint64_t *state) {
        uint64_t z = draw_bits(state);
        uint32_t sum = (uint32_t)(z & 0xffff) + (uint32_t)(z >> 16 & 0xffff) + (uint32_t)(z >> 32 & 0xffff) + (uint32_t)(z >> 48);

        return ((float)sum * 0x1p-16f - 2.0f) * 1.7320508f;
}

/* Coded ones at most, for the weights that are drawn: a bit of each for escapes. */
static bool coded_bytes(uint64_t n_out, uint64_t n_in, uint32_t n_experts, uint64_t *ret) {
        struct lossless_parts parts;
        uint64_t n;

        return lossless_layout(MAX(n_experts, 1u), n_out, n_in, &parts) && checked_add(parts.least, parts.index / 8, &n) &&
               checked_align(n, ALIGN, ret);
}

/* Matrices of all experts, one after another; no experts: one. */
static bool matrices_bytes(const struct fmt_info *info, uint64_t n_out, uint64_t n_in, uint32_t n_experts, uint64_t *ret) {
        uint64_t n;

        if (fmt_is_coded(info))
                return coded_bytes(n_out, n_in, n_experts, ret);
        return weight_bytes(info, WEIGHT_PANELS, n_out, n_in, &n) && checked_mul(n, MAX(n_experts, 1u), &n) &&
               checked_align(n, ALIGN, ret);
}

static bool add_matrix(const struct fmt_info *info, uint64_t n_out, uint64_t n_in, uint32_t n_experts, uint64_t times,
                       uint64_t *sum) {
        uint64_t n;

        return matrices_bytes(info, n_out, n_in, n_experts, &n) && checked_mul_add(n, times, *sum, sum);
}

uint64_t model_synthetic_bytes(const struct model_shape *s, const struct fmt_info *info) {
        uint64_t n_q = (uint64_t)s->n_head * s->head_dim, n_kv = (uint64_t)s->n_head_kv * s->head_dim, sum = 0;
        uint64_t ff = s->n_expert > 0 ? s->n_ff_expert : s->n_ff;

        if (add_matrix(info, n_q, s->n_embd, 0, s->n_layer, &sum) &&
            add_matrix(info, n_kv, s->n_embd, 0, 2ull * s->n_layer, &sum) &&
            add_matrix(info, s->n_embd, n_q, 0, s->n_layer, &sum) &&
            add_matrix(info, ff, s->n_embd, s->n_expert, 2ull * s->n_layer, &sum) &&
            add_matrix(info, s->n_embd, ff, s->n_expert, s->n_layer, &sum) &&
            (s->n_expert == 0 || add_matrix(info, s->n_expert, s->n_embd, 0, s->n_layer, &sum)) &&
            add_matrix(info, s->n_vocab, s->n_embd, 0, 2, &sum))
                return sum;
        return 0;
}

/* How many of the panels are drawn. */
static uint64_t n_drawn(const struct weight *w, uint64_t panels) {
        return MIN(panels, 1 + DRAWN_MAX / WEIGHT_PANEL / (w->n_in + 1ull));
}

/* WEIGHT_PANEL rows in file order. */
static int draw_rows(struct maker *k, const struct fmt_info *info, uint32_t n_in, float *row, uint8_t *rows) {
        bool normal = info->fmt == FMT_BF16;
        float scale = 1 / sqrtf((float)n_in);

        for (unsigned r = 0; r < WEIGHT_PANEL; r++) {
                for (uint32_t i = 0; i < n_in; i++)
                        row[i] = (normal ? draw_normal(&k->random) : draw(&k->random)) * scale;
                if (!fmt_encode(info, row, n_in, rows + r * fmt_row_bytes(info, n_in)))
                        return MODEL_E_UNSUPPORTED;
        }
        return 0;
}

static int fill_panels(struct maker *k, const struct weight *w, void *data) {
        uint64_t panel_bytes = fmt_row_bytes(k->info, w->n_in) * WEIGHT_PANEL;
        uint64_t panels = ((uint64_t)w->n_out + WEIGHT_PANEL - 1) / WEIGHT_PANEL * MAX(w->n_experts, 1u), drawn = n_drawn(w, panels);
        _cleanup_free_ float *row = calloc(w->n_in, sizeof(*row));
        _cleanup_free_ uint8_t *rows = malloc(panel_bytes);

        if (!row || !rows)
                return MODEL_E_NO_MEMORY;
        for (uint64_t p = 0; p < drawn; p++) {
                int r = draw_rows(k, k->info, w->n_in, row, rows);

                if (r != 0)
                        return r;
                weight_pack(k->info, WEIGHT_PANEL, w->n_in, 0, WEIGHT_PANEL, rows, (uint8_t *)data + p * panel_bytes);
        }
        for (uint64_t p = drawn; drawn > 0 && p < panels; p++)
                memcpy((uint8_t *)data + p * panel_bytes, (uint8_t *)data + (p % drawn) * panel_bytes, panel_bytes);
        return 0;
}

/* Where the parts of a coded tensor are that is being made. */
struct coded {
        uint8_t *data;
        struct lossless_parts parts;
        uint64_t panel_bytes; /* of columns */
        uint64_t at;          /* bytes of escapes so far */
        uint64_t room;        /* for them */
};

static uint8_t *index_of(const struct coded *c, uint64_t panel) {
        return c->data + c->parts.index + panel * c->parts.units * sizeof(uint64_t);
}

/* Panels [0, n) again, as panels [to, to + n): their `bytes` of escapes follow those that there are. */
static int repeat_coded(struct coded *c, uint64_t to, uint64_t n, uint64_t bytes) {
        uint8_t *escapes = c->data + c->parts.escapes;

        if (bytes > c->room - c->at)
                return MODEL_E_UNSUPPORTED;
        memcpy(c->data + to * c->panel_bytes, c->data, n * c->panel_bytes);
        memcpy(escapes + c->at, escapes, bytes);
        for (uint64_t i = 0; i < n * c->parts.units; i++) {
                uint64_t entry;

                memcpy(&entry, index_of(c, 0) + i * sizeof(entry), sizeof(entry));
                entry = htole64(le64toh(entry) + c->at);
                memcpy(index_of(c, to) + i * sizeof(entry), &entry, sizeof(entry));
        }
        c->at += bytes;
        return 0;
}

/* Coded BF16, within `bytes`; says how many of these it takes. */
static int fill_coded(struct maker *k, struct weight *w, uint8_t *data, uint64_t bytes, uint64_t *ret) {
        struct coded c = { .data = data, .panel_bytes = w->n_in / LOSSLESS_COLUMN * (uint64_t)LOSSLESS_COLUMN_BYTES };
        bool possible = lossless_layout(MAX(w->n_experts, 1u), w->n_out, w->n_in, &c.parts);
        _cleanup_free_ float *row = calloc(w->n_in, sizeof(*row));
        _cleanup_free_ uint8_t *rows = malloc(2ull * WEIGHT_PANEL * w->n_in);
        uint64_t panels, drawn, once;
        int r = 0;

        if (!row || !rows || !possible)
                return possible ? MODEL_E_NO_MEMORY : MODEL_E_UNSUPPORTED;
        c.room = bytes - c.parts.least;
        panels = (uint64_t)c.parts.panels * MAX(w->n_experts, 1u);
        drawn = n_drawn(w, panels);
        for (uint64_t p = 0; r == 0 && p < drawn; p++) {
                r = draw_rows(k, fmt_info(FMT_BF16), w->n_in, row, rows);
                if (r == 0 && lossless_measure(rows, 2ull * w->n_in, WEIGHT_PANEL, w->n_in) > c.room - c.at)
                        r = MODEL_E_UNSUPPORTED;
                if (r == 0)
                        c.at += lossless_encode(rows, 2ull * w->n_in, WEIGHT_PANEL, w->n_in, c.at, data + p * c.panel_bytes,
                                                index_of(&c, p), data + c.parts.escapes);
        }
        once = c.at;
        for (uint64_t p = drawn; r == 0 && drawn > 0 && p < panels; p += drawn)
                r = repeat_coded(&c, p, MIN(drawn, panels - p), once);
        *ret = c.parts.least + c.at;
        w->tail = *ret - c.parts.index;
        return r;
}

static int from_backend(int r) {
        return r <= 0 ? r : r == BACKEND_E_NO_MEMORY ? MODEL_E_NO_MEMORY : MODEL_E_UNSUPPORTED;
}

/* What a weight takes that the backend has filled: a coded one tells it. */
static int taken_bytes(const struct weight *w, uint64_t *ret) {
        struct lossless_parts parts;

        if (!fmt_is_coded(w->info))
                return 0;
        if (!lossless_layout(MAX(w->n_experts, 1u), w->n_out, w->n_in, &parts))
                return MODEL_E_UNSUPPORTED;
        *ret = parts.index + w->tail;
        return 0;
}

/* On the host, and bound; or in the backend's own memory. *bytes: the room for it, then what it takes. */
static int fill_matrices(struct maker *k, struct weight *w, uint64_t *bytes) {
        const struct backend_ops *ops = k->m->backend->ops;
        uint64_t room = *bytes;
        int r;

        if (!k->next) {
                r = ops->fill(k->m->backend, w, 1 / sqrtf((float)w->n_in), k->random++);
                return r ? from_backend(r) : taken_bytes(w, bytes);
        }
        w->data = k->next;
        r = fmt_is_coded(k->info) ? fill_coded(k, w, k->next, room, bytes) : fill_panels(k, w, k->next);
        k->next += room;
        return r ? r : from_backend(ops->bind(k->m->backend, w));
}

/* share: how much of it a decoded token reads. */
static int make_matrices(struct maker *k, uint32_t n_out, uint32_t n_in, uint32_t n_experts, double share,
                         struct weight *ret) {
        struct weight w = {
                .info = k->info, .layout = WEIGHT_PANELS, .n_out = n_out, .n_in = n_in, .n_experts = n_experts,
        };
        uint64_t bytes;
        int r;

        if (n_out == 0 || n_in == 0 || !matrices_bytes(k->info, n_out, n_in, n_experts, &bytes))
                return MODEL_E_UNSUPPORTED;
        r = fill_matrices(k, &w, &bytes);
        if (r != 0)
                return r;
        k->m->n_params += (uint64_t)n_out * n_in * MAX(n_experts, 1u);
        k->m->weight_bytes += (uint64_t)((double)bytes * share);
        *ret = w;
        return 0;
}

static int make_matrix(struct maker *k, uint32_t n_out, uint32_t n_in, bool reads, struct weight *ret) {
        return make_matrices(k, n_out, n_in, 0, reads, ret);
}

static int make_vector(struct maker *k, uint32_t n, float **ret) {
        struct backend *be = k->m->backend;
        _cleanup_free_ float *host = calloc(n, sizeof(*host));
        void *dev = NULL;
        int r;

        if (!host)
                return MODEL_E_NO_MEMORY;
        for (uint32_t i = 0; i < n; i++)
                host[i] = 1 + 0.1f * draw(&k->random);
        r = be->ops->alloc(be, n * sizeof(*host), &dev);
        if (r != 0)
                return r < 0 ? r : MODEL_E_NO_MEMORY;
        *ret = dev;
        k->m->dev_bytes += n * sizeof(*host);
        return be->ops->upload(be, dev, host, n * sizeof(*host));
}

static int make_experts(struct maker *k, struct model_layer *l) {
        const struct model_shape *s = &k->m->shape;
        double share = (double)s->n_expert_used / s->n_expert;
        int r;

        r = make_matrix(k, s->n_expert, s->n_embd, true, &l->router.w);
        r = r ? r : make_matrices(k, s->n_ff_expert, s->n_embd, s->n_expert, share, &l->experts.gate.w);
        r = r ? r : make_matrices(k, s->n_ff_expert, s->n_embd, s->n_expert, share, &l->experts.up.w);
        return r ? r : make_matrices(k, s->n_embd, s->n_ff_expert, s->n_expert, share, &l->experts.down.w);
}

static int make_dense(struct maker *k, struct model_layer *l) {
        const struct model_shape *s = &k->m->shape;
        int r;

        r = make_matrix(k, s->n_ff, s->n_embd, true, &l->ffn.gate.w);
        r = r ? r : make_matrix(k, s->n_ff, s->n_embd, true, &l->ffn.up.w);
        return r ? r : make_matrix(k, s->n_embd, s->n_ff, true, &l->ffn.down.w);
}

/* Every other layer has the window, where the shape has one; sinks go with it. */
static int make_layer(struct maker *k, uint32_t layer) {
        const struct model_shape *s = &k->m->shape;
        struct model_layer *l = &k->m->layers[layer];
        uint32_t n_q = s->n_head * s->head_dim, n_kv = s->n_head_kv * s->head_dim;
        int r;

        l->rope = MODEL_ROPE_FULL;
        l->window = layer % 2 == 0 ? s->window : 0;
        r = s->window > 0 ? make_vector(k, s->n_head, &l->sinks) : 0;
        r = r ? r : make_vector(k, s->n_embd, &l->attn_norm);
        r = r ? r : make_vector(k, s->n_embd, &l->ffn_norm);
        r = r ? r : make_matrix(k, n_q, s->n_embd, true, &l->q.w);
        r = r ? r : make_matrix(k, n_kv, s->n_embd, true, &l->k.w);
        r = r ? r : make_matrix(k, n_kv, s->n_embd, true, &l->v.w);
        r = r ? r : make_matrix(k, s->n_embd, n_q, true, &l->o.w);
        if (r != 0)
                return r;
        return s->n_expert > 0 ? make_experts(k, l) : make_dense(k, l);
}

static int make_all(struct maker *k) {
        struct lm *m = k->m;
        int r;

        m->layers = calloc(m->shape.n_layer, sizeof(*m->layers));
        if (!m->layers)
                return MODEL_E_NO_MEMORY;
        r = model_inv_freq(m->shape.n_rot, (double)m->shape.rope_base, 1, NULL, &m->inv_freq[MODEL_ROPE_FULL]);
        if (r != 0)
                return r;
        m->ropes[MODEL_ROPE_FULL] = (struct rope){ .kind = m->shape.rope_kind, .n_rot = m->shape.n_rot, .magnitude = 1,
                                                   .inv_freq = m->inv_freq[MODEL_ROPE_FULL] };
        r = make_matrix(k, m->shape.n_vocab, m->shape.n_embd, false, &m->embedding);
        for (uint32_t i = 0; r == 0 && i < m->shape.n_layer; i++)
                r = make_layer(k, i);
        r = r ? r : make_vector(k, m->shape.n_embd, &m->output_norm);
        return r ? r : make_matrix(k, m->shape.n_vocab, m->shape.n_embd, true, &m->output);
}

static int map_weights(struct lm *m, uint64_t bytes) {
        m->synthetic = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (m->synthetic == MAP_FAILED) {
                m->synthetic = NULL;
                return MODEL_E_NO_MEMORY;
        }
        m->synthetic_size = bytes;
        (void)madvise(m->synthetic, bytes, MADV_HUGEPAGE);
        return 0;
}

int model_new_synthetic(struct lm **ret, struct backend *be, const struct model_shape *shape,
                        const struct fmt_info *info, uint64_t seed, struct model_error *error) {
        _cleanup_(model_freep) struct lm *m = calloc(1, sizeof(*m));
        uint64_t bytes = model_synthetic_bytes(shape, info);
        struct maker k = { .m = m, .info = info, .random = seed };
        int r;

        (void)snprintf(error->text, sizeof(error->text), "no memory for %llu bytes of weights",
                       (unsigned long long)bytes);
        if (!m)
                return MODEL_E_NO_MEMORY;
        m->backend = be;
        m->shape = *shape;
        model_shape_defaults(&m->shape);
        m->format = info->name;
        (void)snprintf(m->architecture, sizeof(m->architecture), "llama");
        if (bytes == 0) {
                (void)snprintf(error->text, sizeof(error->text), "format %s does not fit this shape", info->name);
                return MODEL_E_UNSUPPORTED;
        }
        r = be->ops->fill ? 0 : map_weights(m, bytes);
        k.next = m->synthetic;
        r = r ? r : make_all(&k);
        r = r ? r : model_settle(m);
        if (r == MODEL_E_UNSUPPORTED)
                (void)snprintf(error->text, sizeof(error->text), "no synthetic weights in format %s", info->name);
        if (r != 0)
                return r;
        *ret = steal_ptr(&m);
        return 0;
}
