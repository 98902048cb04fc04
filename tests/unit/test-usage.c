/* SPDX-License-Identifier: Apache-2.0 */

/* The usage ledger between loop and disk: nothing lost, nothing counted twice, bounds, disks that fail, other days. */

#include <setjmp.h>
#include <stdarg.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "daemon/control/users/usage.h"

#define PATIENCE_US (20u * 1000000u)
#define DAY 20000

struct fixture {
        char folder[64], state_dir[80];
        sd_event *event;
        struct disk *disk;
        struct usage *u;
        uint64_t now_us;
        int64_t day;
};

static void start(struct fixture *f) {
        assert_int_equal(disk_new(&f->disk, f->event, 64), 0);
        assert_int_equal(usage_new(&f->u, f->disk, f->state_dir, f->day), 0);
        assert_true(disk_drain(f->disk, PATIENCE_US));
}

static void stop(struct fixture *f) {
        usage_end(f->u);
        f->disk = disk_free(f->disk, PATIENCE_US);
        f->u = usage_free(f->u);
}

static int set_up(void **state) {
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        log_set_level(LOG_LEVEL_ERROR);
        (void)snprintf(f->folder, sizeof(f->folder), "/tmp/test-usage-XXXXXX");
        assert_non_null(mkdtemp(f->folder));
        (void)snprintf(f->state_dir, sizeof(f->state_dir), "%s/state", f->folder);
        assert_int_equal(mkdir(f->state_dir, 0700), 0);
        assert_true(sd_event_new(&f->event) >= 0);
        f->day = DAY;
        start(f);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        struct fixture *f = *state;
        char command[128];

        if (f->u)
                stop(f);
        f->event = sd_event_unref(f->event);
        (void)snprintf(command, sizeof(command), "rm -r %s", f->folder);
        assert_int_equal(system(command), 0);
        free(f);
        return 0;
}

static void restart(struct fixture *f) {
        stop(f);
        start(f);
}

static void add(struct fixture *f, uid_t uid, const char *model, uint64_t prompt, uint64_t cached, uint64_t completion) {
        const struct usage_counts counts = { .requests = 1, .prompt = prompt, .cached = cached, .completion = completion };

        usage_add(f->u, uid, model, &counts);
}

/* So much later. */
static void tick(struct fixture *f, uint64_t seconds) {
        f->now_us += seconds * 1000000u;
        usage_tick(f->u, f->now_us, f->day);
}

struct told {
        size_t calls, n;
        int error;
        struct usage_row *rows;
};

static void on_answer(void *userdata, int error, const struct usage_row *rows, size_t n) {
        struct told *t = userdata;

        t->calls++;
        t->error = error;
        free(t->rows);
        t->rows = calloc(n + 1, sizeof(*rows));
        assert_non_null(t->rows);
        if (n)
                memcpy(t->rows, rows, n * sizeof(*rows));
        t->n = n;
}

static void told_deinit(struct told *t) {
        free(t->rows);
}

static void ask(struct fixture *f, const struct usage_question *q, struct told *t) {
        struct usage_query *query = NULL;
        size_t before = t->calls;

        assert_int_equal(usage_ask(&query, f->u, q, on_answer, t), 0);
        assert_int_equal(t->calls, before); /* never from within */
        assert_true(disk_drain(f->disk, PATIENCE_US));
        assert_int_equal(t->calls, before + 1);
        query = usage_query_free(query);
}

static const struct usage_question everything = { .first = 0, .last = INT64_MAX, .all_users = true };

static void expect_row(const struct told *t, size_t i, int64_t day, uint32_t uid, const char *model, uint64_t requests,
                       uint64_t prompt) {
        assert_true(i < t->n);
        assert_int_equal(t->rows[i].day, day);
        assert_int_equal(t->rows[i].uid, uid);
        assert_string_equal(t->rows[i].model, model);
        assert_int_equal(t->rows[i].counts.requests, requests);
        assert_int_equal(t->rows[i].counts.prompt, prompt);
}

