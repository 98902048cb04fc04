/* SPDX-License-Identifier: Apache-2.0 */

/* The table of sessions, and the turns that they go on with. What is on disk has a test of its own. */

#include "session-fixture.h"

static const uint32_t text[] = { 1, 10, 11, 12, 13, 14, 15, 16, 17, 18 };

static int set_up(void **state) {
        return fixture_set_up(state, "sessions_per_user = 4; bytes_per_user = \"64K\";");
}

static void test_create_and_list(void **state) {
        Spark__V1__SessionCreate c = SPARK__V1__SESSION_CREATE__INIT;
        FRAME(SESSION_CREATE, session_create, c);
        struct fixture *f = *state;
        struct heard h, other;
        char first[SESSION_ID_TEXT + 1];

        create(f, f->a, 1, false, &h);
        assert_int_equal(h.done, 1);
        assert_true(session_id_valid(h.id));
        assert_string_equal(h.model, "a");
        assert_string_equal(h.name, "notes");
        assert_string_equal(h.state, "idle");
        assert_int_equal(h.n, 0);
        assert_int_equal(h.stored_bytes, 0);
        memcpy(first, h.id, sizeof(first));
        create(f, f->a, 1, false, &h);
        assert_string_not_equal(h.id, first);
        create(f, f->b, 1, false, &other);
        list_all(f, f->a, &h);
        assert_int_equal(h.n_sessions, 2);
        list_all(f, f->b, &h);
        assert_int_equal(h.n_sessions, 1);
        assert_string_equal(h.id, other.id);
        list_all(f, f->root, &h); /* who may see all */
        assert_int_equal(h.n_sessions, 3);
        /* what makes no sense */
        c.model = (char *)"c";
        ask(f, f->a, &frame, &h);
        expect_error(&h, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND);
        c.model = (char *)""; /* two models and no default */
        ask(f, f->a, &frame, &h);
        expect_error(&h, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND);
        c.model = (char *)"b"; /* need not be loaded */
        c.name = (char *)"two\nlines";
        ask(f, f->a, &frame, &h);
        expect_error(&h, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        assert_non_null(strstr(h.text, "name"));
        c.name = (char *)"0123456789012345678901234567890123456789012345678901234567890123456789";
        ask(f, f->a, &frame, &h);
        expect_error(&h, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        c.name = (char *)"";
        ask(f, f->a, &frame, &h);
        assert_int_equal(h.done, 1);
        ask(f, f->a, &frame, &h);
        assert_int_equal(h.done, 1);
        ask(f, f->a, &frame, &h); /* the fifth */
        expect_error(&h, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED);
        assert_int_equal(f->a->charged[USER_SESSIONS], 4);
        close_it(f, f->a, first, &h);
        assert_int_equal(h.done, 1);
        ask(f, f->a, &frame, &h);
        assert_int_equal(h.done, 1);
        fork_of(f, f->a, h.id, &h);
        expect_error(&h, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED);
}

/* Others learn nothing, not even that it is there; who may see all may list and close it, but not read it. */
static void test_owners(void **state) {
        static const char nobody[] = "00000000000000000000000000000000";
        struct fixture *f = *state;
        struct heard h, absent;
        char id[SESSION_ID_TEXT + 1], expected[512];

        create(f, f->a, 1, false, &h);
        memcpy(id, h.id, sizeof(id));
        turn_of(f, f->a, id, text, 0, 3, text + 3, 2, &h);
        for (int i = 0; i < 4; i++) {
                const char *asked = i ? id : nobody;
                struct user *user = i < 3 ? f->b : f->a;

                if (i == 3)
                        asked = nobody; /* the owner of another one gets the same */
                (void)begin_generate(f, user, asked, "", &h);
                TURN_UNTIL(f, has_ended(&h));
                expect_error(&h, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
                (void)snprintf(expected, sizeof(expected), "session: there is no session '%s'.", asked);
                assert_string_equal(h.text, expected);
                (void)begin_append(f, user, asked, &h);
                TURN_UNTIL(f, has_ended(&h));
                assert_string_equal(h.text, expected);
                fork_of(f, user, asked, &absent);
                assert_string_equal(absent.text, expected);
                rewind_to(f, user, asked, 1, &absent);
                assert_string_equal(absent.text, expected);
                close_it(f, user, asked, &absent);
                assert_string_equal(absent.text, expected);
        }
        (void)begin_generate(f, f->a, "../../etc/passwd", "", &h);
        TURN_UNTIL(f, has_ended(&h));
        expect_error(&h, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        (void)begin_generate(f, f->root, id, "", &h);
        TURN_UNTIL(f, has_ended(&h));
        expect_error(&h, SPARK__V1__ERROR_CODE__PERMISSION_DENIED);
        fork_of(f, f->root, id, &h);
        expect_error(&h, SPARK__V1__ERROR_CODE__PERMISSION_DENIED);
        rewind_to(f, f->root, id, 0, &h);
        expect_error(&h, SPARK__V1__ERROR_CODE__PERMISSION_DENIED);
        assert_int_equal(find(f, id)->n, 5);
        close_it(f, f->root, id, &h);
        assert_int_equal(h.done, 1);
        assert_null(session_find(f->t, id));
        assert_int_equal(f->a->charged[USER_BYTES], 0);
        assert_int_equal(f->a->charged[USER_SESSIONS], 0);
}

static void test_turns(void **state) {
        struct fixture *f = *state;
        struct heard h;
        char id[SESSION_ID_TEXT + 1];
        uint64_t key;

        create(f, f->a, 1, false, &h);
        memcpy(id, h.id, sizeof(id));
        turn_of(f, f->a, id, text, 0, 3, text + 3, 2, &h);
        assert_int_equal(h.tokens, 2);
        assert_int_equal(h.seed, 5);
        assert_true(h.has_session);
        assert_string_equal(h.id, id);
        assert_string_equal(h.state, "idle");
        assert_int_equal(h.n, 5);
        assert_memory_equal(find(f, id)->text->ids, text, 5 * sizeof(*text));
        assert_int_equal(f->a->charged[USER_BYTES], 5 * sizeof(*text)); /* and nothing for the growth of arrays */
        (void)begin_append(f, f->a, id, &h);
        key = expect_submit(f, text, 5, false);
        assert_int_equal(say_accepted(f, key, text, 8), 0);
        say_done(f, key);
        assert_int_equal(h.done, 1);
        assert_int_equal(h.n, 8);
        turn_of(f, f->a, id, text, 8, 9, text + 9, 1, &h);
        assert_int_equal(h.n, 10);
        assert_memory_equal(find(f, id)->text->ids, text, sizeof(text));
        /* the model may be named, if it is the session's */
        (void)begin_generate(f, f->a, id, "b", &h);
        TURN_UNTIL(f, has_ended(&h));
        expect_error(&h, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        assert_non_null(strstr(h.text, "model"));
        (void)begin_generate(f, f->a, id, "a", &h);
        key = expect_submit(f, text, 10, false);
        say_failed(f, key, SPARK__V1__ERROR_CODE__CONTEXT_OVERFLOW);
        expect_error(&h, SPARK__V1__ERROR_CODE__CONTEXT_OVERFLOW);
        assert_int_equal(find(f, id)->n, 10);
}

/* An engine that accepts something else than what it was told has lost its mind. */
static void test_prefix_is_checked(void **state) {
        static const uint32_t other[] = { 1, 10, 99, 12, 13, 14 };
        struct fixture *f = *state;
        struct heard h;
        uint64_t key;

        create(f, f->a, 1, false, &h);
        turn_of(f, f->a, h.id, text, 0, 3, text + 3, 2, &h);
        (void)begin_generate(f, f->a, h.id, "", &h);
        key = expect_submit(f, text, 5, false);
        assert_int_equal(say_accepted(f, key, other, 6), REQUEST_E_REFUSED);
        assert_int_equal(say_accepted(f, key, text, 4), REQUEST_E_REFUSED);
        assert_int_equal(say_accepted(f, key, text, 5), 0);
        say_done(f, key);
        assert_int_equal(h.n, 5);
}

static void test_busy(void **state) {
        struct fixture *f = *state;
        struct heard h, second;
        char id[SESSION_ID_TEXT + 1];
        uint64_t key;

        create(f, f->a, 1, false, &h);
        memcpy(id, h.id, sizeof(id));
        turn_of(f, f->a, id, text, 0, 3, text + 3, 2, &h);
        (void)begin_generate(f, f->a, id, "", &h);
        key = expect_submit(f, text, 5, false);
        (void)begin_generate(f, f->a, id, "", &second);
        TURN_UNTIL(f, has_ended(&second));
        expect_error(&second, SPARK__V1__ERROR_CODE__BUSY);
        assert_true(second.retry_after_ms > 0);
        (void)begin_append(f, f->a, id, &second);
        TURN_UNTIL(f, has_ended(&second));
        expect_error(&second, SPARK__V1__ERROR_CODE__BUSY);
        rewind_to(f, f->a, id, 1, &second);
        expect_error(&second, SPARK__V1__ERROR_CODE__BUSY);
        list_all(f, f->a, &second);
        assert_string_equal(second.state, "busy");
        fork_of(f, f->a, id, &second); /* of where it stood when its last turn ended */
        assert_int_equal(second.n, 5);
        assert_int_equal(say_accepted(f, key, text, 6), 0);
        say_done(f, key);
        assert_int_equal(h.done, 1);
        assert_int_equal(h.n, 6);
}

/* What the client has seen of a turn that broke off is the session's; a turn of which it saw nothing never was. */
static void test_broken_turns(void **state) {
        struct fixture *f = *state;
        struct request *r;
        struct heard h;
        char id[SESSION_ID_TEXT + 1];
        uint64_t key;

        create(f, f->a, 1, false, &h);
        memcpy(id, h.id, sizeof(id));
        (void)begin_generate(f, f->a, id, "", &h);
        key = expect_submit(f, NULL, 0, false);
        say_failed(f, key, SPARK__V1__ERROR_CODE__INVALID_UTF8); /* before it was accepted */
        assert_int_equal(find(f, id)->n, 0);
        (void)begin_generate(f, f->a, id, "", &h);
        key = expect_submit(f, NULL, 0, false);
        assert_int_equal(say_accepted(f, key, text, 3), 0);
        say_failed(f, key, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED); /* accepted, but no token came */
        assert_int_equal(find(f, id)->n, 0);
        r = begin_generate(f, f->a, id, "", &h);
        key = expect_submit(f, NULL, 0, false);
        request_detach(r); /* the client has gone */
        (void)message_free(&expect_command(f, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CANCEL)->base);
        assert_int_equal(find(f, id)->n, 0);
        assert_null(find(f, id)->turn);
        say_failed(f, key, SPARK__V1__ERROR_CODE__CANCELLED);
        r = begin_generate(f, f->a, id, "", &h);
        key = expect_submit(f, NULL, 0, false);
        assert_int_equal(say_accepted(f, key, text, 3), 0);
        say_tokens(f, key, 0, text + 3, 2);
        request_detach(r);
        assert_int_equal(find(f, id)->n, 5);
        assert_memory_equal(find(f, id)->text->ids, text, 5 * sizeof(*text));
        /* and goes on at once, though the engine has not let go of the other one yet */
        (void)message_free(&expect_command(f, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CANCEL)->base);
        (void)begin_generate(f, f->a, id, "", &h);
        say_failed(f, key, SPARK__V1__ERROR_CODE__CANCELLED);
        key = expect_submit(f, text, 5, false);
        assert_int_equal(say_accepted(f, key, text, 6), 0);
        say_tokens(f, key, 0, text + 6, 1);
        say_failed(f, key, SPARK__V1__ERROR_CODE__INTERNAL);
        expect_error(&h, SPARK__V1__ERROR_CODE__INTERNAL);
        assert_int_equal(find(f, id)->n, 7);
        /* an addition has no tokens to be seen */
        r = begin_append(f, f->a, id, &h);
        key = expect_submit(f, text, 7, false);
        assert_int_equal(say_accepted(f, key, text, 9), 0);
        request_detach(r);
        assert_int_equal(find(f, id)->n, 7);
        (void)message_free(&expect_command(f, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CANCEL)->base);
        say_failed(f, key, SPARK__V1__ERROR_CODE__CANCELLED);
        r = begin_generate(f, f->a, id, "", &h); /* gone before it was looked at */
        request_detach(r);
        turn_once(f);
        assert_null(find(f, id)->turn);
        assert_int_equal(f->m->requests.count, 0);
}

static void test_engine_loss(void **state) {
        struct fixture *f = *state;
        struct heard h;
        char id[SESSION_ID_TEXT + 1];
        uint64_t key;

        create(f, f->a, 1, false, &h);
        memcpy(id, h.id, sizeof(id));
        turn_of(f, f->a, id, text, 0, 3, text + 3, 2, &h);
        (void)begin_generate(f, f->a, id, "", &h);
        (void)expect_submit(f, text, 5, false);
        engine_dies(f);
        engine_born(f);
        key = expect_submit(f, text, 5, false); /* asked again, behind the session's text */
        assert_int_equal(say_accepted(f, key, text, 6), 0);
        say_tokens(f, key, 0, text + 6, 1);
        engine_dies(f);
        engine_born(f);
        key = expect_submit(f, NULL, 0, true); /* the prompt is known now, and has it */
        assert_int_equal(say_accepted(f, key, text, 6), 0);
        say_tokens(f, key, 1, text + 7, 1);
        say_done(f, key);
        assert_int_equal(h.done, 1);
        assert_int_equal(h.n, 8);
        assert_memory_equal(find(f, id)->text->ids, text, 8 * sizeof(*text));
        (void)begin_append(f, f->a, id, &h);
        key = expect_submit(f, text, 8, false);
        assert_int_equal(say_accepted(f, key, text, 10), 0);
        engine_dies(f);
        engine_born(f);
        key = expect_submit(f, text, 8, false); /* additions are asked again always */
        assert_int_equal(say_accepted(f, key, text, 10), 0);
        say_done(f, key);
        assert_int_equal(h.n, 10);
        assert_int_equal(f->a->charged[USER_BYTES], 10 * sizeof(*text));
}

/* Forks share until they go on; a session that was cut back looks at less of the same. */
static void test_copy_on_write(void **state) {
        static const uint32_t others[] = { 1, 10, 11, 12, 13, 200, 201 };
        struct fixture *f = *state;
        const struct session_text *shared;
        struct heard h;
        char one[SESSION_ID_TEXT + 1], two[SESSION_ID_TEXT + 1];

        create(f, f->a, 1, false, &h);
        memcpy(one, h.id, sizeof(one));
        turn_of(f, f->a, one, text, 0, 3, text + 3, 2, &h);
        fork_of(f, f->a, one, &h);
        memcpy(two, h.id, sizeof(two));
        assert_string_equal(h.name, "notes");
        assert_int_equal(h.n, 5);
        shared = find(f, one)->text;
        assert_ptr_equal(find(f, two)->text, shared);
        assert_int_equal(shared->refs, 2);
        assert_int_equal(f->a->charged[USER_BYTES], 5 * sizeof(*text));
        turn_of(f, f->a, two, others, 5, 6, others + 6, 1, &h);
        assert_ptr_equal(find(f, one)->text, shared);
        assert_int_equal(find(f, one)->n, 5);
        assert_int_equal(find(f, two)->n, 7);
        assert_memory_equal(find(f, two)->text->ids, others, sizeof(others));
        turn_of(f, f->a, one, text, 5, 6, text + 6, 1, &h);
        assert_memory_equal(find(f, one)->text->ids, text, 7 * sizeof(*text));
        assert_memory_equal(find(f, two)->text->ids, others, sizeof(others));
        /* cutting back */
        fork_of(f, f->a, two, &h);
        rewind_to(f, f->a, two, 3, &h);
        assert_int_equal(h.n, 3);
        assert_int_equal(find(f, h.id)->text->refs, 2);
        rewind_to(f, f->a, two, 4, &h);
        expect_error(&h, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        assert_non_null(strstr(h.text, "has 3"));
        assert_non_null(strstr(h.text, "to 4"));
        rewind_to(f, f->a, two, 3, &h);
        assert_int_equal(h.done, 1);
        turn_of(f, f->a, two, text, 3, 4, text + 4, 1, &h);
        assert_memory_equal(find(f, two)->text->ids, text, 5 * sizeof(*text));
        rewind_to(f, f->a, two, 0, &h);
        assert_int_equal(h.n, 0);
        assert_null(find(f, two)->text);
        close_it(f, f->a, one, &h);
        turn_of(f, f->a, two, text, 0, 2, text + 2, 1, &h);
        assert_int_equal(h.n, 3);
}

static void test_close_while_busy(void **state) {
        struct fixture *f = *state;
        struct heard h, closing;
        char id[SESSION_ID_TEXT + 1];
        uint64_t key;

        create(f, f->a, 1, false, &h);
        memcpy(id, h.id, sizeof(id));
        (void)begin_generate(f, f->a, id, "", &h);
        key = expect_submit(f, NULL, 0, false);
        assert_int_equal(say_accepted(f, key, text, 3), 0);
        say_tokens(f, key, 0, text + 3, 2);
        close_it(f, f->a, id, &closing);
        assert_int_equal(closing.done, 1);
        expect_error(&h, SPARK__V1__ERROR_CODE__CANCELLED);
        (void)message_free(&expect_command(f, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CANCEL)->base);
        say_failed(f, key, SPARK__V1__ERROR_CODE__CANCELLED);
        assert_int_equal(h.errors, 1);
        assert_int_equal(f->a->charged[USER_BYTES], 0);
        close_it(f, f->a, id, &closing);
        expect_error(&closing, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        /* one that waits for its model */
        create(f, f->a, 1, false, &h);
        memcpy(id, h.id, sizeof(id));
        engine_dies(f);
        (void)begin_generate(f, f->a, id, "", &h);
        turn_once(f);
        assert_int_equal(h.errors, 0);
        close_it(f, f->a, id, &closing);
        expect_error(&h, SPARK__V1__ERROR_CODE__CANCELLED);
        engine_born(f);
        expect_nothing(f);
}

/* A session that was not asked to live longer goes with its connection, whoever of the user is at it. */
static void test_connection_gone(void **state) {
        struct fixture *f = *state;
        struct heard h, kept;
        char id[SESSION_ID_TEXT + 1];
        uint64_t key;

        create(f, f->a, 7, false, &h);
        memcpy(id, h.id, sizeof(id));
        create(f, f->a, 8, false, &kept);
        create(f, f->a, 7, true, &kept);
        (void)begin_generate(f, f->a, id, "", &h);
        key = expect_submit(f, NULL, 0, false);
        sessions_connection_gone(f->t, 7);
        sessions_connection_gone(f->t, 7);
        assert_int_equal(h.errors, 0); /* not from within */
        turn_once(f);
        expect_error(&h, SPARK__V1__ERROR_CODE__CANCELLED);
        say_failed(f, key, SPARK__V1__ERROR_CODE__CANCELLED);
        list_all(f, f->a, &h);
        assert_int_equal(h.n_sessions, 2);
        sessions_connection_gone(f->t, 8);
        list_all(f, f->a, &h);
        assert_int_equal(h.n_sessions, 1);
        assert_string_equal(h.id, kept.id);
        assert_true(h.persistent);
        assert_int_equal(f->t->n_bound, 0);
}

/* Nobody's memory grows without bound: a turn that outgrows it ends, and the session keeps what was seen. */
static void test_quota(void **state) {
        struct fixture *f = *state;
        uint32_t *long_text = calloc(20000, sizeof(*long_text));
        struct heard h;
        char id[SESSION_ID_TEXT + 1];
        uint64_t key;

        assert_non_null(long_text);
        create(f, f->a, 1, false, &h);
        memcpy(id, h.id, sizeof(id));
        turn_of(f, f->a, id, long_text, 0, 7000, NULL, 0, &h);
        assert_int_equal(h.n, 7000);
        (void)begin_append(f, f->a, id, &h);
        key = expect_submit(f, long_text, 7000, false);
        assert_int_equal(say_accepted(f, key, long_text, 17000), 0); /* 64K bytes hold 16384 tokens */
        expect_error(&h, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED);
        assert_int_equal(find(f, id)->n, 7000);
        assert_null(find(f, id)->turn);
        say_failed(f, key, SPARK__V1__ERROR_CODE__CANCELLED);
        assert_int_equal(f->a->charged[USER_BYTES], 7000 * sizeof(*long_text));
        free(long_text);
}

/* The same name does not make it the same model. */
static void test_other_model(void **state) {
        struct fixture *f = *state;
        struct heard h;

        create(f, f->a, 1, false, &h);
        turn_of(f, f->a, h.id, text, 0, 3, text + 3, 2, &h);
        engine_dies(f);
        engine_born(f);
        f->model->facts.vocabulary = 400;
        (void)begin_generate(f, f->a, h.id, "", &h);
        TURN_UNTIL(f, has_ended(&h));
        expect_error(&h, SPARK__V1__ERROR_CODE__MODEL_INVALID);
        expect_nothing(f);
}

static void forget(struct fixture *f, struct user *user, const char *model, bool all_users, struct heard *h) {
        Spark__V1__Forget c = SPARK__V1__FORGET__INIT;
        FRAME(FORGET, forget, c);

        c.model = (char *)model;
        c.all_users = all_users;
        (void)ask_as(f, user, 1, &frame, h);
}

static void say_forgotten(struct fixture *f, uint64_t key) {
        assert_true(session_is_errand(key));
        assert_null(requests_find(&f->m->requests, key));
        sessions_take_forgotten(f->t, key);
}

static uint64_t expect_forget(struct fixture *f, uint32_t uid, bool all_users) {
        Spark__Engine__V1__ControlFrame *c = expect_command(f, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT);
        uint64_t key = c->submit->key;

        assert_int_equal(c->submit->request_case, SPARK__ENGINE__V1__SUBMIT__REQUEST_FORGET);
        assert_int_equal(c->submit->uid, uid);
        assert_int_equal(c->submit->forget->all_users, all_users);
        (void)message_free(&c->base);
        return key;
}

static void test_forget(void **state) {
        Spark__V1__Forget everybodys = SPARK__V1__FORGET__INIT;
        FRAME(FORGET, forget, everybodys);
        struct fixture *f = *state;
        struct heard h;
        const struct request_submit submit = { .frame = &frame, .input_fd = -1, .sink = &sink, .userdata = &h,
                                               .origin = { .user = f->a, .pid = 1, .client = 1 } };
        struct request_error error;
        struct request *r = NULL;
        uint64_t key;

        create(f, f->a, 1, false, &h);
        turn_of(f, f->a, h.id, text, 0, 3, text + 3, 2, &h);
        assert_true(find(f, h.id)->kv_engine != 0);
        forget(f, f->a, "", false, &h);
        key = expect_forget(f, UID_A, false);
        assert_int_equal(h.done, 0); /* not before it is so */
        say_forgotten(f, key);
        assert_int_equal(h.done, 1);
        say_forgotten(f, key); /* said twice is heard once */
        forget(f, f->root, "a", true, &h);
        say_forgotten(f, expect_forget(f, (uint32_t)geteuid(), true));
        assert_int_equal(h.done, 1);
        forget(f, f->a, "b", false, &h); /* which no engine has */
        TURN_UNTIL(f, has_ended(&h));
        assert_int_equal(h.done, 1);
        forget(f, f->a, "", false, &h); /* an engine that dies has forgotten, too */
        (void)expect_forget(f, UID_A, false);
        engine_dies(f);
        assert_int_equal(h.done, 1);
        engine_born(f);
        forget(f, f->a, "nobody's", false, &h);
        TURN_UNTIL(f, has_ended(&h));
        expect_error(&h, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND);
        everybodys.all_users = true;
        assert_int_equal(request_submit(f->m, &submit, &r, &error), REQUEST_E_REFUSED);
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__PERMISSION_DENIED);
        expect_nothing(f);
}

static void test_prewarm(void **state) {
        Spark__V1__Prewarm p = SPARK__V1__PREWARM__INIT;
        FRAME(PREWARM, prewarm, p);
        struct fixture *f = *state;
        Spark__Engine__V1__ControlFrame *c;
        struct request_error error;
        struct request *r = NULL;
        struct heard h;
        const struct request_submit s = { .frame = &frame, .input_fd = -1, .sink = &sink, .userdata = &h,
                                          .origin = { .user = f->a, .pid = 1, .client = 1 } };

        p.model = (char *)"a";
        p.text.data = (uint8_t *)"system";
        p.text.len = 6;
        (void)ask_as(f, f->a, 1, &frame, &h);
        c = expect_command(f, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT);
        assert_int_equal(c->submit->request_case, SPARK__ENGINE__V1__SUBMIT__REQUEST_PREWARM);
        assert_int_equal(c->submit->uid, UID_A);
        assert_int_equal(c->submit->prewarm->text.len, 6);
        say_done(f, c->submit->key);
        (void)message_free(&c->base);
        assert_int_equal(h.done, 1);
        p.share = true; /* not for everybody */
        frame.id = 1;
        assert_int_equal(request_submit(f->m, &s, &r, &error), REQUEST_E_REFUSED);
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__PERMISSION_DENIED);
        (void)ask_as(f, f->root, 1, &frame, &h);
        c = expect_command(f, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT);
        assert_true(c->submit->prewarm->share);
        say_done(f, c->submit->key);
        (void)message_free(&c->base);
}

static void test_stopping(void **state) {
        struct fixture *f = *state;
        struct heard h;
        struct request_error error;
        struct request *r = NULL;
        Spark__V1__Sessions c = SPARK__V1__SESSIONS__INIT;
        FRAME(SESSIONS, sessions, c);
        const struct request_submit s = { .frame = &frame, .input_fd = -1, .sink = &sink, .userdata = &h,
                                          .origin = { .user = f->a, .pid = 1, .client = 1 } };

        f->m->state = MANAGER_STOPPING;
        assert_int_equal(request_submit(f->m, &s, &r, &error), REQUEST_E_REFUSED);
        assert_int_equal(error.code, SPARK__V1__ERROR_CODE__STOPPING);
        f->m->state = MANAGER_READY;
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_create_and_list, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_owners, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_turns, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_prefix_is_checked, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_busy, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_broken_turns, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_engine_loss, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_copy_on_write, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_close_while_busy, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_connection_gone, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_quota, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_other_model, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_forget, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_prewarm, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_stopping, set_up, fixture_tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
