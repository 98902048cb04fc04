/* SPDX-License-Identifier: Apache-2.0 */

/* What the prep thread, the step thread and the file thread do. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "link-private.h"
#include "message.h"

static void report_lost(struct link *l, int error) {
        struct failure f;
        struct frame *frame;

        (void)failure_set(&f, SPARK__V1__ERROR_CODE__INTERNAL, "the engine cannot go on: %s", strerror(-error));
        log_error("%s", f.text);
        frame = frame_new_failed(0, &f);
        if (frame)
                link_send_frame(l, frame);
        (void)queue_push_wait(&l->out_queue, (struct queue_item){ .type = OUT_LOST });
}

/* --- prep -------------------------------------------------------------------------------------------------------- */

static int prepare(struct link *l, struct job *job) {
        struct frame *answer = NULL;
        struct failure f;
        int r;

        if (atomic_load_explicit(&job->request.cancelled, memory_order_relaxed))
                r = failure_set(&f, SPARK__V1__ERROR_CODE__CANCELLED, "cancelled");
        else
                r = prep_job(&l->host->prep, job, &answer, &f);
        if (r == -ENOMEM)
                r = failure_set(&f, SPARK__V1__ERROR_CODE__NO_MEMORY, "no memory for the request");
        if (r < 0)
                r = failure_set(&f, SPARK__V1__ERROR_CODE__INTERNAL, "the request cannot be prepared: %s", strerror(-r));
        job_drop_message(job);
        if (r == 0)
                return queue_push_wait(&l->step_queue, (struct queue_item){ .type = STEP_JOB, .ptr = job });
        if (r == PREP_E_FAILED && job->file_fd >= 0)
                answer = frame_new_errand(&job->request, 0, 0, f.text);
        else if (r == PREP_E_FAILED)
                answer = frame_new_failed(job->request.key, &f);
        if (!answer)
                return -ENOMEM;
        link_end_job(l, job, answer);
        return 0;
}

void *link_prep_thread(void *userdata) {
        struct link *l = userdata;

        while (!queue_is_closed(&l->prep_queue)) {
                struct queue_item item;
                int r = 0;

                while (r == 0 && queue_pop(&l->prep_queue, &item) && !queue_is_closed(&l->prep_queue))
                        r = prepare(l, item.ptr);
                if (r < 0) {
                        report_lost(l, r);
                        return NULL;
                }
                queue_wait(&l->prep_queue);
        }
        return NULL;
}

/* --- step -------------------------------------------------------------------------------------------------------- */

#define USERS_MAX 1024u /* that a State lists */

struct user_messages {
        struct engine_user users[USERS_MAX];
        Spark__Engine__V1__UserState states[USERS_MAX];
        Spark__Engine__V1__UserState *pointers[USERS_MAX];
};

static void fill_users(const struct engine *e, struct user_messages *m, Spark__Engine__V1__State *state) {
        state->n_users = engine_list_users(e, m->users, USERS_MAX);
        state->users = m->pointers;
        for (size_t i = 0; i < state->n_users; i++) {
                Spark__Engine__V1__UserState *u = m->pointers[i] = &m->states[i];

                spark__engine__v1__user_state__init(u);
                u->uid = m->users[i].uid;
                u->running = m->users[i].running;
                u->queued = m->users[i].queued;
                u->kv_used_bytes = m->users[i].kv_used_bytes;
                u->kv_cached_bytes = m->users[i].kv_cached_bytes;
        }
}

static void fill_power(struct host *h, Spark__Engine__V1__State *state) {
        struct backend_power p = { 0 };

        if (h->backend->ops->power)
                h->backend->ops->power(h->backend, &p);
        state->energy_known = p.energy_known;
        state->energy_uj = p.energy_uj;
        state->power_known = p.power_known;
        state->power_mw = p.power_mw;
        state->temperature_known = p.temperature_known;
        state->temperature_c = p.temperature_c;
        state->throttled = p.throttled;
}

static int answer_ping(struct link *l, uint64_t cookie) {
        Spark__Engine__V1__State state = SPARK__ENGINE__V1__STATE__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;
        _cleanup_free_ struct user_messages *users = NULL;
        _cleanup_free_ uint64_t *keys = NULL;
        struct engine_stats stats = { 0 };
        size_t max = l->jobs.max; /* fixed at birth */
        struct frame *packed;

        keys = calloc(2 * max, sizeof(*keys));
        users = malloc(sizeof(*users));
        if (!keys || !users)
                return -ENOMEM;
        if (l->host->engine) {
                engine_get_stats(l->host->engine, &stats);
                state.n_queued_keys = engine_list_queued(l->host->engine, keys, max);
                state.n_paused_keys = engine_list_paused(l->host->engine, keys + max, max);
                fill_users(l->host->engine, users, &state);
        }
        state.cookie = cookie;
        state.steps = stats.steps;
        state.running = stats.running;
        state.queued = stats.queued;
        state.paused = stats.paused;
        state.kv_used_bytes = stats.kv_used_bytes;
        state.kv_cached_bytes = stats.kv_cached_bytes;
        state.tokens = stats.tokens;
        fill_power(l->host, &state);
        state.kv_resident_bytes = stats.kv_resident_bytes;
        state.resting = l->resting;
        state.queued_keys = keys;
        state.paused_keys = keys + max;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_STATE;
        frame.state = &state;
        packed = frame_new(&frame);
        if (!packed)
                return -ENOMEM;
        link_send_frame(l, packed);
        return 0;
}

