/* SPDX-License-Identifier: Apache-2.0 */

/* Sessions without files, from one manager to the next: by what the first one has written down when it ends without a word. */

#include <stdatomic.h>

#include "session-fixture.h"

#include "daemon/control/keep/keep-private.h"
#include "daemon/control/session/session-keep.h"
#include "fdstore-fixture.h"

#define SESSIONS_MAX 12

static const uint32_t text[] = { 1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28 };

struct world {
        struct fixture f;
        struct fdstore store;
};

static int set_up(void **state) {
        struct world *w = calloc(1, sizeof(*w));
        char path[128];

        assert_non_null(w);
        fdstore_init(&w->store, 16);
        (void)snprintf(path, sizeof(path), "@%.*s", (int)(w->store.address_size - offsetof(struct sockaddr_un, sun_path) - 1),
                       w->store.address.sun_path + 1);
        (void)setenv("NOTIFY_SOCKET", path, 1);
        (void)setenv("FDSTORE", "16", 1);
        fixture_init(&w->f, "sessions_per_user = 100;");
        assert_true(keep_is_on(w->f.m->keep));
        *state = w;
        return 0;
}

static int tear_down(void **state) {
        struct world *w = *state;

        fixture_deinit(&w->f);
        fdstore_deinit(&w->store);
        free(w);
        return 0;
}

static void read_one(void *userdata, const Spark__State__V1__Record *record) {
        sessions_kept_read(userdata, record);
}

static void read_log(struct world *w, struct sessions_kept *kept) {
        struct keep_log log;

        turn_once(&w->f);
        fdstore_read(&w->store);
        for (size_t i = 0; i < w->store.n; i++) {
                if (strncmp(w->store.names[i], "sparkd-state.", 13) != 0)
                        continue;
                assert_int_equal(keep_log_open(&log, dup(w->store.fds[i])), 0);
                assert_int_equal(keep_log_read(&log, read_one, kept), 0);
                keep_log_close(&log);
        }
        assert_false(kept->failed);
}

/* The first manager is killed, the second one has what was written down. */
static void next_life(struct world *w) {
        struct sessions_kept kept = { 0 };

        read_log(w, &kept);
        for (size_t i = w->store.n; i > 0; i--)
                fdstore_remove(&w->store, w->store.names[i - 1]);
        restart(&w->f);
        assert_int_equal(sessions_restore(w->f.m, &kept), 0);
        sessions_keep_all(w->f.t, w->f.m->keep); /* a start of the service has them before its log begins */
        sessions_kept_deinit(&kept);
}

struct remembered {
        size_t n;
        struct {
                char id[SESSION_ID_TEXT + 1];
                uint64_t connection, n;
                uint32_t vocabulary, ids[ARRAY_SIZE(text)];
                uid_t uid;
        } sessions[SESSIONS_MAX];
};

static void remember(struct fixture *f, struct remembered *ret) {
        struct list *pos, *tmp;

        *ret = (struct remembered){ 0 };
        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &f->t->buckets[i]) {
                        const struct session *s = LIST_ENTRY(pos, struct session, link);
                        __typeof__(&ret->sessions[0]) to = &ret->sessions[ret->n++];

                        assert_true(ret->n <= SESSIONS_MAX);
                        memcpy(to->id, s->id, sizeof(to->id));
                        to->connection = s->connection;
                        to->n = s->n;
                        to->vocabulary = s->vocabulary;
                        to->uid = s->user->uid;
                        if (s->n)
                                memcpy(to->ids, s->text->ids, s->n * sizeof(*to->ids));
                }
}

/* As many, and each of them found. */
static void expect_same(struct fixture *f, const struct remembered *before) {
        struct remembered now;

        remember(f, &now);
        assert_int_equal(now.n, before->n);
        for (size_t i = 0; i < now.n; i++) {
                size_t k = 0;

                while (k < before->n && strcmp(before->sessions[k].id, now.sessions[i].id) != 0)
                        k++;
                assert_true(k < before->n);
                assert_memory_equal(&now.sessions[i], &before->sessions[k], sizeof(now.sessions[i]));
        }
}

static void test_sessions_come_back(void **state) {
        struct world *w = *state;
        struct fixture *f = &w->f;
        char one[SESSION_ID_TEXT + 1], two[SESSION_ID_TEXT + 1];
        struct remembered before;
        struct heard h;

        create(f, f->a, 1, false, &h);
        memcpy(one, h.id, sizeof(one));
        create(f, f->b, 2, false, &h); /* stays empty */
        create(f, f->a, 1, false, &h);
        close_it(f, f->a, h.id, &h);
        turn_of(f, f->a, one, text, 0, 3, text + 3, 2, &h);
        fork_of(f, f->a, one, &h);
        memcpy(two, h.id, sizeof(two));
        turn_of(f, f->a, two, text, 5, 7, text + 7, 3, &h);
        rewind_to(f, f->a, two, 6, &h);
        turn_of(f, f->a, two, text, 6, 8, text + 8, 1, &h);
        remember(f, &before);
        assert_int_equal(before.n, 3);
        next_life(w);
        expect_same(f, &before);
        assert_int_equal(f->a->charged[USER_SESSIONS], 2);
        assert_int_equal(f->a->charged[USER_BYTES], (5 + 9) * sizeof(*text));
        assert_string_equal(find(f, two)->model, "a");
        assert_string_equal(find(f, two)->name, "notes");
        /* they go on */
        turn_of(f, f->a, two, text, 9, 10, text + 10, 2, &h);
        rewind_to(f, f->a, one, 2, &h);
        remember(f, &before);
        next_life(w);
        expect_same(f, &before);
        /* and end with their connection, which nobody has taken up */
        sessions_restored(f->m);
        turn_once(f);
        remember(f, &before);
        assert_int_equal(before.n, 0);
        assert_int_equal(f->a->charged[USER_SESSIONS], 0);
        assert_int_equal(f->a->charged[USER_BYTES], 0);
}

