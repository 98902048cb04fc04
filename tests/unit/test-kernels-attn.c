/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Rotary embedding, the paged KV cache and attention: against double precision, and bit for bit the same from every
 * kernel family, however a prompt is cut into steps, wherever its pages lie and whoever else is in the batch.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "kernels/backend.h"
#include "kernels/half.h"

static const char *const families[] = { "c", "avx2", "avx512-vnni", "neon-dotprod" };

/* A model's worth of shapes, and the inputs of one sequence. */
struct setup {
        struct kv_config kv;
        struct rope rope;
        struct attention a;
        uint32_t n_tokens;
        float *inv_freq, *q, *k, *v; /* [n_tokens][...] before rotation */
};

static uint32_t state = 7;

static float noise(void) {
        state = state * 1664525u + 1013904223u;
        return (float)(int32_t)state / 2147483648.0f;
}

static float *floats(size_t n) {
        float *p = malloc(n * sizeof(*p));

        assert_non_null(p);
        for (size_t i = 0; i < n; i++)
                p[i] = noise() * 1.5f;
        return p;
}

static void setup_make(struct setup *s, uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim, uint32_t page_tokens,
                       enum kv_format format, enum rope_kind kind, uint32_t n_tokens) {
        memset(s, 0, sizeof(*s));
        s->n_tokens = n_tokens;
        s->kv = (struct kv_config){ .n_layers = 2, .n_kv_heads = n_kv_heads, .head_dim = head_dim,
                                    .n_pages = 2 * (n_tokens / page_tokens + 2), .page_tokens = page_tokens,
                                    .format = format };
        s->inv_freq = floats(head_dim);
        for (uint32_t i = 0; i < head_dim; i++)
                s->inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)head_dim);
        s->rope = (struct rope){ .kind = kind, .n_rot = head_dim, .inv_freq = s->inv_freq, .magnitude = 1.0f };
        s->a = (struct attention){ .n_heads = n_heads, .layer = 1, .scale = 1.0f / sqrtf((float)head_dim) };
        s->q = floats((size_t)n_tokens * n_heads * head_dim);
        s->k = floats((size_t)n_tokens * n_kv_heads * head_dim);
        s->v = floats((size_t)n_tokens * n_kv_heads * head_dim);
}

static void setup_free(struct setup *s) {
        free(s->inv_freq);
        free(s->q);
        free(s->k);
        free(s->v);
}

static struct backend *open_family(const char *isa, unsigned threads) {
        struct backend_config config = { .threads = threads, .isa = isa };
        struct backend *be = NULL;
        int r = backend_cpu.open(&config, &be);

        if (r == BACKEND_E_UNSUPPORTED)
                return NULL;
        assert_int_equal(r, 0);
        return be;
}

static float *copy(const float *src, size_t n) {
        float *p = malloc(n * sizeof(*p));

        assert_non_null(p);
        memcpy(p, src, n * sizeof(*p));
        return p;
}

/* One step: positions [first, first + n) of the sequence; with `company`, of a second one (same inputs) as well. */
static void step(struct backend *be, const struct setup *s, struct kv_cache *kv, const uint32_t *const *tables,
                 uint32_t first, uint32_t n, bool company, float *out) {
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
        free(pos);
        free(seq);
        free(q);
        free(k);
        free(v);
        free(all);
}

/* The whole sequence in steps of `chunk` rows, growing; pages in an order that depends on `shuffle`. */
static float *run(const char *isa, unsigned threads, const struct setup *s, uint32_t chunk, unsigned shuffle,
                  bool company) {
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
                step(be, s, kv, tables, at, n, company, out + at * nq);
        }
        backend_cpu.kv_free(be, kv);
        backend_cpu.close(be);
        free(pages);
        return out;
}

