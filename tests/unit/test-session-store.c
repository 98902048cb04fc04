/* SPDX-License-Identifier: Apache-2.0 */

/* Persistent sessions: what is on disk when a client was told so, what comes back, what happens when the disk won't. Their KV
 * has a test of its own. */

#include <fcntl.h>
#include <semaphore.h>

#include "session-stored.h"

/* ---- a disk that is made to wait ---- */

struct gate {
        struct disk_job base;
        sem_t open;
};

static void run_gate(struct disk_job *base) {
        struct gate *g = CONTAINER_OF(base, struct gate, base);

        (void)sem_wait(&g->open);
}

static void done_gate(struct disk_job *base) {
}

static void gate_shut(struct fixture *f, struct gate *g) {
        *g = (struct gate){ .base = { .run = run_gate, .done = done_gate } };
        assert_int_equal(sem_init(&g->open, 0, 0), 0);
        assert_int_equal(disk_submit(f->m->disk, &g->base), 0);
}

/* ---- tests ---- */

static void test_comes_back(void **state) {
        struct fixture *f = *state;
        struct heard h;
        char id[SESSION_ID_TEXT + 1];

        make(f, id, &h);
        assert_int_equal(h.stored_bytes, session_file_size(5));
        assert_true(file_is_there(f, UID_A, id, ".session"));
        assert_int_equal(f->a->charged[USER_DISK], session_file_size(5));
        restart(f);
        assert_int_equal(f->a->charged[USER_DISK], session_file_size(5));
        assert_int_equal(f->a->charged[USER_SESSIONS], 1);
        assert_int_equal(f->a->charged[USER_BYTES], 0); /* its text is not in memory */
        list_all(f, f->a, &h);
        assert_int_equal(h.n_sessions, 1);
        assert_string_equal(h.id, id);
        assert_string_equal(h.state, "stored");
        assert_string_equal(h.model, "a");
        assert_string_equal(h.name, "notes");
        assert_int_equal(h.n, 5);
        assert_int_equal(h.stored_bytes, session_file_size(5));
        list_all(f, f->b, &h);
        assert_int_equal(h.n_sessions, 0);
        turn_of(f, f->a, id, text, 5, 6, text + 6, 1, &h);
        assert_int_equal(h.n, 7);
        assert_string_equal(h.state, "idle");
        assert_int_equal(h.stored_bytes, session_file_size(7));
        restart(f);
        rewind_to(f, f->a, id, 2, &h); /* cutting and forking need the text, too */
        assert_int_equal(h.n, 2);
        assert_int_equal(h.stored_bytes, session_file_size(2));
        assert_int_equal(f->a->charged[USER_DISK], session_file_size(2));
        restart(f);
        fork_of(f, f->a, id, &h);
        assert_int_equal(h.n, 2);
        assert_false(h.persistent);
        assert_memory_equal(find(f, h.id)->text->ids, text, 2 * sizeof(*text));
        close_it(f, f->a, id, &h);
        assert_int_equal(h.done, 1);
        assert_false(file_is_there(f, UID_A, id, ".session"));
        restart(f);
        list_all(f, f->a, &h);
        assert_int_equal(h.n_sessions, 0);
}

