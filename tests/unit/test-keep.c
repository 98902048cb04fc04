/* SPDX-License-Identifier: Apache-2.0 */

/* Every step of a life is a process of its own, which ends as it likes; what a check there finds wrong is its exit status. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/mman.h>

#include "daemon/control/keep/inherited.h"
#include "daemon/control/keep/keep-private.h"
#include "daemon/control/keep/keep.h"
#include "fdstore-fixture.h"

#define VALUES_MAX 1000000

#define CHECK(x)                                                                    \
        do {                                                                        \
                if (!(x)) {                                                         \
                        (void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x); \
                        _exit(1);                                                   \
                }                                                                   \
        } while (0)

/* The service that keeps: a row of numbers. */
struct life {
        struct inherited *in;
        struct keep *keep;
        uint64_t values[VALUES_MAX];
        size_t n;
};

/* What a process is told, and tells. */
struct order {
        size_t expect;    /* so many values are found: 1, 2, 3, ... */
        size_t add;       /* so many are appended */
        bool not_committed;
        bool no_taken;
        bool no_ready;
        const char *push; /* under this name, a socket */
        bool forget;
        void (*more)(struct life *l);
};

static void append(struct keep *k, uint64_t value) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;
        Spark__State__V1__ModelGone gone = SPARK__STATE__V1__MODEL_GONE__INIT;

        gone.id = value;
        record.body_case = SPARK__STATE__V1__RECORD__BODY_MODEL_GONE;
        record.model_gone = &gone;
        keep_append(k, &record);
}

static void write_all(void *userdata, struct keep *k) {
        struct life *l = userdata;

        for (size_t i = 0; i < l->n; i++)
                append(k, l->values[i]);
}

static void read_one(void *userdata, const Spark__State__V1__Record *record) {
        struct life *l = userdata;

        CHECK(record->body_case == SPARK__STATE__V1__RECORD__BODY_MODEL_GONE);
        CHECK(l->n < VALUES_MAX);
        l->values[l->n++] = record->model_gone->id;
}

static void add(struct life *l, size_t n) {
        for (size_t i = 0; i < n; i++) {
                l->values[l->n] = l->n + 1;
                append(l->keep, ++l->n);
        }
}

static int run_life(void *userdata) {
        const struct order *o = userdata;
        static struct life l;

        CHECK(inherited_new(&l.in) == 0);
        CHECK(keep_new(&l.keep, l.in, write_all, &l) == 0);
        CHECK(keep_read(l.keep, read_one, &l) == 0);
        CHECK(l.n == o->expect);
        for (size_t i = 0; i < l.n; i++)
                CHECK(l.values[i] == i + 1);
        if (o->no_taken)
                raise(SIGKILL);
        keep_taken(l.keep);
        l.in = inherited_free(l.in);
        if (!o->no_ready)
                keep_ready(l.keep);
        add(&l, o->add);
        keep_commit(l.keep);
        if (o->not_committed) {
                add(&l, 3);
                raise(SIGKILL);
        }
        if (o->more)
                o->more(&l);
        if (o->forget)
                keep_forget(l.keep);
        l.keep = keep_free(l.keep);
        return 0;
}

static void live(struct fdstore *s, struct order o) {
        int status = fdstore_run(s, run_life, &o);

        if (o.no_taken || o.not_committed)
                assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        else
                assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static int setup(void **state) {
        struct fdstore *s = calloc(1, sizeof(*s));

        fdstore_init(s, 16);
        *state = s;
        return 0;
}

static int teardown(void **state) {
        fdstore_deinit(*state);
        free(*state);
        return 0;
}

/* The store's only log. */
static int state_fd(const struct fdstore *s) {
        int fd = -1;

        for (size_t i = 0; i < s->n; i++)
                if (strncmp(s->names[i], "sparkd-state.", 13) == 0) {
                        assert_int_equal(fd, -1);
                        fd = s->fds[i];
                }
        assert_true(fd >= 0);
        return fd;
}

/* Of this process, mapped. */
static struct keep_head *state_map(const struct fdstore *s) {
        void *p = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED, state_fd(s), 0);

        assert_true(p != MAP_FAILED);
        return p;
}

static void state_unmap(struct keep_head *head) {
        (void)munmap(head, 1 << 16);
}

static void test_lives(void **state) {
        struct fdstore *s = *state;

        live(s, (struct order){ .add = 3 });
        assert_int_equal(s->n, 3); /* the log and the ends of the pipe */
        live(s, (struct order){ .expect = 3, .add = 2 });
        live(s, (struct order){ .expect = 5, .add = 1, .not_committed = true });
        live(s, (struct order){ .expect = 6, .no_taken = true });
        live(s, (struct order){ .expect = 6, .forget = true });
        assert_int_equal(s->n, 0);
        live(s, (struct order){ .expect = 0 });
}

