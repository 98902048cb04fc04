/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Persistent sessions and their files. After every change the file is written anew, one write at a time: what changes
 * meanwhile goes into the next. Answers wait for the write, so that what a client was told is there after a crash; where
 * it fails, the client is told nothing but that it is not stored, and it is tried again.
 *
 * A session that nobody has used for a while leaves memory; its text is read when it is wanted.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/words.h"
#include "session-private.h"

/* ---- jobs ---- */

void file_job_free(struct file_job *job) {
        if (job->user) {
                user_release(job->user, USER_BYTES, job->charged);
                job->user = user_unref(job->user);
        }
        (void)session_text_unref(job->text);
        session_scan_deinit(&job->scan);
        (void)fd_close(job->fd);
        free(job->ids);
        free(job->state_dir);
        free(job);
}

static void fill_head(const struct session *s, struct session_head *h) {
        *h = (struct session_head){ .uid = s->user->uid, .vocabulary = s->vocabulary, .parameters = s->parameters,
                                    .n_tokens = s->n, .used_s = s->used_s };
        (void)snprintf(h->id, sizeof(h->id), "%s", s->id);
        (void)snprintf(h->model, sizeof(h->model), "%s", s->model);
        (void)snprintf(h->name, sizeof(h->name), "%s", s->name);
}

struct file_job *file_job_new(struct sessions *t, struct session *s, void (*run)(struct disk_job *job),
                              void (*done)(struct disk_job *job)) {
        struct file_job *job = calloc(1, sizeof(*job));

        if (!job)
                return NULL;
        job->base.run = run;
        job->base.done = done;
        job->table = t;
        job->session = s;
        job->fd = -1;
        job->state_dir = strdup(t->manager->config->state_dir);
        if (!job->state_dir) {
                free(job);
                return NULL;
        }
        if (s)
                fill_head(s, &job->head);
        return job;
}

int file_job_submit(struct file_job *job) {
        struct disk *disk = job->table->manager->disk;

        if (disk && disk_submit(disk, &job->base) == 0)
                return 0;
        file_job_free(job);
        return -EAGAIN;
}

static struct file_job *file_job_of(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);

        if (base->dropped)
                job->result = -ECANCELED;
        return job;
}

/* Somebody waits for nothing more to be written: the end of the daemon. */
static void file_job_end(struct file_job *job) {
        manager_kick(job->table->manager);
        file_job_free(job);
}

/* ---- quota of the disk ---- */

/* The session of this user whose KV on disk is the longest unused. */
static struct session *oldest_kv(struct sessions *t, const struct user *user) {
        uint64_t now_us = manager_now_us();
        struct session *found = NULL;
        struct list *pos, *tmp;

        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &t->buckets[i]) {
                        struct session *s = LIST_ENTRY(pos, struct session, link);

                        if (s->user == user && s->kv_bytes > 0 && !s->errand &&
                            (!found || session_idle_us(s, now_us) > session_idle_us(found, now_us)))
                                found = s;
                }
        return found;
}

bool session_store_charge(struct session *s, uint64_t bytes) {
        struct session *victim;

        while (user_charge(s->user, USER_DISK, bytes)) {
                victim = oldest_kv(s->table, s->user);
                if (!victim)
                        return false;
                session_store_remove_kv(victim);
        }
        return true;
}

/* ---- writing ---- */

static void run_save(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);

        job->result = session_file_write(job->state_dir, &job->head, job->text ? job->text->ids : NULL);
}

static void save_failed(struct session *s, uint64_t version, const char *why) {
        if (!s->table->complained)
                log_warning("session of uid %u could not be written: %s; it is kept in memory and tried again",
                            (unsigned)s->user->uid, why);
        s->table->complained = true;
        s->tried = version;
        s->retry_us = manager_now_us() + SESSION_RETRY_US;
}

static void save_ended(struct session *s, const struct file_job *job) {
        s->saving = NULL;
        if (job->result < 0) {
                if (s->file_bytes > job->bytes_before) {
                        user_release(s->user, USER_DISK, s->file_bytes - job->bytes_before);
                        s->file_bytes = job->bytes_before;
                }
                save_failed(s, job->version, strerror(-job->result));
        } else {
                if (job->bytes < s->file_bytes) {
                        user_release(s->user, USER_DISK, s->file_bytes - job->bytes);
                        s->file_bytes = job->bytes;
                }
                if (s->table->complained)
                        log_info("sessions can be written again");
                s->table->complained = false;
                s->saved = s->tried = job->version;
        }
        if (s->version != s->tried)
                session_store_save(s);
        session_answer_waiting(s, false);
}

