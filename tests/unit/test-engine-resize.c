/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory of KV given back to the system and taken again while requests run. On the null backend, whose tokens show it where
 * a page is lost, and on the CPU's, whose memory is looked at: /proc/self/smaps says what the system thinks.
 */

#include "engine-check.h"
#include "kernels/cpu/cpu.h"

#define MANY 12u
#define PROMPT 90u
#define ANSWER 60u
#define PAGES 5u /* of such a request */

static struct lab lab;
static struct result x[MANY], alone[MANY];

static void open_lab(const char *backend, uint32_t pages, uint32_t slots) {
        struct engine_config config = { .max_sequences = slots, .max_rows = 64, .context = 256 };

        lab_open_model(&lab, backend, 1);
        config.kv_bytes = pages * lab_page_bytes(&lab, KV_F16);
        lab_start(&lab, &config);
}

static void close_lab(uint32_t n) {
        for (uint32_t i = 0; i < n; i++) {
                result_deinit(&x[i]);
                result_deinit(&alone[i]);
        }
        (void)engine_resize(lab.engine, UINT64_MAX, UINT64_MAX);
        engine_check_idle(lab.engine);
        lab_close(&lab);
}

static void prepare(uint32_t n) {
        for (uint32_t i = 0; i < n; i++) {
                result_init(&alone[i], 100 + i, PROMPT, ANSWER, i);
                lab_run_alone(&lab, &alone[i]);
                result_init(&x[i], i + 1, PROMPT, ANSWER, i);
                x[i].request.uid = i % 3;
        }
}

static void submit_all(uint32_t n) {
        for (uint32_t i = 0; i < n; i++)
                lab_submit(&lab, &x[i]);
}

static void check(void) {
        const struct kv_pool *p = &lab.engine->pool;

        engine_check(lab.engine);
        assert_int_equal(kv_pool_over(p), 0);
        assert_true(p->n_cached <= lab.engine->cache_limit);
        assert_true(p->limit == p->n_pages || kv_pool_wet(p) <= p->limit);
        assert_int_equal(p->n_held + p->n_cached + p->n_freed, kv_pool_wet(p));
}

static bool step(void) {
        int r = engine_step(lab.engine);

        assert_true(r >= 0);
        check();
        return r > 0;
}

static uint64_t resize(uint64_t cache_pages, uint64_t pages) {
        uint64_t page = lab_page_bytes(&lab, KV_F16);
        uint64_t freed = engine_resize(lab.engine, cache_pages == UINT64_MAX ? cache_pages : cache_pages * page,
                                       pages == UINT64_MAX ? pages : pages * page);

        check();
        return freed;
}

static void assert_done(uint32_t n) {
        for (uint32_t i = 0; i < n; i++) {
                assert_true(x[i].finished);
                assert_same_output(&x[i], &alone[i]);
        }
}

/* --- what runs ------------------------------------------------------------------------------------------------------ */

/* Eight run; room for two is left; then for all again. */
static void parks_and_goes_on(const char *backend) {
        open_lab(backend, 12 * PAGES, 8);
        prepare(8);
        submit_all(8);
        for (unsigned i = 0; i < 30; i++)
                assert_true(step());
        assert_int_equal(lab_stats(&lab).running, 8);
        (void)resize(0, 2 * PAGES);
        assert_in_range(lab_stats(&lab).running, 1, 2);
        assert_int_equal(lab_stats(&lab).running + lab_stats(&lab).queued, 8);
        for (unsigned i = 0; i < 10; i++)
                assert_true(step());
        assert_in_range(lab_stats(&lab).running, 1, 2);
        (void)resize(UINT64_MAX, UINT64_MAX);
        assert_true(step());
        assert_int_equal(lab_stats(&lab).running, 8);
        while (step())
                ;
        assert_done(8);
        close_lab(8);
}

static void test_parks_and_goes_on(void **state) {
        parks_and_goes_on("null");
        parks_and_goes_on("cpu");
}

