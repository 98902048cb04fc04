/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "usage-store.h"

#define VERSION 1
#define APPLICATION_ID 0x53504b55 /* "SPKU" */
#define BUSY_MS 1000 /* somebody who looks at the file with tools of his own may hold us up for so long */

/* Inside: the file is not what it should be. */
#define E_DAMAGED 100

struct usage_store {
        char *path;
        sqlite3 *db; /* NULL: not open */
        sqlite3_stmt *add;
        char error[384];
        char aside[512];
};

#define REVISION 2

static const char schema[] =
        "CREATE TABLE usage (day INTEGER NOT NULL, uid INTEGER NOT NULL, model TEXT NOT NULL,"
        " requests INTEGER NOT NULL, prompt INTEGER NOT NULL, cached INTEGER NOT NULL, completion INTEGER NOT NULL,"
        " refused INTEGER NOT NULL, PRIMARY KEY (day, uid, model)) WITHOUT ROWID;"
        "PRAGMA user_version = 1;";

static const char to_revision_2[] =
        "BEGIN IMMEDIATE;"
        "ALTER TABLE usage ADD COLUMN energy_uj INTEGER NOT NULL DEFAULT 0;"
        "ALTER TABLE usage ADD COLUMN energy_tokens INTEGER NOT NULL DEFAULT 0;"
        "ALTER TABLE usage ADD COLUMN battery_uj INTEGER NOT NULL DEFAULT 0;"
        "ALTER TABLE usage ADD COLUMN battery_tokens INTEGER NOT NULL DEFAULT 0;"
        "CREATE TABLE revision (number INTEGER NOT NULL);"
        "INSERT INTO revision VALUES (2);"
        "COMMIT;";

static const char add_sql[] =
        "INSERT INTO usage (day, uid, model, requests, prompt, cached, completion, refused,"
        " energy_uj, energy_tokens, battery_uj, battery_tokens)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT (day, uid, model) DO UPDATE SET"
        " requests = requests + excluded.requests, prompt = prompt + excluded.prompt,"
        " cached = cached + excluded.cached, completion = completion + excluded.completion,"
        " refused = refused + excluded.refused, energy_uj = energy_uj + excluded.energy_uj,"
        " energy_tokens = energy_tokens + excluded.energy_tokens, battery_uj = battery_uj + excluded.battery_uj,"
        " battery_tokens = battery_tokens + excluded.battery_tokens";

static const char read_sql[] =
        "SELECT day, uid, model, requests, prompt, cached, completion, refused,"
        " energy_uj, energy_tokens, battery_uj, battery_tokens FROM usage"
        " WHERE day BETWEEN ?1 AND ?2 AND (?3 OR uid = ?4) ORDER BY day, uid, model";

/* ---- faults ---- */

static _printf_(2, 3) int fail(struct usage_store *s, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(s->error, sizeof(s->error), fmt, ap);
        va_end(ap);
        return USAGE_E_STORE;
}

/* What SQLite said, as one of ours. */
static int fail_sqlite(struct usage_store *s, int r) {
        if ((r & 0xff) == SQLITE_CORRUPT || (r & 0xff) == SQLITE_NOTADB)
                return E_DAMAGED;
        return fail(s, "%s: %s", s->path, s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(r));
}

static int run(struct usage_store *s, const char *sql) {
        int r = sqlite3_exec(s->db, sql, NULL, NULL, NULL);

        return r == SQLITE_OK ? 0 : fail_sqlite(s, r);
}

static void store_close(struct usage_store *s) {
        (void)sqlite3_finalize(s->add);
        s->add = NULL;
        (void)sqlite3_close(s->db);
        s->db = NULL;
}

/* ---- opening ---- */