/* ---- what can't be read ---- */

static void test_damage(void **state) {
        struct fdstore *s = *state;
        struct keep_head *head;

        live(s, (struct order){ .add = 50 });
        head = state_map(s);
        ((uint8_t *)head)[KEEP_LOG_HEAD + 30]++;
        state_unmap(head);
        live(s, (struct order){ .expect = 0, .add = 2 });
        assert_int_equal(s->n, 3);
        live(s, (struct order){ .expect = 2 });
        head = state_map(s);
        head->committed -= 1; /* in the middle of a record */
        state_unmap(head);
        live(s, (struct order){ .expect = 0, .add = 1 });
        head = state_map(s);
        head->committed = 1 << 30;
        state_unmap(head);
        live(s, (struct order){ .expect = 0, .add = 1 });
        assert_int_equal(ftruncate(state_fd(s), 100), 0);
        live(s, (struct order){ .expect = 0, .add = 1 });
        assert_int_equal(ftruncate(state_fd(s), KEEP_LOG_HEAD), 0);
        live(s, (struct order){ .expect = 0, .add = 4 });
        live(s, (struct order){ .expect = 4 });
}

static void test_other_version(void **state) {
        struct fdstore *s = *state;
        struct keep_head *head;

        live(s, (struct order){ .add = 5 });
        head = state_map(s);
        head->version = KEEP_VERSION + 1;
        state_unmap(head);
        live(s, (struct order){ .expect = 0, .add = 5 });
        head = state_map(s);
        head->magic[3] = 'x';
        state_unmap(head);
        live(s, (struct order){ .expect = 0, .add = 5 });
        fdstore_remove(s, "sparkd-carry-r");
        live(s, (struct order){ .expect = 0, .add = 5 });
        live(s, (struct order){ .expect = 5 });
}

/* One that was killed while it wrote its log anew leaves two; the one that was begun last is whole. */
static void test_two_logs(void **state) {
        struct fdstore *s = *state;
        int old;

        live(s, (struct order){ .add = 5 });
        old = dup(state_fd(s));
        live(s, (struct order){ .expect = 5, .add = 2 });
        fdstore_add(s, "sparkd-state.1", old);
        assert_int_equal(s->n, 4);
        live(s, (struct order){ .expect = 7 });
        assert_int_equal(s->n, 3);
}

/* ---- rows of ends ---- */

static void test_crash_loop_while_taking(void **state) {
        struct fdstore *s = *state;

        live(s, (struct order){ .add = 5 });
        for (int i = 0; i < 8; i++)
                live(s, (struct order){ .expect = 5, .no_taken = true });
        live(s, (struct order){ .expect = 0, .add = 1 });
        live(s, (struct order){ .expect = 1, .add = 1 });
        for (int i = 0; i < 7; i++)
                live(s, (struct order){ .expect = 2, .no_taken = true });
        live(s, (struct order){ .expect = 2 }); /* that ends the row */
        live(s, (struct order){ .expect = 2, .no_taken = true });
        live(s, (struct order){ .expect = 2 });
}

static void test_crash_loop_before_ready(void **state) {
        struct fdstore *s = *state;
        struct keep_head *head;

        live(s, (struct order){ .add = 5 });
        for (int i = 0; i < 9; i++)
                live(s, (struct order){ .expect = 5, .no_ready = true });
        head = state_map(s);
        assert_int_equal(head->unready, 9);
        head->unready = 29; /* those in between wait, each of them */
        state_unmap(head);
        live(s, (struct order){ .expect = 5, .no_ready = true });
        live(s, (struct order){ .expect = 0, .add = 1 });
        live(s, (struct order){ .expect = 1 });
        head = state_map(s);
        assert_int_equal(head->unready, 0);
        state_unmap(head);
}

static void last(struct life *l) {
        keep_lasts(l->keep);
}

static void set_brief(struct fdstore *s, uint32_t n) {
        struct keep_head *head = state_map(s);

        head->brief = n;
        state_unmap(head);
}