/* The answer comes when the file is there, and changes that come meanwhile share the next write. */
static void test_answers_wait_for_the_file(void **state) {
        struct fixture *f = *state;
        struct heard h, other;
        struct session *s;
        struct request *r;
        struct gate gate;
        uint64_t key;
        char id[SESSION_ID_TEXT + 1];

        make(f, id, &h);
        s = find(f, id);
        gate_shut(f, &gate);
        (void)begin_generate(f, f->a, id, "", &h);
        key = expect_submit(f, text, 5, false);
        assert_int_equal(say_accepted(f, key, text, 6), 0);
        say_done(f, key);
        turn_once(f);
        assert_int_equal(h.done, 0);
        assert_non_null(s->saving);
        (void)begin_generate(f, f->a, id, "", &other); /* but the session goes on */
        key = expect_submit(f, text, 6, false);
        assert_int_equal(say_accepted(f, key, text, 7), 0);
        r = requests_find(&f->m->requests, key);
        say_tokens(f, key, 0, text + 7, 1);
        request_detach(r);
        (void)message_free(&expect_command(f, SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CANCEL)->base);
        say_failed(f, key, SPARK__V1__ERROR_CODE__CANCELLED);
        assert_int_equal(disk_pending(f->m->disk), 2); /* the gate, and one write */
        assert_int_equal(s->n, 8);
        (void)sem_post(&gate.open);
        TURN_UNTIL(f, has_ended(&h));
        assert_int_equal(h.done, 1);
        assert_int_equal(h.seed, 5); /* what the engine said is still there */
        assert_int_equal(h.n, 8);
        TURN_UNTIL(f, s->saved == s->version);
        assert_int_equal(s->file_bytes, session_file_size(8));
        /* one that goes away while it waits */
        gate_shut(f, &gate);
        r = begin_generate(f, f->a, id, "", &h);
        key = expect_submit(f, text, 8, false);
        assert_int_equal(say_accepted(f, key, text, 9), 0);
        say_done(f, key);
        turn_once(f);
        request_detach(r);
        assert_int_equal(f->m->requests.count, 0);
        (void)sem_post(&gate.open);
        TURN_UNTIL(f, s->saved == s->version);
        assert_int_equal(h.done, 0);
        /* and the end of the daemon does not take back what was done */
        gate_shut(f, &gate);
        (void)begin_generate(f, f->a, id, "", &h);
        key = expect_submit(f, text, 9, false);
        assert_int_equal(say_accepted(f, key, text, 10), 0);
        say_done(f, key);
        request_fail_with(requests_find(&f->m->requests, key), SPARK__V1__ERROR_CODE__STOPPING, "stopping");
        assert_int_equal(h.done, 1);
        assert_int_equal(h.stored_bytes, 0);
        (void)sem_post(&gate.open);
        TURN_UNTIL(f, s->saved == s->version);
}

static void test_patience_ends(void **state) {
        struct fixture *f = *state;
        struct heard h;
        struct gate gate;
        char id[SESSION_ID_TEXT + 1];

        make(f, id, &h);
        gate_shut(f, &gate);
        {
                Spark__V1__SessionRewind c = SPARK__V1__SESSION_REWIND__INIT;
                FRAME(SESSION_REWIND, session_rewind, c);

                c.session = id;
                c.tokens = 1;
                (void)ask_as(f, f->a, 1, &frame, &h);
        }
        turn_once(f);
        sessions_tick(f->t, manager_now_us() + SESSION_WRITE_PATIENCE_US - 1000000u);
        assert_int_equal(h.done, 0);
        sessions_tick(f->t, manager_now_us() + SESSION_WRITE_PATIENCE_US + 1000000u);
        assert_int_equal(h.done, 1);
        assert_int_equal(h.n, 1);
        assert_int_equal(h.stored_bytes, 0);
        (void)sem_post(&gate.open);
        TURN_UNTIL(f, find(f, id)->saved == find(f, id)->version);
}

/* The turn is done whatever the disk says; it is tried again. */
static void test_disk_fails(void **state) {
        struct fixture *f = *state;
        struct session *s;
        struct heard h;
        char id[SESSION_ID_TEXT + 1], path[128], away[128];

        make(f, id, &h);
        s = find(f, id);
        (void)snprintf(path, sizeof(path), "%s/sessions", f->folder);
        (void)snprintf(away, sizeof(away), "%s/away", f->folder);
        assert_int_equal(rename(path, away), 0);
        assert_int_equal(close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)), 0); /* a file in the way */
        turn_of(f, f->a, id, text, 5, 6, text + 6, 1, &h);
        assert_int_equal(h.n, 7);
        assert_int_equal(h.stored_bytes, 0);
        assert_true(f->t->complained);
        assert_int_equal(f->a->charged[USER_DISK], session_file_size(5));
        tick(f);
        assert_null(s->saving); /* not at once */
        s->retry_us = 1;
        tick(f);
        TURN_UNTIL(f, !s->saving);
        assert_true(s->saved != s->version);
        age(s, 1000);
        tick(f); /* idle, but memory is the only place where it is */
        assert_non_null(s->text);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rename(away, path), 0);
        s->retry_us = 1;
        tick(f);
        TURN_UNTIL(f, s->saved == s->version);
        assert_false(f->t->complained);
        assert_int_equal(f->a->charged[USER_DISK], session_file_size(7));
        restart(f);
        assert_int_equal(find(f, id)->n, 7);
}

