/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A sequence of made-up Q, K and V that goes through rotary embedding, the paged KV cache and attention, and the same
 * in double precision. check_setup() holds one against the other, and everything that may not matter against plain C
 * in one step.
 */

#include <math.h>

#include "kernels-fixture.h"
#include "kernels/half.h"

/* A model's worth of shapes, and the inputs of one sequence. */
struct setup {
        struct kv_config kv;
        struct rope rope;
        struct attention a;
        uint32_t n_tokens;
        float *inv_freq, *q, *k, *v; /* [n_tokens][...] before rotation */
        float *rotated;              /* K as the backend rotated it last */
};

static inline void setup_make(struct setup *s, uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim,
                              uint32_t page_tokens, enum kv_format format, enum rope_kind kind, uint32_t n_tokens) {
        size_t nk = (size_t)n_tokens * n_kv_heads * head_dim;

        memset(s, 0, sizeof(*s));
        s->n_tokens = n_tokens;
        s->kv = (struct kv_config){ .n_layers = 2, .n_kv_heads = n_kv_heads, .head_dim = head_dim,
                                    .n_pages = 2 * (n_tokens / page_tokens + 2), .page_tokens = page_tokens,
                                    .format = format };
        s->inv_freq = floats(head_dim, 0.0f);
        for (uint32_t i = 0; i < head_dim; i++)
                s->inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)head_dim);
        s->rope = (struct rope){ .kind = kind, .n_rot = head_dim / 2 * 2, .inv_freq = s->inv_freq, .magnitude = 1.0f };
        s->a = (struct attention){ .n_heads = n_heads, .layer = 1, .scale = 1.0f / sqrtf((float)head_dim) };
        s->q = floats((size_t)n_tokens * n_heads * head_dim, 1.5f);
        s->k = floats(nk, 1.5f);
        s->v = floats(nk, 1.5f);
        s->rotated = floats(nk, 0.0f);
}

static inline void setup_free(struct setup *s) {
        free(s->inv_freq);
        free(s->q);
        free(s->k);
        free(s->v);
        free(s->rotated);
}

/* One step: positions [first, first + n) of the sequence; with `company`, of a second one (same inputs) as well. */
static inline void setup_step(struct backend *be, const struct setup *s, struct kv_cache *kv,
                              const uint32_t *const *tables, uint32_t first, uint32_t n, bool company, float *out) {
        uint32_t seqs = company ? 2 : 1, rows = n * seqs;
        size_t nq = (size_t)s->a.n_heads * s->kv.head_dim, nk = (size_t)s->kv.n_kv_heads * s->kv.head_dim;
        uint32_t *pos = malloc(rows * 4), *seq = malloc(rows * 4);
        float *q = malloc(rows * nq * 4), *k = malloc(rows * nk * 4), *v = malloc(rows * nk * 4);
        float *all = malloc(rows * nq * 4);
        struct batch batch = { .n_rows = rows, .pos = pos, .seq = seq, .n_seqs = 2, .page_table = tables };

        assert_true(pos && seq && q && k && v && all);
        for (uint32_t r = 0; r < rows; r++) {
                pos[r] = first + r % n;
                seq[r] = company && r < n ? 1 : 0; /* the other one stands first */
                memcpy(q + r * nq, s->q + pos[r] * nq, nq * 4);
                memcpy(k + r * nk, s->k + pos[r] * nk, nk * 4);
                memcpy(v + r * nk, s->v + pos[r] * nk, nk * 4);
        }
        assert_int_equal(backend_cpu.begin(be, &batch, kv), 0);
        assert_int_equal(backend_cpu.rope_kv(be, &s->rope, kv, s->a.layer, &batch, s->a.n_heads, q, k, v), 0);
        assert_int_equal(backend_cpu.attention(be, &s->a, kv, &batch, q, all), 0);
        assert_int_equal(backend_cpu.end(be), 0);
        memcpy(out, all + (size_t)(rows - n) * nq, n * nq * 4);
        memcpy(s->rotated + first * nk, k + (size_t)(rows - n) * nk, n * nk * 4);
        free(pos);
        free(seq);
        free(q);
        free(k);
        free(v);
        free(all);
}

/* The whole sequence in steps of `chunk` rows; pages in an order that depends on `shuffle`. NULL where the machine
 * doesn't have the family. */