static void test_today(void **state) {
        struct fixture *f = *state;

        add(f, 5, "a", 10, 4, 3);
        add(f, 5, "b", 1, 0, 1);
        add(f, 6, "a", 100, 0, 0);
        add(f, 7, "a", 3, 9, 0); /* more cached than there was */
        assert_int_equal(usage_today(f->u, 5), 11);
        assert_int_equal(usage_today(f->u, 6), 100);
        assert_int_equal(usage_today(f->u, 7), 0);
        assert_int_equal(usage_today(f->u, 8), 0);
        assert_null(usage_trouble(f->u));
        restart(f);
        assert_int_equal(usage_today(f->u, 5), 11);
        assert_int_equal(usage_today(f->u, 6), 100);
        add(f, 5, "a", 1, 0, 0);
        tick(f, 6);
        add(f, 5, "a", 1, 0, 0); /* while that is under way */
        tick(f, 6);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        tick(f, 6);
        assert_int_equal(usage_today(f->u, 5), 13);
        restart(f);
        assert_int_equal(usage_today(f->u, 5), 13);
        restart(f);
        assert_int_equal(usage_today(f->u, 5), 13);
}

/* An answer has what is on disk, what is on its way there and what is not, once each. */
static void test_questions(void **state) {
        struct fixture *f = *state;
        const struct usage_question mine = { .first = DAY, .last = DAY + 1, .uid = 5 };
        const struct usage_question other_days = { .first = DAY + 1, .last = DAY + 9, .all_users = true };
        _cleanup_(told_deinit) struct told t = { 0 };

        ask(f, &everything, &t);
        assert_int_equal(t.n, 0);
        assert_int_equal(t.error, 0);
        add(f, 5, "b", 1, 0, 0);
        add(f, 5, "a", 10, 0, 0);
        ask(f, &everything, &t); /* in memory */
        assert_int_equal(t.n, 2);
        expect_row(&t, 0, DAY, 5, "a", 1, 10);
        expect_row(&t, 1, DAY, 5, "b", 1, 1);
        tick(f, 6); /* the write comes before the next question at the disk */
        add(f, 5, "a", 20, 0, 0);
        add(f, 4, "a", 2, 0, 0);
        ask(f, &everything, &t);
        assert_int_equal(t.n, 3);
        expect_row(&t, 0, DAY, 4, "a", 1, 2);
        expect_row(&t, 1, DAY, 5, "a", 2, 30);
        expect_row(&t, 2, DAY, 5, "b", 1, 1);
        ask(f, &mine, &t);
        assert_int_equal(t.n, 2);
        ask(f, &other_days, &t);
        assert_int_equal(t.n, 0);
}

/* The question was at the disk first: the write behind it is not in its answer, and its counts must come from memory. */
static void test_question_before_write(void **state) {
        struct fixture *f = *state;
        _cleanup_(told_deinit) struct told t = { 0 };
        struct usage_query *query = NULL;

        add(f, 5, "a", 10, 0, 0);
        assert_int_equal(usage_ask(&query, f->u, &everything, on_answer, &t), 0);
        tick(f, 6);
        assert_int_equal(disk_pending(f->disk), 2);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        query = usage_query_free(query);
        assert_int_equal(t.n, 1);
        expect_row(&t, 0, DAY, 5, "a", 1, 10);
}

static void test_query_that_nobody_waits_for(void **state) {
        struct fixture *f = *state;
        _cleanup_(told_deinit) struct told t = { 0 };
        struct usage_query *query[17] = { NULL };
        size_t n = 0;

        while (n < ARRAY_SIZE(query) && usage_ask(&query[n], f->u, &everything, on_answer, &t) == 0)
                n++;
        assert_int_equal(n, 16); /* bounded */
        query[3] = usage_query_free(query[3]);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        assert_int_equal(t.calls, 15);
        for (size_t i = 0; i < n; i++)
                query[i] = usage_query_free(query[i]);
        assert_int_equal(usage_ask(&query[0], f->u, &everything, on_answer, &t), 0);
        usage_end(f->u); /* an answer comes to the last */
        assert_true(disk_drain(f->disk, PATIENCE_US));
        assert_int_equal(t.calls, 16);
        query[0] = usage_query_free(query[0]);
        assert_int_equal(usage_ask(&query[0], f->u, &everything, on_answer, &t), USAGE_E_BUSY);
}

