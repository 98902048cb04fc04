/* SPDX-License-Identifier: Apache-2.0 */

/* The request table and what a request does on its own: keys, credit, commands to the engine, losses, ends. */

#include "request-fixture.h"

static void test_keys(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request *r[70];
        uint64_t first;

        for (size_t i = 0; i < ARRAY_SIZE(r); i++)
                r[i] = submit_generate(f, 1, &heard);
        for (size_t i = 0; i < ARRAY_SIZE(r); i++) {
                assert_true(r[i]->key != 0);
                assert_ptr_equal(requests_find(&f->m->requests, r[i]->key), r[i]);
                for (size_t k = 0; k < i; k++)
                        assert_true(r[k]->key != r[i]->key);
        }
        first = r[0]->key;
        request_detach(r[0]);
        assert_null(requests_find(&f->m->requests, first));
        r[0] = submit_generate(f, 1, &heard); /* in the same place, under another key */
        assert_true(r[0]->key != first);
        assert_null(requests_find(&f->m->requests, first));
        assert_null(requests_find(&f->m->requests, 0));
        assert_null(requests_find(&f->m->requests, UINT64_MAX));
        for (size_t i = 0; i < ARRAY_SIZE(r); i++)
                request_detach(r[i]);
        assert_int_equal(heard.errors, 0);
}

static void test_life(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request *r = submit_generate(f, 0, &heard);

        assert_int_equal(r->state, REQUEST_WAITING);
        request_activate(r);
        assert_int_equal(expect_submit(f, r, false, 0), REQUEST_CREDIT_DEFAULT);
        assert_int_equal(r->state, REQUEST_SENT);
        expect_nothing(f, r);
        request_progress(r, "prefill", 1, 2);
        take_accepted(r);
        assert_int_equal(give_tokens(r, 0, 3), 0);
        request_progress(r, "prefill", 2, 2); /* of a replay: not passed on */
        assert_int_equal(give_tokens(r, 3, 1), 0);
        finish(r);
        assert_int_equal(heard.tokens, 4);
        assert_int_equal(heard.progress, 1);
        assert_int_equal(heard.done, 1);
        assert_int_equal(heard.errors, 0);
}

/* An engine that breaks the order of things is found out. */
static void test_rules(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request *r = submit_generate(f, 4, &heard);

        request_activate(r);
        (void)expect_submit(f, r, false, 0);
        assert_int_equal(give_tokens(r, 0, 1), REQUEST_E_REFUSED); /* before accepted */
        take_accepted(r);
        assert_int_equal(give_tokens(r, 1, 1), REQUEST_E_REFUSED); /* the first one is number 0 */
        assert_int_equal(give_tokens(r, 0, 0), REQUEST_E_REFUSED);
        assert_int_equal(give_tokens(r, 0, 5), REQUEST_E_REFUSED); /* more than it may */
        assert_int_equal(give_tokens(r, 0, 4), 0);
        assert_int_equal(give_tokens(r, 4, 1), REQUEST_E_REFUSED);
        assert_int_equal(heard.tokens, 4);
        finish(r);
}

static void test_credit(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request *r = submit_generate(f, 1, &heard);

        request_activate(r);
        assert_int_equal(expect_submit(f, r, false, 0), 1);
        take_accepted(r);
        request_add_credit(r, 2);
        request_add_credit(r, 3);
        assert_int_equal(expect_window(f, r), 5); /* joined */
        assert_int_equal(give_tokens(r, 0, 6), 0);
        request_add_credit(r, UINT32_MAX);
        request_add_credit(r, UINT64_MAX); /* no overflow */
        assert_int_equal(expect_window(f, r), 1024); /* never more under way than a window */
        assert_int_equal(give_tokens(r, 6, 500), 0);
        expect_nothing(f, r); /* in large pieces */
        assert_int_equal(give_tokens(r, 506, 12), 0);
        assert_int_equal(expect_window(f, r), 512);
        request_stall(r);
        assert_int_equal(give_tokens(r, 518, 1024), 0);
        expect_nothing(f, r);
        request_resume(r);
        assert_int_equal(expect_window(f, r), 1024);
        finish(r);
}

static void test_loss(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request *r = submit_generate(f, 10, &heard);

        request_activate(r);
        assert_int_equal(expect_submit(f, r, false, 0), 10);
        assert_true(request_lost(r)); /* not accepted yet: asked as it came */
        request_activate(r);
        assert_int_equal(expect_submit(f, r, false, 0), 10);
        take_accepted(r);
        assert_int_equal(give_tokens(r, 0, 4), 0);
        request_add_credit(r, 5); /* not told to anybody yet when the engine goes */
        assert_true(request_lost(r));
        request_activate(r);
        assert_int_equal(expect_submit(f, r, true, 4), 11);
        expect_nothing(f, r);
        take_accepted(r);
        assert_int_equal(give_tokens(r, 4, 1), 0);
        assert_false(request_lost(r)); /* the third time is one too many */
        assert_int_equal(heard.errors, 1);
        assert_int_equal(heard.code, SPARK__V1__ERROR_CODE__ENGINE_LOST);
        assert_int_equal(heard.tokens, 5);
}

