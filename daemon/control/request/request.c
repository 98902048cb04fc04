/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/words.h"
#include "job.h"
#include "manager.h"
#include "memory/lease.h"
#include "message.h"
#include "model/engine.h"
#include "model/load.h"
#include "pace.h"
#include "power/power.h"
#include "request-keep.h"
#include "request-private.h"
#include "session/session-text.h"
#include "session/session.h"
#include "store/store.h"

/* At most so many tokens are under way between engine and sink: what a request whose client stops reading can pile up.
 * More credit than this is kept back until the sink has moved. */
#define ENGINE_WINDOW 1024u

/* ---- life ---- */

static void request_set_model(struct request *r, struct model *model) {
        if (r->model) {
                residency_use(r->model);
                if (--r->model->refs == 0)
                        model_kick(r->model);
        }
        r->model = model;
        if (model) {
                residency_use(model);
                model->refs++;
        }
}

struct request *request_free(struct request *r) {
        bool ends;

        if (!r)
                return NULL;
        ends = !clients_are_handed_on(r->manager, r->kept);
        request_note_end(r);
        r->question = request_question_free(r->question);
        r->job = job_end(r->job, JOB_CANCELLED);
        if (ends)
                request_settle(r);
        r->job = job_end(r->job, JOB_CANCELLED);
        if (r->session && ends)
                session_turn_break(r);
        else if (r->session)
                session_turn_leave(r);
        (void)session_text_unref(r->turn.text);
        (void)session_text_unref(r->turn.prefix);
        free(r->turn.done);
        list_remove(&r->session_link);
        if (r->dry_run)
                r->dry_run = load_free(r->dry_run);
        r->usage = usage_query_free(r->usage);
        r->lease = lease_free(r->lease);
        if (r->store_op)
                store_op_detach(steal_ptr(&r->store_op));
        request_set_model(r, NULL);
        list_remove(&r->model_link);
        list_remove(&r->command_link);
        requests_remove(&r->manager->requests, r);
        request_uncount(r);
        journal_deinit(&r->journal);
        if (r->user) {
                user_release(r->user, USER_REQUESTS, 1);
                r->user = user_unref(r->user);
        }
        r->input_fd = fd_close(r->input_fd);
        free(r);
        return NULL;
}

void request_release(struct request *r) {
        (void)request_free(r);
}

struct request *request_alloc(struct manager *m, enum request_kind kind, const struct request_origin *origin) {
        struct request *r = calloc(1, sizeof(*r));

        if (!r)
                return NULL;
        r->manager = m;
        r->kind = kind;
        r->origin = *origin;
        r->input_fd = -1;
        r->turn.session_tokens = UINT64_MAX;
        list_init(&r->model_link);
        list_init(&r->command_link);
        list_init(&r->session_link);
        return r;
}

static int request_new(struct manager *m, const struct request_submit *s, const struct request_outline *o,
                       struct request **ret, struct request_error *error) {
        _cleanup_(request_freep) struct request *r = request_alloc(m, o->kind, &s->origin);
        int e;

        if (!r)
                return -ENOMEM;
        r->sink = s->sink;
        r->userdata = s->userdata;
        r->client_credit = o->credit;
        r->arrived_us = manager_now_us();
        if (user_charge(s->origin.user, USER_REQUESTS, 1))
                return request_refuse_busy(error, &s->origin.user->ended,
                                           "Your user has %llu requests, which is all it may have at once.",
                                           (unsigned long long)s->origin.user->limits[USER_REQUESTS]);
        r->user = user_ref(s->origin.user);
        e = journal_init(&r->journal, r->user, o->kind == REQUEST_GENERATE || o->kind == REQUEST_CHAT, s->packed,
                         s->packed_size);
        if (e == JOURNAL_E_QUOTA)
                return request_refuse(error, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                      "The requests of your user take more than %llu bytes.",
                                      (unsigned long long)r->user->limits[USER_BYTES]);
        if (e < 0)
                return e;
        e = requests_add(&m->requests, r);
        if (e < 0)
                return e;
        pace_wake(m);
        *ret = steal_ptr(&r);
        return 0;
}

