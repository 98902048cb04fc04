/* SPDX-License-Identifier: Apache-2.0 */

/* Persistent sessions: what is on disk when a client was told so, what comes back, what happens when the disk won't. */

#include <fcntl.h>
#include <semaphore.h>

#include "session-fixture.h"

static const uint32_t text[] = { 1, 10, 11, 12, 13, 14, 15, 16, 17, 18 };

static int set_up_with(void **state, const char *limits) {
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        fixture_init(f, limits);
        *state = f;
        return 0;
}

static int set_up(void **state) {
        return set_up_with(state, "session_idle_seconds = 300;");
}

static int set_up_small_disk(void **state) {
        return set_up_with(state, "session_bytes_per_user = 900;");
}

static int tear_down(void **state) {
        fixture_deinit(*state);
        free(*state);
        return 0;
}

static void expect_error(const struct heard *h, Spark__V1__ErrorCode code) {
        assert_int_equal(h->errors, 1);
        assert_int_equal(h->code, code);
        assert_true(h->text[0] != 0);
}

/* A persistent session with five tokens. */
static void make(struct fixture *f, char id[SESSION_ID_TEXT + 1], struct heard *h) {
        create(f, f->a, 1, true, h);
        assert_int_equal(h->done, 1);
        memcpy(id, h->id, SESSION_ID_TEXT + 1);
        turn_of(f, f->a, id, text, 0, 3, text + 3, 2, h);
        assert_int_equal(h->n, 5);
}

/* So long has nobody used it. */
static void age(struct session *s, uint64_t seconds) {
        assert_true(s->used_us > 0);
        s->used_us -= seconds * 1000000u;
}

static void tick(struct fixture *f) {
        sessions_tick(f->t, manager_now_us());
        turn_once(f);
}

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

/* ---- KV ---- */

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
                cmocka_unit_test_setup_teardown(test_comes_back, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_answers_wait_for_the_file, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_patience_ends, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_disk_fails, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_damaged, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_model_gone, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_quota_of_the_disk, set_up_small_disk, tear_down),
                cmocka_unit_test_setup_teardown(test_before_the_scan, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_spill_and_restore, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_kv_goes_wrong, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_spills_in_turn, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_kv_gives_way, set_up_small_disk, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