static void done_save(struct disk_job *base) {
        struct file_job *job = file_job_of(base);

        if (job->session)
                save_ended(job->session, job);
        file_job_end(job);
}

void session_store_save(struct session *s) {
        uint64_t bytes = session_file_size(s->n), before = s->file_bytes;
        struct file_job *job;

        if (s->saving || s->saved == s->version || s->closing)
                return;
        if (bytes > before) {
                if (!session_store_charge(s, bytes - before)) {
                        save_failed(s, s->version, "sessions of this user take all of limits.session_bytes_per_user");
                        return;
                }
                s->file_bytes = bytes;
        }
        job = file_job_new(s->table, s, run_save, done_save);
        if (job) {
                job->text = session_text_ref(s->text);
                job->version = s->version;
                job->bytes = bytes;
                job->bytes_before = before;
                s->saving = job;
                if (file_job_submit(job) == 0)
                        return;
        }
        s->saving = NULL;
        user_release(s->user, USER_DISK, s->file_bytes - before);
        s->file_bytes = before;
        save_failed(s, s->version, "too much is to be written");
}

/* ---- reading ---- */

static void run_load(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);

        job->result = session_file_read(job->state_dir, job->head.uid, job->head.id, &job->head, &job->ids, &job->fault);
}

static void fail_waiting(struct session *s, const char *why) {
        struct list *node;

        while ((node = list_pop(&s->waiting)))
                request_fail_with(LIST_ENTRY(node, struct request, session_link), SPARK__V1__ERROR_CODE__INTERNAL,
                                  "The session could not be read: %s.", why);
}

/* What is no session any more. */
static void give_up(struct session *s, const struct session_fault *fault) {
        log_warning("session file %u/%s.session is damaged (%s); it was moved aside", (unsigned)s->user->uid, s->id,
                    fault->text);
        fail_waiting(s, "its file is damaged and was moved aside");
        if (s->kv_bytes > 0)
                session_store_remove_kv(s);
        (void)session_free(s);
}

static void load_ended(struct session *s, struct file_job *job) {
        struct list *node;

        s->loading = NULL;
        if (job->result == SESSION_FILE_E_INVALID) {
                give_up(s, &job->fault);
                return;
        }
        if (job->result == 0 && job->head.n_tokens != s->n)
                job->result = -ESTALE; /* somebody else's hand */
        if (job->result == 0) {
                struct session_text *text =
                        job->head.n_tokens ? session_text_new(s->user, job->ids, job->head.n_tokens, job->charged) : NULL;

                if (text) {
                        job->ids = NULL;
                        job->charged = 0;
                }
                if (!text && job->head.n_tokens)
                        job->result = -ENOMEM;
                else
                        session_set_text(s, text, job->head.n_tokens);
        }
        if (job->result) {
                fail_waiting(s, job->result < 0 ? strerror(-job->result) : job->fault.text);
                return;
        }
        s->stored = false;
        s->used_us = manager_now_us();
        while ((node = list_pop(&s->waiting)))
                sessions_add(s->table, LIST_ENTRY(node, struct request, session_link));
}

static void done_load(struct disk_job *base) {
        struct file_job *job = file_job_of(base);

        if (job->session)
                load_ended(job->session, job);
        file_job_end(job);
}

int session_store_load(struct session *s) {
        uint64_t bytes = s->n * sizeof(uint32_t);
        struct file_job *job;
        int r;

        if (user_charge(s->user, USER_BYTES, bytes))
                return -EDQUOT;
        job = file_job_new(s->table, s, run_load, done_load);
        if (!job) {
                user_release(s->user, USER_BYTES, bytes);
                return -EAGAIN;
        }
        job->user = user_ref(s->user);
        job->charged = bytes;
        r = file_job_submit(job);
        if (r == 0)
                s->loading = job;
        return r;
}

/* ---- removing ---- */

static void run_remove(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);

        job->result = session_files_remove(job->state_dir, job->head.uid, job->head.id);
}

static void done_remove(struct disk_job *base) {
        struct file_job *job = file_job_of(base);
        struct request *r = requests_find(&job->table->manager->requests, job->request);
        Spark__V1__Done done = SPARK__V1__DONE__INIT;

        if (job->result < 0)
                log_warning("files of session %u/%s could not be removed: %s", (unsigned)job->head.uid, job->head.id,
                            strerror(-job->result));
        if (r && job->result < 0)
                request_fail_with(r, SPARK__V1__ERROR_CODE__INTERNAL,
                                  "The session is closed, but its files could not be removed: %s.",
                                  strerror(-job->result));
        else if (r)
                request_finish(r, &done);
        file_job_end(job);
}

