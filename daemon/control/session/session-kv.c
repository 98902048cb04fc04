/* SPDX-License-Identifier: Apache-2.0 */

/*
 * KV of sessions between an engine's cache and files: errands, each with a file opened by the disk's thread, a message
 * to the engine that carries the descriptor, and the engine's answer, for which there is a time limit. All of it saves
 * computing and nothing else, so whatever goes wrong is noted and the session goes on without.
 *
 * A session that leaves memory has its KV written (spill); one that an engine has not seen yet gets it read back
 * (restore) before its request is sent. A file whose reading ended with the engine's death is not tried again.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "model/engine.h"
#include "session-private.h"

struct errand {
        struct list link; /* table->errands */
        uint64_t key;
        enum { ERRAND_SPILL, ERRAND_RESTORE, ERRAND_FORGET } kind;
        bool sent;
        struct sessions *table;
        struct session *session; /* NULL: gone, or it is of no session's */
        uint64_t request;        /* key of the one that waits for it (forget) */
        struct engine *engine;   /* NULL: gone */
        uint64_t engine_start;
        struct session_head head;
        struct session_text *text;
        uint64_t n, version, since_us;
        int fd;
};

static struct errand *errand_find(struct sessions *t, uint64_t key) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &t->errands) {
                struct errand *e = LIST_ENTRY(pos, struct errand, link);

                if (e->key == key)
                        return e;
        }
        return NULL;
}

static struct errand *errand_new(struct sessions *t, struct engine *engine, int kind) {
        struct errand *e = calloc(1, sizeof(*e));

        if (!e)
                return NULL;
        e->key = ++t->last_errand | SESSION_ERRAND_KEYS;
        e->kind = kind;
        e->table = t;
        e->engine = engine;
        e->engine_start = engine->started_us;
        e->fd = -1;
        list_append(&t->errands, &e->link);
        t->n_spills += kind == ERRAND_SPILL;
        return e;
}

static struct errand *errand_new_for(struct session *s, struct engine *engine, int kind) {
        struct errand *e = errand_new(s->table, engine, kind);

        if (!e)
                return NULL;
        e->session = s;
        e->text = session_text_ref(s->text);
        e->n = s->n;
        e->version = s->version;
        s->errand = e;
        return e;
}

/* However it ended: what waits for it goes on. */
static void errand_end(struct errand *e) {
        struct session *s = e->session;

        e->table->n_spills -= e->kind == ERRAND_SPILL;
        list_remove(&e->link);
        if (s) {
                s->errand = NULL;
                if (e->kind == ERRAND_SPILL)
                        s->kv_version = e->version;
                else
                        s->kv_engine = e->engine_start;
                if (s->turn && s->turn->model)
                        model_kick(s->turn->model);
        }
        (void)session_text_unref(e->text);
        (void)fd_close(e->fd);
        free(e);
}

/* Runs `run` on the disk's thread with the errand's file. False: it can't; the errand is the caller's to end. */
static bool errand_to_disk(struct errand *e, void (*run)(struct disk_job *job), void (*done)(struct disk_job *job)) {
        struct file_job *job = file_job_new(e->table, e->session, run, done);

        if (!job)
                return false;
        if (e->session)
                e->head = job->head;
        else
                job->head = e->head;
        job->session = NULL; /* found again by way of the errand */
        job->errand = e->key;
        job->fd = fd_steal(&e->fd);
        return file_job_submit(job) == 0;
}

static void run_unlink(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);

        (void)session_kv_remove(job->state_dir, job->head.uid, job->head.id, true);
}

static void done_unlink(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);

        manager_kick(job->table->manager);
        file_job_free(job);
}

static void spill_failed(struct errand *e) {
        (void)errand_to_disk(e, run_unlink, done_unlink);
        errand_end(e);
}

static void errand_fail(struct errand *e, const char *why) {
        log_info("KV of session %u/%s was not %s: %s", (unsigned)e->head.uid, e->head.id,
                 e->kind == ERRAND_SPILL ? "written" : "read back", why);
        if (e->kind == ERRAND_SPILL)
                spill_failed(e);
        else
                errand_end(e);
}

/* ---- restore ---- */

static void run_open(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);

        job->fd = session_kv_open(job->state_dir, job->head.uid, job->head.id);
}