static void test_loss_while_queued_is_none(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request *r = submit_generate(f, 10, &heard);

        for (int i = 0; i < 5; i++) {
                request_activate(r);
                assert_true(request_lost(r));
        }
        request_detach(r);
        assert_int_equal(heard.errors, 0);
}

static void test_detach(void **state) {
        struct fixture *f = *state;
        Spark__Engine__V1__ControlFrame *c;
        struct heard heard = { 0 };
        struct request *r = submit_generate(f, 10, &heard);

        request_activate(r);
        (void)expect_submit(f, r, false, 0);
        take_accepted(r);
        request_detach(r);
        c = next_command(f, r);
        assert_non_null(c);
        assert_int_equal(c->body_case, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CANCEL);
        assert_true(c->cancel->key == r->key);
        (void)message_free(&c->base);
        assert_int_equal(f->user->charged[USER_REQUESTS], 1); /* until the engine has let go */
        assert_int_equal(give_tokens(r, 0, 1), 0);
        request_fail_with(r, SPARK__V1__ERROR_CODE__CANCELLED, "cancelled");
        assert_int_equal(heard.tokens + heard.errors + heard.done, 0);
        assert_int_equal(f->user->charged[USER_REQUESTS], 0);
        /* and one whose engine is lost meanwhile is gone with it */
        r = submit_generate(f, 10, &heard);
        request_activate(r);
        (void)expect_submit(f, r, false, 0);
        request_detach(r);
        assert_false(request_lost(r));
}

/* A full channel: nothing is half told. */
static void test_full_channel(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request *r = submit_generate(f, 10, &heard);
        uint8_t byte = 8;

        request_activate(r);
        while (channel_queue(&f->engine, &byte, 1, NULL, 0) == 0)
                ;
        assert_int_equal(request_write_commands(r, &f->engine), CHANNEL_E_FULL);
        assert_int_equal(r->state, REQUEST_QUEUED);
        assert_int_equal(channel_flush(&f->engine), 1);
        assert_int_equal(request_write_commands(r, &f->engine), 0);
        assert_int_equal(r->state, REQUEST_SENT);
        finish(r);
}

/* A stream that outgrows what its user may have kept ends with a sentence; the engine is told. */
static void test_quota_of_a_journal(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request *r = submit_generate(f, 1, &heard);
        uint32_t index = 0;

        request_activate(r);
        (void)expect_submit(f, r, false, 0);
        take_accepted(r);
        request_add_credit(r, UINT32_MAX);
        while (heard.errors == 0 && index < 100000) {
                assert_int_equal(give_tokens(r, index, 1), 0);
                index++;
        }
        assert_int_equal(heard.errors, 1);
        assert_int_equal(heard.code, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED);
        assert_true(index > 1000 && index < 64 * 1024 / 4);
        assert_true(r->cancel_due);
        request_fail_with(r, SPARK__V1__ERROR_CODE__CANCELLED, "cancelled");
        assert_int_equal(heard.errors, 1);
}

static void test_refusals(void **state) {
        struct fixture *f = *state;
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Generate generate = SPARK__V1__GENERATE__INIT;
        Spark__V1__Load load = SPARK__V1__LOAD__INIT;
        Spark__V1__Status status = SPARK__V1__STATUS__INIT;
        struct heard heard = { 0 };
        struct request_error error;
        struct request *r = NULL, *many[90];

        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_GENERATE;
        frame.generate = &generate;
        assert_int_equal(submit(f, &frame, &heard, &r, &error), REQUEST_E_REFUSED); /* two models, no default */
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND);
        generate.model = (char *)"c";
        assert_int_equal(submit(f, &frame, &heard, &r, &error), REQUEST_E_REFUSED);
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND);
        generate.model = (char *)"b";
        generate.input_fd = true;
        assert_int_equal(submit(f, &frame, &heard, &r, &error), REQUEST_E_REFUSED);
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_LOAD;
        frame.load = &load;
        load.path = (char *)"/x";
        assert_int_equal(submit(f, &frame, &heard, &r, &error), REQUEST_E_REFUSED); /* the null backend has no files */
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_STATUS; /* is nothing that waits for an engine */
        frame.status = &status;
        assert_int_equal(submit(f, &frame, &heard, &r, &error), REQUEST_E_REFUSED);
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__UNIMPLEMENTED);
        assert_null(r);
        for (size_t i = 0; i < ARRAY_SIZE(many); i++)
                many[i] = submit_generate(f, 1, &heard);
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_GENERATE;
        generate.input_fd = false;
        frame.generate = &generate;
        assert_int_equal(submit(f, &frame, &heard, &r, &error), REQUEST_E_REFUSED);
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__BUSY);
        assert_true(error.retry_after_ms >= 100);
        for (size_t i = 0; i < ARRAY_SIZE(many); i++)
                request_detach(many[i]);
        f->m->state = MANAGER_STOPPING;
        assert_int_equal(submit(f, &frame, &heard, &r, &error), REQUEST_E_REFUSED);
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__STOPPING);
        assert_int_equal(heard.errors, 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_keys, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_life, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_rules, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_credit, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_loss, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_loss_while_queued_is_none, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_detach, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_full_channel, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_quota_of_a_journal, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_refusals, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