static inline float *setup_run(const char *isa, unsigned threads, const struct setup *s, uint32_t chunk,
                               unsigned shuffle, bool company) {
        struct backend *be = open_family(isa, threads);
        size_t nq = (size_t)s->a.n_heads * s->kv.head_dim;
        uint32_t n_pages = s->kv.n_pages, half = n_pages / 2;
        uint32_t *pages = malloc(n_pages * sizeof(*pages));
        const uint32_t *tables[2] = { 0 };
        struct kv_cache *kv = NULL;
        float *out = malloc((size_t)s->n_tokens * nq * sizeof(*out));

        assert_true(pages && out);
        tables[0] = pages;
        tables[1] = pages + half;
        if (!be) {
                free(pages);
                free(out);
                return NULL;
        }
        for (uint32_t i = 0; i < n_pages; i++)
                pages[i] = shuffle ? n_pages - 1 - i : i;
        assert_int_equal(backend_cpu.kv_new(be, &s->kv, &kv), 0);
        for (uint32_t at = 0, n; at < s->n_tokens; at += n) {
                n = MIN(chunk, s->n_tokens - at);
                setup_step(be, s, kv, tables, at, n, company, out + at * nq);
        }
        backend_cpu.kv_free(be, kv);
        backend_cpu.close(be);
        free(pages);
        return out;
}

/* --- in double precision ----------------------------------------------------------------------------------------- */

static inline void rotate_exactly(const struct rope *rope, uint32_t pos, const float *in, uint32_t dim, double *out) {
        uint32_t half = rope->n_rot / 2;

        for (uint32_t i = 0; i < dim; i++)
                out[i] = (double)in[i];
        for (uint32_t i = 0; rope->kind != ROPE_NONE && i < half; i++) {
                uint32_t a = rope->kind == ROPE_NORM ? 2 * i : i, b = rope->kind == ROPE_NORM ? a + 1 : i + half;
                double t = (double)pos * (double)rope->inv_freq[i], m = (double)rope->magnitude;

                out[a] = ((double)in[a] * cos(t) - (double)in[b] * sin(t)) * m;
                out[b] = ((double)in[a] * sin(t) + (double)in[b] * cos(t)) * m;
        }
}

/* What blocks of 8 bits make of a head: integers to the nearest of a single-precision product, of a scale that is itself
 * rounded. */
static inline void through_q8_0(const float *in, uint32_t dim, double *out) {
        for (uint32_t at = 0; at < dim; at += 32) {
                uint32_t end = MIN(at + 32, dim);
                float amax = 0.0f, scale;

                for (uint32_t i = at; i < end; i++)
                        amax = fmaxf(amax, fabsf(in[i]));
                scale = f16_to_float(f16_from_float(amax / 127.0f));
                for (uint32_t i = at; i < end; i++) {
                        double q = scale > 0.0f ? nearbyint((double)(in[i] * (1.0f / scale))) : 0.0;

                        out[i] = fmax(-127.0, fmin(127.0, q)) * (double)scale;
                }
        }
}

/* A head of K or V as the cache keeps it. */
static inline void through_cache(enum kv_format format, const double *in, uint32_t dim, double *out) {
        float x[256];

        for (uint32_t i = 0; i < dim; i++)
                x[i] = (float)in[i];
        for (uint32_t i = 0; i < dim; i++)
                out[i] = format == KV_F16 ? (double)f16_to_float(f16_from_float(x[i])) : in[i];
        if (format == KV_Q8_0)
                through_q8_0(x, dim, out);
}

/* All K and V of a setup as they would be in a cache of this format, exact where that is KV_F32. An element of K near
 * the middle of two integers goes either way by its last bit: for KV_Q8_0 K is what the backend rotated. */
static inline void exact_kv(const struct setup *s, enum kv_format format, double *k, double *v) {
        uint32_t dim = s->kv.head_dim, n_kv = s->kv.n_kv_heads;

        for (size_t i = 0; i < (size_t)s->n_tokens * n_kv; i++) {
                double head[256];

                rotate_exactly(&s->rope, (uint32_t)(i / n_kv), s->k + i * dim, dim, head);
                for (uint32_t d = 0; format == KV_Q8_0 && d < dim; d++)
                        head[d] = (double)s->rotated[i * dim + d];
                through_cache(format, head, dim, k + i * dim);
                for (uint32_t d = 0; d < dim; d++)
                        head[d] = (double)s->v[i * dim + d];
                through_cache(format, head, dim, v + i * dim);
        }
}

