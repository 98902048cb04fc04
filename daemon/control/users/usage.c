/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Two tables: `rows` are counts that are not on disk yet, by day, uid and model; `spent` is what each uid has used today,
 * on disk or not. One job of ours at a time is at the disk: first one that reads today's sums, then ones that write. Since
 * nothing is written before the sums were read, nothing is counted twice in `spent`.
 *
 * While counts are being written they stay in their row as `in_flight`: a write that fails gives them back, and a
 * question asked meanwhile, which the disk answers with what it had before that write, is told them, too.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/list.h"
#include "base/log.h"
#include "event.h"
#include "usage.h"

#define BUCKETS 256u
#define ROWS_MAX 4096u   /* beyond: a user's other models are one, beyond that all users are */
#define SPENT_MAX 16384u /* uids; those beyond share one sum */
#define QUERIES_MAX 16u
#define WRITE_US (5u * 1000000u)
#define RETRY_MAX_US (60u * 1000000u)
#define DAY_S 86400
#define OTHERS UINT32_MAX

struct row {
        struct list link;
        struct usage_row of; /* its counts: not with the disk */
        struct usage_counts in_flight;
};

struct spent {
        struct list link;
        uint32_t uid;
        struct usage_counts counts;
};

struct usage {
        struct disk *disk;
        struct usage_store *store; /* the thread's */
        int64_t day;
        struct list rows[BUCKETS], spent[BUCKETS];
        size_t n_rows, n_spent, n_queries;
        struct usage_counts others_spent;
        bool read_due, working, ending;
        uint64_t next_us, retry_us;
        char trouble[512];
};

enum work { WORK_READ, WORK_WRITE, WORK_CLOSE };

/* What goes to the thread and comes back. */
struct work_job {
        struct disk_job base;
        struct usage *usage;
        struct usage_store *store;
        enum work work;
        int64_t day;
        struct usage_row *rows;
        size_t n;
        int error;
        char text[384], aside[512];
};

struct query_job {
        struct disk_job base;
        struct usage *usage;
        struct usage_store *store;
        struct usage_query *query; /* the loop's; NULL: not wanted any more */
        struct usage_question question;
        struct usage_row *rows;
        size_t n;
        int error;
};

struct usage_query {
        struct query_job *job;
        usage_answer answer;
        void *userdata;
};

/* ---- counts ---- */

static void counts_add(struct usage_counts *c, const struct usage_counts *more) {
        c->requests += more->requests;
        c->prompt += more->prompt;
        c->cached += more->cached;
        c->completion += more->completion;
        c->refused += more->refused;
        c->energy_uj += more->energy_uj;
        c->energy_tokens += more->energy_tokens;
        c->battery_uj += more->battery_uj;
        c->battery_tokens += more->battery_tokens;
}

static bool counts_are_zero(const struct usage_counts *c) {
        return !c->requests && !c->prompt && !c->cached && !c->completion && !c->refused && !c->energy_uj && !c->energy_tokens &&
               !c->battery_uj && !c->battery_tokens;
}

static uint64_t counts_tokens(const struct usage_counts *c) {
        return c->prompt - MIN(c->cached, c->prompt) + c->completion;
}

static struct spent *spent_find(const struct usage *u, uint32_t uid) {
        struct list *head = (struct list *)&u->spent[uid % BUCKETS], *pos, *tmp;

        LIST_FOREACH(pos, tmp, head) {
                struct spent *s = LIST_ENTRY(pos, struct spent, link);

                if (s->uid == uid)
                        return s;
        }
        return NULL;
}

static void spent_add(struct usage *u, uint32_t uid, const struct usage_counts *counts) {
        struct spent *s = spent_find(u, uid);

        if (counts_tokens(counts) + counts->energy_tokens + counts->battery_tokens == 0)
                return;
        if (!s && u->n_spent < SPENT_MAX && (s = calloc(1, sizeof(*s)))) {
                s->uid = uid;
                list_append(&u->spent[uid % BUCKETS], &s->link);
                u->n_spent++;
        }
        counts_add(s ? &s->counts : &u->others_spent, counts);
}

static void spent_clear(struct usage *u) {
        struct list *node;

        for (size_t i = 0; i < BUCKETS; i++)
                while ((node = list_pop(&u->spent[i])))
                        free(LIST_ENTRY(node, struct spent, link));
        u->n_spent = 0;
        u->others_spent = (struct usage_counts){ 0 };
}

struct usage_counts usage_spent(const struct usage *u, uid_t uid) {
        const struct spent *s = spent_find(u, uid);

        return s ? s->counts : u->n_spent >= SPENT_MAX ? u->others_spent : (struct usage_counts){ 0 };
}

uint64_t usage_today(const struct usage *u, uid_t uid) {
        struct usage_counts spent = usage_spent(u, uid);

        return counts_tokens(&spent);
}

