/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The KV cache in blocks of 8 bits, and its pages: quantizing, attention over such a cache against double precision and
 * against a cache of floats, the same bits from every family; sizes of pages, and moving them.
 */

#include "attn-fixture.h"
#include "daemon/engine/model.h"
#include "kernels/cpu/kernels.h"

/* --- quantizing -------------------------------------------------------------------------------------------------- */

#define GUARD 0x5a

static void quantize(const struct cpu_kernels *k, const float *x, size_t n, struct kv_block *out, size_t n_out) {
        memset(out, GUARD, n_out * sizeof(*out));
        k->rows->to_q8_0(x, n, out);
}

/* The same from every usable family as from plain C, whose result is returned. */
static void quantize_all(const float *x, size_t n, struct kv_block *out, size_t n_out) {
        struct kv_block other[10];

        assert_true(n_out <= ARRAY_SIZE(other));
        quantize(cpu_kernels_find("c"), x, n, out, n_out);
        for (size_t k = 0; k < cpu_kernels_n; k++) {
                if (!cpu_kernels[k].usable())
                        continue;
                quantize(cpu_kernels + k, x, n, other, n_out);
                if (memcmp(out, other, n_out * sizeof(*out)) != 0)
                        fail_msg("%s differs from c, %zu elements", cpu_kernels[k].name, n);
        }
}

/* Half a step is what an element may be off by, and its sign and zero it keeps. */
static void test_quantize(void **unused) {
        static const size_t sizes[] = { 1, 5, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 127, 256 };
        static const float ranges[] = { 1.0f, 300.0f, 0.01f, 60000.0f };

        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                size_t n = sizes[i], blocks = (n + 31) / 32;
                struct kv_block out[10];
                float x[256];

                fill(x, n, ranges[i % ARRAY_SIZE(ranges)]);
                x[n / 2] = 0.0f;
                quantize_all(x, n, out, blocks + 1);
                for (size_t e = 0; e < n; e++) {
                        const struct kv_block *b = &out[e / 32];
                        float scale = f16_to_float(b->scale), value = (float)b->q[e % 32] * scale;

                        assert_true(scale > 0.0f || n == 1);
                        assert_true(fabsf(value - x[e]) <= scale * 0.5001f);
                        assert_true(value * x[e] >= 0.0f);
                }
                assert_int_equal(out[n / 2 / 32].q[n / 2 % 32], 0);
                for (size_t e = n; e < blocks * 32; e++)
                        assert_int_equal(out[e / 32].q[e % 32], 0);
                assert_int_equal(out[blocks].q[0], GUARD); /* nothing beyond */
                assert_int_equal(out[blocks].scale, GUARD << 8 | GUARD);
        }
}

/* What the scale can't express: zeros, next to nothing, too much, and what is no number. */
static void test_quantize_ends(void **unused) {
        static const float tiny[] = { 0.0f, 1e-45f, 1e-30f, 3.7e-6f };
        static const float bad[] = { NAN, -NAN, INFINITY, -INFINITY, 3e38f, 8.4e6f };
        struct kv_block out[3];
        float x[64], worst;

        for (size_t i = 0; i < ARRAY_SIZE(tiny); i++) {
                for (size_t e = 0; e < 64; e++)
                        x[e] = e % 2 ? tiny[i] : -tiny[i];
                quantize_all(x, 64, out, 3);
                for (size_t e = 0; e < 64; e++)
                        assert_true(out[e / 32].scale == 0 && out[e / 32].q[e % 32] == 0);
        }
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                for (size_t at = 0; at < 40; at += 13) { /* also in a last block that is short */
                        fill(x, 40, 1.0f);
                        x[at] = bad[i];
                        quantize_all(x, 40, out, 3);
                        assert_true(isnan(f16_to_float(out[at / 32].scale)));
                        assert_false(isnan(f16_to_float(out[1 - at / 32].scale)));
                        for (size_t e = 0; e < 32; e++)
                                assert_int_equal(out[at / 32].q[e], 0);
                }
        /* Where scales are few a coarse one cuts the largest element off, by less than a third. */
        for (unsigned i = 0; i < 500; i++) {
                float amax = 3.9e-6f * powf(1.01f, (float)i);

                fill(x, 32, amax);
                x[7] = -amax;
                quantize_all(x, 32, out, 2);
                worst = 0.0f;
                for (size_t e = 0; e < 32; e++) {
                        assert_true(out[0].q[e] >= -127);
                        worst = fmaxf(worst, fabsf((float)out[0].q[e] * f16_to_float(out[0].scale) - x[e]));
                }
                assert_true(out[0].scale > 0 && worst < amax / 2.9f);
        }
        x[0] = 65504.0f * 127.0f;
        for (size_t e = 1; e < 32; e++)
                x[e] = x[0];
        quantize_all(x, 32, out, 2);
        assert_true(f16_to_float(out[0].scale) == 65504.0f && out[0].q[5] == 127);
}

