/* SPDX-License-Identifier: Apache-2.0 */

/* The KV of persistent sessions: written beside their texts when they are idle, read back, and only ever a saving of time. */

#include "session-stored.h"

static uint64_t expect_spill(struct fixture *f, const uint32_t *ids, size_t n) {
        Spark__Engine__V1__ControlFrame *c = expect_command(f, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SPILL);
        uint64_t key = c->spill->key;

        assert_int_equal(c->spill->uid, UID_A);
        assert_int_equal(c->spill->n_tokens, n);
        assert_memory_equal(c->spill->tokens, ids, n * sizeof(*ids));
        assert_true(c->spill->max_bytes > 0);
        assert_true(f->taken_fd >= 0);
        (void)message_free(&c->base);
        return key;
}

static uint64_t expect_restore(struct fixture *f, const uint32_t *ids, size_t n) {
        Spark__Engine__V1__ControlFrame *c = expect_command(f, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_RESTORE);
        uint64_t key = c->restore->key;

        assert_int_equal(c->restore->uid, UID_A);
        assert_int_equal(c->restore->n_tokens, n);
        assert_memory_equal(c->restore->tokens, ids, n * sizeof(*ids));
        assert_true(f->taken_fd >= 0);
        (void)message_free(&c->base);
        return key;
}

static void say_spilled(struct fixture *f, uint64_t key, uint32_t tokens, const char *error) {
        Spark__Engine__V1__Spilled m = SPARK__ENGINE__V1__SPILLED__INIT;

        m.key = key;
        m.tokens = tokens;
        m.error = (char *)error;
        sessions_take_spilled(f->t, &m);
}

static void say_restored(struct fixture *f, uint64_t key, const char *error) {
        Spark__Engine__V1__Restored m = SPARK__ENGINE__V1__RESTORED__INIT;

        m.key = key;
        m.error = (char *)error;
        sessions_take_restored(f->t, &m);
}

/* Makes an idle session leave memory, with `bytes` of KV. */
static void store(struct fixture *f, const char *id, size_t n, size_t bytes) {
        char waste[256] = "";
        struct session *s = find(f, id);
        uint64_t key;

        age(s, 1000);
        tick(f);
        key = expect_spill(f, text, n);
        assert_int_equal(write(f->taken_fd, waste, bytes), (ssize_t)bytes);
        say_spilled(f, key, (uint32_t)n, "");
        TURN_UNTIL(f, !s->errand);
        age(s, 1000);
        tick(f);
        assert_true(s->stored);
}

static void test_spill_and_restore(void **state) {
        struct fixture *f = *state;
        struct session *s;
        struct heard h;
        char id[SESSION_ID_TEXT + 1];
        uint64_t key;

        make(f, id, &h);
        s = find(f, id);
        tick(f);
        expect_nothing(f);
        assert_non_null(s->text);
        age(s, 1000);
        tick(f);
        key = expect_spill(f, text, 5);
        assert_int_equal(write(f->taken_fd, "KV", 2), 2);
        assert_true(file_is_there(f, UID_A, id, ".kv.tmp"));
        say_spilled(f, key, 5, "");
        say_spilled(f, key, 5, ""); /* said twice is heard once */
        TURN_UNTIL(f, !s->errand);
        assert_true(file_is_there(f, UID_A, id, ".kv"));
        assert_false(file_is_there(f, UID_A, id, ".kv.tmp"));
        assert_int_equal(f->a->charged[USER_DISK], session_file_size(5) + 2);
        age(s, 1000);
        tick(f);
        assert_null(s->text);
        assert_int_equal(f->a->charged[USER_BYTES], 0);
        list_all(f, f->a, &h);
        assert_string_equal(h.state, "stored");
        assert_int_equal(h.stored_bytes, session_file_size(5) + 2);
        /* used again: the KV comes first */
        (void)begin_generate(f, f->a, id, "", &h);
        key = expect_restore(f, text, 5);
        expect_nothing(f);
        say_restored(f, key, "");
        key = expect_submit(f, text, 5, false);
        assert_int_equal(say_accepted(f, key, text, 6), 0);
        say_done(f, key);
        TURN_UNTIL(f, has_ended(&h));
        assert_int_equal(h.n, 6);
        turn_of(f, f->a, id, text, 6, 7, NULL, 0, &h); /* the engine has it now */
        /* another engine has not; the older KV is still that of the beginning */
        engine_dies(f);
        engine_born(f);
        (void)begin_append(f, f->a, id, &h);
        key = expect_restore(f, text, 7);
        say_restored(f, key, "another version"); /* no matter */
        key = expect_submit(f, text, 7, false);
        assert_int_equal(say_accepted(f, key, text, 8), 0);
        say_done(f, key);
        TURN_UNTIL(f, has_ended(&h));
        assert_int_equal(h.n, 8);
        /* and after a restart */
        restart(f);
        assert_int_equal(f->a->charged[USER_DISK], session_file_size(8) + 2);
        (void)begin_append(f, f->a, id, &h);
        say_restored(f, expect_restore(f, text, 8), "");
        key = expect_submit(f, text, 8, false);
        assert_int_equal(say_accepted(f, key, text, 8), 0);
        say_done(f, key);
        TURN_UNTIL(f, has_ended(&h));
        close_it(f, f->a, id, &h);
        assert_false(file_is_there(f, UID_A, id, ".kv"));
        assert_int_equal(f->a->charged[USER_DISK], 0);
}

