/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Attention of the CUDA backend: plans, results against double precision, and that a row's bits are the same alone, in a prompt
 * and among others.
 */

#include "cuda-attn-test.h"
#include "tests/cuda-host/emu.h"

/* --- plans ---------------------------------------------------------------------------------------------------------- */

static void test_splits(void **unused) {
        for (uint32_t pos = 0; pos < 3 * CUDA_ATTN_SHORT; pos += 13) {
                uint32_t split = cuda_attn_split_of(pos);

                assert_true(cuda_attn_split_first(split) <= pos && cuda_attn_split_first(split + 1) > pos);
                assert_int_equal(cuda_attn_split_first(split) % CUDA_ATTN_TILE, 0);
        }
        assert_int_equal(cuda_attn_split_of(CUDA_ATTN_SHORT - 1) + 1, cuda_attn_split_of(CUDA_ATTN_SHORT));
        assert_int_equal(cuda_attn_split_first(cuda_attn_split_of(CUDA_ATTN_SHORT)), CUDA_ATTN_SHORT);
}

/* Every row is in a tile, or has an item for each split that it sees. */
static void check_bounded(const struct attn_rows *r, uint32_t window, uint32_t tile_rows, uint32_t max_items, uint32_t tiles) {
        struct batch batch = { .n_rows = r->n, .pos = r->pos, .seq = r->seq, .n_seqs = r->n_seqs };
        struct cuda_attn_plan *plan = malloc(cuda_attn_plan_bytes(&batch, window, tile_rows, max_items));
        uint32_t *served = calloc(r->n, sizeof(*served)), *partial;
        const struct cuda_attn_item *items;
        const struct cuda_attn_row *rows;
        const struct cuda_attn_tile *tile;

        assert_true(plan && served);
        cuda_attn_plan_make(&batch, window, tile_rows, max_items, plan);
        partial = calloc(plan->n_partials + 1, sizeof(*partial));
        assert_non_null(partial);
        assert_int_equal(plan->n_tiles, tiles);
        assert_true(plan->n_items <= max_items && tiles <= cuda_attn_tiles_max(r->n, tile_rows));
        items = (const struct cuda_attn_item *)((const uint8_t *)plan + plan->items_at);
        rows = (const struct cuda_attn_row *)((const uint8_t *)plan + plan->rows_at);
        tile = (const struct cuda_attn_tile *)((const uint8_t *)plan + plan->tiles_at);
        for (uint32_t i = 0; i < plan->n_tiles; i++)
                for (uint32_t j = 0; j < tile[i].n; j++) {
                        assert_int_equal(r->seq[tile[i].first], r->seq[tile[i].first + j]);
                        served[tile[i].first + j]++;
                }
        for (uint32_t i = 0; i < plan->n_items; i++)
                partial[items[i].partial] = i + 1;
        for (uint32_t i = 0; i < plan->n_rows; i++) {
                uint32_t pos = r->pos[rows[i].row], first = window > 0 && pos >= window ? pos - window + 1 : 0;

                served[rows[i].row]++;
                assert_int_equal(rows[i].n_partials, cuda_attn_split_of(pos) - cuda_attn_split_of(first) + 1);
                for (uint32_t j = 0; j < rows[i].n_partials; j++) {
                        const struct cuda_attn_item *item = items + partial[rows[i].first_partial + j] - 1;

                        assert_true(partial[rows[i].first_partial + j] > 0);
                        assert_int_equal(item->row, rows[i].row);
                        assert_int_equal(item->split, cuda_attn_split_of(first) + j);
                }
        }
        for (uint32_t i = 0; i < r->n; i++)
                assert_int_equal(served[i], 1);
        free(plan);
        free(served);
        free(partial);
}

static void check_plan(const struct attn_rows *r, uint32_t window, uint32_t tile_rows, uint32_t tiles) {
        check_bounded(r, window, tile_rows, UINT32_MAX, tiles);
}

/* A row of each sequence always has its items; of the others those that fit. */
static void test_bounded(void **unused) {
        struct attn_rows r = { 0 };

        rows_add(&r, 0, 1000, 2);  /* 4 splits each */
        rows_add(&r, 0, 17000, 1); /* 65 */
        rows_add(&r, 0, 0, 15);    /* 1 each */
        rows_add(&r, 0, 0, 16);    /* a tile in any case */
        check_bounded(&r, 0, 16, 8 + 65 + 15, 1);
        check_bounded(&r, 0, 16, 8 + 65 + 14, 2);
        check_bounded(&r, 0, 16, 7 + 65, 3); /* the second run does not fit either */
        check_bounded(&r, 0, 16, 7 + 65 + 8, 2);
        check_bounded(&r, 0, 1, 65, 2 + 15 + 16);
        for (uint32_t window = 1; window < 2000; window++)
                for (uint32_t pos = 0; pos < 40000; pos += 111) {
                        uint32_t first = pos >= window ? pos - window + 1 : 0;

                        assert_true(cuda_attn_split_of(pos) - cuda_attn_split_of(first) + 1 <=
                                    cuda_attn_items_max(1, pos + 1, window));
                }
}