static int submit_load(struct manager *m, struct request *r, const Spark__V1__Load *load, int *fd,
                       struct request_error *error) {
        struct model *model = models_find_for_load(m, load, fd_steal(fd), error);

        if (!model)
                return REQUEST_E_REFUSED;
        request_set_model(r, model);
        r->lossless = load->lossless && !load->dry_run;
        if (r->lossless)
                return model_check_lossless(model, error);
        if (!load->dry_run)
                return 0;
        return load_start_dry(&r->dry_run, r->model, r, load, error);
}

int request_place(struct request *r, const struct request_outline *o, const Spark__V1__ClientFrame *f, int *fd, int *fds,
                  size_t n_fds, struct request_error *error) {
        struct manager *m = r->manager;
        struct model *model;
        int e = 0;

        if (o->kind == REQUEST_LOAD) {
                e = submit_load(m, r, f->load, fd, error);
        } else if (o->kind == REQUEST_USAGE) {
                e = request_ask_usage(r, f->usage_query, error);
        } else if (o->store) {
                e = store_submit(m->store, r, f, fds, n_fds, error);
        } else if (o->lease) {
                e = request_submit_lease(r, f, error);
        } else if (o->session) {
                r->input_fd = fd_steal(fd);
                sessions_add(m->sessions, r);
        } else if (o->look) { /* nothing that waits for anything */
                return request_refuse(error, SPARK__V1__ERROR_CODE__UNIMPLEMENTED, "It is answered elsewhere.");
        } else {
                model = models_find(m, o->model, error);
                if (!model)
                        return REQUEST_E_REFUSED;
                request_set_model(r, model);
                r->input_fd = fd_steal(fd);
        }
        if (e)
                return e;
        if (r->model && !r->dry_run)
                request_wait_for(r, r->model);
        r->job = job_new_of_request(r, f);
        request_count(r);
        return 0;
}

static int submit_packed(struct manager *m, const struct request_submit *s, int *fd, struct request **ret,
                         struct request_error *error) {
        _cleanup_(request_freep) struct request *r = NULL;
        Spark__V1__Priority priority;
        struct request_outline o;
        struct demand demand;
        int e;

        if (request_outline_read(s->frame, &o))
                return request_refuse(error, SPARK__V1__ERROR_CODE__UNIMPLEMENTED, "This version does not know the message.");
        demand_of_frame(m, s->origin.user, s->frame, &demand);
        e = request_check_admission(m, &o, error);
        if (!e)
                e = request_check_rights(&s->origin, &demand, error);
        if (!e)
                e = request_check_quota(m, &s->origin, o.kind, o.priority, &priority, error);
        if (!e)
                e = request_check_input(&o, *fd, error);
        if (!e)
                e = request_new(m, s, &o, &r, error);
        if (e || !r)
                return e;
        r->priority = priority;
        e = request_ask(r, &demand, s->frame->interactive_authorization, fd, s->input_fds, s->n_input_fds, error);
        if (e == 0)
                e = request_place(r, &o, s->frame, fd, s->input_fds, s->n_input_fds, error);
        if (e && e != REQUEST_ASKED)
                return e;
        *ret = steal_ptr(&r);
        return 0;
}

void request_wait_for(struct request *r, struct model *model) {
        if (r->model != model)
                request_set_model(r, model);
        list_append(&model->waiting, &r->model_link);
        model_kick(model);
}

void request_finishing(struct request *r) {
        list_remove(&r->model_link);
        list_remove(&r->command_link);
        if (r->model)
                model_kick(r->model); /* may be unloaded now */
        r->state = REQUEST_FINISHING;
}