static int forget(struct link *l, struct job *job) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__Engine__V1__Finished finished = SPARK__ENGINE__V1__FINISHED__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;
        struct frame *packed;

        if (job->request.share)
                engine_forget_all(l->host->engine);
        else
                engine_forget(l->host->engine, job->request.uid);
        finished.key = job->request.key;
        finished.done = &done;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FINISHED;
        frame.finished = &finished;
        packed = frame_new(&frame);
        if (!packed)
                return -ENOMEM;
        link_end_job(l, job, packed);
        return 0;
}

static int take_job(struct link *l, struct job *job) {
        switch (job->request.kind) {
        case REQUEST_FORGET:
                return forget(l, job);
        case REQUEST_SPILL:
        case REQUEST_RESTORE:
                job->next = NULL;
                *l->errands_end = job;
                l->errands_end = &job->next;
                return 0;
        default:
                return engine_submit(l->host->engine, &job->request);
        }
}

/* The step thread's part of an errand; then the file thread's turn, or the answer. */
static int go_on_errand(struct link *l, struct errand *errand) {
        struct job *job = errand->job;
        struct frame *answer;
        int lost;

        if (errand_step(errand, l->host->engine, &lost)) {
                /* Where the link is closing nobody takes it any more. */
                if (queue_push_wait(&l->file_queue, (struct queue_item){ .type = STEP_ERRAND, .ptr = errand }) != 0)
                        (void)errand_free(errand);
                return 0;
        }
        answer = errand_answer(errand);
        (void)errand_free(errand);
        l->on_errand = false;
        if (!answer)
                return -ENOMEM;
        link_end_job(l, job, answer);
        return lost;
}

/* One at a time. */
static int next_errand(struct link *l) {
        struct job *job = l->errands;
        struct errand *errand;

        if (!job || l->on_errand)
                return 0;
        l->errands = job->next;
        if (!l->errands)
                l->errands_end = &l->errands;
        if (errand_new(&errand, job, &l->host->kv_kind) < 0) {
                struct frame *answer = frame_new_errand(&job->request, 0, 0, strerror(ENOMEM));

                if (!answer)
                        return -ENOMEM;
                link_end_job(l, job, answer);
                return 0;
        }
        l->on_errand = true;
        return go_on_errand(l, errand);
}

static int take_items(struct link *l) {
        struct queue_item item;
        int r = 0;

        while (r == 0 && queue_pop(&l->step_queue, &item)) {
                if (item.type == STEP_PING)
                        r = answer_ping(l, item.value);
                else if (item.type == STEP_ERRAND)
                        r = go_on_errand(l, item.ptr);
                else if (item.type == STEP_ORDER)
                        r = link_do_order(l, item.ptr);
                else
                        r = take_job(l, item.ptr);
        }
        return r;
}

static int work(struct link *l) {
        struct engine *e = l->host->engine;
        int r, busy = 0;

        r = take_items(l);
        if (r == 0)
                r = next_errand(l);
        if (r == 0 && e && l->resting)
                engine_rest(e);
        else if (r == 0 && e)
                r = busy = engine_step(e);
        if (r >= 0)
                r = link_send_step(l);
        return r < 0 ? r : busy;
}

void *link_step_thread(void *userdata) {
        struct link *l = userdata;

        while (!queue_is_closed(&l->step_queue)) {
                int r = work(l);

                if (r < 0) {
                        report_lost(l, r);
                        return NULL;
                }
                if (r == 0)
                        queue_wait(&l->step_queue);
        }
        return NULL;
}

/* --- files ------------------------------------------------------------------------------------------------------- */

void *link_file_thread(void *userdata) {
        struct link *l = userdata;

        while (!queue_is_closed(&l->file_queue)) {
                struct queue_item item;

                while (queue_pop(&l->file_queue, &item)) {
                        errand_file(item.ptr);
                        if (queue_push_wait(&l->step_queue, item) != 0)
                                (void)errand_free(item.ptr);
                }
                queue_wait(&l->file_queue);
        }
        return NULL;
}