/* What cannot be written stays, is told of, and goes out when the disk is back. */
static void test_trouble(void **state) {
        struct fixture *f = *state;
        _cleanup_(told_deinit) struct told t = { 0 };
        char away[96];

        add(f, 5, "a", 7, 0, 0);
        stop(f);
        (void)snprintf(away, sizeof(away), "%s.away", f->state_dir);
        assert_int_equal(rename(f->state_dir, away), 0);
        start(f);
        assert_non_null(usage_trouble(f->u));
        assert_non_null(strstr(usage_trouble(f->u), "No such file"));
        for (int i = 0; i < 10; i++) {
                add(f, 5, "a", 1, 0, 0);
                tick(f, 100);
                assert_true(disk_drain(f->disk, PATIENCE_US));
        }
        assert_int_equal(usage_today(f->u, 5), 10); /* what it was before is not known */
        ask(f, &everything, &t);
        assert_int_equal(t.error, USAGE_E_STORE);
        assert_int_equal(t.n, 1);
        expect_row(&t, 0, DAY, 5, "a", 10, 10);
        assert_int_equal(rename(away, f->state_dir), 0);
        tick(f, 100);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        assert_null(usage_trouble(f->u));
        assert_int_equal(usage_today(f->u, 5), 17); /* and now it is */
        ask(f, &everything, &t);
        assert_int_equal(t.error, 0);
        expect_row(&t, 0, DAY, 5, "a", 11, 17);
        tick(f, 100);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        restart(f);
        assert_int_equal(usage_today(f->u, 5), 17);
}

static sqlite3 *lock(struct fixture *f) {
        sqlite3 *db = NULL;
        char path[128];

        (void)snprintf(path, sizeof(path), "%s/usage.db", f->state_dir);
        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
        return db;
}