int request_submit(struct manager *m, const struct request_submit *submit, struct request **ret,
                   struct request_error *error) {
        _cleanup_fd_ int fd = submit->input_fd;
        _cleanup_free_ uint8_t *packed = NULL;
        struct request_submit s = *submit;
        int e;

        if (!s.packed) {
                s.packed_size = protobuf_c_message_get_packed_size(&s.frame->base);
                packed = malloc(s.packed_size + 1);
                if (!packed)
                        return -ENOMEM;
                (void)protobuf_c_message_pack(&s.frame->base, packed);
                s.packed = packed;
        }
        e = submit_packed(m, &s, &fd, ret, error);
        for (size_t i = 0; i < s.n_input_fds; i++) /* what nobody took */
                s.input_fds[i] = fd_close(s.input_fds[i]);
        if (e == REQUEST_E_REFUSED && request_error_is_quota(error->code))
                request_note_refusal(m, s.origin.user, s.frame);
        return e;
}

/* ---- what the engine is to be told ---- */

static void request_command(struct request *r) {
        if (r->model && r->model->engine)
                engine_add_command(r->model->engine, r);
}

/* Passes credit on in large pieces: the engine hears of it when it has used half of its window. */
static void request_pump_credit(struct request *r) {
        uint64_t give;

        if (r->stalled || !r->sink || r->engine_credit > ENGINE_WINDOW / 2 || r->client_credit == 0 ||
            power_keeps_waiting(r->manager->power, r))
                return;
        give = MIN(r->client_credit, (uint64_t)(ENGINE_WINDOW - r->engine_credit));
        if (r->client_credit != REQUEST_CREDIT_ALL)
                r->client_credit -= give;
        r->engine_credit += (uint32_t)give;
        r->window_due += (uint32_t)give;
        if (r->state == REQUEST_SENT)
                request_command(r);
}

void request_add_credit(struct request *r, uint64_t tokens) {
        if (r->client_credit != REQUEST_CREDIT_ALL &&
            __builtin_add_overflow(r->client_credit, tokens, &r->client_credit))
                r->client_credit = REQUEST_CREDIT_ALL - 1;
        request_note_credit(r, tokens);
        request_pump_credit(r);
}

void requests_pump_credit(struct manager *m) {
        for (size_t i = 0; i < m->requests.n_slots; i++)
                if (m->requests.slots[i])
                        request_pump_credit(m->requests.slots[i]);
}

void request_stall(struct request *r) {
        r->stalled = true;
}

void request_resume(struct request *r) {
        r->stalled = false;
        request_pump_credit(r);
}

void request_detach(struct request *r) {
        bool ends = !clients_are_handed_on(r->manager, r->kept);

        request_note_end(r);
        r->sink = NULL;
        r->origin.unit = NULL;
        r->origin.peer = NULL;
        if (r->session && ends)
                session_turn_break(r);
        request_count(r);
        if (r->state == REQUEST_SENT) {
                r->cancel_due = true;
                request_command(r);
                return;
        }
        if (!r->dry_run && r->model) /* its load may have nobody left who waits for it */
                model_kick(r->model);
        (void)request_free(r);
}

void request_activate(struct request *r) {
        list_remove(&r->model_link);
        power_note_work(r->manager->power);
        list_append(&r->model->active, &r->model_link);
        r->state = REQUEST_QUEUED;
        r->engine_queued = r->engine_paused = false;
        request_pump_credit(r);
        request_command(r);
}

static int write_submit(struct request *r, struct channel *engine) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        struct journal_submit s;
        bool with_fd = r->input_fd >= 0 && journal_needs_input(&r->journal);
        int e;

        e = journal_submit_init(&s, &r->journal);
        if (e < 0)
                return e;
        s.submit.key = r->key;
        s.submit.client = r->origin.client;
        request_fill_policy(r, &s.submit);
        s.submit.credit = r->engine_credit;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT;
        frame.submit = &s.submit;
        e = message_queue_fds(engine, &frame.base, &r->input_fd, with_fd);
        journal_submit_deinit(&s);
        if (e == 0) {
                r->state = REQUEST_SENT;
                r->window_due = 0;
                if (r->sent_us == 0)
                        r->sent_us = manager_now_us();
                request_count(r);
        }
        return e;
}

