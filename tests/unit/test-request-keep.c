/* SPDX-License-Identifier: Apache-2.0 */

/* A request as another process takes it up: what is written down of it is all that it takes. */

#include "request-fixture.h"

#include "daemon/control/kept.h"
#include "daemon/control/request/request-keep.h"
#include "daemon/control/request/request-private.h"

/* What the records of this request say. */
static struct kept_request *write_down(struct kept **kept, const struct request *r) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;
        Spark__State__V1__Request m;

        request_fill_record(r, &m);
        m.connection = 1;
        m.id = 1;
        record.body_case = SPARK__STATE__V1__RECORD__BODY_REQUEST;
        record.request = &m;
        assert_int_equal(kept_new(kept), 0);
        kept_apply(*kept, &record);
        return kept_find_request(*kept, r->key);
}

static int take_up(struct fixture *f, const struct kept_request *k, struct heard *heard, struct request **ret,
                   struct request_error *error) {
        const struct request_origin origin = { .user = f->user, .pid = 1, .client = 1 };
        int r = request_restore(f->m, k, &origin, &sink, heard, -1, ret, error);

        requests_added_again(&f->m->requests);
        return r;
}

static void test_goes_on(void **state) {
        _cleanup_(kept_freep) struct kept *kept = NULL;
        struct fixture *f = *state;
        struct heard before = { 0 }, after = { 0 };
        struct request *r = submit_generate(f, 300, &before), *other;
        struct request_error error;
        struct kept_request *k;
        uint64_t key = r->key;

        request_activate(r);
        assert_int_equal(expect_submit(f, r, false, 0), 300);
        take_accepted(r);
        assert_int_equal(give_tokens(r, 0, 5), 0);
        k = write_down(&kept, r);
        assert_non_null(k);
        assert_int_equal(k->credit, 295); /* what the engine had of it, too */
        assert_int_equal(k->n_prompt, 2);
        assert_int_equal(k->n_generated, 5);
        assert_true(k->begun);
        request_finish(r, &(const Spark__V1__Done)SPARK__V1__DONE__INIT);

        assert_int_equal(take_up(f, k, &after, &r, &error), 0);
        assert_true(r->key == key);
        assert_true(r->kept);
        assert_string_equal(r->model->name, "a");
        assert_int_equal(r->state, REQUEST_WAITING);
        assert_int_equal(r->journal.seed, 9);
        other = submit_generate(f, 1, &before); /* not in its place */
        assert_true(other->key != key);
        assert_ptr_equal(requests_find(&f->m->requests, key), r);
        request_activate(r);
        assert_int_equal(expect_submit(f, r, true, 5), 295);
        take_accepted(r);
        assert_true(give_tokens(r, 0, 1) != 0); /* those it has */
        assert_int_equal(give_tokens(r, 5, 2), 0);
        assert_int_equal(after.tokens, 2);
        request_finish(r, &(const Spark__V1__Done)SPARK__V1__DONE__INIT);
        assert_int_equal(after.done, 1);
        request_detach(other);
}

static void test_not_begun(void **state) {
        _cleanup_(kept_freep) struct kept *kept = NULL;
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request *r = submit_generate(f, 0, &heard);
        struct kept_request *k = write_down(&kept, r);
        struct request_error error;

        request_detach(r);
        assert_int_equal(take_up(f, k, &heard, &r, &error), 0);
        request_activate(r);
        assert_int_equal(expect_submit(f, r, false, 0), REQUEST_CREDIT_DEFAULT);
        request_finish(r, &(const Spark__V1__Done)SPARK__V1__DONE__INIT);
}

static void expect_again(struct fixture *f, struct kept_request *k) {
        struct request_error error = { 0 };
        struct heard heard = { 0 };
        struct request *r = NULL;

        assert_int_equal(take_up(f, k, &heard, &r, &error), REQUEST_E_REFUSED);
        assert_null(r);
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__BUSY);
        assert_true(error.retry_after_ms > 0);
        assert_int_equal(f->m->requests.count, 0);
        assert_int_equal(f->user->charged[USER_REQUESTS], 0);
}

static void set_frame(struct kept_request *k, const Spark__V1__ClientFrame *frame) {
        uint8_t packed[256];

        buf_clear(&k->frame);
        assert_int_equal(buf_append(&k->frame, packed, spark__v1__client_frame__pack(frame, packed)), 0);
}

