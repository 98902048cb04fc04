/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Who gets slots and pages when there are not enough: limits of a user, which bind that user alone, priorities, and pools
 * that are as small as they can be. On the null backend, whose tokens show it where pages are mixed up.
 */

#include "engine-check.h"

#define MANY 8u

static struct lab lab;
static struct result x[MANY], alone[MANY];

/* A pool of so many pages (0: as many as all slots need) for a context of so many tokens. */
static void open_lab(uint32_t pages, uint32_t context, uint32_t slots) {
        struct engine_config config = { .max_sequences = slots, .max_rows = 64, .context = context };

        lab_open_model(&lab, "null", 1);
        config.kv_bytes = pages * lab_page_bytes(&lab, KV_F16);
        lab_start(&lab, &config);
}

static void close_lab(uint32_t n) {
        for (uint32_t i = 0; i < n; i++) {
                result_deinit(&x[i]);
                result_deinit(&alone[i]);
        }
        engine_check_idle(lab.engine);
        lab_close(&lab);
}

/* Request i, which was run alone before. */
static void prepare(uint32_t i, uint32_t uid, uint32_t prompt, uint32_t answer, uint32_t salt) {
        result_init(&alone[i], 100 + i, prompt, answer, salt);
        lab_run_alone(&lab, &alone[i]);
        result_init(&x[i], i + 1, prompt, answer, salt);
        x[i].request.uid = uid;
}

static void submit(uint32_t i) {
        lab_submit(&lab, &x[i]);
        assert_true(x[i].accepted);
}

static void submit_first(uint32_t n) {
        for (uint32_t i = 0; i < n; i++)
                submit(i);
}

/* True while there is more to do. */
static bool step(void) {
        int r = engine_step(lab.engine);

        assert_true(r >= 0);
        engine_check(lab.engine);
        return r > 0;
}

static void assert_done(uint32_t n) {
        for (uint32_t i = 0; i < n; i++) {
                assert_true(x[i].finished);
                assert_same_output(&x[i], &alone[i]);
        }
}

static uint64_t pages_of(uint32_t uid) {
        return lab_user(&lab, uid).kv_used_bytes / lab_page_bytes(&lab, KV_F16);
}

/* --- limits of a user ---------------------------------------------------------------------------------------------- */

static void test_running_limit(void **state) {
        unsigned most = 0, most_all = 0;

        open_lab(0, 128, 8);
        for (uint32_t i = 0; i < 6; i++) {
                prepare(i, i < 4 ? 1 : 2, 20 + i, 30, i);
                x[i].request.running_limit = i < 4 ? 2 : 0;
        }
        submit_first(6);
        do {
                most = MAX(most, lab_user(&lab, 1).running);
                most_all = MAX(most_all, lab_stats(&lab).running);
        } while (step());
        assert_int_equal(most, 2);
        assert_int_equal(most_all, 4);
        assert_done(6);
        close_lab(6);
}

/* With all of a limit's requests asleep the others go on: who sleeps does not run. */
static void test_running_limit_and_sleepers(void **state) {
        open_lab(0, 128, 8);
        for (uint32_t i = 0; i < 3; i++) {
                prepare(i, 1, 20, 30, i);
                x[i].request.running_limit = 1;
                atomic_store(&x[i].request.granted, i < 2 ? 3 : 100);
        }
        submit_first(3);
        lab_run(&lab);
        assert_true(x[2].finished);
        for (uint32_t i = 0; i < 2; i++) {
                assert_int_equal(x[i].n, 3);
                lab_grant(&lab, &x[i], 100);
        }
        lab_run(&lab);
        assert_done(3);
        close_lab(3);
}

static void test_queued_limit(void **state) {
        open_lab(0, 128, 1);
        for (uint32_t i = 0; i < 5; i++) {
                prepare(i, i == 4 ? 2 : 1, 20, 10, i);
                x[i].request.queued_limit = 2;
        }
        submit(0);
        assert_true(step()); /* it runs, and waits no more */
        submit(1);
        submit(2);
        lab_submit(&lab, &x[3]);
        assert_true(x[3].failed && !x[3].accepted);
        assert_int_equal(x[3].failure.code, SPARK__V1__ERROR_CODE__BUSY);
        assert_true(x[3].failure.retry_after_ms > 0);
        submit(4); /* another user's */
        result_reset(&x[3]);
        x[3].request.replay = true; /* an earlier engine had accepted it: it may not be refused now */
        submit(3);
        while (step())
                ;
        assert_done(5);
        close_lab(5);
}