/* SQLite would make the file with the mode that umask leaves, and its companions with the file's. */
static int file_prepare(struct usage_store *s) {
        _cleanup_fd_ int fd = open(s->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return fail(s, "%s: %s", s->path, strerror(errno));
        if (!S_ISREG(st.st_mode))
                return fail(s, "%s: it is no regular file", s->path);
        if ((st.st_mode & 07777) != 0600 && fchmod(fd, 0600) < 0)
                return fail(s, "%s: its mode can't be set: %s", s->path, strerror(errno));
        return 0;
}

static int query_number(struct usage_store *s, const char *sql, int64_t *ret) {
        sqlite3_stmt *stmt = NULL;
        int r = sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL);

        if (r == SQLITE_OK)
                r = sqlite3_step(stmt);
        if (r == SQLITE_ROW)
                *ret = sqlite3_column_int64(stmt, 0);
        (void)sqlite3_finalize(stmt);
        return r == SQLITE_ROW ? 0 : fail_sqlite(s, r == SQLITE_DONE ? SQLITE_CORRUPT : r);
}

/* "ok", or it is damaged. */
static int check_integrity(struct usage_store *s) {
        sqlite3_stmt *stmt = NULL;
        int r = sqlite3_prepare_v2(s->db, "PRAGMA quick_check(1)", -1, &stmt, NULL), e = E_DAMAGED;

        if (r == SQLITE_OK)
                r = sqlite3_step(stmt);
        if (r != SQLITE_ROW)
                e = fail_sqlite(s, r);
        else if (sqlite3_column_text(stmt, 0) && strcmp((const char *)sqlite3_column_text(stmt, 0), "ok") == 0)
                e = 0;
        (void)sqlite3_finalize(stmt);
        return e;
}

static int schema_prepare(struct usage_store *s) {
        int64_t version = 0, tables = 0;
        int e;

        e = query_number(s, "PRAGMA user_version", &version);
        if (!e)
                e = query_number(s, "SELECT count(*) FROM sqlite_schema", &tables);
        if (e)
                return e;
        if (version > VERSION)
                return fail(s, "%s was written by a later version of sparkd (%lld); it is left alone", s->path,
                            (long long)version);
        if (version == 0 && tables == 0) {
                char sql[sizeof(schema) + 128];

                (void)snprintf(sql, sizeof(sql), "BEGIN IMMEDIATE; PRAGMA application_id = %d; %s COMMIT;",
                               APPLICATION_ID, schema);
                return run(s, sql);
        }
        return version == VERSION ? 0 : E_DAMAGED;
}