/* Attention of one row and head. */
static inline void attend_exactly(const struct setup *s, const double *k, const double *v, uint32_t row, uint32_t head,
                                  double *out) {
        uint32_t dim = s->kv.head_dim, kv_head = head / (s->a.n_heads / s->kv.n_kv_heads);
        uint32_t first = s->a.window > 0 && row >= s->a.window ? row - s->a.window + 1 : 0;
        double q[256], sum = s->a.sinks ? exp((double)s->a.sinks[head]) : 0.0;

        rotate_exactly(&s->rope, row, s->q + ((size_t)row * s->a.n_heads + head) * dim, dim, q);
        memset(out, 0, dim * sizeof(*out));
        for (uint32_t p = first; p <= row; p++) {
                size_t at = ((size_t)p * s->kv.n_kv_heads + kv_head) * dim;
                double score = 0.0, weight;

                for (uint32_t d = 0; d < dim; d++)
                        score += q[d] * k[at + d];
                score *= (double)s->a.scale;
                if (s->a.softcap > 0.0f)
                        score = (double)s->a.softcap * tanh(score / (double)s->a.softcap);
                weight = exp(score);
                sum += weight;
                for (uint32_t d = 0; d < dim; d++)
                        out[d] += weight * v[at + d];
        }
        for (uint32_t d = 0; d < dim; d++)
                out[d] /= sum;
}

/* --- checks ------------------------------------------------------------------------------------------------------ */

/* The largest error of a run's output, against attention over a cache of this format. */
static inline double worst_error(const struct setup *s, enum kv_format format, const float *out) {
        uint32_t dim = s->kv.head_dim;
        size_t nk = (size_t)s->n_tokens * s->kv.n_kv_heads * dim;
        double *k = malloc(nk * sizeof(*k)), *v = malloc(nk * sizeof(*v)), exact[256], worst = 0.0;

        assert_true(k && v && dim <= ARRAY_SIZE(exact));
        exact_kv(s, format, k, v);
        for (uint32_t r = 0; r < s->n_tokens; r++)
                for (uint32_t h = 0; h < s->a.n_heads; h++) {
                        attend_exactly(s, k, v, r, h, exact);
                        for (uint32_t d = 0; d < dim; d++) {
                                float got = out[((size_t)r * s->a.n_heads + h) * dim + d];

                                assert_true(isfinite(got));
                                worst = fmax(worst, fabs(exact[d] - (double)got));
                        }
                }
        free(k);
        free(v);
        return worst;
}

static inline void check_error(const struct setup *s, enum kv_format format, const float *out, double limit) {
        double worst = worst_error(s, format, out);

        if (!(worst < limit))
                fail_msg("KV format %d, head_dim %u, pages of %u: off by %g of a cache in format %d", s->kv.format,
                         s->kv.head_dim, s->kv.page_tokens, worst, format);
}

static inline void check_same(const struct setup *s, const float *a, const float *b, const char *what) {
        if (b && memcmp(a, b, (size_t)s->n_tokens * s->a.n_heads * s->kv.head_dim * sizeof(*a)) != 0)
                fail_msg("KV format %d, head_dim %u, pages of %u: %s differs", s->kv.format, s->kv.head_dim,
                         s->kv.page_tokens, what);
}

/* In F16 an element may be rounded the other way, and its last bit weighs that much. */
static inline void check_setup(const struct setup *s) {
        static const uint32_t chunks[] = { 1, 7, 64 };
        float *reference = setup_run("c", 1, s, s->n_tokens, 0, false), *other;

        check_error(s, s->kv.format, reference, s->kv.format == KV_F16 ? 5e-4 : 5e-6);
        for (size_t i = 1; i < ARRAY_SIZE(families); i++) {
                other = setup_run(families[i], 1, s, s->n_tokens, 0, false);
                check_same(s, reference, other, families[i]);
                free(other);
        }
        for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
                other = setup_run("auto", 1, s, chunks[i], 1, i == 1);
                check_same(s, reference, other, "a prompt in steps, with company, other pages");
                free(other);
        }
        other = setup_run("auto", 3, s, 40, 0, true);
        check_same(s, reference, other, "three threads");
        free(other);
        free(reference);
}
