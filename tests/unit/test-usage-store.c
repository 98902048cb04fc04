/* SPDX-License-Identifier: Apache-2.0 */

/* The usage ledger on disk: sums, what a crash leaves, damaged and foreign files, disks that fail. */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/control/users/usage-store.h"

struct fixture {
        char folder[64], path[128];
        struct usage_store *s;
};

static int set_up(void **state) {
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        (void)snprintf(f->folder, sizeof(f->folder), "/tmp/test-usage-XXXXXX");
        assert_non_null(mkdtemp(f->folder));
        (void)snprintf(f->path, sizeof(f->path), "%s/usage.db", f->folder);
        f->s = usage_store_new(f->folder);
        assert_non_null(f->s);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        struct fixture *f = *state;
        char command[128];

        f->s = usage_store_free(f->s);
        (void)snprintf(command, sizeof(command), "rm -r %s", f->folder);
        assert_int_equal(system(command), 0);
        free(f);
        return 0;
}

static struct usage_row row_of(int64_t day, uint32_t uid, const char *model, uint64_t prompt) {
        struct usage_row row = { .day = day, .uid = uid,
                                 .counts = { .requests = 1, .prompt = prompt, .cached = prompt / 2, .completion = 3 } };

        (void)snprintf(row.model, sizeof(row.model), "%s", model);
        return row;
}

static void add(struct fixture *f, int64_t day, uint32_t uid, const char *model, uint64_t prompt) {
        struct usage_row row = row_of(day, uid, model, prompt);

        if (usage_store_add(f->s, &row, 1) != 0)
                fail_msg("%s", usage_store_error(f->s));
}

static size_t read_all(struct fixture *f, struct usage_row **ret) {
        const struct usage_question all = { .first = 0, .last = INT64_MAX, .all_users = true };
        size_t n = 0;

        *ret = NULL;
        if (usage_store_read(f->s, &all, ret, &n) != 0)
                fail_msg("%s", usage_store_error(f->s));
        return n;
}

static size_t count(struct fixture *f) {
        _cleanup_free_ struct usage_row *rows = NULL;

        return read_all(f, &rows);
}

/* Something that the store itself would never do. */
static void run_sql(struct fixture *f, const char *sql) {
        sqlite3 *db = NULL;
        char *error = NULL;

        assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
        if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK)
                fail_msg("%s", error);
        assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void reopen(struct fixture *f) {
        f->s = usage_store_free(f->s);
        f->s = usage_store_new(f->folder);
        assert_non_null(f->s);
}

static void expect_aside(struct fixture *f, bool moved) {
        char name[512];
        struct stat st;

        assert_int_equal(usage_store_take_aside(f->s, name, sizeof(name)), moved);
        if (moved) {
                assert_non_null(strstr(name, "/usage.db.damaged-2"));
                assert_int_equal(stat(name, &st), 0);
                assert_false(usage_store_take_aside(f->s, name, sizeof(name))); /* told once */
        }
}

static void test_sums(void **state) {
        struct fixture *f = *state;
        const struct usage_question one = { .first = 101, .last = 102, .uid = 7 };
        const struct usage_row two[] = { row_of(101, 7, "b", 10), row_of(101, 7, "a", 20) };
        _cleanup_free_ struct usage_row *rows = NULL, *some = NULL;
        size_t n = 0;

        assert_int_equal(usage_store_add(f->s, two, 2), 0);
        assert_int_equal(usage_store_add(f->s, two, 2), 0);
        add(f, 100, 7, "a", 1);
        add(f, 102, 8, "a", 2);
        add(f, 103, 7, "a", 3);
        add(f, 102, UINT32_MAX, "", 4);
        assert_int_equal(usage_store_add(f->s, NULL, 0), 0);
        reopen(f);
        assert_int_equal(read_all(f, &rows), 6);
        assert_int_equal(rows[0].day, 100);
        assert_string_equal(rows[1].model, "a");
        assert_string_equal(rows[2].model, "b");
        assert_int_equal(rows[2].counts.requests, 2);
        assert_int_equal(rows[2].counts.prompt, 20);
        assert_int_equal(rows[2].counts.cached, 10);
        assert_int_equal(rows[2].counts.completion, 6);
        assert_int_equal(rows[4].uid, UINT32_MAX);
        assert_int_equal(usage_store_read(f->s, &one, &some, &n), 0);
        assert_int_equal(n, 2);
        assert_int_equal(some[0].uid, 7);
        assert_int_equal(some[1].day, 101);
        assert_int_equal(usage_store_drop_before(f->s, 102), 0);
        assert_int_equal(count(f), 3);
        expect_aside(f, false);
}