int session_store_remove(struct session *s, uint64_t request) {
        struct file_job *job = file_job_new(s->table, NULL, run_remove, done_remove);
        int r;

        if (!job)
                return -ENOMEM;
        fill_head(s, &job->head);
        job->request = request;
        r = file_job_submit(job);
        if (r == 0)
                s->closing = true;
        return r;
}

static void run_remove_kv(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);

        job->result = session_kv_remove(job->state_dir, job->head.uid, job->head.id, false);
}

static void done_nothing(struct disk_job *base) {
        file_job_end(file_job_of(base));
}

void session_store_remove_kv(struct session *s) {
        struct file_job *job = file_job_new(s->table, s, run_remove_kv, done_nothing);

        user_release(s->user, USER_DISK, s->kv_bytes);
        s->kv_bytes = 0;
        s->kv_version = 0;
        if (job) {
                job->session = NULL;
                (void)file_job_submit(job); /* it may stay; what does not belong to its session is not believed */
        }
}

/* ---- the start ---- */

static void run_scan(struct disk_job *base) {
        struct file_job *job = CONTAINER_OF(base, struct file_job, base);

        job->result = session_files_scan(job->state_dir, &job->scan);
}

static int add_found(struct sessions *t, const struct session_found *f) {
        struct user *user = users_get(&t->manager->users, f->head.uid);
        struct session *s = user && !session_find(t, f->head.id) ? session_new(t, user, f->head.id) : NULL;

        if (s) {
                (void)snprintf(s->model, sizeof(s->model), "%s", f->head.model);
                (void)snprintf(s->name, sizeof(s->name), "%s", f->head.name);
                s->persistent = true;
                s->stored = true;
                s->n = f->head.n_tokens;
                s->vocabulary = f->head.vocabulary;
                s->parameters = f->head.parameters;
                s->used_s = f->head.used_s;
                s->version = s->saved = s->tried = 1;
                s->file_bytes = f->file_bytes;
                s->kv_bytes = f->kv_bytes;
                s->kv_version = f->kv_newer;
                user_charge_found(user, USER_SESSIONS, 1);
                user_charge_found(user, USER_DISK, f->file_bytes + f->kv_bytes);
        }
        if (user)
                user = user_unref(user);
        return s ? 0 : -ENOMEM;
}

static void done_scan(struct disk_job *base) {
        struct file_job *job = file_job_of(base);
        struct sessions *t = job->table;
        size_t lost = 0;

        if (job->result < 0 && !base->dropped)
                log_warning("the sessions below %s can't be looked at: %s", job->state_dir, strerror(-job->result));
        for (size_t i = 0; i < job->scan.n; i++)
                lost += add_found(t, &job->scan.found[i]) < 0;
        if (lost)
                log_warning("%zu session%s on disk could not be taken up", lost, words_s(lost));
        if (job->scan.n)
                log_info("found %zu session%s on disk", job->scan.n, words_s(job->scan.n));
        t->scanned = true;
        file_job_end(job);
}

int session_store_scan(struct sessions *t) {
        struct file_job *job = file_job_new(t, NULL, run_scan, done_scan);

        return job ? file_job_submit(job) : -ENOMEM;
}

/* ---- time ---- */

static void drop(struct session *s) {
        session_set_text(s, NULL, s->n);
        s->stored = s->n > 0;
        s->kv_engine = 0;
}

void session_store_tick(struct session *s, uint64_t now_us) {
        uint64_t idle_us = s->table->hurry ? SESSION_HURRY_US : s->table->manager->config->limits.session_idle_seconds * 1000000u;
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &s->finishing) {
                struct request *r = LIST_ENTRY(pos, struct request, session_link);

                if (now_us - r->turn.since_us > SESSION_WRITE_PATIENCE_US)
                        session_answer_now(r);
        }
        if (!s->persistent || s->turn || s->saving)
                return;
        if (s->saved != s->version) {
                if (now_us >= s->retry_us)
                        session_store_save(s);
                return;
        }
        if (s->stored || !s->text || s->errand || session_idle_us(s, now_us) < idle_us)
                return;
        if (s->kv_version != s->version && s->table->n_spills > 0)
                return; /* its turn comes */
        if (s->kv_version != s->version && session_kv_spill(s))
                return;
        drop(s);
}