/* Nothing at all is left: they wait, cancelling works, and they go on. */
static void test_nothing_left(void **state) {
        struct failure f;

        open_lab("cpu", 4 * PAGES, 4);
        prepare(4);
        submit_all(4);
        for (unsigned i = 0; i < 40; i++)
                assert_true(step());
        assert_true(resize(0, 0) > 0);
        assert_int_equal(lab_stats(&lab).kv_resident_bytes, 0);
        assert_int_equal(lab_stats(&lab).kv_limit_bytes, 0);
        assert_int_equal(lab_stats(&lab).queued, 4);
        while (step())
                ; /* ends: nobody can run */
        assert_int_equal(lab_stats(&lab).queued, 4);
        assert_int_equal(engine_self_test(lab.engine, &f), 0);
        lab_cancel(&lab, &x[3]);
        while (step())
                ;
        assert_true(x[3].failed);
        assert_int_equal(lab_stats(&lab).kv_resident_bytes, 0);
        (void)resize(0, PAGES); /* one after the other */
        while (step())
                assert_in_range(lab_stats(&lab).running, 0, 1);
        assert_done(3);
        close_lab(4);
}

/* One that needs more than is left waits for more, and does not spin. */
static void test_larger_than_what_is_left(void **state) {
        open_lab("null", 4 * PAGES, 4);
        prepare(1);
        submit_all(1);
        (void)resize(UINT64_MAX, PAGES - 1);
        for (unsigned i = 0; step(); i++)
                assert_true(i < 1000);
        assert_false(result_ended(&x[0]));
        assert_int_equal(lab_stats(&lab).queued, 1);
        (void)resize(UINT64_MAX, PAGES);
        while (step())
                ;
        assert_done(1);
        close_lab(1);
}

/* The lowest class first, of that the one that is furthest ahead. */
static void test_who_is_parked(void **state) {
        open_lab("null", 4 * PAGES, 4);
        prepare(4);
        for (uint32_t i = 0; i < 4; i++) {
                x[i].request.uid = 0;
                x[i].request.class = i == 1 ? SCHEDULE_BACKGROUND : i == 2 ? SCHEDULE_INTERACTIVE : SCHEDULE_NORMAL;
        }
        submit_all(4);
        for (unsigned i = 0; i < 20; i++)
                assert_true(step());
        assert_int_equal(lab_stats(&lab).running, 4);
        (void)resize(0, 3 * PAGES);
        assert_int_equal(lab_stats(&lab).running, 3);
        assert_true(list_empty(&lab.engine->waiting) == false);
        assert_ptr_equal(LIST_ENTRY(lab.engine->waiting.next, struct sequence, link)->request, &x[1].request);
        (void)resize(0, PAGES);
        assert_int_equal(lab_stats(&lab).running, 1);
        assert_ptr_equal(LIST_ENTRY(lab.engine->running.next, struct sequence, link)->request, &x[2].request);
        (void)resize(UINT64_MAX, UINT64_MAX);
        while (step())
                ;
        assert_done(4);
        close_lab(4);
}

/* What is paused for want of credit keeps its place, not its pages. */
static void test_paused_ones_give_way(void **state) {
        open_lab("cpu", 4 * PAGES, 4);
        prepare(2);
        for (uint32_t i = 0; i < 2; i++)
                atomic_store(&x[i].request.granted, i == 0 ? 5 : 1000000);
        submit_all(2);
        for (unsigned i = 0; i < 20; i++)
                assert_true(step());
        assert_int_equal(lab_stats(&lab).paused, 1);
        (void)resize(0, PAGES);
        assert_int_equal(lab_stats(&lab).running, 1); /* the running one was not touched */
        while (step())
                ;
        assert_true(x[1].finished);
        lab_grant(&lab, &x[0], 1000000);
        while (step())
                ;
        assert_done(2);
        close_lab(2);
}

/* --- the cache ------------------------------------------------------------------------------------------------------- */

