/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "job.h"
#include "manager.h"
#include "model/load.h"

#define JOB_OF(pos) LIST_ENTRY(pos, struct job, link)

const char *job_kind_name(const struct job *job) {
        static const char *const names[] = {
                [JOB_LOAD] = "load", [JOB_DRY_RUN] = "dry-run", [JOB_IMPORT] = "import", [JOB_PACK] = "pack",
                [JOB_VERIFY] = "verify",
        };

        return names[job->kind];
}

const char *job_result_name(enum job_result result) {
        return result == JOB_DONE ? "done" : result == JOB_FAILED ? "failed" : "cancelled";
}

static struct job *job_new(struct jobs *j, enum job_kind kind, uid_t uid, const char *model) {
        struct job *job = calloc(1, sizeof(*job));

        if (!job)
                return NULL;
        *job = (struct job){ .jobs = j, .id = ++j->last_id, .kind = kind, .uid = uid };
        (void)snprintf(job->model, sizeof(job->model), "%s", model);
        list_append(&j->list, &job->link);
        j->n++;
        return job;
}

static void job_tell(const struct job *job, bool removed, enum job_result result) {
        if (job->jobs->told)
                job->jobs->told(job->jobs->userdata, job, removed, result);
}

struct job *job_end(struct job *job, enum job_result result) {
        if (!job)
                return NULL;
        list_remove(&job->link);
        job->jobs->n--;
        job_tell(job, true, result);
        free(job);
        return NULL;
}

struct job *jobs_find(const struct jobs *j, uint64_t id) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, (struct list *)&j->list)
                if (JOB_OF(pos)->id == id)
                        return JOB_OF(pos);
        return NULL;
}

/* ---- of requests ---- */

static bool frame_is_job(const Spark__V1__ClientFrame *f, enum job_kind *kind, const char **model) {
        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_LOAD: /* others have the model's job */
                *kind = JOB_DRY_RUN;
                *model = *f->load->model ? f->load->model : f->load->shape;
                return f->load->dry_run;
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_IMPORT:
                *kind = JOB_IMPORT;
                *model = f->model_import->name;
                return true;
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_PACK:
                *kind = JOB_PACK;
                *model = f->model_pack->name;
                return true;
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_VERIFY:
                *kind = JOB_VERIFY;
                *model = f->model_verify->model;
                return true;
        default:
                return false;
        }
}

struct job *job_new_of_request(struct request *r, const Spark__V1__ClientFrame *frame) {
        enum job_kind kind;
        const char *model;
        struct job *job;

        if (!frame_is_job(frame, &kind, &model))
                return NULL;
        job = job_new(&r->manager->jobs, kind, r->user->uid, model);
        if (!job)
                return NULL;
        job->request = r;
        job_tell(job, false, JOB_DONE);
        return job;
}

void job_take_progress(struct job *job, const Spark__V1__Progress *p) {
        (void)snprintf(job->stage, sizeof(job->stage), "%s", p->stage);
        job->done = p->done;
        job->total = p->total;
        job->bytes_per_second = p->bytes_per_second;
        job->eta_ms = p->eta_ms;
}

/* ---- loads ---- */

static struct job *job_of_load(const struct jobs *j, const struct model *model) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, (struct list *)&j->list)
                if (JOB_OF(pos)->load == model)
                        return JOB_OF(pos);
        return NULL;
}

/* Who waits for it, and came first; what would be loaded without anybody waiting is the daemon's own. */
static uid_t load_owner(const struct model *model) {
        if (model->load_wanted || list_empty(&model->waiting))
                return geteuid();
        return LIST_ENTRY(model->waiting.next, struct request, model_link)->user->uid;
}

static void on_model_changed(void *userdata, struct model *model, bool removed) {
        struct jobs *j = userdata;
        struct job *job = job_of_load(j, model);

        if (!removed && (model->state == MODEL_LOADING || model->state == MODEL_STARTING)) {
                if (job || model->load_began_us == 0) /* it goes on; or an engine is started again, for an image that is there */
                        return;
                job = job_new(j, JOB_LOAD, load_owner(model), model->name);
                if (!job)
                        return;
                job->load = model;
                job_tell(job, false, JOB_DONE);
                return;
        }
        (void)job_end(job, !removed && model->state == MODEL_READY  ? JOB_DONE
                           : !removed && model->state == MODEL_FAILED ? JOB_FAILED
                                                                      : JOB_CANCELLED);
}

static void fill_load(const struct model *model, struct job_progress *ret) {
        const struct load *load = model->load;

        ret->state = "running";
        ret->stage = "start"; /* of its engine */
        if (!load)
                return;
        ret->stage = load->stage ? load->stage : "load";
        ret->done = load->stage_done;
        ret->total = load->stage_total;
        ret->bytes_per_second = speed_per_second(&load->speed);
        ret->eta_ms = speed_left_ms(&load->speed, load->stage_total);
}

void job_fill_progress(const struct job *job, struct job_progress *ret) {
        if (job->load) {
                *ret = (struct job_progress){ 0 };
                fill_load(job->load, ret);
                return;
        }
        *ret = (struct job_progress){
                .state = *job->stage || job->kind == JOB_DRY_RUN ? "running" : "waiting",
                .stage = job->stage,
                .done = job->done,
                .total = job->total,
                .bytes_per_second = job->bytes_per_second,
                .eta_ms = job->eta_ms,
        };
}

/* ---- ending them ---- */

void job_cancel(struct job *job, uid_t uid, bool all) {
        job->cancel_due = true;
        job->cancelled_by = uid;
        job->cancel_all = job->cancel_all || all;
        job->jobs->cancels_due = true;
        manager_kick(job->jobs->manager);
}

/* Those who wait hear of it; a load that nobody waits for any more ends by itself. */
static void cancel_load(const struct job *job) {
        struct model *model = job->load;
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &model->waiting) {
                struct request *r = LIST_ENTRY(pos, struct request, model_link);

                if (r->kind != REQUEST_UNLOAD && (job->cancel_all || r->user->uid == job->cancelled_by))
                        request_fail_with(r, SPARK__V1__ERROR_CODE__CANCELLED, "The load of model '%s' was cancelled.",
                                          model->name);
        }
        if (job->cancel_all)
                model->load_wanted = false;
        model_kick(model);
}

void jobs_turn(struct jobs *j) {
        struct list *pos, *tmp;

        if (!j->cancels_due)
                return;
        j->cancels_due = false;
        LIST_FOREACH(pos, tmp, &j->list) {
                struct job *job = JOB_OF(pos);

                if (!job->cancel_due)
                        continue;
                job->cancel_due = false;
                if (job->load)
                        cancel_load(job);
                else
                        request_abort(job->request, SPARK__V1__ERROR_CODE__CANCELLED, "The job was cancelled.");
        }
}

/* ---- life ---- */

int jobs_init(struct jobs *j, struct manager *m) {
        *j = (struct jobs){ .manager = m };
        list_init(&j->list);
        j->watcher = calloc(1, sizeof(*j->watcher));
        if (!j->watcher)
                return -ENOMEM;
        j->watcher->model_changed = on_model_changed;
        j->watcher->userdata = j;
        manager_watch(m, j->watcher);
        return 0;
}

void jobs_deinit(struct jobs *j) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &j->list)
                (void)job_end(JOB_OF(pos), JOB_CANCELLED);
        if (j->watcher)
                list_remove(&j->watcher->link);
        free(j->watcher);
        j->watcher = NULL;
}