static void rotate_exactly(const struct rope *rope, uint32_t pos, const float *in, uint32_t dim, double *out) {
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

static double stored(const struct setup *s, double v) {
        return s->kv.format == KV_F16 ? (double)f16_to_float(f16_from_float((float)v)) : v;
}

/* Attention of one row and head in double precision. */
static void attend_exactly(const struct setup *s, uint32_t row, uint32_t head, double *out) {
        uint32_t dim = s->kv.head_dim, kv_head = head / (s->a.n_heads / s->kv.n_kv_heads);
        uint32_t first = s->a.window > 0 && row >= s->a.window ? row - s->a.window + 1 : 0;
        double q[256], k[256], sum = s->a.sinks ? exp((double)s->a.sinks[head]) : 0.0;

        rotate_exactly(&s->rope, row, s->q + ((size_t)row * s->a.n_heads + head) * dim, dim, q);
        memset(out, 0, dim * sizeof(*out));
        for (uint32_t p = first; p <= row; p++) {
                const float *v = s->v + ((size_t)p * s->kv.n_kv_heads + kv_head) * dim;
                double score = 0.0, weight;

                rotate_exactly(&s->rope, p, s->k + ((size_t)p * s->kv.n_kv_heads + kv_head) * dim, dim, k);
                for (uint32_t d = 0; d < dim; d++)
                        score += q[d] * stored(s, k[d]);
                score *= (double)s->a.scale;
                if (s->a.softcap > 0.0f)
                        score = (double)s->a.softcap * tanh(score / (double)s->a.softcap);
                weight = exp(score);
                sum += weight;
                for (uint32_t d = 0; d < dim; d++)
                        out[d] += weight * stored(s, (double)v[d]);
        }
        for (uint32_t d = 0; d < dim; d++)
                out[d] /= sum;
}

static void check_accuracy(const struct setup *s, const float *out) {
        double exact[256], worst = 0.0, limit = s->kv.format == KV_F16 ? 5e-4 : 5e-6;
        uint32_t dim = s->kv.head_dim;

        for (uint32_t r = 0; r < s->n_tokens; r++)
                for (uint32_t h = 0; h < s->a.n_heads; h++) {
                        attend_exactly(s, r, h, exact);
                        for (uint32_t d = 0; d < dim; d++) {
                                float got = out[((size_t)r * s->a.n_heads + h) * dim + d];

                                assert_true(isfinite(got));
                                worst = fmax(worst, fabs(exact[d] - (double)got));
                        }
                }
        if (!(worst < limit))
                fail_msg("head_dim %u, pages of %u: off by %g", dim, s->kv.page_tokens, worst);
}

static void check_same(const struct setup *s, const float *a, const float *b, const char *what) {
        if (b && memcmp(a, b, (size_t)s->n_tokens * s->a.n_heads * s->kv.head_dim * sizeof(*a)) != 0)
                fail_msg("head_dim %u, pages of %u: %s differs", s->kv.head_dim, s->kv.page_tokens, what);
}

/* Everything that may not matter, against plain C in one step. */
static void check_setup(const struct setup *s) {
        static const uint32_t chunks[] = { 1, 7, 64 };
        float *reference = run("c", 1, s, s->n_tokens, 0, false), *other;

        check_accuracy(s, reference);
        for (size_t i = 1; i < ARRAY_SIZE(families); i++) {
                other = run(families[i], 1, s, s->n_tokens, 0, false);
                check_same(s, reference, other, families[i]);
                free(other);
        }
        for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
                other = run("auto", 1, s, chunks[i], 1, i == 1);
                check_same(s, reference, other, "a prompt in steps, with company, other pages");
                free(other);
        }
        other = run("auto", 3, s, 40, 0, true);
        check_same(s, reference, other, "three threads");
        free(other);
        free(reference);
}

