/* SPDX-License-Identifier: Apache-2.0 */

/* What requests may take and what they have taken: priorities, the engine's share of the limits, counts, charges, the
 * ledger's rows. */

#include "request-fixture.h"

static struct request *submit_with(struct fixture *f, Spark__V1__Priority priority, struct heard *heard,
                                   struct request_error *error) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Generate generate = SPARK__V1__GENERATE__INIT;
        struct request *r = NULL;
        int e;

        frame.id = 1;
        generate.model = (char *)"a";
        generate.priority = priority;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_GENERATE;
        frame.generate = &generate;
        *error = (struct request_error){ 0 };
        e = submit(f, &frame, heard, &r, error);
        assert_int_equal(e, r ? 0 : REQUEST_E_REFUSED);
        return r;
}

static void expect_policy(struct fixture *f, struct request *r, uint32_t queued_limit, bool replay) {
        Spark__Engine__V1__ControlFrame *c = next_command(f, r);

        assert_non_null(c);
        assert_int_equal(c->body_case, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT);
        assert_int_equal(c->submit->replay, replay);
        assert_int_equal(c->submit->uid, getuid());
        assert_int_equal(c->submit->weight, 5);
        assert_int_equal(c->submit->priority, SPARK__V1__PRIORITY__BACKGROUND);
        assert_int_equal(c->submit->running_limit, 3);
        assert_int_equal(c->submit->queued_limit, queued_limit);
        assert_true(c->submit->kv_limit == 1ull << 40);
        (void)message_free(&c->base);
}

/* The engine hears whose a request is, and hears it again after a loss; but one that it had is not turned away then. */
static void test_engine_hears_the_policy(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request_error error;
        struct request *r;

        f->user->policy.weight = 5;
        f->user->policy.running = 3;
        f->user->policy.queued = 1000;
        f->user->policy.kv = 1ull << 40;
        r = submit_with(f, SPARK__V1__PRIORITY__BACKGROUND, &heard, &error);
        assert_non_null(r);
        request_activate(r);
        expect_policy(f, r, 1000, false);
        assert_true(request_lost(r));
        request_activate(r);
        expect_policy(f, r, 0, false);
        take_accepted(r);
        assert_int_equal(give_tokens(r, 0, 2), 0);
        assert_true(request_lost(r));
        request_activate(r);
        expect_policy(f, r, 0, true);
        request_detach(r);
        request_fail_with(r, SPARK__V1__ERROR_CODE__CANCELLED, "cancelled");
}

static void expect_kv_limit(struct fixture *f, struct request *r, uint64_t limit) {
        Spark__Engine__V1__ControlFrame *c;

        request_activate(r);
        c = next_command(f, r);
        assert_non_null(c);
        assert_true(c->submit->kv_limit == limit);
        (void)message_free(&c->base);
        assert_true(request_lost(r));
        r->losses = 0;
}

/* One that was admitted by a limit goes on by it in the next engine, though a lower one holds for others now. */
static void test_kv_limit_of_a_replay(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request_error error;
        struct request *r, *other;

        f->user->policy.kv = 1 << 30;
        r = submit_with(f, SPARK__V1__PRIORITY__NORMAL, &heard, &error);
        expect_kv_limit(f, r, 1 << 30);
        f->user->policy.kv = 1 << 20;
        expect_kv_limit(f, r, 1 << 30);
        other = submit_with(f, SPARK__V1__PRIORITY__NORMAL, &heard, &error);
        expect_kv_limit(f, other, 1 << 20);
        f->user->policy.kv = 1ull << 31;
        expect_kv_limit(f, r, 1ull << 31);
        f->user->policy.kv = 0;
        expect_kv_limit(f, r, 0);
        f->user->policy.kv = 1 << 20;
        expect_kv_limit(f, r, 0);
        expect_kv_limit(f, other, 1 << 20);
        request_detach(r);
        request_detach(other);
}

static void test_priorities(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request_error error;
        struct request *r;

        r = submit_with(f, SPARK__V1__PRIORITY__INTERACTIVE, &heard, &error);
        assert_int_equal(r->priority, SPARK__V1__PRIORITY__INTERACTIVE);
        request_detach(r);
        f->user->policy.max_priority = SPARK__V1__PRIORITY__BACKGROUND;
        assert_null(submit_with(f, SPARK__V1__PRIORITY__NORMAL, &heard, &error));
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__PERMISSION_DENIED);
        assert_non_null(strstr(error.text, "priority:"));
        assert_non_null(strstr(error.text, "'background'"));
        assert_null(submit_with(f, (Spark__V1__Priority)17, &heard, &error));
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        assert_non_null(strstr(error.text, "priority:"));
        r = submit_with(f, SPARK__V1__PRIORITY__PRIORITY_UNSPECIFIED, &heard, &error);
        assert_int_equal(r->priority, SPARK__V1__PRIORITY__BACKGROUND);
        request_detach(r);
}