/* --- attention --------------------------------------------------------------------------------------------------- */

/* Elements of up to 1.5 lie half a step, 0.006, from where they were; scores and averages less than that. */
#define LOSS 0.015

static void check_quantized(struct setup *s) {
        float *out;

        s->kv.format = KV_Q8_0;
        check_setup(s);
        out = setup_run("auto", 1, s, s->n_tokens, 0, false);
        check_error(s, KV_F32, out, LOSS);
        assert_true(worst_error(s, KV_F32, out) > 1e-4); /* or else it was not quantized */
        free(out);
}

static void test_shapes(void **unused) {
        static const struct {
                uint32_t n_heads, n_kv_heads, head_dim, page_tokens, n_tokens;
                enum rope_kind rope;
        } cases[] = {
                { 8, 2, 16, 32, 200, ROPE_NORM },  { 4, 1, 33, 16, 77, ROPE_NEOX },  { 8, 2, 64, 32, 131, ROPE_NORM },
                { 6, 2, 80, 64, 100, ROPE_NEOX },  { 5, 1, 128, 16, 67, ROPE_NEOX }, { 3, 3, 256, 128, 49, ROPE_NORM },
                { 2, 2, 6, 1, 19, ROPE_NORM },     { 9, 1, 50, 8, 40, ROPE_NONE },   { 2, 1, 1, 4, 30, ROPE_NONE },
                { 16, 1, 96, 256, 65, ROPE_NORM }, { 4, 4, 64, 32, 1, ROPE_NORM },   { 4, 2, 31, 32, 17, ROPE_NEOX },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct setup s;

                setup_make(&s, cases[i].n_heads, cases[i].n_kv_heads, cases[i].head_dim, cases[i].page_tokens, KV_Q8_0,
                           cases[i].rope, cases[i].n_tokens);
                check_quantized(&s);
                setup_free(&s);
        }
}

static void test_variants(void **unused) {
        static const float sinks[4] = { 0.5f, -1.0f, 3.0f, 0.0f };

        for (unsigned variant = 0; variant < 4; variant++) {
                struct setup s;

                setup_make(&s, 4, 2, 80, 16, KV_Q8_0, ROPE_NEOX, 150);
                s.a.window = variant == 0 ? 37 : variant == 1 ? 1 : 0;
                s.a.softcap = variant == 2 ? 2.0f : 0.0f;
                s.a.sinks = variant == 0 || variant == 3 ? sinks : NULL;
                check_quantized(&s);
                setup_free(&s);
        }
}

/* A position that went wrong shows in the rows that see it and in no other; its page is as good as new afterwards. */
static void test_not_a_number(void **unused) {
        uint32_t page = 1;
        const uint32_t *tables[2] = { &page, &page };
        struct backend *be = open_family("auto", 1);
        struct kv_cache *kv = NULL;
        struct setup s;
        float *clean, *out, kept;
        size_t n;

        setup_make(&s, 4, 1, 40, 64, KV_Q8_0, ROPE_NONE, 50);
        n = (size_t)s.a.n_heads * s.kv.head_dim;
        clean = setup_run("auto", 1, &s, 50, 0, false);
        out = floats(50 * n, 0.0f);
        assert_int_equal(backend_cpu.kv_new(be, &s.kv, &kv), 0);
        for (unsigned where = 0; where < 2; where++) {
                float *bad = (where ? s.v : s.k) + (size_t)20 * 40 + 35;

                kept = *bad;
                *bad = where ? INFINITY : NAN;
                setup_step(be, &s, kv, tables, 0, 50, false, out);
                assert_memory_equal(out, clean, 20 * n * sizeof(*out));
                for (uint32_t r = 20; r < 50; r++)
                        for (uint32_t h = 0; h < s.a.n_heads; h++) {
                                assert_true(isnan(out[r * n + h * 40 + 39]));
                                assert_true(!where || isfinite(out[r * n + h * 40 + 31])); /* another block of V */
                        }
                *bad = kept;
                setup_step(be, &s, kv, tables, 0, 50, false, out);
                check_same(&s, clean, out, "a page used before");
        }
        backend_cpu.kv_free(be, kv);
        backend_cpu.close(be);
        setup_free(&s);
        free(clean);
        free(out);
}