static void test_replay_in_a_full_queue(void **state) {
        struct engine_config config = { .max_sequences = 1, .max_queued = 1, .context = 128 };

        lab_open_model(&lab, "null", 1);
        lab_start(&lab, &config);
        for (uint32_t i = 0; i < 3; i++)
                prepare(i, i, 20, 10, i);
        for (uint32_t i = 0; i < 3; i++) {
                x[i].request.replay = i > 0;
                submit(i);
        }
        while (step())
                ;
        assert_done(3);
        close_lab(3);
}

/* --- KV of a user -------------------------------------------------------------------------------------------------- */

static void test_too_much_kv(void **state) {
        const uint32_t kv = 3 * ENGINE_PAGE_TOKENS;
        static const struct {
                enum request_kind kind;
                uint32_t prompt, answer, have; /* 0: it fits */
        } cases[] = {
                { REQUEST_GENERATE, 80, 16, 0 },        { REQUEST_GENERATE, 80, 17, 97 },
                { REQUEST_GENERATE, 96, 1, 97 },        { REQUEST_GENERATE, 95, REQUEST_ENDLESS, 0 },
                { REQUEST_GENERATE, 96, REQUEST_ENDLESS, 97 }, { REQUEST_PREWARM, 96, 1, 0 },
                { REQUEST_PREWARM, 97, 1, 97 },         { REQUEST_SCORE, 95, 0, 0 },
                { REQUEST_SCORE, 96, 0, 97 },
        };

        open_lab(0, 256, 2);
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                result_init(&x[0], 1, cases[i].prompt, cases[i].answer, 1);
                x[0].request.kind = cases[i].kind;
                x[0].request.kv_limit = 3 * lab_page_bytes(&lab, KV_F16) + 5; /* no page for what is left */
                lab_submit(&lab, &x[0]);
                assert_int_equal(x[0].accepted, cases[i].have == 0);
                if (cases[i].have > 0) {
                        assert_int_equal(x[0].failure.code, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED);
                        assert_int_equal(x[0].failure.have, cases[i].have);
                        assert_int_equal(x[0].failure.max, kv);
                }
                lab_run(&lab);
                assert_int_equal(x[0].finished, cases[i].have == 0);
                if (cases[i].answer == REQUEST_ENDLESS && x[0].finished)
                        assert_int_equal(x[0].n, kv - cases[i].prompt); /* as far as it may go */
                result_deinit(&x[0]);
        }
        engine_check_idle(lab.engine);
        lab_close(&lab);
}

/* There are slots and pages, but no more for this user: the second waits for the first. Another user's does not. */
static void test_waits_for_own_pages(void **state) {
        open_lab(0, 256, 8);
        for (uint32_t i = 0; i < 3; i++) {
                prepare(i, i == 1 ? 2 : 1, 90, 30, i);
                x[i].request.kv_limit = i == 1 ? 0 : 5 * lab_page_bytes(&lab, KV_F16);
        }
        submit_first(3);
        do {
                assert_true(pages_of(1) <= 5);
                assert_true(x[0].finished || x[2].n == 0);
        } while (step());
        assert_done(3);
        close_lab(3);
}

/* Two of a user fit, until they grow: one of the two is parked, whoever else is there. */
static void test_growth_at_the_limit(void **state) {
        bool both = false, parked = false;

        open_lab(0, 256, 8);
        for (uint32_t i = 0; i < 3; i++) {
                prepare(i, i < 2 ? 1 : 2, 30, 120, i);
                x[i].request.kv_limit = i < 2 ? 6 * lab_page_bytes(&lab, KV_F16) : 0;
        }
        submit_first(3);
        do {
                struct engine_user user = lab_user(&lab, 1);

                assert_true(pages_of(1) <= 6);
                assert_true(x[2].finished || x[2].n == 0 || lab_user(&lab, 2).running == 1);
                both = both || user.running == 2;
                parked = parked || (both && user.running == 1 && user.queued == 1);
        } while (step());
        assert_true(both && parked);
        assert_done(3);
        close_lab(3);
}

/* The first one of a user sleeps with its pages, the limit is full: the second one gets them, and afterwards the first one
 * goes on. */
static void test_limit_and_a_sleeper(void **state) {
        open_lab(0, 256, 4);
        for (uint32_t i = 0; i < 2; i++) {
                prepare(i, 1, 90, 30, i);
                x[i].request.kv_limit = 4 * lab_page_bytes(&lab, KV_F16);
        }
        atomic_store(&x[0].request.granted, 10);
        submit(0);
        submit(1);
        while (step())
                assert_true(pages_of(1) <= 4);
        assert_int_equal(x[0].n, 10);
        assert_true(x[1].finished);
        lab_grant(&lab, &x[0], 100);
        while (step())
                assert_true(pages_of(1) <= 4);
        assert_done(2);
        close_lab(2);
}

/* --- priorities ---------------------------------------------------------------------------------------------------- */

/* All slots are taken by background requests: an interactive one has its first token in the first step that can give it
 * one, and they go on as if nothing had been. */
