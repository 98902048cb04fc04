/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "engine.h"
#include "load.h"
#include "manager.h"
#include "message.h"
#include "request.h"
#include "session-text.h"
#include "session.h"

/* At most so many tokens are under way between engine and sink: what a request whose client stops reading can pile up.
 * More credit than this is kept back until the sink has moved. */
#define ENGINE_WINDOW 1024u

#define KEY_SLOT_BITS 16
#define BUSY_RETRY_MS 500u

/* ---- table ---- */

void requests_init(struct requests *t) {
        *t = (struct requests){ 0 };
}

void requests_deinit(struct requests *t) {
        free(t->slots);
        free(t->free_slots);
        *t = (struct requests){ 0 };
}

static int requests_grow(struct requests *t) {
        size_t n = t->n_slots ? t->n_slots * 2 : 64;
        struct request **slots;
        uint32_t *unused;

        if (n > 1u << KEY_SLOT_BITS)
                return -ENOBUFS;
        slots = reallocarray(t->slots, n, sizeof(void *));
        if (!slots)
                return -ENOMEM;
        t->slots = slots;
        unused = reallocarray(t->free_slots, n, sizeof(*unused));
        if (!unused)
                return -ENOMEM;
        t->free_slots = unused;
        for (size_t i = t->n_slots; i < n; i++) {
                slots[i] = NULL;
                unused[t->n_free++] = (uint32_t)i;
        }
        t->n_slots = n;
        return 0;
}

/* A key is a slot and a number that never comes again. */
static int requests_add(struct requests *t, struct request *r) {
        uint32_t slot;
        int e;

        if (t->n_free == 0) {
                e = requests_grow(t);
                if (e < 0)
                        return e;
        }
        slot = t->free_slots[--t->n_free];
        t->slots[slot] = r;
        t->count++;
        r->key = ++t->sequence << KEY_SLOT_BITS | slot;
        return 0;
}

static void requests_remove(struct requests *t, struct request *r) {
        uint32_t slot = (uint32_t)(r->key & ((1u << KEY_SLOT_BITS) - 1));

        if (r->key == 0)
                return;
        t->slots[slot] = NULL;
        t->free_slots[t->n_free++] = slot;
        t->count--;
        r->key = 0;
}

struct request *requests_find(const struct requests *t, uint64_t key) {
        uint64_t slot = key & ((1u << KEY_SLOT_BITS) - 1);

        if (slot >= t->n_slots || !t->slots[slot] || t->slots[slot]->key != key)
                return NULL;
        return t->slots[slot];
}

/* ---- errors ---- */

static _printf_(3, 0) void error_set_va(struct request_error *e, Spark__V1__ErrorCode code, const char *fmt,
                                        va_list ap) {
        *e = (struct request_error){ .code = code };
        (void)vsnprintf(e->text, sizeof(e->text), fmt, ap);
}

void request_error_set(struct request_error *e, Spark__V1__ErrorCode code, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        error_set_va(e, code, fmt, ap);
        va_end(ap);
}

static _printf_(3, 4) int refuse(struct request_error *e, Spark__V1__ErrorCode code, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        error_set_va(e, code, fmt, ap);
        va_end(ap);
        return REQUEST_E_REFUSED;
}

const char *request_kind_name(enum request_kind kind) {
        static const char *const names[] = {
                [REQUEST_GENERATE] = "generate",     [REQUEST_CHAT] = "chat",   [REQUEST_TOKENIZE] = "tokenize",
                [REQUEST_DETOKENIZE] = "detokenize", [REQUEST_SCORE] = "score", [REQUEST_LOAD] = "load",
                [REQUEST_UNLOAD] = "unload",         [REQUEST_PREWARM] = "prewarm",
                [REQUEST_SESSION_APPEND] = "append", [REQUEST_SESSION] = "session",
                [REQUEST_FORGET] = "forget",
        };

        return names[kind];
}

/* ---- admission ---- */

/* What of a frame control looks at. */
struct outline {
        enum request_kind kind;
        const char *model;
        bool input_fd;
        uint64_t credit;
        bool session; /* sessions take it up */
        bool share;
};