static void test_shapes(void **unused) {
        static const struct {
                uint32_t n_heads, n_kv_heads, head_dim, page_tokens, n_tokens;
                enum kv_format format;
                enum rope_kind rope;
        } cases[] = {
                { 8, 4, 8, 32, 70, KV_F32, ROPE_NORM },   { 4, 1, 64, 16, 130, KV_F16, ROPE_NORM },
                { 6, 2, 80, 64, 100, KV_F32, ROPE_NEOX }, { 5, 1, 128, 16, 67, KV_F16, ROPE_NEOX },
                { 2, 2, 6, 1, 19, KV_F32, ROPE_NORM },    { 9, 1, 16, 8, 40, KV_F32, ROPE_NONE },
                { 16, 1, 32, 256, 65, KV_F16, ROPE_NORM },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct setup s;

                setup_make(&s, cases[i].n_heads, cases[i].n_kv_heads, cases[i].head_dim, cases[i].page_tokens,
                           cases[i].format, cases[i].rope, cases[i].n_tokens);
                check_setup(&s);
                setup_free(&s);
        }
}

static void test_variants(void **unused) {
        static const float sinks[4] = { 0.5f, -1.0f, 3.0f, 0.0f };

        for (unsigned variant = 0; variant < 5; variant++) {
                struct setup s;

                setup_make(&s, 4, 2, 32, 16, KV_F32, ROPE_NEOX, 150);
                s.rope.n_rot = variant == 0 ? 12 : 32;
                s.rope.magnitude = variant == 1 ? 1.2f : 1.0f;
                s.a.window = variant == 2 ? 37 : variant == 3 ? 1 : 0;
                s.a.softcap = variant == 4 ? 2.0f : 0.0f;
                s.a.sinks = variant == 2 || variant == 4 ? sinks : NULL;
                check_setup(&s);
                setup_free(&s);
        }
}

/* What lies in a page beyond a row's horizon may be anything, and is not looked at. */
static void test_garbage(void **unused) {
        struct setup s;
        struct backend *be = open_family("auto", 1);
        struct kv_cache *kv = NULL;
        uint32_t page = 0;
        const uint32_t *tables[2] = { &page, &page };
        float *q, *clean, *dirty;
        size_t n;

        setup_make(&s, 4, 2, 24, 64, KV_F16, ROPE_NORM, 50);
        n = (size_t)s.a.n_heads * s.kv.head_dim;
        clean = run("auto", 1, &s, 50, 0, false);
        dirty = malloc(50 * n * sizeof(*dirty));
        q = copy(s.v, (size_t)50 * 2 * 24);
        assert_non_null(dirty);
        assert_int_equal(backend_cpu.kv_new(be, &s.kv, &kv), 0);
        for (size_t i = 0; i < (size_t)50 * 2 * 24; i++)
                s.v[i] = i % 2 ? NAN : INFINITY;
        step(be, &s, kv, tables, 0, 50, false, dirty); /* a sequence that went wrong used the page before */
        memcpy(s.v, q, (size_t)50 * 2 * 24 * sizeof(*q));
        for (uint32_t r = 0; r < 50; r += 5)
                step(be, &s, kv, tables, r, 5, false, dirty + r * n);
        check_same(&s, clean, dirty, "a page used before");
        backend_cpu.kv_free(be, kv);
        backend_cpu.close(be);
        setup_free(&s);
        free(q);
        free(clean);
        free(dirty);
}