/* --- pages ------------------------------------------------------------------------------------------------------- */

/* What is planned is what a page takes: the engine's sum for a model, the helper's for a position, the backend's. */
static void test_page_sizes(void **unused) {
        static const struct {
                enum kv_format format;
                uint32_t head_dim, position;
        } cases[] = {
                { KV_F16, 64, 256 },  { KV_F32, 64, 512 },  { KV_Q8_0, 64, 136 }, { KV_Q8_0, 128, 272 },
                { KV_Q8_0, 80, 172 }, { KV_Q8_0, 33, 74 },  { KV_Q8_0, 1, 6 },    { KV_F16, 33, 132 },
        };
        struct backend *be = open_family("c", 1);
        struct kv_config config = { .n_layers = 3, .n_kv_heads = 5, .n_pages = 2 };
        struct model_shape shape = { .n_layer = 3, .n_head_kv = 5 };
        struct kv_cache *kv = NULL;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                config.format = cases[i].format;
                config.head_dim = shape.head_dim = cases[i].head_dim;
                config.page_tokens = 16u << i % 3;
                assert_int_equal(kv_position_bytes(config.format, config.head_dim), cases[i].position);
                assert_int_equal(model_kv_bytes(&shape, config.format), 15 * cases[i].position);
                assert_int_equal(backend_cpu.kv_new(be, &config, &kv), 0);
                assert_int_equal(backend_cpu.kv_page_bytes(be, kv), 15 * cases[i].position * config.page_tokens);
                assert_null(backend_cpu.kv_free(be, kv));
        }
        config.format = (enum kv_format)7;
        assert_int_equal(kv_position_bytes(config.format, 64), 0);
        kv = NULL;
        assert_int_equal(backend_cpu.kv_new(be, &config, &kv), BACKEND_E_UNSUPPORTED);
        assert_null(kv);
        assert_int_equal(kv_position_bytes(KV_F32, UINT32_MAX), 8ull * UINT32_MAX);
        backend_cpu.close(be);
}

/* Pages that were copied, or taken out and put back elsewhere, are the pages they were; the originals stay. */
static void test_move_pages(void **unused) {
        static const enum kv_format formats[] = { KV_F16, KV_F32, KV_Q8_0 };

        for (size_t f = 0; f < ARRAY_SIZE(formats); f++) {
                struct backend *be = open_family("auto", 1);
                uint32_t pages[] = { 0, 1, 2, 3 };
                const uint32_t *tables[2] = { pages, pages };
                struct kv_cache *kv = NULL;
                float *clean, *moved;
                size_t n, bytes;
                struct setup s;
                void *host;

                setup_make(&s, 4, 2, 40, 16, formats[f], ROPE_NORM, 60);
                n = (size_t)s.a.n_heads * s.kv.head_dim;
                clean = setup_run("auto", 1, &s, 60, 0, false);
                moved = floats_copy(clean, 60 * n);
                assert_int_equal(backend_cpu.kv_new(be, &s.kv, &kv), 0);
                bytes = backend_cpu.kv_page_bytes(be, kv);
                host = malloc(bytes);
                assert_non_null(host);
                setup_step(be, &s, kv, tables, 0, 40, false, moved);
                assert_int_equal(backend_cpu.kv_copy(be, kv, 0, 5), 0);
                assert_int_equal(backend_cpu.kv_copy(be, kv, 5, 5), 0);
                assert_int_equal(backend_cpu.kv_export(be, kv, 2, host), 0);
                assert_int_equal(backend_cpu.kv_import(be, kv, 6, host), 0);
                pages[0] = 5;
                pages[2] = 6;
                setup_step(be, &s, kv, tables, 40, 20, false, moved + 40 * n);
                check_same(&s, clean, moved, "with moved pages");
                pages[0] = 0;
                pages[2] = 2; /* still as it was at position 40 */
                memset(moved + 40 * n, 0, 20 * n * sizeof(*moved));
                setup_step(be, &s, kv, tables, 40, 20, false, moved + 40 * n);
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

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_quantize),
                cmocka_unit_test(test_quantize_ends),
                cmocka_unit_test(test_shapes),
                cmocka_unit_test(test_variants),
                cmocka_unit_test(test_not_a_number),
                cmocka_unit_test(test_page_sizes),
                cmocka_unit_test(test_move_pages),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