static void random_step(struct fixture *f) {
        struct remembered now;
        struct heard h;
        size_t i, more;
        uint64_t n;

        remember(f, &now);
        if (now.n < 2 || (now.n < SESSIONS_MAX - 2 && rand() % 6 == 0)) {
                create(f, f->a, 1 + (uint64_t)rand() % 3, false, &h);
                return;
        }
        i = (size_t)rand() % now.n;
        n = now.sessions[i].n;
        switch (rand() % 6) {
        case 0:
                close_it(f, f->a, now.sessions[i].id, &h);
                break;
        case 1:
                if (now.n < SESSIONS_MAX)
                        fork_of(f, f->a, now.sessions[i].id, &h);
                break;
        case 2:
                rewind_to(f, f->a, now.sessions[i].id, n ? (uint64_t)rand() % n : 0, &h);
                break;
        default:
                more = MIN((size_t)rand() % 4, (ARRAY_SIZE(text) - (size_t)n) / 2);
                if (more)
                        turn_of(f, f->a, now.sessions[i].id, text, (size_t)n, (size_t)n + more, text + n + more, more, &h);
        }
}

static void test_at_random(void **state) {
        struct world *w = *state;
        struct remembered before;

        srand(5);
        for (int life = 0; life < 12; life++) {
                for (int i = 0; i < 40; i++)
                        random_step(&w->f);
                remember(&w->f, &before);
                next_life(w);
                expect_same(&w->f, &before);
        }
}

/* Those with files are found on disk, and not written down. */
static void test_persistent(void **state) {
        struct world *w = *state;
        struct sessions_kept kept = { 0 };
        struct heard h;

        create(&w->f, w->f.a, 1, true, &h);
        turn_of(&w->f, w->f.a, h.id, text, 0, 3, text + 3, 2, &h);
        read_log(w, &kept);
        assert_int_equal(kept.n, 0);
        sessions_kept_deinit(&kept);
}

static void say_session(struct sessions_kept *kept, const char *id, size_t n) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;
        Spark__State__V1__Session m = SPARK__STATE__V1__SESSION__INIT;

        m.id = (char *)id;
        m.uid = UID_A;
        m.model = (char *)"a";
        m.tokens = (uint32_t *)text;
        m.n_tokens = n;
        record.body_case = SPARK__STATE__V1__RECORD__BODY_SESSION;
        record.session = &m;
        sessions_kept_read(kept, &record);
}

static void say_text(struct sessions_kept *kept, const char *id, uint64_t keep, size_t n) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;
        Spark__State__V1__SessionText m = SPARK__STATE__V1__SESSION_TEXT__INIT;

        m.id = (char *)id;
        m.keep = keep;
        m.tokens = (uint32_t *)text + keep;
        m.n_tokens = n;
        record.body_case = SPARK__STATE__V1__RECORD__BODY_SESSION_TEXT;
        record.session_text = &m;
        sessions_kept_read(kept, &record);
}

/* Records that make no sense are left out, and so it is said. */
static void test_nonsense(void **state) {
        struct world *w = *state;
        static const char one[] = "0123456789abcdef0123456789abcdef", other[] = "0123456789abcdef0123456789abcde0";
        struct sessions_kept kept = { 0 };

        say_session(&kept, one, 4);
        say_text(&kept, one, 2, 5);
        assert_false(kept.failed);
        say_text(&kept, one, 8, 1); /* it has seven */
        assert_true(kept.failed);
        kept.failed = false;
        say_text(&kept, other, 0, 1);
        assert_true(kept.failed);
        kept.failed = false;
        say_session(&kept, one, 4);
        assert_true(kept.failed);
        kept.failed = false;
        say_session(&kept, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", 1);
        assert_true(kept.failed);
        log_set_level((enum log_level)0);
        assert_int_equal(sessions_restore(w->f.m, &kept), 0);
        assert_int_equal(find(&w->f, one)->n, 7);
        assert_memory_equal(find(&w->f, one)->text->ids, text, 7 * sizeof(*text));
        sessions_kept_deinit(&kept);
}

#define SESSION_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void) {
        const struct CMUnitTest tests[] = {
                SESSION_TEST(test_sessions_come_back),
                SESSION_TEST(test_at_random),
                SESSION_TEST(test_persistent),
                SESSION_TEST(test_nonsense),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