static int outline_read(const Spark__V1__ClientFrame *f, struct outline *o) {
        *o = (struct outline){ .credit = REQUEST_CREDIT_ALL };
        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_GENERATE:
                *o = (struct outline){ REQUEST_GENERATE, f->generate->model, f->generate->input_fd, f->generate->credit,
                                       *f->generate->session, false };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_CHAT:
                *o = (struct outline){ REQUEST_CHAT, f->chat->model, false, f->chat->credit, false, false };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_TOKENIZE:
                *o = (struct outline){ REQUEST_TOKENIZE, f->tokenize->model, f->tokenize->input_fd, 0, false, false };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_DETOKENIZE:
                *o = (struct outline){ REQUEST_DETOKENIZE, f->detokenize->model, false, 0, false, false };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SCORE:
                *o = (struct outline){ REQUEST_SCORE, f->score->model, f->score->input_fd, 0, false, false };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_LOAD:
                *o = (struct outline){ REQUEST_LOAD, f->load->model, f->load->input_fd, 0, false, false };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_UNLOAD:
                *o = (struct outline){ REQUEST_UNLOAD, f->unload->model, false, 0, false, false };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_PREWARM:
                *o = (struct outline){ REQUEST_PREWARM, f->prewarm->model, f->prewarm->input_fd, 0, false,
                                       f->prewarm->share };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_APPEND:
                *o = (struct outline){ REQUEST_SESSION_APPEND, "", f->session_append->input_fd, 0, true, false };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_CREATE:
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_FORK:
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_REWIND:
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_CLOSE:
        case SPARK__V1__CLIENT_FRAME__BODY_SESSIONS:
                *o = (struct outline){ REQUEST_SESSION, "", false, 0, true, false };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_FORGET:
                *o = (struct outline){ REQUEST_FORGET, "", false, 0, true, false };
                break;
        default:
                return REQUEST_E_REFUSED;
        }
        if (o->credit == 0)
                o->credit = REQUEST_CREDIT_DEFAULT;
        return 0;
}

static int check_input(const struct outline *o, int fd, struct request_error *error) {
        struct stat st;
        uint64_t size;
        int flags;

        if (!o->input_fd)
                return fd < 0 ? 0 : refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                           "A descriptor was sent along, but input_fd is not set.");
        if (fd < 0)
                return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                              "input_fd is set, but no descriptor was sent along.");
        if (o->kind == REQUEST_LOAD) {
                flags = fcntl(fd, F_GETFL);
                if (flags < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || flags & O_PATH ||
                    (flags & O_ACCMODE) == O_WRONLY)
                        return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                      "input_fd: the descriptor sent along is no regular file open for reading.");
                return 0;
        }
        if (fd_memfd_check_sealed(fd, &size) < 0)
                return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                              "input_fd: the descriptor sent along is no memfd sealed against writing, growing and "
                              "shrinking.");
        if (size > REQUEST_INPUT_MAX)
                return refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                              "input_fd: the input has %llu bytes, at most %llu are taken.", (unsigned long long)size,
                              (unsigned long long)REQUEST_INPUT_MAX);
        return 0;
}

static int check_admission(struct manager *m, const struct outline *o, const struct request_origin *origin,
                           struct request_error *error) {
        if (!manager_accepts(m))
                return refuse(error, SPARK__V1__ERROR_CODE__STOPPING, "The daemon is shutting down.");
        if ((o->kind == REQUEST_LOAD || o->kind == REQUEST_UNLOAD) && !manager_is_privileged(origin->user->uid))
                return refuse(error, SPARK__V1__ERROR_CODE__PERMISSION_DENIED,
                              "Only root and the daemon's own user may load and unload models.");
        if (o->share && !manager_may_share_prefix(m, origin->user->uid))
                return refuse(error, SPARK__V1__ERROR_CODE__PERMISSION_DENIED,
                              "share: your user may not make a prefix public.");
        if (m->requests.count >= m->config->limits.requests) {
                (void)refuse(error, SPARK__V1__ERROR_CODE__BUSY, "The daemon has %llu requests, which is all it takes.",
                             (unsigned long long)m->config->limits.requests);
                error->retry_after_ms = BUSY_RETRY_MS;
                return REQUEST_E_REFUSED;
        }
        return 0;
}