/* What the revision adds, where that is not there yet. */
static int revision_prepare(struct usage_store *s) {
        int64_t known = 0, number = 1;
        int e, r;

        e = query_number(s, "SELECT count(*) FROM sqlite_schema WHERE name = 'revision'", &known);
        if (!e && known)
                e = query_number(s, "SELECT max(number) FROM revision", &number);
        if (e || number >= REVISION)
                return e;
        r = sqlite3_exec(s->db, to_revision_2, NULL, NULL, NULL);
        if (r == SQLITE_OK)
                return 0;
        e = r == SQLITE_ERROR ? E_DAMAGED : fail_sqlite(s, r); /* our version, and not our table */
        (void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
        return e;
}

static int database_open(struct usage_store *s) {
        const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
        int e, r;

        e = file_prepare(s);
        if (e)
                return e;
        r = sqlite3_open_v2(s->path, &s->db, flags, NULL);
        if (r != SQLITE_OK)
                return fail_sqlite(s, r);
        (void)sqlite3_extended_result_codes(s->db, 1);
        (void)sqlite3_busy_timeout(s->db, BUSY_MS);
        (void)sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        e = run(s, "PRAGMA trusted_schema = OFF; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                   "PRAGMA journal_size_limit = 1048576;");
        if (!e)
                e = check_integrity(s);
        if (!e)
                e = schema_prepare(s);
        if (!e)
                e = revision_prepare(s);
        if (e)
                return e;
        r = sqlite3_prepare_v3(s->db, add_sql, -1, SQLITE_PREPARE_PERSISTENT, &s->add, NULL);
        if (r == SQLITE_ERROR) /* our version, and not our table */
                return E_DAMAGED;
        return r == SQLITE_OK ? 0 : fail_sqlite(s, r);
}

/* A name for a damaged database that nothing has yet. */
static void name_aside(const struct usage_store *s, char *out, size_t size) {
        time_t now = time(NULL);
        char stamp[32];
        struct tm tm;

        (void)gmtime_r(&now, &tm);
        (void)strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &tm);
        (void)snprintf(out, size, "%s.damaged-%s", s->path, stamp);
        for (unsigned i = 2; i < 100 && access(out, F_OK) == 0; i++)
                (void)snprintf(out, size, "%s.damaged-%s-%u", s->path, stamp, i);
}

/* The database under another name, for whoever wants to look at it; its companions with it. */
static int move_aside(struct usage_store *s) {
        static const char *const companions[] = { "-wal", "-shm" };
        char from[PATH_MAX], to[PATH_MAX], name[PATH_MAX - 8];

        store_close(s);
        name_aside(s, name, sizeof(name));
        if (rename(s->path, name) < 0)
                return fail(s, "%s is damaged and can't be moved aside: %s", s->path, strerror(errno));
        (void)snprintf(s->aside, sizeof(s->aside), "%.*s", (int)sizeof(s->aside) - 1, name);
        for (size_t i = 0; i < ARRAY_SIZE(companions); i++) {
                (void)snprintf(from, sizeof(from), "%s%s", s->path, companions[i]);
                (void)snprintf(to, sizeof(to), "%s%s", name, companions[i]);
                (void)rename(from, to);
        }
        return 0;
}

static int store_open(struct usage_store *s) {
        int e;

        s->error[0] = 0;
        if (s->db)
                return 0;
        e = database_open(s);
        if (e == E_DAMAGED) {
                e = move_aside(s);
                if (!e)
                        e = database_open(s);
        }
        if (e)
                store_close(s);
        return e == E_DAMAGED ? fail(s, "%s is damaged as soon as it is made", s->path) : e;
}

typedef int (*store_work)(struct usage_store *s, void *data);

/* Works on the database. A damaged one makes room for a new one, which is tried in its place. */
static int store_do(struct usage_store *s, store_work work, void *data) {
        int e = 0;

        for (int i = 0; i < 2; i++) {
                e = store_open(s);
                if (e)
                        return e;
                e = work(s, data);
                if (e != E_DAMAGED)
                        break;
                e = move_aside(s);
                if (e)
                        return e;
                e = fail(s, "%s was damaged", s->path);
        }
        if (e == USAGE_E_STORE)
                store_close(s); /* opened afresh with the next try: the disk may be another one by then */
        return e;
}

/* ---- adding ---- */

static int add_row(struct usage_store *s, const struct usage_row *row) {
        const uint64_t counts[] = { row->counts.requests, row->counts.prompt, row->counts.cached,
                                    row->counts.completion, row->counts.refused, row->counts.energy_uj,
                                    row->counts.energy_tokens, row->counts.battery_uj, row->counts.battery_tokens };
        int r;

        (void)sqlite3_bind_int64(s->add, 1, row->day);
        (void)sqlite3_bind_int64(s->add, 2, row->uid);
        (void)sqlite3_bind_text(s->add, 3, row->model, -1, SQLITE_STATIC);
        for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
                (void)sqlite3_bind_int64(s->add, 4 + (int)i, (int64_t)MIN(counts[i], (uint64_t)INT64_MAX));
        r = sqlite3_step(s->add);
        (void)sqlite3_reset(s->add);
        return r == SQLITE_DONE ? 0 : fail_sqlite(s, r);
}

struct addition {
        const struct usage_row *rows;
        size_t n;
};

static int add_rows(struct usage_store *s, void *data) {
        const struct addition *a = data;
        int e = run(s, "BEGIN IMMEDIATE");

        if (e)
                return e;
        for (size_t i = 0; i < a->n && !e; i++)
                e = add_row(s, &a->rows[i]);
        if (!e)
                e = run(s, "COMMIT");
        if (e)
                (void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
        return e;
}

int usage_store_add(struct usage_store *s, const struct usage_row *rows, size_t n) {
        struct addition a = { rows, n };

        return store_do(s, add_rows, &a);
}

/* ---- reading ---- */

static uint64_t column(sqlite3_stmt *stmt, int i) {
        int64_t v = sqlite3_column_int64(stmt, i);

        return v > 0 ? (uint64_t)v : 0;
}

static void row_read(sqlite3_stmt *stmt, struct usage_row *row) {
        const unsigned char *model = sqlite3_column_text(stmt, 2);

        *row = (struct usage_row){
                .day = sqlite3_column_int64(stmt, 0),
                .uid = (uint32_t)column(stmt, 1),
                .counts = { column(stmt, 3), column(stmt, 4), column(stmt, 5), column(stmt, 6), column(stmt, 7),
                            column(stmt, 8), column(stmt, 9), column(stmt, 10), column(stmt, 11) },
        };
        /* what somebody else wrote there must not get far */
        if (model && config_model_name_valid((const char *)model))
                (void)snprintf(row->model, sizeof(row->model), "%s", (const char *)model);
}

struct reading {
        const struct usage_question *question;
        struct usage_row *rows;
        size_t n, cap;
};

static int collect_rows(struct usage_store *s, sqlite3_stmt *stmt, struct reading *a) {
        int r;

        while ((r = sqlite3_step(stmt)) == SQLITE_ROW) {
                if (a->n >= USAGE_ROWS_MAX)
                        return USAGE_E_TOO_MANY;
                if (a->n == a->cap) {
                        size_t cap = a->cap ? a->cap * 2 : 16;
                        struct usage_row *rows = reallocarray(a->rows, cap, sizeof(*rows));

                        if (!rows)
                                return -ENOMEM;
                        a->rows = rows;
                        a->cap = cap;
                }
                row_read(stmt, &a->rows[a->n++]);
        }
        return r == SQLITE_DONE ? 0 : fail_sqlite(s, r);
}

static int read_rows(struct usage_store *s, void *data) {
        struct reading *a = data;
        sqlite3_stmt *stmt = NULL;
        int r, e;

        a->n = 0;
        r = sqlite3_prepare_v2(s->db, read_sql, -1, &stmt, NULL);
        if (r != SQLITE_OK)
                return fail_sqlite(s, r);
        (void)sqlite3_bind_int64(stmt, 1, a->question->first);
        (void)sqlite3_bind_int64(stmt, 2, a->question->last);
        (void)sqlite3_bind_int(stmt, 3, a->question->all_users);
        (void)sqlite3_bind_int64(stmt, 4, a->question->uid);
        e = collect_rows(s, stmt, a);
        (void)sqlite3_finalize(stmt);
        return e;
}

int usage_store_read(struct usage_store *s, const struct usage_question *q, struct usage_row **ret, size_t *ret_n) {
        struct reading a = { .question = q };
        int e = store_do(s, read_rows, &a);

        if (e) {
                free(a.rows);
                return e;
        }
        *ret = a.rows;
        *ret_n = a.n;
        return 0;
}

static int drop_before(struct usage_store *s, void *data) {
        char sql[96];

        (void)snprintf(sql, sizeof(sql), "DELETE FROM usage WHERE day < %lld", (long long)*(const int64_t *)data);
        return run(s, sql);
}

int usage_store_drop_before(struct usage_store *s, int64_t day) {
        return store_do(s, drop_before, &day);
}

/* ---- life ---- */

const char *usage_store_error(const struct usage_store *s) {
        return s->error;
}

bool usage_store_take_aside(struct usage_store *s, char *out, size_t size) {
        bool moved = s->aside[0] != 0;

        (void)snprintf(out, size, "%s", s->aside);
        s->aside[0] = 0;
        return moved;
}

struct usage_store *usage_store_new(const char *folder) {
        struct usage_store *s = calloc(1, sizeof(*s));

        if (s && asprintf(&s->path, "%s/usage.db", folder) < 0) {
                s->path = NULL;
                return usage_store_free(s);
        }
        return s;
}

struct usage_store *usage_store_free(struct usage_store *s) {
        if (!s)
                return NULL;
        store_close(s);
        free(s->path);
        free(s);
        return NULL;
}