/* What can go wrong with it costs time, and nothing else. */
static void test_kv_goes_wrong(void **state) {
        struct fixture *f = *state;
        struct session *s;
        struct heard h, closing;
        char id[SESSION_ID_TEXT + 1], path[256];
        uint64_t key;

        make(f, id, &h);
        s = find(f, id);
        age(s, 1000);
        tick(f);
        key = expect_spill(f, text, 5);
        say_spilled(f, key, 0, ""); /* it was not in the cache any more */
        TURN_UNTIL(f, !file_is_there(f, UID_A, id, ".kv.tmp"));
        assert_null(s->errand);
        tick(f);
        expect_nothing(f); /* not again for the same text */
        assert_true(s->stored);
        turn_of(f, f->a, id, text, 5, 6, NULL, 0, &h);
        age(s, 1000);
        tick(f);
        key = expect_spill(f, text, 6);
        say_spilled(f, key, 0, "no room");
        assert_null(s->errand);
        turn_of(f, f->a, id, text, 6, 7, NULL, 0, &h);
        age(s, 1000);
        tick(f);
        (void)expect_spill(f, text, 7);
        session_kv_tick(f->t, manager_now_us() + SESSION_ERRAND_US - 1000000u);
        assert_non_null(s->errand);
        session_kv_tick(f->t, manager_now_us() + SESSION_ERRAND_US + 1000000u); /* no answer */
        assert_null(s->errand);
        turn_of(f, f->a, id, text, 7, 8, NULL, 0, &h);
        age(s, 1000);
        tick(f);
        key = expect_spill(f, text, 8);
        turn_of(f, f->a, id, text, 8, 9, NULL, 0, &h); /* used while it is written: the turn does not wait */
        assert_int_equal(write(f->taken_fd >= 0 ? f->taken_fd : STDERR_FILENO, "", 0), 0);
        say_spilled(f, key, 8, "");
        TURN_UNTIL(f, !s->errand);
        assert_non_null(s->text);
        tick(f);
        assert_false(s->stored);
        /* an engine that dies over a file is not given it again */
        store(f, id, 9, 3);
        assert_true(file_is_there(f, UID_A, id, ".kv"));
        (void)begin_generate(f, f->a, id, "", &h);
        (void)expect_restore(f, text, 9);
        engine_dies(f);
        assert_int_equal(h.errors, 0);
        engine_born(f);
        key = expect_submit(f, text, 9, false);
        assert_int_equal(say_accepted(f, key, text, 9), 0);
        say_done(f, key);
        TURN_UNTIL(f, has_ended(&h));
        assert_int_equal(h.n, 9);
        TURN_UNTIL(f, !file_is_there(f, UID_A, id, ".kv"));
        assert_int_equal(f->a->charged[USER_DISK], session_file_size(9));
        /* nor does a request wait for ever, */
        store(f, id, 9, 3);
        (void)begin_generate(f, f->a, id, "", &h);
        (void)expect_restore(f, text, 9);
        session_kv_tick(f->t, manager_now_us() + SESSION_ERRAND_US + 1000000u);
        key = expect_submit(f, text, 9, false);
        say_failed(f, key, SPARK__V1__ERROR_CODE__INTERNAL);
        /* nor for a file that is not there */
        age(s, 1000);
        tick(f);
        expect_nothing(f); /* the KV on disk is that of the text still */
        assert_true(s->stored);
        (void)snprintf(path, sizeof(path), "%s/sessions/%u/%s.kv", f->folder, UID_A, id);
        assert_int_equal(unlink(path), 0);
        (void)begin_generate(f, f->a, id, "", &h);
        key = expect_submit(f, text, 9, false);
        say_failed(f, key, SPARK__V1__ERROR_CODE__INTERNAL);
        /* closed while it is written */
        turn_of(f, f->a, id, text, 9, 10, NULL, 0, &h);
        age(s, 1000);
        tick(f);
        key = expect_spill(f, text, 10);
        close_it(f, f->a, id, &closing);
        assert_int_equal(closing.done, 1);
        say_spilled(f, key, 10, "");
        TURN_UNTIL(f, disk_pending(f->m->disk) == 0);
        assert_false(file_is_there(f, UID_A, id, ".kv"));
        assert_false(file_is_there(f, UID_A, id, ".kv.tmp"));
        assert_true(list_empty(&f->t->errands));
        assert_int_equal(f->t->n_spills, 0);
}

