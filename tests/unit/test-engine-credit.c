/* SPDX-License-Identifier: Apache-2.0 */

/* Slow readers: whoever has no credit holds no slot, lends its pages to those who need them, goes on bit for bit, and is
 * forgotten in no corner, whenever its credit comes. */

#include "engine-fixture.h"

/* Given credit drop by drop until it has ended. */
static void feed(struct lab *l, struct result *x, uint32_t drop) {
        for (unsigned i = 0; !x->finished; i++) {
                assert_true(i < RESULT_TOKENS);
                lab_grant(l, x, drop);
                lab_run(l);
        }
}

static void deinit_all(struct result *x, unsigned n) {
        for (unsigned i = 0; i < n; i++)
                result_deinit(&x[i]);
}

/* One slot, one reader that sleeps: others go by, and it goes on where it stood. */
static void test_holds_no_slot(void **state) {
        const struct engine_config config = { .max_sequences = 1 };
        static struct result x[3], alone;
        struct lab l;

        lab_open(&l, "cpu", &config);
        result_init(&alone, 9, 70, 30, 1);
        lab_run_alone(&l, &alone);
        for (uint32_t i = 0; i < 3; i++) {
                result_init(&x[i], i + 1, 70, 30, 1 + i);
                x[i].request.uid = i;
        }
        atomic_store(&x[0].request.granted, 5);
        lab_submit(&l, &x[0]);
        while (x[0].n < 5)
                assert_int_equal(engine_step(l.engine), 1);
        lab_submit(&l, &x[1]);
        lab_submit(&l, &x[2]);
        lab_run(&l);
        assert_true(x[1].finished && x[2].finished);
        assert_int_equal(x[0].n, 5);
        assert_int_equal(lab_stats(&l).paused, 1);
        assert_true(lab_user(&l, 0).kv_used_bytes > 0); /* nobody needed its pages */
        feed(&l, &x[0], 3);
        assert_same_output(&x[0], &alone);
        deinit_all(x, 3);
        result_deinit(&alone);
        lab_close(&l);
}

/* More sleepers than slots, and then one who reads. */
static void test_many_sleepers(void **state) {
        const struct engine_config config = { .max_sequences = 2, .max_rows = 40 };
        static struct result x[9];
        struct lab l;

        lab_open(&l, "null", &config);
        for (uint32_t i = 0; i < 9; i++) {
                result_init(&x[i], i + 1, 50 + i, 20, i);
                x[i].request.uid = i % 4;
                atomic_store(&x[i].request.granted, i < 8 ? i % 3 : 100);
                lab_submit(&l, &x[i]);
        }
        lab_run(&l);
        assert_true(x[8].finished);
        assert_int_equal(lab_stats(&l).paused, 8);
        for (uint32_t i = 0; i < 8; i++) {
                assert_int_equal(x[i].n, i % 3);
                /* Without any credit it has not even begun. */
                assert_true(i % 3 > 0 || x[i].n_progress == 0);
        }
        for (uint32_t i = 0; i < 8; i++)
                feed(&l, &x[i], 1 + i);
        deinit_all(x, 9);
        lab_close(&l);
}

/* The pool is as large as what one needs: the sleeper's pages go, and it reads its text again. */
static void test_lends_its_pages(const char *backend, bool forgotten) {
        const struct engine_config config = { .max_sequences = 2, .max_rows = 64, .context = 128 };
        struct engine_config tight = config;
        static struct result x, other, alone;
        struct lab l;

        lab_open_model(&l, backend, 1);
        tight.kv_bytes = 4 * lab_page_bytes(&l, KV_F16);
        lab_start(&l, &tight);
        result_init(&alone, 9, 60, 60, 1);
        lab_run_alone(&l, &alone);
        result_init(&x, 1, 60, 60, 1);
        result_init(&other, 2, 100, 28, 2);
        x.request.uid = 1;
        other.request.uid = 2;
        atomic_store(&x.request.granted, 20);
        lab_submit(&l, &x);
        lab_run(&l);
        assert_int_equal(x.n, 20);
        assert_true(lab_user(&l, 1).kv_used_bytes >= 3 * lab_page_bytes(&l, KV_F16));
        lab_submit(&l, &other);
        assert_int_equal(engine_step(l.engine), 1);
        assert_int_equal(lab_user(&l, 1).kv_used_bytes, 0);
        lab_run(&l);
        assert_true(other.finished && !other.failed);
        if (forgotten)
                engine_forget(l.engine, 1);
        feed(&l, &x, 7);
        assert_same_output(&x, &alone);
        result_deinit(&x);
        result_deinit(&other);
        result_deinit(&alone);
        lab_close(&l);
}

