/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Rotary embedding, the paged KV cache and attention: against double precision, and bit for bit the same from every
 * kernel family, however a prompt is cut into steps, wherever its pages lie and whoever else is in the batch.
 */

#include "attn-fixture.h"

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
        clean = setup_run("auto", 1, &s, 50, 0, false);
        dirty = malloc(50 * n * sizeof(*dirty));
        q = floats_copy(s.v, (size_t)50 * 2 * 24);
        assert_non_null(dirty);
        assert_int_equal(backend_cpu.kv_new(be, &s.kv, &kv), 0);
        for (size_t i = 0; i < (size_t)50 * 2 * 24; i++)
                s.v[i] = i % 2 ? NAN : INFINITY;
        setup_step(be, &s, kv, tables, 0, 50, false, dirty); /* a sequence that went wrong used the page before */
        memcpy(s.v, q, (size_t)50 * 2 * 24 * sizeof(*q));
        for (uint32_t r = 0; r < 50; r += 5)
                setup_step(be, &s, kv, tables, r, 5, false, dirty + r * n);
        check_same(&s, clean, dirty, "a page used before");
        backend_cpu.kv_free(be, kv);
        backend_cpu.close(be);
        setup_free(&s);
        free(q);
        free(clean);
        free(dirty);
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
                cmocka_unit_test(test_bad_shapes),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