static int write_cancel(struct request *r, struct channel *engine) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__CancelRequest cancel = SPARK__ENGINE__V1__CANCEL_REQUEST__INIT;
        int e;

        cancel.key = r->key;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CANCEL;
        frame.cancel = &cancel;
        e = message_queue(engine, &frame.base);
        if (e == 0)
                r->cancel_due = false;
        return e;
}

static int write_window(struct request *r, struct channel *engine) {
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Window window = SPARK__ENGINE__V1__WINDOW__INIT;
        int e;

        window.key = r->key;
        window.tokens = r->window_due;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_WINDOW;
        frame.window = &window;
        e = message_queue(engine, &frame.base);
        if (e == 0)
                r->window_due = 0;
        return e;
}

int request_write_commands(struct request *r, struct channel *engine) {
        int e = 0;

        if (r->state == REQUEST_QUEUED)
                e = write_submit(r, engine);
        if (e == CHANNEL_E_OVERSIZE && !r->journal.accepted) { /* with what the session has come to */
                request_fail_with(r, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                  "session and prompt are too long together to be passed to the engine.");
                return 0;
        }
        if (e == CHANNEL_E_OVERSIZE) { /* a replay longer than a private frame */
                request_fail_with(r, SPARK__V1__ERROR_CODE__ENGINE_LOST,
                                  "The engine was lost, and the request is too long to be taken up again.");
                return 0;
        }
        if (e == 0 && r->state == REQUEST_SENT && r->cancel_due)
                return write_cancel(r, engine);
        if (e == 0 && r->state == REQUEST_SENT && r->window_due)
                e = write_window(r, engine);
        return e;
}

/* ---- ends ---- */

void request_finish(struct request *r, const Spark__V1__Done *done) {
        r->job = job_end(r->job, JOB_DONE);
        request_note_usage(r, done->usage);
        if (r->session) {
                session_turn_finish(r, done);
                return;
        }
        if (r->sink)
                r->sink->done(r->userdata, r, done);
        (void)request_free(r);
}

void request_fail(struct request *r, const struct request_error *error) {
        Spark__V1__Error e = SPARK__V1__ERROR__INIT;
        Spark__V1__LoadResult load = SPARK__V1__LOAD_RESULT__INIT;
        struct weights_view weights;

        if (r->state == REQUEST_FINISHING) { /* too late for that */
                session_answer_now(r);
                return;
        }
        r->job = job_end(r->job, error->code == SPARK__V1__ERROR_CODE__CANCELLED ? JOB_CANCELLED : JOB_FAILED);
        r->refused = !r->begun && request_error_is_quota(error->code);
        e.code = error->code;
        e.message = (char *)error->text;
        e.retry_after_ms = error->retry_after_ms;
        e.have = error->have;
        e.max = error->max;
        e.needs_person = error->needs_person;
        if (error->has_plan) {
                plan_show(&error->plan, &weights, &load);
                load.model = r->model ? r->model->name : (char *)"";
                load.kv_format = r->manager->config->kv_format;
                e.load = &load;
        }
        if (r->sink)
                r->sink->error(r->userdata, r, &e);
        (void)request_free(r);
}

void request_fail_with(struct request *r, Spark__V1__ErrorCode code, const char *fmt, ...) {
        struct request_error error;
        va_list ap;

        va_start(ap, fmt);
        request_error_set_va(&error, code, fmt, ap);
        va_end(ap);
        request_fail(r, &error);
}

void request_fail_busy(struct request *r, const char *text, uint32_t retry_after_ms) {
        struct request_error error;

        request_error_set(&error, SPARK__V1__ERROR_CODE__BUSY, "%s", text);
        error.retry_after_ms = retry_after_ms;
        request_fail(r, &error);
}