static void test_interactive_first(void **state) {
        open_lab(0, 256, 2);
        for (uint32_t i = 0; i < 5; i++) {
                prepare(i, i, 40, 100, i);
                x[i].request.class = i < 4 ? SCHEDULE_BACKGROUND : SCHEDULE_INTERACTIVE;
        }
        for (uint32_t i = 0; i < 4; i++)
                submit(i);
        for (unsigned i = 0; i < 20; i++)
                assert_true(step());
        assert_int_equal(lab_stats(&lab).running, 2);
        submit(4);
        assert_true(step());
        assert_int_equal(x[4].n, 1);
        while (!x[4].finished)
                assert_true(step());
        assert_false(x[0].finished && x[1].finished);
        while (step())
                ;
        assert_done(5);
        close_lab(5);
}

/* Nor does want of pages help those who have them. */
static void test_interactive_gets_pages(void **state) {
        open_lab(8, 256, 4);
        for (uint32_t i = 0; i < 3; i++) {
                prepare(i, i, 100, 100, i);
                x[i].request.class = i < 2 ? SCHEDULE_BACKGROUND : SCHEDULE_INTERACTIVE;
        }
        submit(0);
        submit(1);
        for (unsigned i = 0; i < 20; i++)
                assert_true(step());
        submit(2);
        while (!x[2].finished)
                assert_true(step());
        assert_false(x[0].finished || x[1].finished);
        while (step())
                ;
        assert_done(3);
        close_lab(3);
}

/* --- the smallest pools -------------------------------------------------------------------------------------------- */

/* The page that a request begins with is to be copied, and the pool has exactly the pages that the request takes. */
static void test_no_page_for_a_copy(void **state) {
        open_lab(2, 64, 2);
        prepare(0, 1, 40, 20, 4);
        prepare(1, 1, 40, 20, 4);
        prepare(2, 1, 20, 40, 4); /* the beginning of it */
        for (uint32_t i = 0; i < 3; i++) {
                submit(i);
                while (step())
                        ;
        }
        assert_done(3);
        close_lab(3);
}

/* An interactive request finds a page of its beginning, and takes the slot and the pages of a background one, not
 * its own. */
static void test_own_pages_stay(void **state) {
        open_lab(4, 128, 1);
        prepare(0, 1, 40, 3, 5);
        prepare(1, 2, 60, 60, 6);
        prepare(2, 1, 70, 50, 5);
        x[1].request.class = SCHEDULE_BACKGROUND;
        x[2].request.class = SCHEDULE_INTERACTIVE;
        submit(0);
        while (step())
                ;
        submit(1);
        while (x[1].n < 3)
                assert_true(step());
        submit(2);
        while (step())
                ;
        assert_int_equal(x[2].done.cached_tokens, ENGINE_PAGE_TOKENS);
        assert_done(3);
        close_lab(3);
}

/* A prompt of three quanta, and another user whose requests need every page: whenever it has to make way its pages go, but what
 * it read a second time is not held against it, and it comes to an end. */
static void test_long_prompt_comes_to_an_end(void **state) {
        struct engine_config config = { .max_sequences = 4, .max_rows = 64, .context = 512, .quantum = 100 };
        unsigned others = 0;

        lab_open_model(&lab, "null", 1);
        config.kv_bytes = 12 * lab_page_bytes(&lab, KV_F16);
        lab_start(&lab, &config);
        prepare(0, 1, 300, 4, 1);
        for (uint32_t i = 1; i < 5; i++)
                result_init(&x[i], i + 1, 90, 20, 10 + i);
        submit_first(5);
        while (!x[0].finished && others < 300) {
                assert_true(step());
                for (uint32_t i = 1; i < 5; i++) {
                        if (!x[i].finished)
                                continue;
                        result_deinit(&x[i]);
                        result_init(&x[i], i + 1, 90, 20, 10 + ++others);
                        x[i].request.uid = 2;
                        submit(i);
                }
        }
        assert_true(x[0].finished);
        assert_same_output(&x[0], &alone[0]);
        lab_run(&lab);
        for (uint32_t i = 1; i < 5; i++)
                result_deinit(&x[i]);
        close_lab(1);
}

/* Eight that grow to twelve pages each, and room for four of them: they begin when there is room for growing, too. Else each
 * is parked as soon as the next one has begun, and computed again. */
static void test_room_to_grow(void **state) {
        struct engine_config config = { .max_sequences = 8, .max_rows = 8, .context = 512 };
        uint64_t before;

        lab_open_model(&lab, "null", 1);
        config.kv_bytes = 48 * lab_page_bytes(&lab, KV_F16);
        lab_start(&lab, &config);
        for (uint32_t i = 0; i < MANY; i++)
                prepare(i, i, 60, 300, i);
        engine_forget_all(lab.engine);
        before = lab_stats(&lab).steps;
        submit_first(MANY);
        lab_run(&lab);
        assert_done(MANY);
        assert_in_range(lab_stats(&lab).steps - before, 8 * 360 / 8, 8 * 360 / 8 * 9 / 5);
        close_lab(MANY);
}