/* One that was being asked about: where nobody can be asked it is denied now, unless it has the rights meanwhile. */
static void test_asked_again(void **state) {
        _cleanup_(kept_freep) struct kept *kept = NULL;
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Unload unload = SPARK__V1__UNLOAD__INIT;
        struct fixture *f = *state;
        struct user *nobody = users_get(&f->m->users, 4711);
        const struct request_origin origin = { .user = nobody, .pid = 1, .client = 1 };
        struct request_error error = { 0 };
        struct heard heard = { 0 };
        struct request *r = submit_generate(f, 0, &heard);
        struct kept_request *k = write_down(&kept, r);

        assert_non_null(nobody);
        request_detach(r);
        r = NULL;
        frame.id = 1;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_UNLOAD;
        frame.unload = &unload;
        unload.model = (char *)"a";
        set_frame(k, &frame);
        k->model[0] = 0;
        k->asking = true;
        assert_int_equal(request_restore(f->m, k, &origin, &sink, &heard, -1, &r, &error), REQUEST_E_REFUSED);
        assert_null(r);
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__PERMISSION_DENIED);
        assert_non_null(strstr(error.text, "manage-models"));
        assert_int_equal(nobody->charged[USER_REQUESTS], 0);
        k->granted = RIGHT_BIT(RIGHT_MANAGE_MODELS);
        assert_int_equal(request_restore(f->m, k, &origin, &sink, &heard, -1, &r, &error), 0);
        requests_added_again(&f->m->requests);
        assert_int_equal(r->kind, REQUEST_UNLOAD);
        assert_true(request_origin_may(&r->origin, RIGHT_MANAGE_MODELS));
        assert_false(request_origin_may(&r->origin, RIGHT_CONFIGURE));
        request_detach(r);
        (void)user_unref(nobody);
}

static void test_refused(void **state) {
        _cleanup_(kept_freep) struct kept *kept = NULL;
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__UsageQuery query = SPARK__V1__USAGE_QUERY__INIT;
        Spark__V1__ModelRemove remove = SPARK__V1__MODEL_REMOVE__INIT;
        Spark__V1__Generate generate = SPARK__V1__GENERATE__INIT;
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request *r = submit_generate(f, 0, &heard);
        struct kept_request *k = write_down(&kept, r);

        request_detach(r);
        k->bad = true;
        expect_again(f, k);
        k->bad = false;
        buf_clear(&k->frame);
        assert_int_equal(buf_append(&k->frame, "\xff\xff", 2), 0);
        expect_again(f, k); /* no message */
        frame.id = 1;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_USAGE_QUERY;
        frame.usage_query = &query;
        set_frame(k, &frame);
        expect_again(f, k);
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_MODEL_REMOVE;
        frame.model_remove = &remove;
        set_frame(k, &frame);
        expect_again(f, k); /* done, perhaps */
        generate.input_fd = true;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_GENERATE;
        frame.generate = &generate;
        set_frame(k, &frame);
        expect_again(f, k); /* its input is gone */
}

static void test_model_is_gone(void **state) {
        _cleanup_(kept_freep) struct kept *kept = NULL;
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request *r = submit_generate(f, 0, &heard);
        struct kept_request *k = write_down(&kept, r);
        struct request_error error;

        request_detach(r);
        (void)snprintf(k->model, sizeof(k->model), "zz");
        assert_int_equal(take_up(f, k, &heard, &r, &error), REQUEST_E_REFUSED);
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND);
}

static void test_same_key_twice(void **state) {
        _cleanup_(kept_freep) struct kept *kept = NULL;
        struct fixture *f = *state;
        struct heard heard = { 0 };
        struct request *r = submit_generate(f, 0, &heard), *again = NULL;
        struct kept_request *k = write_down(&kept, r);
        struct request_error error;

        assert_true(take_up(f, k, &heard, &again, &error) < 0);
        assert_null(again);
        assert_ptr_equal(requests_find(&f->m->requests, r->key), r);
        request_detach(r);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_goes_on, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_not_begun, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_refused, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_asked_again, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_model_is_gone, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_same_key_twice, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