static void test_plan(void **unused) {
        static const uint32_t windows[] = { 0, 1, 100, 300, 5000 };
        struct attn_rows r = { 0 }, none = { 0 };

        rows_add(&r, 0, 1000, 15);
        rows_add(&r, 0, 0, 16);
        rows_add(&r, 0, 17000, 1);
        rows_add(&r, 0, 250, 33);
        rows_add(&r, 0, 255, 2);
        for (size_t i = 0; i < ARRAY_SIZE(windows); i++) {
                check_plan(&r, windows[i], 16, 1 + 3);
                check_plan(&r, windows[i], 64, 1 + 1);
                check_plan(&r, windows[i], 1, 16 + 33);
        }
        check_plan(&r, 0, 0, 0);
        check_plan(&none, 0, 16, 0);
}

static void test_has(void **unused) {
        struct kv_config c = { .n_layers = 1, .n_kv_heads = 2, .head_dim = 64, .n_pages = 4, .page_tokens = 16 }, bad;

        assert_true(cuda_attn_has(&c, 8));
        assert_false(cuda_attn_has(&c, 7));
        assert_false(cuda_attn_has(&c, 0));
        bad = c, bad.head_dim = 36;
        assert_false(cuda_attn_has(&bad, 8));
        bad = c, bad.head_dim = 272;
        assert_false(cuda_attn_has(&bad, 8));
        bad = c, bad.page_tokens = 8;
        assert_false(cuda_attn_has(&bad, 8));
        bad = c, bad.page_tokens = 48;
        assert_false(cuda_attn_has(&bad, 8));
        bad = c, bad.n_kv_heads = 0;
        assert_false(cuda_attn_has(&bad, 8));
}

/* --- results -------------------------------------------------------------------------------------------------------- */

struct attn_case {
        enum kv_format format;
        uint32_t n_heads, n_kv_heads, head_dim, page_tokens, window;
        float softcap;
        bool sinks;
};

#define POSITIONS 620u

static void case_make(struct attn_world *w, const struct attn_case *c, const float *sinks, uint32_t first, uint32_t n_pos) {
        *w = (struct attn_world){ .kv = { .n_layers = 2, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim,
                                          .page_tokens = c->page_tokens, .format = c->format },
                                  .a = { .n_heads = c->n_heads, .layer = 1, .softcap = c->softcap, .window = c->window,
                                         .sinks = c->sinks ? sinks : NULL } };
        world_make(w, first, n_pos);
}

/* The same rows, each as a sequence of its own, last first: all of them by the kernel for few. */
static struct attn_rows apart(const struct attn_rows *r) {
        struct attn_rows ret = { 0 };

        for (uint32_t i = r->n; i > 0; i--)
                rows_add(&ret, r->sequence[i - 1], r->pos[i - 1], 1);
        return ret;
}

/* Rows in a batch with prompts and single ones; then each apart, some really alone, and within a longer prompt. */
static void check_case(const struct attn_case *c) {
        static const uint32_t single[] = { 0, 1, 15, 16, 63, 64, 255, 256, 511, 512, POSITIONS - 1 };
        static const uint32_t alone[] = { 3, 20, 57 };
        static const float sinks[70] = { 0.5f, -1.0f, 3.0f, 0.0f, 9.0f, -20.0f };
        struct attn_rows mixed = { 0 }, others, prompt = { 0 };
        struct attn_result all, other;
        struct attn_world w;

        case_make(&w, c, sinks, 0, POSITIONS);
        rows_add(&mixed, 0, 246, 19);
        for (size_t i = 0; i < ARRAY_SIZE(single); i++)
                rows_add(&mixed, i % 2, single[i], 1);
        rows_add(&mixed, 1, 0, 34);
        rows_add(&mixed, 1, 508, 6);
        all = rows_run(&w, &mixed, 3);
        check_exactly(&w, &mixed, &all);
        check_packed(&all);
        others = apart(&mixed);
        other = rows_run(&w, &others, 200);
        check_packed(&other);
        check_bits(&w, &mixed, &all, &others, &other, "as a row of its own");
        result_free(&other);
        for (size_t i = 0; i < ARRAY_SIZE(alone); i++) {
                struct attn_rows one = { 0 };

                rows_add(&one, mixed.sequence[alone[i]], mixed.pos[alone[i]], 1);
                other = rows_run(&w, &one, 48);
                check_bits(&w, &mixed, &all, &one, &other, "alone");
                result_free(&other);
        }
        result_free(&all);
        rows_add(&prompt, 0, 233, 37);
        others = (struct attn_rows){ 0 };
        rows_add(&others, 0, 246, 19);
        all = rows_run(&w, &prompt, 1);
        other = rows_run(&w, &others, 1);
        check_bits(&w, &prompt, &all, &others, &other, "in a shorter prompt");
        result_free(&all);
        result_free(&other);
        world_free(&w);
}

static void check_cases(const struct attn_case *cases, size_t n) {
        for (size_t i = 0; i < n; i++) {
                emu_set_order(i % 3 == 0 ? EMU_ORDER_SHUFFLED : i % 3 == 1 ? EMU_ORDER_DESCENDING : EMU_ORDER_ASCENDING, i);
                check_case(cases + i);
        }
        emu_reset();
}