/* Each is ready, and ends soon. */
static void test_crash_loop_when_ready(void **state) {
        struct fdstore *s = *state;
        struct keep_head *head;

        live(s, (struct order){ .add = 5 });
        for (int i = 0; i < 3; i++)
                live(s, (struct order){ .expect = 5 });
        head = state_map(s);
        assert_int_equal(head->brief, 3);
        state_unmap(head);
        set_brief(s, 999);
        live(s, (struct order){ .expect = 5, .more = last });
        live(s, (struct order){ .expect = 5 }); /* that one lasted */
        set_brief(s, 999);
        live(s, (struct order){ .expect = 5 });
        live(s, (struct order){ .expect = 0, .add = 1 });
        live(s, (struct order){ .expect = 1 });
        head = state_map(s);
        assert_int_equal(head->brief, 1);
        state_unmap(head);
}

/* ---- the log is written anew ---- */

static void grow_and_shrink(struct life *l) {
        uint64_t before = keep_bytes(l->keep);

        for (int i = 0; i < 60; i++) {
                add(l, 10000);
                keep_commit(l->keep);
                l->n -= 10000; /* out of date */
                keep_turn(l->keep);
        }
        CHECK(keep_bytes(l->keep) < before + (8 << 20));
        keep_carry(l->keep)->op->phase = CARRY_SENT; /* something is under way: not now */
        add(l, 5);
        keep_commit(l->keep);
}

static void test_rewrite(void **state) {
        struct fdstore *s = *state;
        struct keep_head *head;

        live(s, (struct order){ .add = 100, .more = grow_and_shrink });
        assert_int_equal(s->n, 3);
        head = state_map(s);
        assert_true(head->generation > 1);
        head->op.phase = CARRY_IDLE;
        state_unmap(head);
}

/* As many as it began with: a log that its store is slow to take has any number. */
static void read_first(void *userdata, const Spark__State__V1__Record *record) {
        struct life *l = userdata;

        if (l->n < 1000)
                read_one(l, record);
}

/* What is kept while it is written anew, over and over, is whole whenever the process is killed. */
static int run_rewriting(void *userdata) {
        static struct life l;

        CHECK(inherited_new(&l.in) == 0);
        CHECK(keep_new(&l.keep, l.in, write_all, &l) == 0);
        CHECK(keep_read(l.keep, read_first, &l) == 0);
        keep_taken(l.keep);
        keep_ready(l.keep);
        atomic_store((_Atomic int *)userdata, 1);
        for (;;) {
                add(&l, 1000);
                keep_commit(l.keep);
                if (l.n > 20000)
                        l.n = 1000;
                keep_turn(l.keep);
        }
}

static void test_killed_while_rewriting(void **state) {
        struct fdstore *s = *state;
        _Atomic int *started = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

        for (int i = 0; i < 50; i++) {
                struct keep_log log;
                pid_t pid;
                int fd;

                *started = 0;
                pid = fork();
                if (pid == 0) {
                        fdstore_hand_over(s);
                        _exit(run_rewriting((void *)started));
                }
                for (int ms = 0; !*started || ms < 5 + i; ms++) {
                        assert_true(ms < 10000);
                        fdstore_read(s);
                        (void)usleep(1000);
                }
                assert_int_equal(kill(pid, SIGKILL), 0);
                assert_int_equal(waitpid(pid, NULL, 0), pid);
                fdstore_read(s);
                fd = dup(s->fds[s->n - 1]);
                assert_int_equal(keep_log_open(&log, fd), 0);
                assert_int_equal(keep_log_read(&log, NULL, NULL), 0);
                keep_log_close(&log);
        }
        (void)munmap((void *)started, 4096);
}

/* ---- a log that is full ---- */

static void test_full_log(void **state) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;
        Spark__State__V1__SessionGone gone = SPARK__STATE__V1__SESSION_GONE__INIT;
        char text[200] = { [0 ... 198] = 'x' };
        struct keep_log log;

        record.body_case = SPARK__STATE__V1__RECORD__BODY_SESSION_GONE;
        record.session_gone = &gone;
        assert_int_equal(keep_log_new(&log, 1), 0);
        assert_int_equal(ftruncate(log.fd, (off_t)KEEP_BYTES_MAX), 0); /* a hole; no memory */
        log.size = KEEP_BYTES_MAX;
        log.end = KEEP_BYTES_MAX - 100;
        gone.id = text;
        assert_int_equal(keep_log_append(&log, &record), KEEP_LOG_E_FULL);
        assert_int_equal(log.end, KEEP_BYTES_MAX - 100);
        text[10] = 0;
        assert_int_equal(keep_log_append(&log, &record), 0);
        assert_in_range(log.end, KEEP_BYTES_MAX - 99, KEEP_BYTES_MAX);
        keep_log_commit(&log);
        keep_log_void(&log);
        assert_int_equal(log.size, KEEP_LOG_HEAD);
        assert_int_equal(log.head->complete, 0);
        keep_log_close(&log);
}