static void test_pages_lent(void **state) {
        test_lends_its_pages("null", false);
        test_lends_its_pages("null", true);
        test_lends_its_pages("cpu", false);
        test_lends_its_pages("cpu", true);
}

/* A token whose text is held back and the next one come out together, and there is credit for one. What comes before the
 * next step, while it still runs, is used all the same. */
static void test_credit_between_steps(void **state) {
        const struct engine_config config = { .max_sequences = 1 };
        static struct result x, whole;
        uint32_t k = 5;
        char *stop;
        struct lab l;

        lab_open(&l, "null", &config);
        result_init(&whole, 1, 30, 20, 1);
        lab_run_alone(&l, &whole);
        result_init(&x, 2, 30, 20, 1);
        stop = malloc(2); /* begins with token k, but does not go on with the one after it */
        assert_non_null(stop);
        stop[0] = whole.text[k];
        stop[1] = whole.text[k + 1] == '~' ? '!' : '~';
        assert_null(memmem(whole.text, whole.n_text, stop, 2));
        x.request.stop_text = stop;
        x.request.stop[0] = (struct stop_string){ .text = stop, .size = 2 };
        x.request.n_stop = 1;
        atomic_store(&x.request.granted, k + 1);
        lab_submit(&l, &x);
        while (x.n < k + 1)
                assert_int_equal(engine_step(l.engine), 1);
        lab_grant(&l, &x, 100);
        lab_run(&l);
        assert_true(x.finished);
        assert_int_equal(x.n, whole.n);
        assert_memory_equal(x.ids, whole.ids, x.n * sizeof(*x.ids));
        assert_int_equal(x.n_text, whole.n_text);
        assert_memory_equal(x.text, whole.text, x.n_text);
        result_deinit(&x);
        result_deinit(&whole);
        lab_close(&l);
}

/* Who has to make way for one that then has no credit, or has ended before, gets the slot back. */
static void test_way_for_nothing(void **state) {
        const struct engine_config config = { .max_sequences = 1 };
        static struct result x[2];
        struct lab l;

        for (unsigned replayed = 0; replayed < 2; replayed++) {
                lab_open(&l, "null", &config);
                for (uint32_t i = 0; i < 2; i++) {
                        result_init(&x[i], i + 1, 30, 20, i);
                        x[i].request.class = i == 0 ? SCHEDULE_BACKGROUND : SCHEDULE_INTERACTIVE;
                }
                lab_submit(&l, &x[0]);
                while (x[0].n < 3)
                        assert_int_equal(engine_step(l.engine), 1);
                if (replayed) {
                        x[1].request.max_tokens = 1;
                        x[1].request.generated = calloc(1, sizeof(int32_t));
                        assert_non_null(x[1].request.generated);
                        x[1].request.n_generated = 1;
                }
                atomic_store(&x[1].request.granted, 0);
                lab_submit(&l, &x[1]);
                lab_run(&l);
                assert_true(x[0].finished);
                assert_int_equal(x[1].finished, replayed);
                if (!replayed)
                        feed(&l, &x[1], 20);
                deinit_all(x, 2);
                lab_close(&l);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_holds_no_slot), cmocka_unit_test(test_many_sleepers),
                cmocka_unit_test(test_pages_lent),    cmocka_unit_test(test_credit_between_steps),
                cmocka_unit_test(test_way_for_nothing),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