static void test_cache_is_bounded(void **state) {
        uint32_t page;

        open_lab("cpu", 10 * PAGES, 4);
        prepare(8);
        page = (uint32_t)lab_page_bytes(&lab, KV_F16);
        submit_all(4);
        while (step())
                ;
        assert_int_equal(lab_stats(&lab).kv_cached_bytes, 4 * ((PROMPT + ANSWER - 1) / ENGINE_PAGE_TOKENS) * page);
        assert_true(resize(3, UINT64_MAX) > 0);
        assert_int_equal(lab_stats(&lab).kv_cached_bytes, 3 * page);
        assert_int_equal(lab_stats(&lab).kv_resident_bytes, 3 * page);
        for (uint32_t i = 4; i < 8; i++)
                lab_submit(&lab, &x[i]);
        while (step())
                ;
        assert_done(8);
        assert_int_equal(lab_stats(&lab).kv_cached_bytes, 3 * page); /* it stays bounded */
        assert_int_equal(lab_stats(&lab).kv_resident_bytes, 3 * page);
        (void)resize(UINT64_MAX, UINT64_MAX);
        result_reset(&x[0]);
        lab_submit(&lab, &x[0]);
        while (step())
                ;
        assert_true(lab_stats(&lab).kv_cached_bytes > 3 * page);
        assert_done(1);
        close_lab(8);
}

/* Put into a cache that may keep nothing: nothing is read for nothing, and nothing is kept. */
static void test_import_into_a_bounded_cache(void **state) {
        const uint32_t n = PROMPT / ENGINE_PAGE_TOKENS;
        size_t size;
        uint8_t *data;

        open_lab("cpu", 4 * PAGES, 2);
        prepare(1);
        submit_all(1);
        while (step())
                ;
        size = engine_page_bytes(lab.engine);
        data = malloc(n * size);
        assert_non_null(data);
        assert_int_equal(engine_export_pages(lab.engine, 0, x[0].request.tokens, PROMPT, 0, n, data), n);
        (void)resize(1, UINT64_MAX);
        engine_forget_all(lab.engine);
        assert_int_equal(engine_import_pages(lab.engine, 0, x[0].request.tokens, 0, n, data), 1);
        engine_rest(lab.engine);
        check();
        assert_int_equal(engine_cached_pages(lab.engine, 0, x[0].request.tokens, PROMPT), 1);
        free(data);
        close_lab(1);
}

/* --- memory ---------------------------------------------------------------------------------------------------------- */

/* Resident bytes of the mapping that begins at an address. */
static uint64_t resident_at(uintptr_t at) {
        FILE *f = fopen("/proc/self/smaps", "re");
        unsigned long long first, end, kib;
        bool here = false;
        char line[512];
        uint64_t sum = 0;

        assert_non_null(f);
        while (fgets(line, sizeof(line), f)) {
                if (sscanf(line, "%llx-%llx ", &first, &end) == 2)
                        here = at >= first && at < end;
                else if (here && sscanf(line, "Rss: %llu kB", &kib) == 1)
                        sum += kib * 1024;
        }
        (void)fclose(f);
        return sum;
}

static uint64_t resident(void) {
        return resident_at((uintptr_t)kv_keys(lab.engine->kv, 0, 0, 0, 0));
}

/* The system's word for what the engine says of its memory: pages of 8 KiB, so it can be exact. */
static void test_memory_goes_and_comes(void **state) {
        uint64_t before, freed, page;

        open_lab("cpu", 8 * PAGES, 8);
        page = lab_page_bytes(&lab, KV_F16);
        assert_int_equal(page % 4096, 0);
        prepare(8);
        submit_all(8);
        for (unsigned i = 0; i < 40; i++)
                assert_true(step());
        before = resident();
        assert_true(before > 20 * page);
        assert_int_equal(before, lab_stats(&lab).kv_resident_bytes);
        freed = resize(0, 2 * PAGES);
        assert_int_equal(resident(), before - freed);
        assert_int_equal(resident(), lab_stats(&lab).kv_resident_bytes);
        assert_true(resident() <= 2 * PAGES * page);
        assert_int_equal(resize(0, 2 * PAGES), 0); /* it was done */
        for (unsigned i = 0; i < 1000 && !result_ended(&x[0]); i++)
                assert_true(step());
        assert_true(resident() <= 2 * PAGES * page);
        (void)resize(UINT64_MAX, UINT64_MAX);
        while (step())
                ;
        assert_done(8);
        assert_int_equal(resident(), lab_stats(&lab).kv_resident_bytes);
        assert_true(resident() > 2 * PAGES * page); /* and is taken again as it is used */
        freed = resize(0, UINT64_MAX);
        assert_int_equal(resident(), 0);
        close_lab(8);
}