static void test_mode(void **state) {
        struct fixture *f = *state;
        static const char *const names[] = { "", "-wal", "-shm" };
        char path[192];
        struct stat st;

        (void)umask(0);
        add(f, 1, 1, "a", 1);
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                (void)snprintf(path, sizeof(path), "%s%s", f->path, names[i]);
                assert_int_equal(stat(path, &st), 0);
                assert_int_equal(st.st_mode & 07777, 0600);
        }
        f->s = usage_store_free(f->s);
        assert_int_equal(chmod(f->path, 0644), 0);
        f->s = usage_store_new(f->folder);
        add(f, 1, 1, "a", 1);
        assert_int_equal(stat(f->path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        (void)umask(022);
}

/* Whatever was added is there after the process was killed, in the middle of a row of additions. */
static void test_crash(void **state) {
        struct fixture *f = *state;
        _cleanup_free_ struct usage_row *rows = NULL;
        int pair[2], status;
        uint32_t told = 0;
        pid_t pid;

        assert_int_equal(pipe(pair), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                for (uint32_t i = 1; i < 10000; i++) {
                        const struct usage_row row = row_of(5, 6, "m", 2);

                        if (usage_store_add(f->s, &row, 1) != 0 || write(pair[1], &i, sizeof(i)) != sizeof(i))
                                _exit(1);
                }
                _exit(2);
        }
        while (told < 50)
                assert_int_equal(read(pair[0], &told, sizeof(told)), sizeof(told));
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        (void)close(pair[1]);
        while (read(pair[0], &told, sizeof(told)) == (ssize_t)sizeof(told))
                ;
        (void)close(pair[0]);
        assert_int_equal(read_all(f, &rows), 1);
        assert_true(rows[0].counts.requests == told || rows[0].counts.requests == told + 1);
        assert_true(rows[0].counts.prompt == 2 * rows[0].counts.requests);
        add(f, 5, 6, "m", 2);
        expect_aside(f, false);
}

static void write_at(struct fixture *f, off_t offset, size_t size) {
        _cleanup_fd_ int fd = open(f->path, O_WRONLY | O_CLOEXEC);
        char waste[8192];

        assert_true(fd >= 0 && size <= sizeof(waste));
        memset(waste, 0xa5, sizeof(waste));
        assert_int_equal(pwrite(fd, waste, size, offset), (ssize_t)size);
}

static void test_damaged(void **state) {
        struct fixture *f = *state;
        const struct {
                off_t offset;
                size_t size;
        } wounds[] = { { 0, 100 }, { 4096, 4096 }, { 20, 30 }, { 0, 8192 } };

        for (size_t i = 0; i < ARRAY_SIZE(wounds); i++) {
                for (uint32_t uid = 0; uid < 50; uid++)
                        add(f, 1, uid, "a", 1);
                f->s = usage_store_free(f->s);
                write_at(f, wounds[i].offset, wounds[i].size);
                f->s = usage_store_new(f->folder);
                assert_int_equal(count(f), 0);
                expect_aside(f, true);
                add(f, 2, 1, "a", 1);
                assert_int_equal(count(f), 1);
        }
}

/* Found out while it is open: what was to be added goes into the new one. */
static void test_damaged_while_open(void **state) {
        struct fixture *f = *state;

        for (uint32_t uid = 0; uid < 300; uid++)
                add(f, 1, uid, "a", 1);
        reopen(f);
        assert_int_equal(count(f), 300);
        run_sql(f, "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = 9999 WHERE name = 'usage';"
                   "PRAGMA schema_version = 1234;");
        add(f, 3, 1, "a", 1);
        expect_aside(f, true);
        assert_int_equal(count(f), 1);
}

/* Neither ours nor empty: somebody else's, out of the way with it. A later version's: left alone. */
static void test_foreign(void **state) {
        struct fixture *f = *state;
        const struct usage_row row = row_of(1, 1, "a", 1);
        struct stat before, after;

        run_sql(f, "CREATE TABLE other (x);");
        add(f, 1, 1, "a", 1);
        expect_aside(f, true);
        f->s = usage_store_free(f->s);
        run_sql(f, "DROP TABLE usage; CREATE TABLE usage (day, uid);"); /* our version, not our table */
        f->s = usage_store_new(f->folder);
        add(f, 1, 1, "a", 1);
        expect_aside(f, true);
        f->s = usage_store_free(f->s);
        run_sql(f, "PRAGMA user_version = 2;");
        assert_int_equal(stat(f->path, &before), 0);
        f->s = usage_store_new(f->folder);
        assert_int_equal(usage_store_add(f->s, &row, 1), USAGE_E_STORE);
        assert_non_null(strstr(usage_store_error(f->s), "later version"));
        expect_aside(f, false);
        assert_int_equal(stat(f->path, &after), 0);
        assert_true(before.st_ino == after.st_ino);
}

/* What daemons that know no revisions do, in their words. */
static const char old_schema[] =
        "CREATE TABLE usage (day INTEGER NOT NULL, uid INTEGER NOT NULL, model TEXT NOT NULL,"
        " requests INTEGER NOT NULL, prompt INTEGER NOT NULL, cached INTEGER NOT NULL, completion INTEGER NOT NULL,"
        " refused INTEGER NOT NULL, PRIMARY KEY (day, uid, model)) WITHOUT ROWID;"
        "PRAGMA application_id = 1397769045; PRAGMA user_version = 1;";
static const char old_add[] =
        "INSERT INTO usage (day, uid, model, requests, prompt, cached, completion, refused)"
        " VALUES (1, 1, 'a', 2, 20, 10, 6, 1) ON CONFLICT (day, uid, model) DO UPDATE SET"
        " requests = requests + excluded.requests, prompt = prompt + excluded.prompt,"
        " cached = cached + excluded.cached, completion = completion + excluded.completion,"
        " refused = refused + excluded.refused";

static void add_energy(struct fixture *f, uint64_t uj) {
        struct usage_row row = row_of(1, 1, "a", 2);

        row.counts.energy_uj = uj;
        row.counts.energy_tokens = 4;
        row.counts.battery_uj = uj / 2;
        row.counts.battery_tokens = 9;
        assert_int_equal(usage_store_add(f->s, &row, 1), 0);
}

static void expect_row(struct fixture *f, uint64_t requests, uint64_t uj, uint64_t energy_tokens) {
        _cleanup_free_ struct usage_row *rows = NULL;

        assert_int_equal(read_all(f, &rows), 1);
        assert_int_equal(rows[0].counts.requests, requests);
        assert_int_equal(rows[0].counts.energy_uj, uj);
        assert_int_equal(rows[0].counts.energy_tokens, energy_tokens);
        assert_int_equal(rows[0].counts.battery_uj, uj / 2);
        assert_int_equal(rows[0].counts.battery_tokens, energy_tokens / 4 * 9);
        expect_aside(f, false);
}

/* Upgraded, given back to an older daemon, upgraded again, and in the hands of a newer one: nothing is lost on the way. */
static void test_revisions(void **state) {
        struct fixture *f = *state;

        run_sql(f, old_schema);
        run_sql(f, old_add);
        expect_row(f, 2, 0, 0);
        add_energy(f, 1000);
        expect_row(f, 3, 1000, 4);
        f->s = usage_store_free(f->s);
        run_sql(f, old_add); /* the older one, and again ours */
        f->s = usage_store_new(f->folder);
        expect_row(f, 5, 1000, 4);
        f->s = usage_store_free(f->s);
        run_sql(f, "BEGIN; ALTER TABLE usage ADD COLUMN later INTEGER NOT NULL DEFAULT 7; UPDATE usage SET later = 8;"
                   "UPDATE revision SET number = 3; COMMIT;"); /* a newer one */
        f->s = usage_store_new(f->folder);
        add_energy(f, 500);
        expect_row(f, 6, 1500, 8);
        f->s = usage_store_free(f->s);
        run_sql(f, "CREATE TABLE found AS SELECT CASE WHEN later = 8 AND number = 3 THEN 1 END AS one FROM usage, revision;"
                   "CREATE TABLE proof (one INTEGER NOT NULL); INSERT INTO proof SELECT one FROM found;");
        f->s = usage_store_new(f->folder);
        expect_row(f, 6, 1500, 8);
}

/* Killed in the middle of it: all of it is there, or nothing. */
static void test_revision_half_done(void **state) {
        struct fixture *f = *state;

        run_sql(f, old_schema);
        run_sql(f, old_add);
        run_sql(f, "BEGIN IMMEDIATE; ALTER TABLE usage ADD COLUMN energy_uj INTEGER NOT NULL DEFAULT 0;"); /* and closed */
        expect_row(f, 2, 0, 0);
        add_energy(f, 10);
        expect_row(f, 3, 10, 4);
}

/* What others may have written into it does not get far. */
static void test_strange_values(void **state) {
        struct fixture *f = *state;
        _cleanup_free_ struct usage_row *rows = NULL;

        add(f, 1, 1, "a", 1);
        f->s = usage_store_free(f->s);
        run_sql(f, "UPDATE usage SET prompt = -5, cached = 'many', model = 'a' || char(27) || '[2J';"
                   "INSERT INTO usage (day, uid, model, requests, prompt, cached, completion, refused) VALUES (1, -1, zeroblob(100000), 1e300, 1.5, 0, 0, 0);");
        f->s = usage_store_new(f->folder);
        assert_int_equal(read_all(f, &rows), 2);
        for (size_t i = 0; i < 2; i++)
                assert_string_equal(rows[i].model, "");
        assert_int_equal(rows[0].uid, 0); /* -1 */
        assert_int_equal(rows[1].counts.prompt, 0);
        assert_int_equal(rows[1].counts.cached, 0);
}

static void test_no_folder(void **state) {
        struct fixture *f = *state;
        const struct usage_row row = row_of(1, 1, "a", 1);
        char other[128];

        (void)snprintf(other, sizeof(other), "%s/none", f->folder);
        f->s = usage_store_free(f->s);
        f->s = usage_store_new(other);
        assert_int_equal(usage_store_add(f->s, &row, 1), USAGE_E_STORE);
        assert_non_null(strstr(usage_store_error(f->s), "none/usage.db: No such file"));
        assert_int_equal(mkdir(other, 0700), 0);
        assert_int_equal(usage_store_add(f->s, &row, 1), 0); /* it is looked for each time */
        assert_string_equal(usage_store_error(f->s), "");
}

static void test_no_file(void **state) {
        struct fixture *f = *state;
        const struct usage_row row = row_of(1, 1, "a", 1);

        assert_int_equal(mkdir(f->path, 0700), 0);
        assert_int_equal(usage_store_add(f->s, &row, 1), USAGE_E_STORE);
        assert_int_equal(rmdir(f->path), 0);
        assert_int_equal(mkfifo(f->path, 0600), 0);
        assert_int_equal(usage_store_add(f->s, &row, 1), USAGE_E_STORE);
        assert_non_null(strstr(usage_store_error(f->s), "no regular file"));
        assert_int_equal(unlink(f->path), 0);
        assert_int_equal(symlink("/dev/null", f->path), 0);
        assert_int_equal(usage_store_add(f->s, &row, 1), USAGE_E_STORE);
        assert_int_equal(unlink(f->path), 0);
        add(f, 1, 1, "a", 1);
}

/* As a user who may not write there: in a child, since the tests may run as root. */
static void test_read_only_folder(void **state) {
        struct fixture *f = *state;
        const struct usage_row row = row_of(1, 1, "a", 1);
        int status;
        pid_t pid;

        assert_int_equal(chmod(f->folder, 0555), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                if (geteuid() == 0 && (setgid(65534) < 0 || setuid(65534) < 0))
                        _exit(1);
                if (usage_store_add(f->s, &row, 1) != USAGE_E_STORE)
                        _exit(2);
                _exit(strstr(usage_store_error(f->s), "Permission denied") ? 0 : 3);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(chmod(f->folder, 0755), 0);
        assert_int_equal(status, 0);
}

/* A disk that takes no more, played by the limit of a file's size. Nothing is lost but what it did not take, and what was
 * not taken can be given again. */
static void test_full_disk(void **state) {
        struct fixture *f = *state;
        _cleanup_free_ struct usage_row *rows = calloc(3000, sizeof(*rows)), *back = NULL;
        const struct rlimit small = { 64 << 10, RLIM_INFINITY }, large = { RLIM_INFINITY, RLIM_INFINITY };
        int status;
        pid_t pid;

        assert_non_null(rows);
        for (uint32_t i = 0; i < 3000; i++)
                rows[i] = row_of(1, i, "some-model", 4);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                (void)signal(SIGXFSZ, SIG_IGN);
                if (usage_store_add(f->s, rows, 10) != 0 || setrlimit(RLIMIT_FSIZE, &small) < 0)
                        _exit(1);
                if (usage_store_add(f->s, rows, 3000) != USAGE_E_STORE || !usage_store_error(f->s)[0])
                        _exit(2);
                if (usage_store_add(f->s, rows, 3000) != USAGE_E_STORE)
                        _exit(3);
                if (setrlimit(RLIMIT_FSIZE, &large) < 0 || usage_store_add(f->s, rows, 3000) != 0)
                        _exit(4);
                (void)usage_store_free(f->s);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        assert_int_equal(read_all(f, &back), 3000);
        assert_int_equal(back[5].counts.requests, 2);
        assert_int_equal(back[10].counts.requests, 1);
        expect_aside(f, false);
}

/* Somebody with tools of his own holds us up, and no longer than we let him. */
static void test_locked(void **state) {
        struct fixture *f = *state;
        const struct usage_row row = row_of(1, 1, "a", 1);
        sqlite3 *db = NULL;

        add(f, 1, 1, "a", 1);
        assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
        assert_int_equal(usage_store_add(f->s, &row, 1), USAGE_E_STORE);
        assert_non_null(strstr(usage_store_error(f->s), "locked"));
        assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_close(db), SQLITE_OK);
        add(f, 1, 1, "a", 1);
        assert_int_equal(count(f), 1);
}

static void test_too_many(void **state) {
        struct fixture *f = *state;
        const struct usage_question all = { .first = 0, .last = 10, .all_users = true };
        _cleanup_free_ struct usage_row *rows = calloc(USAGE_ROWS_MAX + 1, sizeof(*rows)), *none = NULL;
        size_t n = 0;

        assert_non_null(rows);
        for (uint32_t i = 0; i <= USAGE_ROWS_MAX; i++)
                rows[i] = row_of(1, i, "a", 1);
        assert_int_equal(usage_store_add(f->s, rows, USAGE_ROWS_MAX), 0);
        assert_int_equal(count(f), USAGE_ROWS_MAX);
        assert_int_equal(usage_store_add(f->s, rows + USAGE_ROWS_MAX, 1), 0);
        assert_int_equal(usage_store_read(f->s, &all, &none, &n), USAGE_E_TOO_MANY);
        assert_null(none);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_sums, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_mode, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_crash, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_damaged, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_damaged_while_open, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_foreign, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_revisions, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_revision_half_done, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_strange_values, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_no_folder, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_no_file, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_read_only_folder, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_full_disk, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_locked, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_too_many, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