/* While one sleeps, the text that it began with becomes public, in another copy, and its own next pages hang on that one
 * now: pages that nobody holds, but that are not to be had while it holds its own. What it lacks it gets by giving up those,
 * too. */
static void test_pages_behind_a_copy(void **state) {
        int32_t text[70 + 120];

        open_lab(8, 256, 4);
        prepare(0, 1, 70, 120, 7);
        memcpy(text, alone[0].request.tokens, 70 * sizeof(*text));
        memcpy(text + 70, alone[0].ids, 120 * sizeof(*text));
        atomic_store(&x[0].request.granted, 129 - 70); /* 4 pages are full, the fifth is not there yet */
        submit(0);
        while (step())
                ;
        assert_int_equal(pages_of(1), 4);
        for (uint32_t i = 1; i < 3; i++) {
                result_init_tokens(&x[i], 1 + i, text, i == 1 ? 96 : 128, 1, 7);
                x[i].request.kind = REQUEST_PREWARM;
                x[i].request.uid = i == 1 ? 2 : 1;
                x[i].request.share = i == 1;
                submit(i);
                while (step())
                        ;
                assert_true(x[i].finished);
                assert_int_equal(x[i].done.cached_tokens, i == 1 ? 0 : 128);
                result_deinit(&x[i]);
        }
        assert_int_equal(pages_of(1), 4);
        lab_grant(&lab, &x[0], 1000);
        lab_run(&lab);
        assert_done(1);
        close_lab(1);
}

/* A request that has to wait for room takes nothing from anybody until that is enough: neither what is cached for others,
 * nor what others hold in their sleep. */
static void test_waiting_takes_nothing(void **state) {
        uint64_t page;

        open_lab(8, 256, 4);
        page = lab_page_bytes(&lab, KV_F16);
        prepare(0, 1, 40, 3, 1);   /* leaves a page to the cache */
        prepare(1, 2, 20, 30, 2);  /* sleeps */
        prepare(2, 3, 70, 50, 3);  /* runs, on 4 pages */
        prepare(3, 4, 200, 20, 4); /* wants 7 */
        atomic_store(&x[1].request.granted, 3);
        for (uint32_t i = 0; i < 2; i++) {
                submit(i);
                while (step())
                        ;
        }
        assert_int_equal(lab_user(&lab, 1).kv_cached_bytes, page);
        assert_int_equal(pages_of(2), 2);
        submit(2);
        assert_true(step());
        submit(3);
        while (!x[2].finished) {
                assert_true(x[3].n == 0 && lab_stats(&lab).queued == 1);
                assert_int_equal(lab_user(&lab, 1).kv_cached_bytes, page);
                assert_int_equal(pages_of(2), 2);
                assert_true(step());
        }
        while (step())
                ;
        assert_true(x[3].finished);
        assert_int_equal(pages_of(2), 0); /* then it was enough */
        lab_grant(&lab, &x[1], 100);
        lab_run(&lab);
        assert_done(4);
        close_lab(4);
}

/* Many that need all of a pool each: one after the other, or by turns; each to its end. */
static void test_one_at_a_time(void **state) {
        open_lab(4, 128, 4);
        for (uint32_t i = 0; i < MANY; i++)
                prepare(i, i % 3, 5 + 12 * i, 128 - 5 - 12 * i, i);
        for (uint32_t i = 0; i < MANY; i++)
                submit(i);
        while (step())
                ;
        assert_done(MANY);
        close_lab(MANY);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_running_limit),       cmocka_unit_test(test_running_limit_and_sleepers),
                cmocka_unit_test(test_queued_limit),        cmocka_unit_test(test_replay_in_a_full_queue),
                cmocka_unit_test(test_too_much_kv),         cmocka_unit_test(test_waits_for_own_pages),
                cmocka_unit_test(test_growth_at_the_limit), cmocka_unit_test(test_limit_and_a_sleeper),
                cmocka_unit_test(test_interactive_first),   cmocka_unit_test(test_interactive_gets_pages),
                cmocka_unit_test(test_no_page_for_a_copy),  cmocka_unit_test(test_own_pages_stay),
                cmocka_unit_test(test_pages_behind_a_copy), cmocka_unit_test(test_waiting_takes_nothing),
                cmocka_unit_test(test_one_at_a_time),
                cmocka_unit_test(test_long_prompt_comes_to_an_end), cmocka_unit_test(test_room_to_grow),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