static void request_set_model(struct request *r, struct model *model) {
        if (r->model && --r->model->refs == 0)
                model_kick(r->model);
        r->model = model;
        if (model)
                model->refs++;
}

static struct request *request_free(struct request *r) {
        if (!r)
                return NULL;
        if (r->session)
                session_turn_break(r);
        (void)session_text_unref(r->turn.prefix);
        free(r->turn.done);
        list_remove(&r->session_link);
        if (r->dry_run)
                r->dry_run = load_free(r->dry_run);
        request_set_model(r, NULL);
        list_remove(&r->model_link);
        list_remove(&r->command_link);
        requests_remove(&r->manager->requests, r);
        journal_deinit(&r->journal);
        if (r->user) {
                user_release(r->user, USER_REQUESTS, 1);
                r->user = user_unref(r->user);
        }
        r->input_fd = fd_close(r->input_fd);
        free(r);
        return NULL;
}
DEFINE_CLEANUP(struct request *, request_free)

void request_release(struct request *r) {
        (void)request_free(r);
}

static int request_new(struct manager *m, const struct request_submit *s, const struct outline *o,
                       struct request **ret, struct request_error *error) {
        _cleanup_(request_freep) struct request *r = calloc(1, sizeof(*r));
        int e;

        if (!r)
                return -ENOMEM;
        r->manager = m;
        r->kind = o->kind;
        r->sink = s->sink;
        r->userdata = s->userdata;
        r->origin = s->origin;
        r->input_fd = -1;
        r->client_credit = o->credit;
        r->arrived_us = manager_now_us();
        list_init(&r->model_link);
        list_init(&r->command_link);
        list_init(&r->session_link);
        if (user_charge(s->origin.user, USER_REQUESTS, 1))
                return refuse(error, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                              "Your user has %llu requests running, which is all it may have.",
                              (unsigned long long)m->config->limits.requests_per_user);
        r->user = user_ref(s->origin.user);
        e = journal_init(&r->journal, r->user, o->kind == REQUEST_GENERATE || o->kind == REQUEST_CHAT, s->packed,
                         s->packed_size);
        if (e == JOURNAL_E_QUOTA)
                return refuse(error, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                              "The requests of your user take more than %llu bytes.",
                              (unsigned long long)m->config->limits.bytes_per_user);
        if (e < 0)
                return e;
        e = requests_add(&m->requests, r);
        if (e < 0)
                return e;
        *ret = steal_ptr(&r);
        return 0;
}

static int submit_load(struct manager *m, struct request *r, const Spark__V1__Load *load, int *fd,
                       struct request_error *error) {
        struct model *model = models_find_for_load(m, load, fd_steal(fd), error);

        if (!model)
                return REQUEST_E_REFUSED;
        request_set_model(r, model);
        if (!load->dry_run)
                return 0;
        return load_start(&r->dry_run, r->model, r, error);
}

static int submit_packed(struct manager *m, const struct request_submit *s, int *fd, struct request **ret,
                         struct request_error *error) {
        _cleanup_(request_freep) struct request *r = NULL;
        struct outline o;
        int e;

        if (outline_read(s->frame, &o))
                return refuse(error, SPARK__V1__ERROR_CODE__UNIMPLEMENTED, "This version does not know the message.");
        e = check_admission(m, &o, &s->origin, error);
        if (!e)
                e = check_input(&o, *fd, error);
        if (!e)
                e = request_new(m, s, &o, &r, error);
        if (e || !r)
                return e;
        if (o.kind == REQUEST_LOAD) {
                e = submit_load(m, r, s->frame->load, fd, error);
                if (e)
                        return e;
        } else if (o.session) {
                r->input_fd = fd_steal(fd);
                sessions_add(m->sessions, r);
        } else {
                struct model *model = models_find(m, o.model, error);

                if (!model)
                        return REQUEST_E_REFUSED;
                request_set_model(r, model);
                r->input_fd = fd_steal(fd);
        }
        if (r->model && !r->dry_run)
                request_wait_for(r, r->model);
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

        if (!s.packed) {
                s.packed_size = protobuf_c_message_get_packed_size(&s.frame->base);
                packed = malloc(s.packed_size + 1);
                if (!packed)
                        return -ENOMEM;
                (void)protobuf_c_message_pack(&s.frame->base, packed);
                s.packed = packed;
        }
        return submit_packed(m, &s, &fd, ret, error);
}