static void finish_with_usage(struct request *r, uint32_t prompt, uint32_t cached, uint32_t completion) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__Usage usage = SPARK__V1__USAGE__INIT;

        usage.prompt_tokens = prompt;
        usage.cached_tokens = cached;
        usage.completion_tokens = completion;
        done.usage = &usage;
        request_finish(r, &done);
}

static uint64_t used(struct fixture *f) {
        return usage_today(f->m->usage, getuid());
}

static struct request *running(struct fixture *f, struct heard *heard) {
        struct request *r = submit_generate(f, 100, heard);

        request_activate(r);
        (void)expect_submit(f, r, false, 0);
        take_accepted(r);
        return r;
}

static void take_progress(struct request *r, uint64_t done, uint64_t total, uint32_t cached) {
        Spark__Engine__V1__RequestProgress m = SPARK__ENGINE__V1__REQUEST_PROGRESS__INIT;
        Spark__V1__Progress p = SPARK__V1__PROGRESS__INIT;

        p.stage = (char *)"prefill";
        p.done = done;
        p.total = total;
        m.progress = &p;
        m.cached_tokens = cached;
        request_take_progress(r, &m);
}

/* Generated tokens count as they come, the prompt at the end and without what the cache had; nothing counts twice. */
static void test_charges(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request *r = running(f, &heard);

        assert_int_equal(used(f), 0);
        assert_int_equal(give_tokens(r, 0, 3), 0);
        assert_int_equal(used(f), 3);
        finish_with_usage(r, 10, 4, 3);
        assert_int_equal(used(f), 3 + 6);
        r = running(f, &heard); /* over a loss */
        assert_int_equal(give_tokens(r, 0, 2), 0);
        assert_true(request_lost(r));
        request_activate(r);
        (void)expect_submit(f, r, true, 2);
        take_accepted(r);
        assert_int_equal(give_tokens(r, 2, 1), 0);
        finish_with_usage(r, 2, 2, 3);
        assert_int_equal(used(f), 9 + 3);
        r = running(f, &heard); /* an engine that says nonsense about its cache */
        finish_with_usage(r, 5, 50, 0);
        assert_int_equal(used(f), 12);
}

/* What was cancelled is charged for what was done: as the engine says, or by the signs that it gave. */
static void test_charges_of_the_cancelled(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        Spark__V1__Usage usage = SPARK__V1__USAGE__INIT;
        struct request *r = running(f, &heard);

        take_progress(r, 500, 2000, 100);
        request_detach(r);
        (void)message_free(&next_command(f, r)->base);
        assert_int_equal(give_tokens(r, 0, 1), 0); /* was under way */
        assert_int_equal(used(f), 1);
        request_fail_with(r, SPARK__V1__ERROR_CODE__CANCELLED, "cancelled");
        assert_int_equal(used(f), 1 + 400);
        r = running(f, &heard);
        request_detach(r);
        (void)message_free(&next_command(f, r)->base);
        usage.prompt_tokens = 30;
        usage.cached_tokens = 10;
        request_note_usage(r, &usage);
        request_fail_with(r, SPARK__V1__ERROR_CODE__CANCELLED, "cancelled");
        assert_int_equal(used(f), 401 + 20);
        r = running(f, &heard); /* tokens came, so its prompt of two was read */
        assert_int_equal(give_tokens(r, 0, 1), 0);
        request_detach(r);
        assert_false(request_lost(r));
        assert_int_equal(used(f), 421 + 1 + 2);
        r = submit_generate(f, 1, &heard); /* nothing was done for it */
        request_detach(r);
        assert_int_equal(used(f), 424);
}

static void test_tokens_per_day(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Tokenize tokenize = SPARK__V1__TOKENIZE__INIT;
        struct request_error error;
        struct request *r = running(f, &heard), *other = NULL;

        f->user->policy.tokens_per_day = 5;
        assert_int_equal(give_tokens(r, 0, 5), 0);
        assert_null(submit_with(f, SPARK__V1__PRIORITY__NORMAL, &heard, &error));
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED);
        assert_true(error.retry_after_ms > 0 && error.retry_after_ms <= 86400u * 1000u);
        assert_non_null(strstr(error.text, "5 tokens"));
        assert_int_equal(give_tokens(r, 5, 20), 0); /* what runs may go beyond it */
        assert_int_equal(heard.errors, 0);
        tokenize.model = (char *)"a"; /* costs nothing */
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_TOKENIZE;
        frame.tokenize = &tokenize;
        assert_int_equal(submit(f, &frame, &heard, &other, &error), 0);
        request_detach(other);
        f->user->policy.tokens_per_day = 1000;
        other = submit_with(f, SPARK__V1__PRIORITY__NORMAL, &heard, &error);
        assert_non_null(other);
        request_detach(other);
        finish(r);
}