/* ---- rows ---- */

static struct list *row_bucket(struct usage *u, int64_t day, uint32_t uid, const char *model) {
        uint32_t hash = 2166136261u;

        for (const char *p = model; *p; p++)
                hash = (hash ^ (unsigned char)*p) * 16777619u;
        hash = (hash ^ uid) * 16777619u;
        hash = (hash ^ (uint32_t)day) * 16777619u;
        return &u->rows[(hash ^ hash >> 16) % BUCKETS];
}

static struct row *row_find(struct usage *u, int64_t day, uint32_t uid, const char *model) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, row_bucket(u, day, uid, model)) {
                struct row *row = LIST_ENTRY(pos, struct row, link);

                if (row->of.day == day && row->of.uid == uid && strcmp(row->of.model, model) == 0)
                        return row;
        }
        return NULL;
}

static struct row *row_new(struct usage *u, int64_t day, uint32_t uid, const char *model) {
        struct row *row = calloc(1, sizeof(*row));

        if (!row)
                return NULL;
        row->of.day = day;
        row->of.uid = uid;
        (void)snprintf(row->of.model, sizeof(row->of.model), "%s", model);
        list_append(row_bucket(u, day, uid, row->of.model), &row->link);
        u->n_rows++;
        return row;
}

static void row_free(struct usage *u, struct row *row) {
        list_remove(&row->link);
        u->n_rows--;
        free(row);
}

/* The row that counts for this, made where there is room: one for all models of the user, or one for everybody, where
 * there is not. NULL without memory. */
static struct row *row_get(struct usage *u, int64_t day, uint32_t uid, const char *model) {
        struct row *row = row_find(u, day, uid, model);

        if (!row && u->n_rows < ROWS_MAX)
                row = row_new(u, day, uid, model);
        if (!row)
                row = row_find(u, day, uid, "");
        if (!row)
                row = row_find(u, day, OTHERS, "");
        return row ? row : row_new(u, day, OTHERS, "");
}

void usage_add(struct usage *u, uid_t uid, const char *model, const struct usage_counts *counts) {
        struct row *row;

        if (counts_are_zero(counts))
                return;
        spent_add(u, uid, counts);
        row = row_get(u, u->day, uid, model);
        if (row)
                counts_add(&row->of.counts, counts);
}

typedef void (*row_fn)(struct usage *u, struct row *row, void *data);

static void rows_each(struct usage *u, row_fn fn, void *data) {
        struct list *pos, *tmp;

        for (size_t i = 0; i < BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &u->rows[i])
                        fn(u, LIST_ENTRY(pos, struct row, link), data);
}

/* ---- on the thread ---- */

static void work_run(struct disk_job *base) {
        struct work_job *job = CONTAINER_OF(base, struct work_job, base);
        const struct usage_question today = { .first = job->day, .last = job->day, .all_users = true };

        switch (job->work) {
        case WORK_READ:
                (void)usage_store_drop_before(job->store, job->day - USAGE_DAYS_MAX + 1); /* if not, then another day */
                job->error = usage_store_read(job->store, &today, &job->rows, &job->n);
                break;
        case WORK_WRITE:
                job->error = usage_store_add(job->store, job->rows, job->n);
                break;
        case WORK_CLOSE:
                job->store = usage_store_free(job->store);
                return;
        }
        (void)snprintf(job->text, sizeof(job->text), "%s", usage_store_error(job->store));
        (void)usage_store_take_aside(job->store, job->aside, sizeof(job->aside));
}

static void query_run(struct disk_job *base) {
        struct query_job *job = CONTAINER_OF(base, struct query_job, base);

        job->error = usage_store_read(job->store, &job->question, &job->rows, &job->n);
}

/* ---- work, as the loop sees it ---- */

static void job_free(struct work_job *job) {
        free(job->rows);
        free(job);
}

static void work_done(struct disk_job *base);

static struct work_job *job_new(struct usage *u, enum work work) {
        struct work_job *job = calloc(1, sizeof(*job));

        if (!job)
                return NULL;
        job->base.run = work_run;
        job->base.done = work_done;
        job->usage = u;
        job->store = u->store;
        job->work = work;
        job->day = u->day;
        return job;
}

/* Takes the job over. False where it was not taken. */
static bool job_submit(struct usage *u, struct work_job *job) {
        if (!job || disk_submit(u->disk, &job->base)) {
                if (job)
                        job_free(job);
                return false;
        }
        u->working = true;
        return true;
}

static void row_launch(struct usage *u, struct row *row, void *data) {
        struct work_job *job = data;

        if (counts_are_zero(&row->of.counts))
                return;
        job->rows[job->n++] = row->of;
        row->in_flight = row->of.counts;
        row->of.counts = (struct usage_counts){ 0 };
}