static void unlock(sqlite3 *db) {
        assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

/* A write that fails gives back what it had taken. */
static void test_failed_write(void **state) {
        struct fixture *f = *state;
        _cleanup_(told_deinit) struct told t = { 0 };
        sqlite3 *db = lock(f);

        add(f, 5, "a", 10, 0, 0);
        tick(f, 100);
        add(f, 5, "a", 1, 0, 0); /* meanwhile */
        assert_true(disk_drain(f->disk, PATIENCE_US));
        assert_non_null(usage_trouble(f->u));
        assert_int_equal(usage_today(f->u, 5), 11);
        ask(f, &everything, &t);
        assert_int_equal(t.n, 1);
        expect_row(&t, 0, DAY, 5, "a", 2, 11);
        unlock(db);
        tick(f, 100);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        assert_null(usage_trouble(f->u));
        restart(f);
        ask(f, &everything, &t);
        expect_row(&t, 0, DAY, 5, "a", 2, 11);
        assert_int_equal(usage_today(f->u, 5), 11);
}

static void test_days(void **state) {
        struct fixture *f = *state;
        _cleanup_(told_deinit) struct told t = { 0 };

        add(f, 5, "a", 10, 0, 0);
        f->day++;
        tick(f, 1); /* its counts are not written yet */
        assert_int_equal(usage_today(f->u, 5), 0);
        add(f, 5, "a", 3, 0, 0);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        assert_int_equal(usage_today(f->u, 5), 3);
        tick(f, 6);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        ask(f, &everything, &t);
        assert_int_equal(t.n, 2);
        expect_row(&t, 0, DAY, 5, "a", 1, 10);
        expect_row(&t, 1, DAY + 1, 5, "a", 1, 3);
        add(f, 5, "a", 4, 0, 0);
        f->day--; /* the clock was wrong: yesterday goes on where it was */
        tick(f, 1);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        assert_int_equal(usage_today(f->u, 5), 10);
        add(f, 5, "a", 1, 0, 0);
        f->day++; /* and back, with counts of this day in memory */
        tick(f, 1);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        assert_int_equal(usage_today(f->u, 5), 7);
        f->day += USAGE_DAYS_MAX - 1; /* one of the two is too old now */
        tick(f, 6);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        tick(f, 6);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        f->day++;
        tick(f, 6);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        ask(f, &everything, &t);
        assert_int_equal(t.n, 0);
}

/* The day turns and turns back while counts are being written, which fails or not: they are part of their day's sum
 * once. */
static void test_day_turns_under_a_write(void **state) {
        struct fixture *f = *state;
        sqlite3 *db;

        for (int locked = 0; locked < 2; locked++) {
                add(f, 5, "a", 10, 0, 0);
                db = locked ? lock(f) : NULL;
                tick(f, 100);
                f->day++;
                tick(f, 1);
                assert_int_equal(usage_today(f->u, 5), 0);
                f->day--;
                tick(f, 1);
                assert_true(disk_drain(f->disk, PATIENCE_US));
                if (db)
                        unlock(db);
                tick(f, 100);
                assert_true(disk_drain(f->disk, PATIENCE_US));
                assert_int_equal(usage_today(f->u, 5), 10 * (locked + 1));
        }
}

/* However many models and users there are: no more rows in memory than the bound, and no token is lost. */
static void test_bounds(void **state) {
        struct fixture *f = *state;
        _cleanup_(told_deinit) struct told t = { 0 };
        uint64_t sum = 0;
        char model[32];

        for (int i = 0; i < 6000; i++) {
                (void)snprintf(model, sizeof(model), "m%d", i);
                add(f, 5, model, 1, 0, 0);
        }
        for (uint32_t uid = 1000; uid < 21000; uid++)
                add(f, uid, "a", 1, 0, 0);
        assert_int_equal(usage_today(f->u, 5), 6000);
        assert_int_equal(usage_today(f->u, 1000), 1);
        assert_true(usage_today(f->u, 20999) > 1000); /* with all others that came too late */
        ask(f, &everything, &t);
        assert_true(t.n <= 4098);
        for (size_t i = 0; i < t.n; i++)
                sum += t.rows[i].counts.prompt;
        assert_int_equal(sum, 26000);
        for (int i = 0; i < 2; i++) { /* written: there is room again */
                tick(f, 6);
                assert_true(disk_drain(f->disk, PATIENCE_US));
        }
        add(f, 5, "another", 1, 0, 0);
        ask(f, &(const struct usage_question){ .first = DAY, .last = DAY, .uid = 5 }, &t);
        assert_string_equal(t.rows[0].model, "another");
        assert_int_equal(t.rows[0].counts.prompt, 1);
}

/* The disk takes no more jobs: it is asked again with the next tick. */
struct blocker {
        struct disk_job base;
        size_t *done;
};

static void blocker_run(struct disk_job *job) {
}

static void blocker_done(struct disk_job *job) {
        ++*CONTAINER_OF(job, struct blocker, base)->done;
}

static void test_full_queue(void **state) {
        struct fixture *f = *state;
        _cleanup_(told_deinit) struct told t = { 0 };
        struct blocker blockers[64];
        struct usage_query *query = NULL;
        size_t done = 0;

        add(f, 5, "a", 10, 0, 0);
        for (size_t i = 0; i < ARRAY_SIZE(blockers); i++) {
                blockers[i] = (struct blocker){ { .run = blocker_run, .done = blocker_done }, &done };
                assert_int_equal(disk_submit(f->disk, &blockers[i].base), 0);
        }
        tick(f, 6);
        assert_int_equal(usage_ask(&query, f->u, &everything, on_answer, &t), USAGE_E_BUSY);
        assert_int_equal(disk_pending(f->disk), 64);
        assert_true(disk_drain(f->disk, PATIENCE_US));
        assert_int_equal(done, 64);
        assert_int_equal(usage_today(f->u, 5), 10);
        restart(f);
        assert_int_equal(usage_today(f->u, 5), 10);
}

static void test_time(void **state) {
        char text[16];
        uint32_t left = usage_ms_left_today();

        assert_true(left > 0 && left <= 86400u * 1000u);
        assert_true(usage_day_now() > 20000);
        usage_day_format(0, text);
        assert_string_equal(text, "1970-01-01");
        usage_day_format(19782, text);
        assert_string_equal(text, "2024-02-29");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_today, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_questions, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_question_before_write, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_query_that_nobody_waits_for, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_trouble, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_failed_write, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_days, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_day_turns_under_a_write, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_bounds, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_full_queue, set_up, tear_down),
                cmocka_unit_test(test_time),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