void request_abort(struct request *r, Spark__V1__ErrorCode code, const char *fmt, ...) {
        const struct request_sink *sink = r->sink;
        Spark__V1__Error e = SPARK__V1__ERROR__INIT;
        struct request_error error;
        va_list ap;

        va_start(ap, fmt);
        request_error_set_va(&error, code, fmt, ap);
        va_end(ap);
        if (r->state != REQUEST_SENT) {
                request_fail(r, &error);
                return;
        }
        e.code = error.code;
        e.message = error.text;
        if (sink)
                sink->error(r->userdata, r, &e);
        request_detach(r);
}

bool request_take_back(struct request *r) {
        if (!r->sink) { /* cancelled there in the hardest way */
                (void)request_free(r);
                return false;
        }
        list_remove(&r->command_link);
        journal_lost(&r->journal);
        r->state = REQUEST_WAITING;
        request_count(r);
        return true;
}

bool request_lost(struct request *r) {
        unsigned limit = (unsigned)r->manager->config->limits.engine_losses;

        if (r->sink && r->state == REQUEST_SENT && ++r->losses >= limit) {
                request_fail_with(r, SPARK__V1__ERROR_CODE__ENGINE_LOST,
                                  "The engine was lost %u time%s while it ran this request.", r->losses, words_s(r->losses));
                return false;
        }
        return request_take_back(r);
}

/* ---- what the engine said ---- */

static void tell_progress(struct request *r, const Spark__V1__Progress *p) {
        if (r->job)
                job_take_progress(r->job, p);
        /* after a replay the prompt is read again: nobody's business once tokens came */
        if (r->sink && r->journal.n_generated == 0)
                r->sink->progress(r->userdata, r, p);
}

void request_progress(struct request *r, const char *stage, uint64_t done, uint64_t total) {
        Spark__V1__Progress p = SPARK__V1__PROGRESS__INIT;

        p.stage = (char *)stage;
        p.done = done;
        p.total = total;
        tell_progress(r, &p);
}

void request_progress_at(struct request *r, const char *stage, const struct speed *speed, uint64_t done, uint64_t total) {
        Spark__V1__Progress p = SPARK__V1__PROGRESS__INIT;

        p.stage = (char *)stage;
        p.done = done;
        p.total = total;
        p.bytes_per_second = speed_per_second(speed);
        p.eta_ms = speed_left_ms(speed, total);
        tell_progress(r, &p);
}

/* 0, or the engine broke the order of things. A user's quota ends the request, not the engine. */
static int journal_result(struct request *r, int e) {
        if (e == JOURNAL_E_ORDER)
                return REQUEST_E_REFUSED;
        if (e == 0)
                return 0;
        request_abort(r, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                      "The requests of your user take more memory than it may have.");
        return 0;
}

int request_take_accepted(struct request *r, const Spark__Engine__V1__Accepted *a) {
        bool known = r->journal.accepted;
        int e;

        request_begin(r);
        if (!r->sink)
                return 0;
        if (r->session && !r->journal.accepted && !session_turn_accepts(r, a))
                return REQUEST_E_REFUSED;
        e = journal_accept(&r->journal, a->prompt_tokens, a->n_prompt_tokens, a->seed);
        if (e == 0 && !known)
                request_note_accepted(r);
        return journal_result(r, e);
}

int request_take_tokens(struct request *r, const Spark__V1__Token *token) {
        int e;

        if (!r->sink) {
                request_charge_tokens(r, token->n_ids); /* it was work all the same */
                return 0;
        }
        if (token->n_ids == 0 || token->n_ids > r->engine_credit || token->index != r->journal.n_generated)
                return REQUEST_E_REFUSED;
        e = journal_append(&r->journal, token->ids, token->n_ids);
        if (e)
                return journal_result(r, e);
        r->engine_credit -= (uint32_t)token->n_ids;
        request_charge_tokens(r, token->n_ids);
        r->sink->token(r->userdata, r, token);
        request_pump_credit(r);
        return 0;
}