/* A file that was damaged behind its header: whoever asks first is told, and then it is no session. */
static void test_damaged(void **state) {
        struct fixture *f = *state;
        struct heard h, second;
        char id[SESSION_ID_TEXT + 1], path[256];
        int fd;

        make(f, id, &h);
        (void)snprintf(path, sizeof(path), "%s/sessions/%u/%s.session", f->folder, UID_A, id);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(pwrite(fd, "\xff", 1, 260), 1);
        (void)fd_close(fd);
        restart(f);
        assert_int_equal(find(f, id)->n, 5);
        (void)begin_generate(f, f->a, id, "", &h);
        (void)begin_append(f, f->a, id, &second);
        TURN_UNTIL(f, has_ended(&h) && has_ended(&second));
        expect_error(&h, SPARK__V1__ERROR_CODE__INTERNAL);
        assert_non_null(strstr(h.text, "damaged"));
        expect_error(&second, SPARK__V1__ERROR_CODE__INTERNAL);
        assert_null(session_find(f->t, id));
        assert_true(file_is_there(f, UID_A, id, ".session.damaged"));
        assert_false(file_is_there(f, UID_A, id, ".session"));
        assert_int_equal(f->a->charged[USER_SESSIONS], 0);
        assert_int_equal(f->a->charged[USER_DISK], 0);
        assert_int_equal(f->a->charged[USER_BYTES], 0);
        /* a file that somebody took away */
        make(f, id, &h);
        restart(f);
        (void)snprintf(path, sizeof(path), "%s/sessions/%u/%s.session", f->folder, UID_A, id);
        assert_int_equal(unlink(path), 0);
        fork_of(f, f->a, id, &h);
        expect_error(&h, SPARK__V1__ERROR_CODE__INTERNAL);
        close_it(f, f->a, id, &h);
        assert_int_equal(h.done, 1);
}

/* Sessions of a model that is not configured any more are there, and no more. */
static void test_model_gone(void **state) {
        struct fixture *f = *state;
        struct session *s;
        struct heard h;
        char id[SESSION_ID_TEXT + 1];

        make(f, id, &h);
        s = find(f, id);
        (void)snprintf(s->model, sizeof(s->model), "gone");
        session_changed(s);
        TURN_UNTIL(f, s->saved == s->version);
        restart(f);
        list_all(f, f->a, &h);
        assert_string_equal(h.model, "gone");
        (void)begin_generate(f, f->a, id, "", &h);
        TURN_UNTIL(f, has_ended(&h));
        expect_error(&h, SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND);
        close_it(f, f->a, id, &h);
        assert_int_equal(h.done, 1);
}

static void test_quota_of_the_disk(void **state) {
        struct fixture *f = *state;
        struct heard h;
        char id[SESSION_ID_TEXT + 1], second[SESSION_ID_TEXT + 1];
        uint32_t *long_text = calloc(1000, sizeof(*long_text));

        assert_non_null(long_text);
        make(f, id, &h);
        make(f, second, &h);
        assert_int_equal(h.stored_bytes, session_file_size(5));
        turn_of(f, f->a, second, text, 5, 10, NULL, 0, &h);
        assert_int_equal(h.stored_bytes, session_file_size(10));
        memcpy(long_text, text, sizeof(text));
        turn_of(f, f->a, second, long_text, 10, 500, NULL, 0, &h); /* more than 900 bytes */
        assert_int_equal(h.done, 1);
        assert_int_equal(h.n, 500);
        assert_int_equal(h.stored_bytes, 0);
        assert_int_equal(f->a->charged[USER_DISK], session_file_size(5) + session_file_size(10));
        close_it(f, f->a, id, &h);
        rewind_to(f, f->a, second, 20, &h);
        assert_int_equal(h.stored_bytes, session_file_size(20));
        free(long_text);
}

static void test_before_the_scan(void **state) {
        struct fixture *f = *state;
        struct heard h, again;

        f->t->scanned = false;
        {
                Spark__V1__Sessions c = SPARK__V1__SESSIONS__INIT;
                FRAME(SESSIONS, sessions, c);

                f->t->since_us = manager_now_us();
                (void)ask_as(f, f->a, 1, &frame, &h);
                turn_once(f);
                assert_int_equal(h.done + h.errors, 0);
                f->t->since_us -= SESSION_SCAN_PATIENCE_US; /* it takes too long */
                tick(f);
                expect_error(&h, SPARK__V1__ERROR_CODE__BUSY);
                assert_true(h.retry_after_ms > 0);
                (void)ask_as(f, f->a, 1, &frame, &again);
                f->t->scanned = true;
                TURN_UNTIL(f, has_ended(&again));
                assert_int_equal(again.done, 1);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_comes_back, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_answers_wait_for_the_file, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_patience_ends, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_disk_fails, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_damaged, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_model_gone, set_up, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_quota_of_the_disk, set_up_small_disk, fixture_tear_down),
                cmocka_unit_test_setup_teardown(test_before_the_scan, set_up, fixture_tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