/* Written, or not. */
static void row_land(struct usage *u, struct row *row, void *data) {
        bool written = *(const bool *)data;

        if (!written) {
                counts_add(&row->of.counts, &row->in_flight);
                if (u->read_due && row->of.day == u->day) /* the sums that are about to be read lack it */
                        spent_add(u, row->of.uid, &row->in_flight);
        }
        row->in_flight = (struct usage_counts){ 0 };
        if (counts_are_zero(&row->of.counts))
                row_free(u, row);
}

static bool start_write(struct usage *u) {
        struct work_job *job = u->n_rows > 0 ? job_new(u, WORK_WRITE) : NULL;
        bool written = false;

        if (job)
                job->rows = calloc(u->n_rows, sizeof(*job->rows));
        if (!job || !job->rows) {
                free(job);
                return false;
        }
        rows_each(u, row_launch, job);
        if (job_submit(u, job))
                return true;
        rows_each(u, row_land, &written);
        return false;
}

static void set_trouble(struct usage *u, const char *text) {
        if (text[0] && !u->trouble[0])
                log_warning("usage is counted, but not kept over a restart: %s", text);
        else if (!text[0] && u->trouble[0])
                log_notice("usage is kept over a restart again");
        (void)snprintf(u->trouble, sizeof(u->trouble), "%s", text);
}

static void note_result(struct usage *u, const struct work_job *job) {
        char text[64];

        if (job->aside[0])
                event_log(EVENT_USAGE_DAMAGED, NULL, "the usage ledger was damaged; it is kept as %s, and a new one is begun", job->aside);
        if (!job->error) {
                set_trouble(u, "");
                u->retry_us = WRITE_US;
                return;
        }
        u->retry_us = MIN(u->retry_us * 2, (uint64_t)RETRY_MAX_US);
        (void)snprintf(text, sizeof(text), "%s", job->error < 0 ? strerror(-job->error) : "it has too many rows");
        set_trouble(u, job->text[0] ? job->text : text);
}

/* The last things: what is left to write, then the store's end. A store that nobody can close stays open: it is made to
 * be left at any time. */
static void end_work(struct usage *u, bool may_write) {
        if (may_write && start_write(u))
                return;
        if (job_submit(u, job_new(u, WORK_CLOSE)))
                u->store = NULL;
}

static void work_done(struct disk_job *base) {
        struct work_job *job = CONTAINER_OF(base, struct work_job, base);
        struct usage *u = job->usage;
        bool good = !base->dropped && !job->error, wrote = job->work == WORK_WRITE;

        u->working = false;
        if (base->dropped)
                (void)snprintf(job->text, sizeof(job->text), "the disk does not answer");
        if (job->work == WORK_CLOSE) {
                job_free(job);
                return;
        }
        if (!base->dropped)
                note_result(u, job);
        if (wrote)
                rows_each(u, row_land, &good);
        if (job->work == WORK_READ && good && job->day == u->day) {
                u->read_due = false;
                for (size_t i = 0; i < job->n; i++)
                        spent_add(u, job->rows[i].uid, &job->rows[i].counts);
        }
        job_free(job);
        if (u->ending)
                end_work(u, !wrote);
}

/* ---- time ---- */

static void row_count_spent(struct usage *u, struct row *row, void *data) {
        if (row->of.day == u->day)
                spent_add(u, row->of.uid, &row->of.counts);
        else if (row->of.day <= u->day - (int64_t)USAGE_DAYS_MAX && counts_are_zero(&row->in_flight))
                row_free(u, row);
}

/* Another day: usually the next one, any other where the clock was set. */
static void turn_day(struct usage *u, int64_t day) {
        u->day = day;
        u->read_due = true;
        u->next_us = 0;
        spent_clear(u);
        rows_each(u, row_count_spent, NULL);
}

void usage_tick(struct usage *u, uint64_t now_us, int64_t day) {
        if (u->ending)
                return;
        if (day != u->day)
                turn_day(u, day);
        if (u->working || now_us < u->next_us)
                return;
        if (u->read_due)
                (void)job_submit(u, job_new(u, WORK_READ));
        else
                (void)start_write(u);
        u->next_us = now_us + u->retry_us;
}

bool usage_sync(struct usage *u) {
        if (u->working)
                return false;
        return u->ending || u->read_due || u->trouble[0] || u->n_rows == 0 || !start_write(u);
}

/* ---- questions ---- */

static int row_compare(const void *pa, const void *pb) {
        const struct usage_row *a = pa, *b = pb;

        if (a->day != b->day)
                return a->day < b->day ? -1 : 1;
        if (a->uid != b->uid)
                return a->uid < b->uid ? -1 : 1;
        return strcmp(a->model, b->model);
}

struct merge {
        const struct usage_question *question;
        struct usage_row *rows;
        size_t n_stored, n; /* the stored ones come first, in order */
};