static int send_restore(struct errand *e, int fd) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Restore restore = SPARK__ENGINE__V1__RESTORE__INIT;

        restore.key = e->key;
        restore.uid = (uint32_t)e->head.uid;
        restore.tokens = e->text->ids;
        restore.n_tokens = e->n;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_RESTORE;
        frame.restore = &restore;
        return engine_send(e->engine, &frame, fd);
}

static void done_open(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);
        struct errand *e = errand_find(job->table, job->errand);

        if (e && (!e->session || !e->engine)) {
                errand_end(e);
        } else if (e) {
                int r = base->dropped ? -ECANCELED : job->fd < 0 ? job->fd : send_restore(e, job->fd);

                if (r < 0) {
                        errand_fail(e, strerror(-r));
                } else {
                        e->sent = true;
                        e->since_us = manager_now_us();
                }
        }
        manager_kick(job->table->manager);
        file_job_free(job);
}

bool session_kv_ready(struct session *s, struct engine *engine) {
        struct errand *e;

        if (s->kv_engine == engine->started_us)
                return true;
        if (s->errand)
                return s->errand->kind == ERRAND_SPILL;
        e = s->kv_bytes > 0 && s->text ? errand_new_for(s, engine, ERRAND_RESTORE) : NULL;
        if (!e || !errand_to_disk(e, run_open, done_open)) {
                if (e)
                        errand_end(e);
                s->kv_engine = engine->started_us;
                return true;
        }
        return false;
}

void sessions_take_restored(struct sessions *t, const Spark__Engine__V1__Restored *m) {
        struct errand *e = errand_find(t, m->key);

        if (!e || e->kind != ERRAND_RESTORE || !e->sent)
                return; /* it came too late */
        if (*m->error)
                errand_fail(e, m->error);
        else
                errand_end(e);
}

/* ---- spill ---- */

static void run_create(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);

        job->fd = session_kv_create(job->state_dir, job->head.uid, job->head.id, &job->bytes);
}

/* What the user's quota leaves for it, other sessions' KV counted as room. */
static uint64_t room_of(const struct session *s) {
        uint64_t limit = s->user->limits[USER_DISK], taken = s->user->charged[USER_DISK];
        struct list *pos, *tmp;

        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &s->table->buckets[i]) {
                        const struct session *other = LIST_ENTRY(pos, struct session, link);

                        if (other->user == s->user)
                                taken -= other->kv_bytes;
                }
        return limit > taken ? limit - taken : 0;
}

static int send_spill(struct errand *e, int fd, uint64_t max_bytes) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Spill spill = SPARK__ENGINE__V1__SPILL__INIT;

        spill.key = e->key;
        spill.uid = (uint32_t)e->head.uid;
        spill.tokens = e->text->ids;
        spill.n_tokens = e->n;
        spill.max_bytes = max_bytes;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SPILL;
        frame.spill = &spill;
        return engine_send(e->engine, &frame, fd);
}

static void spill_opened(struct errand *e, struct file_job *job) {
        uint64_t max_bytes;
        int r;

        if (!e->session || !e->engine) {
                spill_failed(e);
                return;
        }
        /* half of what the file system has left stays */
        max_bytes = MIN(job->bytes / 2, room_of(e->session));
        if (job->base.dropped)
                r = -ECANCELED;
        else if (job->fd < 0)
                r = job->fd;
        else if (max_bytes == 0)
                r = -ENOSPC;
        else
                r = send_spill(e, job->fd, max_bytes);
        if (r < 0) {
                errand_fail(e, strerror(-r));
                return;
        }
        e->fd = fd_steal(&job->fd);
        e->sent = true;
        e->since_us = manager_now_us();
}

static void done_create(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);
        struct errand *e = errand_find(job->table, job->errand);

        if (e)
                spill_opened(e, job);
        manager_kick(job->table->manager);
        file_job_free(job);
}

bool session_kv_spill(struct session *s) {
        struct request_error ignored;
        struct model *model = models_find(s->table->manager, s->model, &ignored);
        struct errand *e;

        if (!model || model->state != MODEL_READY || s->kv_engine != model->engine->started_us || !s->text)
                return false;
        e = errand_new_for(s, model->engine, ERRAND_SPILL);
        if (!e)
                return false;
        if (errand_to_disk(e, run_create, done_create))
                return true;
        errand_end(e);
        return false;
}