/* ---- what the engine is to be told ---- */

static void request_command(struct request *r) {
        if (r->model && r->model->engine)
                engine_add_command(r->model->engine, r);
}

/* Passes credit on in large pieces: the engine hears of it when it has used half of its window. */
static void request_pump_credit(struct request *r) {
        uint64_t give;

        if (r->stalled || !r->sink || r->engine_credit > ENGINE_WINDOW / 2 || r->client_credit == 0)
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
        request_pump_credit(r);
}

void request_stall(struct request *r) {
        r->stalled = true;
}

void request_resume(struct request *r) {
        r->stalled = false;
        request_pump_credit(r);
}

void request_detach(struct request *r) {
        r->sink = NULL;
        r->origin.unit = NULL;
        if (r->session)
                session_turn_break(r);
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
        s.submit.uid = (uint32_t)r->user->uid;
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

        if (r->state == REQUEST_FINISHING) { /* too late for that */
                session_answer_now(r);
                return;
        }
        e.code = error->code;
        e.message = (char *)error->text;
        e.retry_after_ms = error->retry_after_ms;
        e.have = error->have;
        e.max = error->max;
        if (r->sink)
                r->sink->error(r->userdata, r, &e);
        (void)request_free(r);
}

void request_fail_with(struct request *r, Spark__V1__ErrorCode code, const char *fmt, ...) {
        struct request_error error;
        va_list ap;

        va_start(ap, fmt);
        error_set_va(&error, code, fmt, ap);
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
        error_set_va(&error, code, fmt, ap);
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

bool request_lost(struct request *r) {
        unsigned limit = (unsigned)r->manager->config->limits.engine_losses;

        if (!r->sink) { /* cancelled there in the hardest way */
                (void)request_free(r);
                return false;
        }
        if (r->state == REQUEST_SENT && ++r->losses >= limit) {
                request_fail_with(r, SPARK__V1__ERROR_CODE__ENGINE_LOST,
                                  "The engine was lost %u times while it ran this request.", r->losses);
                return false;
        }
        list_remove(&r->command_link);
        journal_lost(&r->journal);
        r->state = REQUEST_WAITING;
        return true;
}

/* ---- what the engine said ---- */

void request_progress(struct request *r, const char *stage, uint64_t done, uint64_t total) {
        Spark__V1__Progress p = SPARK__V1__PROGRESS__INIT;

        /* after a replay the prompt is read again: nobody's business once tokens came */
        if (!r->sink || r->journal.n_generated > 0)
                return;
        p.stage = (char *)stage;
        p.done = done;
        p.total = total;
        r->sink->progress(r->userdata, r, &p);
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
        if (!r->sink)
                return 0;
        if (r->session && !r->journal.accepted && !session_turn_accepts(r, a))
                return REQUEST_E_REFUSED;
        return journal_result(r, journal_accept(&r->journal, a->prompt_tokens, a->n_prompt_tokens, a->seed));
}

int request_take_tokens(struct request *r, const Spark__V1__Token *token) {
        int e;

        if (!r->sink)
                return 0;
        if (token->n_ids == 0 || token->n_ids > r->engine_credit || token->index != r->journal.n_generated)
                return REQUEST_E_REFUSED;
        e = journal_append(&r->journal, token->ids, token->n_ids);
        if (e)
                return journal_result(r, e);
        r->engine_credit -= (uint32_t)token->n_ids;
        r->model->generated += token->n_ids;
        r->sink->token(r->userdata, r, token);
        request_pump_credit(r);
        return 0;
}