static void row_merge(struct usage *u, struct row *row, void *data) {
        struct merge *m = data;
        const struct usage_question *q = m->question;
        struct usage_row sum = row->of, *stored;

        counts_add(&sum.counts, &row->in_flight);
        if (sum.day < q->first || sum.day > q->last || (!q->all_users && sum.uid != q->uid) ||
            counts_are_zero(&sum.counts))
                return;
        stored = m->n_stored ? bsearch(&sum, m->rows, m->n_stored, sizeof(sum), row_compare) : NULL;
        if (stored)
                counts_add(&stored->counts, &sum.counts);
        else
                m->rows[m->n++] = sum;
}

static void query_answer(struct query_job *job, struct usage_query *query, int error) {
        struct usage *u = job->usage;
        struct merge m = { .question = &job->question, .n_stored = job->n, .n = job->n };

        m.rows = calloc(job->n + u->n_rows + 1, sizeof(*m.rows));
        if (!m.rows) {
                query->answer(query->userdata, -ENOMEM, NULL, 0);
                return;
        }
        if (job->n > 0)
                memcpy(m.rows, job->rows, job->n * sizeof(*m.rows));
        rows_each(u, row_merge, &m);
        qsort(m.rows, m.n, sizeof(*m.rows), row_compare);
        query->answer(query->userdata, error, m.rows, m.n);
        free(m.rows);
}

static void query_done(struct disk_job *base) {
        struct query_job *job = CONTAINER_OF(base, struct query_job, base);
        struct usage_query *query = job->query;

        job->usage->n_queries--;
        if (query) {
                query->job = NULL;
                query_answer(job, query, base->dropped ? USAGE_E_STORE : job->error);
        }
        free(job->rows);
        free(job);
}

int usage_ask(struct usage_query **ret, struct usage *u, const struct usage_question *question, usage_answer answer,
              void *userdata) {
        _cleanup_free_ struct usage_query *query = NULL;
        _cleanup_free_ struct query_job *job = NULL;

        if (u->n_queries >= QUERIES_MAX || u->ending)
                return USAGE_E_BUSY;
        query = calloc(1, sizeof(*query));
        job = calloc(1, sizeof(*job));
        if (!query || !job)
                return -ENOMEM;
        *query = (struct usage_query){ .job = job, .answer = answer, .userdata = userdata };
        *job = (struct query_job){ .base = { .run = query_run, .done = query_done }, .usage = u, .store = u->store,
                                   .query = query, .question = *question };
        if (disk_submit(u->disk, &job->base))
                return USAGE_E_BUSY;
        (void)steal_ptr(&job);
        u->n_queries++;
        *ret = steal_ptr(&query);
        return 0;
}

struct usage_query *usage_query_free(struct usage_query *q) {
        if (q && q->job)
                q->job->query = NULL;
        free(q);
        return NULL;
}

/* ---- life ---- */

const char *usage_trouble(const struct usage *u) {
        return u->trouble[0] ? u->trouble : NULL;
}

int usage_new(struct usage **ret, struct disk *disk, const char *folder, int64_t day) {
        struct usage *u = calloc(1, sizeof(*u));

        if (!u)
                return -ENOMEM;
        u->disk = disk;
        u->day = day;
        u->read_due = true;
        u->retry_us = WRITE_US;
        for (size_t i = 0; i < BUCKETS; i++) {
                list_init(&u->rows[i]);
                list_init(&u->spent[i]);
        }
        u->store = usage_store_new(folder);
        if (!u->store) {
                free(u);
                return -ENOMEM;
        }
        (void)job_submit(u, job_new(u, WORK_READ)); /* or with the first tick */
        *ret = u;
        return 0;
}

void usage_end(struct usage *u) {
        if (u->ending)
                return;
        u->ending = true;
        if (!u->working)
                end_work(u, true);
}

static void row_drop(struct usage *u, struct row *row, void *data) {
        row_free(u, row);
}

struct usage *usage_free(struct usage *u) {
        if (!u)
                return NULL;
        rows_each(u, row_drop, NULL);
        spent_clear(u);
        free(u);
        return NULL;
}

int64_t usage_day_now(void) {
        return (int64_t)time(NULL) / DAY_S;
}

uint32_t usage_ms_left_today(void) {
        struct timespec ts;

        (void)clock_gettime(CLOCK_REALTIME, &ts);
        return (uint32_t)((DAY_S - ts.tv_sec % DAY_S) * 1000 - ts.tv_nsec / 1000000);
}

void usage_day_format(int64_t day, char out[16]) {
        time_t t = (time_t)day * DAY_S;
        struct tm tm;

        if (!gmtime_r(&t, &tm) || strftime(out, 16, "%Y-%m-%d", &tm) == 0)
                out[0] = 0;
}