static void test_when_to_rewrite(void **state) {
        const size_t mib = 1 << 20;

        assert_int_equal(keep_log_rewrite_at(KEEP_LOG_HEAD), 2 * KEEP_LOG_HEAD + 4 * mib);
        assert_int_equal(keep_log_rewrite_at(300 * mib), 604 * mib);
        assert_int_equal(keep_log_rewrite_at(600 * mib), 812 * mib); /* before it is full */
        assert_int_equal(keep_log_rewrite_at(1016 * mib), 1020 * mib);
        assert_int_equal(keep_log_rewrite_at(1020 * mib), SIZE_MAX);
        assert_int_equal(keep_log_rewrite_at(KEEP_BYTES_MAX), SIZE_MAX);
        for (size_t end = mib; end < KEEP_BYTES_MAX; end += mib)
                assert_true(keep_log_rewrite_at(end) > end + 3 * mib);
}

/* ---- descriptors ---- */

static void push_two(struct life *l) {
        int fds[2];

        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
        CHECK(keep_push_fd(l->keep, "client.1", fds[0]));
        CHECK(keep_push_fd(l->keep, "other-side", fds[1]));
}

static void push_until_full(struct life *l) {
        int n = 0;

        while (keep_push_fd(l->keep, "x", 0))
                n++;
        CHECK(n == 16 - 4);
        keep_remove_fd(l->keep, "x");
        CHECK(keep_push_fd(l->keep, "y", 0));
}

static void test_descriptors(void **state) {
        struct fdstore *s = *state;
        int other;

        live(s, (struct order){ .more = push_two });
        assert_int_equal(s->n, 5);
        other = dup(fdstore_find(s, "other-side"));
        fdstore_remove(s, "other-side");
        live(s, (struct order){ 0 }); /* nobody takes it */
        assert_int_equal(s->n, 3);
        assert_int_equal(recv(other, (char[1]){ 0 }, 1, MSG_DONTWAIT), 0);
        (void)close(other);
        live(s, (struct order){ .more = push_two });
        other = dup(fdstore_find(s, "other-side"));
        *strchr(s->names[2], '.') = '-'; /* there is no log */
        live(s, (struct order){ 0 });
        assert_int_equal(s->n, 3);
        assert_int_equal(recv(other, (char[1]){ 0 }, 1, MSG_DONTWAIT), 0);
        (void)close(other);
}

static void test_full_store(void **state) {
        struct fdstore *s = *state;

        live(s, (struct order){ .more = push_until_full });
}

static void expect_off(struct life *l) {
        CHECK(!keep_is_on(l->keep));
        CHECK(!keep_carry(l->keep));
        CHECK(!keep_push_fd(l->keep, "x", 0));
        CHECK(keep_bytes(l->keep) == 0);
        keep_turn(l->keep);
        keep_remove_fd(l->keep, "x");
}

static void test_no_store(void **state) {
        struct fdstore none;

        fdstore_init(&none, 0);
        live(&none, (struct order){ .add = 5, .more = expect_off, .forget = true });
        assert_int_equal(none.n_messages, 0);
        fdstore_deinit(&none);
        fdstore_init(&none, 3); /* not even for what is always there */
        live(&none, (struct order){ .add = 5 });
        assert_int_equal(none.n, 0);
        fdstore_deinit(&none);
}

static void test_nothing_of_it(void **state) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;

        assert_false(keep_is_on(NULL));
        keep_append(NULL, &record);
        keep_commit(NULL);
        keep_turn(NULL);
        keep_taken(NULL);
        keep_ready(NULL);
        keep_forget(NULL);
        keep_remove_fd(NULL, "x");
        assert_false(keep_push_fd(NULL, "x", 0));
        assert_null(keep_carry(NULL));
        assert_null(keep_free(NULL));
        assert_int_equal(keep_read(NULL, read_one, NULL), 0);
}

#define KEEP_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                KEEP_TEST(test_lives),
                KEEP_TEST(test_damage),
                KEEP_TEST(test_other_version),
                KEEP_TEST(test_two_logs),
                KEEP_TEST(test_crash_loop_while_taking),
                KEEP_TEST(test_crash_loop_before_ready),
                KEEP_TEST(test_crash_loop_when_ready),
                KEEP_TEST(test_rewrite),
                KEEP_TEST(test_killed_while_rewriting),
                KEEP_TEST(test_descriptors),
                KEEP_TEST(test_full_store),
                KEEP_TEST(test_no_store),
                cmocka_unit_test(test_full_log),
                cmocka_unit_test(test_when_to_rewrite),
                cmocka_unit_test(test_nothing_of_it),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