/* Counted where status counts them; the limit of waiting ones meets the next one, with BUSY. */
static void test_counts_and_queued(void **state) {
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request_error error;
        struct request *r[3];

        f->user->policy.queued = 3;
        for (size_t i = 0; i < ARRAY_SIZE(r); i++)
                r[i] = submit_generate(f, 10, &heard);
        assert_int_equal(f->user->queued, 3);
        assert_null(submit_with(f, SPARK__V1__PRIORITY__NORMAL, &heard, &error));
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__BUSY);
        assert_true(error.retry_after_ms >= 100);
        request_activate(r[0]);
        assert_int_equal(f->user->queued, 3);
        (void)expect_submit(f, r[0], false, 0);
        assert_int_equal(f->user->queued, 2);
        assert_int_equal(f->user->running, 1);
        r[0]->engine_queued = true; /* as a State frame says */
        request_count(r[0]);
        assert_int_equal(f->user->queued, 3);
        take_accepted(r[0]);
        take_progress(r[0], 1, 2, 0); /* and it began since */
        assert_int_equal(f->user->queued, 2);
        assert_true(request_lost(r[0]));
        assert_int_equal(f->user->queued, 3);
        request_detach(r[1]);
        assert_int_equal(f->user->queued, 2);
        r[1] = submit_with(f, SPARK__V1__PRIORITY__NORMAL, &heard, &error);
        assert_non_null(r[1]);
        for (size_t i = 0; i < ARRAY_SIZE(r); i++)
                request_detach(r[i]);
        assert_int_equal(f->user->queued + f->user->running, 0);
        assert_int_equal(f->user->ended.total, 4);
}

struct told {
        size_t n;
        int error;
        struct usage_row rows[4];
};

static void on_usage(void *userdata, int error, const struct usage_row *rows, size_t n) {
        struct told *t = userdata;

        t->error = error;
        t->n = n;
        for (size_t i = 0; i < n && i < ARRAY_SIZE(t->rows); i++)
                t->rows[i] = rows[i];
}

/* Refusals and requests, in the ledger; names that no model has do not get there. */
static void test_ledger(void **state) {
        struct fixture *f = *state;
        const struct usage_question all = { .first = 0, .last = INT64_MAX, .all_users = true };
        struct heard heard = { 0 };
        struct usage_query *query = NULL;
        struct request_error error;
        struct told told = { 0 };
        struct request *r = running(f, &heard);

        assert_int_equal(give_tokens(r, 0, 7), 0);
        finish_with_usage(r, 20, 5, 7);
        r = running(f, &heard);
        request_error_set(&error, SPARK__V1__ERROR_CODE__BUSY, "Later."); /* accepted: no refusal any more */
        request_fail(r, &error);
        r = submit_generate(f, 1, &heard);
        request_activate(r);
        (void)expect_submit(f, r, false, 0);
        request_fail(r, &error); /* the engine turns it away */
        f->user->limits[USER_REQUESTS] = 0;
        assert_null(submit_with(f, SPARK__V1__PRIORITY__NORMAL, &heard, &error));
        f->user->limits[USER_REQUESTS] = 90;
        f->user->policy.max_priority = SPARK__V1__PRIORITY__BACKGROUND;
        assert_null(submit_with(f, SPARK__V1__PRIORITY__NORMAL, &heard, &error)); /* is no refusal of that kind */
        assert_int_equal(usage_ask(&query, f->m->usage, &all, on_usage, &told), 0);
        assert_true(disk_drain(f->m->disk, 20000000));
        query = usage_query_free(query);
        assert_int_equal(told.error, USAGE_E_STORE); /* state_dir is not there */
        assert_int_equal(told.n, 1);
        assert_string_equal(told.rows[0].model, "a");
        assert_int_equal(told.rows[0].uid, getuid());
        assert_int_equal(told.rows[0].counts.requests, 2);
        assert_int_equal(told.rows[0].counts.prompt, 20);
        assert_int_equal(told.rows[0].counts.cached, 5);
        assert_int_equal(told.rows[0].counts.completion, 7);
        assert_int_equal(told.rows[0].counts.refused, 2);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_engine_hears_the_policy, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_kv_limit_of_a_replay, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_priorities, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_charges, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_charges_of_the_cancelled, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_tokens_per_day, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_counts_and_queued, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_ledger, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
