/* SPDX-License-Identifier: Apache-2.0 */

/* Rights, jobs and what is others': what goes out, and how jobs are shown. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

int spark_set_interactive_authorization(struct spark *s, int on) {
        pthread_mutex_lock(&s->lock);
        s->interactive = on != 0;
        pthread_mutex_unlock(&s->lock);
        return 0;
}

int spark_server_has(struct spark *s, const char *feature) {
        bool has;

        pthread_mutex_lock(&s->lock);
        has = s->authorization && strcmp(feature, CLIENT_FEATURE_AUTHORIZATION) == 0;
        pthread_mutex_unlock(&s->lock);
        return has;
}

int spark_status_query(struct spark *s, const struct spark_status_request *request, spark_event_fn fn, void *userdata,
                       uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Status m = SPARK__V1__STATUS__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_status_request a;
        int r = arguments_copy(&a, sizeof(a), request);

        if (r < 0)
                return r;
        m.all_users = a.all_users != 0;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_STATUS;
        frame.status = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_session_query(struct spark *s, const struct spark_session_list_request *request, spark_event_fn fn, void *userdata,
                        uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Sessions m = SPARK__V1__SESSIONS__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_session_list_request a;
        int r = arguments_copy(&a, sizeof(a), request);

        if (r < 0)
                return r;
        m.all_users = a.all_users != 0;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_SESSIONS;
        frame.sessions = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_jobs(struct spark *s, const struct spark_jobs_request *request, spark_event_fn fn, void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Jobs m = SPARK__V1__JOBS__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_jobs_request a;
        int r = arguments_copy(&a, sizeof(a), request);

        if (r < 0)
                return r;
        m.all_users = a.all_users != 0;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_JOBS;
        frame.jobs = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_job_cancel(struct spark *s, uint64_t job, spark_event_fn fn, void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__JobCancel m = SPARK__V1__JOB_CANCEL__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };

        m.job = job;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_JOB_CANCEL;
        frame.job_cancel = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int jobs_show(struct reply *r, Spark__V1__JobInfo *const *jobs, size_t n) {
        r->jobs = calloc(n ? n : 1, sizeof(*r->jobs));
        r->job_list = calloc(n ? n : 1, sizeof(struct spark_job *));
        if (!r->jobs || !r->job_list)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                const Spark__V1__JobInfo *p = jobs[i];

                r->jobs[i] = (struct spark_job){
                        .id = p->id,
                        .kind = p->kind,
                        .model = p->model,
                        .state = p->state,
                        .stage = p->stage,
                        .done = p->done,
                        .total = p->total,
                        .bytes_per_second = p->bytes_per_second,
                        .eta_ms = p->eta_ms,
                        .uid = p->uid,
                        .own = p->own,
                };
                r->job_list[i] = &r->jobs[i];
        }
        r->done.jobs = r->job_list;
        r->done.n_jobs = n;
        return 0;
}
