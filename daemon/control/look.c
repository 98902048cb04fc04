/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>

#include "job.h"
#include "look.h"
#include "manager.h"
#include "request/request.h"

#define JOB_OF(pos) LIST_ENTRY(pos, struct job, link)

static void fill_job(const struct job *job, uid_t viewer, Spark__V1__JobInfo *info) {
        struct job_progress p;

        job_fill_progress(job, &p);
        *info = (Spark__V1__JobInfo)SPARK__V1__JOB_INFO__INIT;
        info->id = job->id;
        info->kind = (char *)job_kind_name(job);
        info->model = (char *)job->model;
        info->uid = job->uid;
        info->own = job->uid == viewer;
        info->state = (char *)p.state;
        info->stage = (char *)p.stage;
        info->done = p.done;
        info->total = p.total;
        info->bytes_per_second = p.bytes_per_second;
        info->eta_ms = p.eta_ms;
}

static Spark__V1__Done *list_jobs(struct manager *m, uid_t viewer, bool all) {
        _cleanup_free_ Spark__V1__JobInfo *infos = calloc(m->jobs.n + 1, sizeof(*infos));
        _cleanup_free_ Spark__V1__JobInfo **list = calloc(m->jobs.n + 1, sizeof(Spark__V1__JobInfo *));
        Spark__V1__JobsResult result = SPARK__V1__JOBS_RESULT__INIT;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        struct list *pos, *tmp;

        if (!infos || !list)
                return NULL;
        LIST_FOREACH(pos, tmp, &m->jobs.list) {
                if (!all && JOB_OF(pos)->uid != viewer)
                        continue;
                fill_job(JOB_OF(pos), viewer, &infos[result.n_jobs]);
                list[result.n_jobs] = &infos[result.n_jobs];
                result.n_jobs++;
        }
        result.jobs = list;
        done.result_case = SPARK__V1__DONE__RESULT_JOBS;
        done.jobs = &result;
        return status_copy(&done);
}

static int cancel_job(struct manager *m, const struct request_origin *origin, uint64_t id, struct request_error *error) {
        struct job *job = jobs_find(&m->jobs, id);
        bool all = request_origin_may(origin, RIGHT_MANAGE_MODELS);

        if (!job || (!all && job->uid != origin->user->uid))
                return request_refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "job: there is no job %llu (any more).",
                                      (unsigned long long)id);
        job_cancel(job, origin->user->uid, all);
        return 0;
}

int look_answer(struct manager *m, const struct request_origin *origin, const Spark__V1__ClientFrame *f, Spark__V1__Done **ret,
                struct request_error *error) {
        static const Spark__V1__Done nothing = SPARK__V1__DONE__INIT;
        uid_t uid = origin->user->uid;
        bool all = manager_is_privileged(uid);
        int e = 0;

        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_MODELS:
                *ret = status_new_models(m);
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_STATUS:
                *ret = status_new_status(m, uid, all || f->status->all_users);
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_JOBS:
                *ret = list_jobs(m, uid, all || f->jobs->all_users);
                break;
        default:
                e = cancel_job(m, origin, f->job_cancel->job, error);
                *ret = e ? NULL : status_copy(&nothing);
        }
        return e ? e : *ret ? 0 : -ENOMEM;
}