static void run_settle(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);

        job->result = session_kv_settle(job->state_dir, job->head.uid, job->head.id, job->fd, &job->bytes);
}

static void spill_settled(struct errand *e, const struct file_job *job) {
        struct session *s = e->session;

        if (job->base.dropped || job->result < 0) {
                errand_fail(e, strerror(job->base.dropped ? ECANCELED : -job->result));
                return;
        }
        if (s) {
                user_release(s->user, USER_DISK, s->kv_bytes); /* it has taken the place of the older one */
                s->kv_bytes = 0;
                if (session_store_charge(s, job->bytes)) {
                        s->kv_bytes = job->bytes;
                } else {
                        log_info("KV of session %u/%s is more than its user may keep on disk", (unsigned)e->head.uid,
                                 e->head.id);
                        session_store_remove_kv(s);
                }
        }
        errand_end(e);
}

static void done_settle(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);
        struct errand *e = errand_find(job->table, job->errand);

        if (e)
                spill_settled(e, job);
        manager_kick(job->table->manager);
        file_job_free(job);
}

void sessions_take_spilled(struct sessions *t, const Spark__Engine__V1__Spilled *m) {
        struct errand *e = errand_find(t, m->key);

        if (!e || e->kind != ERRAND_SPILL || !e->sent)
                return;
        e->sent = false; /* from here on it is the disk's */
        if (*m->error)
                errand_fail(e, m->error);
        else if (m->tokens == 0 || !e->session || /* not in the cache, or too short for it */
                 !errand_to_disk(e, run_settle, done_settle))
                spill_failed(e);
}

/* ---- forget ---- */

bool session_kv_drop(struct sessions *t, struct engine *engine, struct request *r, bool all_users) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Submit submit = SPARK__ENGINE__V1__SUBMIT__INIT;
        Spark__V1__Forget forget = SPARK__V1__FORGET__INIT;
        struct errand *e = errand_new(t, engine, ERRAND_FORGET);

        if (!e)
                return false;
        e->request = r->key;
        forget.all_users = all_users;
        submit.key = e->key;
        submit.uid = (uint32_t)r->user->uid;
        submit.request_case = SPARK__ENGINE__V1__SUBMIT__REQUEST_FORGET;
        submit.forget = &forget;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT;
        frame.submit = &submit;
        if (engine_send(engine, &frame, -1) == 0)
                return true;
        errand_end(e); /* one that is not ready has cached nothing */
        return false;
}

/* The request is done when the last engine has answered. */
static void forgotten(struct errand *e) {
        struct sessions *t = e->table;
        struct request *r = requests_find(&t->manager->requests, e->request);
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        uint64_t key = e->request;
        struct list *pos, *tmp;

        errand_end(e);
        LIST_FOREACH(pos, tmp, &t->errands)
                if (LIST_ENTRY(pos, struct errand, link)->request == key)
                        return;
        if (r)
                request_finish(r, &done);
}

void sessions_take_forgotten(struct sessions *t, uint64_t key) {
        struct errand *e = errand_find(t, key);

        if (e && e->kind == ERRAND_FORGET)
                forgotten(e);
}

/* ---- ends ---- */

void sessions_engine_gone(struct sessions *t, const struct engine *engine) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &t->errands) {
                struct errand *e = LIST_ENTRY(pos, struct errand, link);

                if (e->engine != engine)
                        continue;
                e->engine = NULL;
                if (e->kind == ERRAND_FORGET) {
                        forgotten(e);
                        continue;
                }
                if (!e->sent)
                        continue; /* the disk has it, and notices later */
                if (e->kind == ERRAND_RESTORE && e->session)
                        session_store_remove_kv(e->session);
                errand_fail(e, "the engine has gone");
        }
}

void session_kv_tick(struct sessions *t, uint64_t now_us) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &t->errands) {
                struct errand *e = LIST_ENTRY(pos, struct errand, link);

                if (e->sent && e->kind != ERRAND_FORGET && now_us > e->since_us + SESSION_ERRAND_US)
                        errand_fail(e, "the engine did not answer in time");
        }
}

void session_kv_forget(struct session *s) {
        if (s->errand)
                s->errand->session = NULL;
        s->errand = NULL;
}

void session_kv_deinit(struct sessions *t) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &t->errands) {
                struct errand *e = LIST_ENTRY(pos, struct errand, link);

                e->session = NULL;
                errand_end(e);
        }
}