static void test_f16(void **unused) {
        static const struct attn_case cases[] = {
                { KV_F16, 2, 1, 64, 16, 0, 0.0f, false },  { KV_F16, 4, 1, 128, 64, 0, 0.0f, false },
                { KV_F16, 8, 1, 128, 32, 0, 0.0f, true },  { KV_F16, 3, 3, 16, 16, 0, 0.0f, false },
                { KV_F16, 5, 1, 80, 32, 70, 0.0f, false }, { KV_F16, 3, 1, 48, 16, 5, 0.0f, true },
                { KV_F16, 2, 2, 256, 16, 0, 5.0f, false }, { KV_F16, 16, 1, 64, 128, 300, 2.0f, true },
                { KV_F16, 70, 1, 32, 32, 20, 0.0f, false }, { KV_F16, 36, 2, 256, 64, 1, 0.0f, false },
                { KV_F16, 3, 3, 8, 16, 0, 0.0f, true },    { KV_F16, 4, 2, 120, 32, 0, 0.0f, false },
        };

        check_cases(cases, ARRAY_SIZE(cases));
}

static void test_q8_0(void **unused) {
        static const struct attn_case cases[] = {
                { KV_Q8_0, 4, 2, 64, 16, 0, 0.0f, false },  { KV_Q8_0, 8, 1, 128, 64, 0, 0.0f, true },
                { KV_Q8_0, 5, 1, 80, 32, 70, 0.0f, false }, { KV_Q8_0, 3, 3, 16, 16, 0, 3.0f, false },
                { KV_Q8_0, 4, 1, 48, 16, 90, 0.0f, false }, { KV_Q8_0, 2, 1, 256, 32, 0, 0.0f, false },
                { KV_Q8_0, 5, 1, 8, 16, 0, 0.0f, false },
        };

        check_cases(cases, ARRAY_SIZE(cases));
}

static void test_f32(void **unused) {
        static const struct attn_case cases[] = {
                { KV_F32, 4, 2, 64, 16, 0, 0.0f, false }, { KV_F32, 5, 1, 80, 32, 70, 0.0f, true },
                { KV_F32, 3, 3, 16, 16, 0, 3.0f, false }, { KV_F32, 2, 1, 256, 64, 0, 0.0f, false },
                { KV_F32, 3, 1, 8, 16, 0, 0.0f, false },  { KV_F32, 3, 3, 248, 16, 40, 0.0f, false },
        };

        check_cases(cases, ARRAY_SIZE(cases));
}

/* Beyond where splits become longer; pages that the window has left behind are not there at all. */
static void test_far(void **unused) {
        static const struct attn_case cases[] = { { KV_F16, 2, 1, 64, 64, 1100, 0.0f, false },
                                                  { KV_Q8_0, 4, 2, 16, 32, 1100, 0.0f, false } };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                uint32_t end = CUDA_ATTN_SHORT + 1100;
                struct attn_rows r = { 0 }, others;
                struct attn_result all, other;
                struct attn_world w;

                case_make(&w, cases + i, NULL, CUDA_ATTN_SHORT - 1152, end);
                rows_add(&r, 0, CUDA_ATTN_SHORT - 10, 20);
                rows_add(&r, 1, end - 90, 17);
                rows_add(&r, 1, CUDA_ATTN_SHORT + 3, 3);
                all = rows_run(&w, &r, 5);
                check_exactly(&w, &r, &all);
                others = apart(&r);
                other = rows_run(&w, &others, 5);
                check_bits(&w, &r, &all, &others, &other, "as a row of its own");
                result_free(&all);
                result_free(&other);
                world_free(&w);
        }
}

/* Queries beyond half precision are the largest there is, not infinite; one that is not a number shows, in its row alone. */
static void test_queries(void **unused) {
        static const struct attn_case c = { KV_F16, 2, 1, 64, 16, 0, 0.0f, false };
        struct attn_rows r = { 0 };
        struct attn_result all;
        struct attn_world w;

        case_make(&w, &c, NULL, 0, 100);
        for (uint32_t d = 0; d < 128; d++)
                w.q[world_row(&w, 0, 70) * 128 + d] = d % 2 ? 1e30f : -INFINITY;
        w.q[world_row(&w, 0, 71) * 128 + 5] = NAN;
        rows_add(&r, 0, 60, 20);
        rows_add(&r, 0, 70, 1);
        rows_add(&r, 0, 71, 1);
        all = rows_run(&w, &r, 2);
        for (uint32_t i = 0; i < r.n; i++)
                for (uint32_t k = 0; k < 128; k++)
                        assert_true(!isnan(all.f32[i * 128 + k]) == (r.pos[i] != 71 || k >= 64));
        result_free(&all);
        world_free(&w);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_splits),  cmocka_unit_test(test_plan),
                cmocka_unit_test(test_bounded), cmocka_unit_test(test_has),
                cmocka_unit_test(test_f16),     cmocka_unit_test(test_q8_0), cmocka_unit_test(test_f32),
                cmocka_unit_test(test_far),     cmocka_unit_test(test_queries),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