/* One at a time; without an engine, without KV. */
static void test_spills_in_turn(void **state) {
        struct fixture *f = *state;
        struct session *s[2];
        struct heard h;
        char id[2][SESSION_ID_TEXT + 1];
        uint64_t key;

        for (int i = 0; i < 2; i++) {
                make(f, id[i], &h);
                s[i] = find(f, id[i]);
        }
        age(s[0], 1000);
        age(s[1], 1000);
        tick(f);
        key = expect_spill(f, text, 5);
        expect_nothing(f);
        tick(f);
        expect_nothing(f);
        assert_true(s[0]->text && s[1]->text);
        say_spilled(f, key, 5, "");
        TURN_UNTIL(f, f->t->n_spills == 0);
        tick(f);
        (void)expect_spill(f, text, 5);
        assert_int_equal(s[0]->stored + s[1]->stored, 1);
        engine_dies(f); /* before it was written */
        assert_int_equal(f->t->n_spills, 0);
        tick(f);
        assert_int_equal(s[0]->stored + s[1]->stored, 2);
        engine_born(f);
        make(f, id[0], &h);
        s[0] = find(f, id[0]);
        engine_dies(f);
        age(s[0], 1000);
        tick(f);
        assert_true(s[0]->stored);
        engine_born(f);
        expect_nothing(f);
}

/* KV on disk gives way to what must be there, the longest unused first. */
static void test_kv_gives_way(void **state) {
        struct fixture *f = *state;
        struct session *one, *two;
        struct heard h;
        char id[2][SESSION_ID_TEXT + 1];
        uint32_t *long_text = calloc(1000, sizeof(*long_text));
        uint64_t key;
        char waste[400] = "";

        assert_non_null(long_text);
        make(f, id[0], &h);
        one = find(f, id[0]);
        store(f, id[0], 5, 250);
        assert_int_equal(f->a->charged[USER_DISK], session_file_size(5) + 250);
        make(f, id[1], &h); /* 280 + 250 + 280 of 900 */
        two = find(f, id[1]);
        assert_int_equal(one->kv_bytes, 250);
        memcpy(long_text, text, sizeof(text));
        turn_of(f, f->a, id[1], long_text, 5, 50, NULL, 0, &h); /* 180 more */
        assert_int_equal(h.stored_bytes, session_file_size(50));
        assert_int_equal(one->kv_bytes, 0);
        TURN_UNTIL(f, !file_is_there(f, UID_A, id[0], ".kv"));
        /* more than there can be room for is not kept */
        age(two, 1000);
        tick(f);
        key = expect_spill(f, long_text, 50);
        assert_int_equal(write(f->taken_fd, waste, sizeof(waste)), sizeof(waste));
        say_spilled(f, key, 50, "");
        TURN_UNTIL(f, disk_pending(f->m->disk) == 0 && !two->errand);
        assert_int_equal(two->kv_bytes, 0);
        assert_false(file_is_there(f, UID_A, id[1], ".kv"));
        assert_int_equal(f->a->charged[USER_DISK], session_file_size(5) + session_file_size(50));
        free(long_text);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_spill_and_restore, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_kv_goes_wrong, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_spills_in_turn, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_kv_gives_way, set_up_small_disk, fixture_tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
