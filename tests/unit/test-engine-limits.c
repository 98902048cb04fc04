/* SPDX-License-Identifier: Apache-2.0 */

/* Who is let in, and what an end tells: queue limits in the turn in which they change, usage of those that had to wait or
 * were cancelled, replays that have nothing left to do. */

#include "engine-fixture.h"

static void submit(struct lab *l, struct result *x) {
        assert_int_equal(engine_submit(l->engine, &x->request), 0);
}

static void cancel(struct lab *l, struct result *x) {
        atomic_store(&x->request.cancelled, true);
        engine_notice(l->engine);
}

/* --- queue limits ------------------------------------------------------------------------------------------------ */

/* What was cancelled before a request came is not in its way, though no step lies between the two. */
static void cancel_and_submit(uint32_t max_queued, uint32_t queued_limit) {
        const struct engine_config config = { .max_sequences = 1, .max_queued = max_queued };
        static struct result x[4];
        struct lab l;

        lab_open(&l, "cpu", &config);
        for (uint32_t i = 0; i < 4; i++) {
                result_init(&x[i], i + 1, 20, 10, i);
                x[i].request.uid = 7;
                x[i].request.queued_limit = queued_limit;
        }
        submit(&l, &x[0]);
        assert_int_equal(engine_step(l.engine), 1);
        submit(&l, &x[1]); /* waits, which is all that may */
        submit(&l, &x[2]);
        assert_true(x[1].accepted && !result_ended(&x[1]));
        assert_true(x[2].failed && !x[2].accepted);
        assert_int_equal(x[2].failure.code, SPARK__V1__ERROR_CODE__BUSY);
        assert_true(x[2].failure.retry_after_ms > 0);

        cancel(&l, &x[1]);
        submit(&l, &x[3]);
        assert_true(x[1].failed);
        assert_int_equal(x[1].failure.code, SPARK__V1__ERROR_CODE__CANCELLED);
        assert_true(x[3].accepted && !result_ended(&x[3]));
        lab_run(&l);
        assert_true(x[0].finished && x[3].finished);
        for (uint32_t i = 0; i < 4; i++)
                result_deinit(&x[i]);
        lab_close(&l);
}

static void test_cancel_and_submit(void **state) {
        cancel_and_submit(0, 1); /* the user's limit */
        cancel_and_submit(1, 0); /* everybody's */
}

/* One user's full queue is nobody else's. */
static void test_queue_of_others(void **state) {
        const struct engine_config config = { .max_sequences = 1 };
        static struct result x[4];
        struct lab l;

        lab_open(&l, "cpu", &config);
        for (uint32_t i = 0; i < 4; i++) {
                result_init(&x[i], i + 1, 20, 3, i);
                x[i].request.uid = i == 3 ? 8 : 7;
                x[i].request.queued_limit = 1;
        }
        submit(&l, &x[0]);
        assert_int_equal(engine_step(l.engine), 1);
        for (uint32_t i = 1; i < 4; i++)
                submit(&l, &x[i]);
        assert_true(x[1].accepted && x[2].failed && x[3].accepted);
        lab_run(&l);
        assert_true(x[0].finished && x[1].finished && x[3].finished);
        for (uint32_t i = 0; i < 4; i++)
                result_deinit(&x[i]);
        lab_close(&l);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_cancel_and_submit),
                cmocka_unit_test(test_queue_of_others),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