/* Pages that were copied, or taken out and put back elsewhere, are the pages they were; the originals stay. */
static void test_move_pages(void **unused) {
        static const enum kv_format formats[] = { KV_F16, KV_F32 };

        for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
                struct backend *be = open_family("auto", 1);
                uint32_t pages[] = { 0, 1, 2, 3 };
                const uint32_t *tables[2] = { pages, pages };
                struct kv_cache *kv = NULL;
                float *clean, *moved;
                size_t n, bytes;
                struct setup s;
                void *host;

                setup_make(&s, 4, 2, 24, 16, formats[f], ROPE_NORM, 60);
                n = (size_t)s.a.n_heads * s.kv.head_dim;
                clean = run("auto", 1, &s, 60, 0, false);
                moved = copy(clean, 60 * n);
                assert_int_equal(backend_cpu.kv_new(be, &s.kv, &kv), 0);
                bytes = backend_cpu.kv_page_bytes(be, kv);
                host = malloc(bytes);
                assert_non_null(host);
                step(be, &s, kv, tables, 0, 40, false, moved);
                assert_int_equal(backend_cpu.kv_copy(be, kv, 0, 5), 0);
                assert_int_equal(backend_cpu.kv_copy(be, kv, 5, 5), 0);
                assert_int_equal(backend_cpu.kv_export(be, kv, 2, host), 0);
                assert_int_equal(backend_cpu.kv_import(be, kv, 6, host), 0);
                pages[0] = 5;
                pages[2] = 6;
                step(be, &s, kv, tables, 40, 20, false, moved + 40 * n);
                check_same(&s, clean, moved, "with moved pages");
                pages[0] = 0;
                pages[2] = 2; /* still as it was at position 40 */
                memset(moved + 40 * n, 0, 20 * n * sizeof(*moved));
                step(be, &s, kv, tables, 40, 20, false, moved + 40 * n);
                check_same(&s, clean, moved, "with the original pages");
                assert_int_equal(backend_cpu.kv_copy(be, kv, s.kv.n_pages, 0), BACKEND_E_UNSUPPORTED);
                assert_int_equal(backend_cpu.kv_copy(be, kv, 0, s.kv.n_pages), BACKEND_E_UNSUPPORTED);
                assert_int_equal(backend_cpu.kv_export(be, kv, s.kv.n_pages, host), BACKEND_E_UNSUPPORTED);
                assert_int_equal(backend_cpu.kv_import(be, kv, UINT32_MAX, host), BACKEND_E_UNSUPPORTED);
                backend_cpu.kv_free(be, kv);
                backend_cpu.close(be);
                setup_free(&s);
                free(host);
                free(clean);
                free(moved);
        }
}

static void test_bad_shapes(void **unused) {
        struct backend *be = open_family("c", 1);
        struct kv_config config = { .n_layers = 1, .n_kv_heads = 2, .head_dim = 8, .n_pages = 1, .page_tokens = 24 };
        struct kv_cache *kv = NULL;
        struct batch none = { 0 };
        struct rope rope = { .kind = ROPE_NORM, .n_rot = 10 };
        struct attention a = { .n_heads = 3 };

        assert_int_equal(backend_cpu.kv_new(be, &config, &kv), BACKEND_E_UNSUPPORTED);
        config.page_tokens = 0;
        assert_int_equal(backend_cpu.kv_new(be, &config, &kv), BACKEND_E_UNSUPPORTED);
        config = (struct kv_config){ UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, 1u << 31, KV_F32 };
        assert_int_equal(backend_cpu.kv_new(be, &config, &kv), BACKEND_E_UNSUPPORTED);
        config = (struct kv_config){ 1u << 10, 1u << 10, 1u << 10, 1u << 12, 1u << 4, KV_F32 };
        assert_int_equal(backend_cpu.kv_new(be, &config, &kv), BACKEND_E_NO_MEMORY);
        assert_null(kv);
        config = (struct kv_config){ .n_layers = 1, .n_kv_heads = 2, .head_dim = 8, .n_pages = 1, .page_tokens = 16 };
        assert_int_equal(backend_cpu.kv_new(be, &config, &kv), 0);
        assert_int_equal(backend_cpu.rope_kv(be, &rope, kv, 0, &none, 2, NULL, NULL, NULL), BACKEND_E_UNSUPPORTED);
        assert_int_equal(backend_cpu.attention(be, &a, kv, &none, NULL, NULL), BACKEND_E_UNSUPPORTED);
        assert_null(backend_cpu.kv_free(be, kv));
        assert_null(backend_cpu.kv_free(be, NULL));
        backend_cpu.close(be);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_shapes),
                cmocka_unit_test(test_variants),
                cmocka_unit_test(test_garbage),
                cmocka_unit_test(test_move_pages),
                cmocka_unit_test(test_bad_shapes),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