/* A request that came and went while memory is short leaves none behind. */
static void test_idle_is_dry(void **state) {
        open_lab("cpu", 8 * PAGES, 4);
        prepare(4);
        (void)resize(0, 4 * PAGES);
        submit_all(4);
        while (step())
                ;
        assert_done(4);
        assert_int_equal(resident(), 0);
        for (uint32_t i = 0; i < 4; i++)
                result_reset(&x[i]);
        submit_all(4);
        for (unsigned i = 0; i < 5; i++)
                assert_true(step());
        for (uint32_t i = 0; i < 4; i++)
                lab_cancel(&lab, &x[i]);
        engine_rest(lab.engine); /* no step follows */
        assert_int_equal(resident(), 0);
        close_lab(4);
}

/* --- the self-test, between two steps --------------------------------------------------------------------------------- */

static void test_self_test_leaves_no_trace(void **state) {
        struct failure f;

        open_lab("cpu", 4 * PAGES, 4);
        prepare(4);
        submit_all(4);
        while (step()) {
                uint64_t wet = lab_stats(&lab).kv_resident_bytes;

                assert_int_equal(engine_self_test(lab.engine, &f), 0);
                assert_int_equal(lab_stats(&lab).kv_resident_bytes, wet);
                check();
        }
        assert_done(4);
        close_lab(4);
}

/* The same where every page is in use. */
static void test_self_test_without_a_page(void **state) {
        struct failure f;
        bool full = false, dry;

        open_lab("cpu", 2 * PAGES, 4);
        prepare(3);
        submit_all(3);
        while (step()) {
                full |= kv_pool_spare(&lab.engine->pool, &dry) == UINT32_MAX;
                assert_int_equal(engine_self_test(lab.engine, &f), 0);
        }
        assert_true(full);
        assert_done(3);
        close_lab(3);
}

/* --- at random -------------------------------------------------------------------------------------------------------- */

static uint32_t draw(uint64_t *random, uint32_t n) {
        *random = *random * 6364136223846793005u + 1442695040888963407u;
        return (uint32_t)((*random >> 33) % n);
}

static void random_bounds(const char *backend, uint64_t random, unsigned rounds) {
        open_lab(backend, 6 * PAGES, 6);
        prepare(MANY);
        for (unsigned round = 0; round < rounds; round++) {
                for (uint32_t i = 0; i < MANY; i++)
                        result_reset(&x[i]);
                for (uint32_t i = 0; i < MANY;) {
                        if (draw(&random, 3) == 0)
                                lab_submit(&lab, &x[i++]);
                        if (draw(&random, 4) == 0)
                                (void)resize(draw(&random, 2) ? draw(&random, 4 * PAGES) : UINT64_MAX,
                                             draw(&random, 2) ? draw(&random, 7 * PAGES) : UINT64_MAX);
                        if (draw(&random, 16) == 0)
                                engine_forget_all(lab.engine);
                        (void)step();
                }
                (void)resize(draw(&random, 4 * PAGES), PAGES + draw(&random, 5 * PAGES));
                while (step())
                        if (draw(&random, 8) == 0)
                                (void)resize(draw(&random, 4 * PAGES), PAGES + draw(&random, 5 * PAGES));
                assert_done(MANY);
        }
        close_lab(MANY);
}

static void test_random_bounds(void **state) {
        for (uint64_t seed = 1; seed <= 8; seed++)
                random_bounds("null", seed, 6);
        random_bounds("cpu", 9, 3);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parks_and_goes_on),
                cmocka_unit_test(test_nothing_left),
                cmocka_unit_test(test_larger_than_what_is_left),
                cmocka_unit_test(test_who_is_parked),
                cmocka_unit_test(test_paused_ones_give_way),
                cmocka_unit_test(test_cache_is_bounded),
                cmocka_unit_test(test_import_into_a_bounded_cache),
                cmocka_unit_test(test_memory_goes_and_comes),
                cmocka_unit_test(test_idle_is_dry),
                cmocka_unit_test(test_self_test_leaves_no_trace),
                cmocka_unit_test(test_self_test_without_a_page),
                cmocka_unit_test(test_random_bounds),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
