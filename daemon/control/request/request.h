/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A request from the moment it is admitted until its one terminal answer. Who asked is told through a sink: a client
 * connection, or something on the bus. The table finds requests by the key that engines know them by.
 *
 * Life: request_submit() -> WAITING on its model -> (model ready) QUEUED -> SENT to the engine -> done() or error() of the
 * sink, after which the request is gone. Sinks are never called from within request_submit(), request_add_credit(),
 * request_resume() or request_detach(). A sink must not free or detach anything from within a callback; it notes what is
 * to be done and does it in the next turn.
 *
 * request_detach() ends the sink's interest: whatever the engine still says about the request is dropped, and it is
 * cancelled there. The request's charge stays until the engine has confirmed.
 *
 * What an engine is to be told (submit, cancel, more credit) is state of the request, not a queue: a request with
 * something to tell is on its engine's list, and is written when the engine's channel takes it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "base/macro.h"
#include "channel.h"
#include "journal.h"
#include "request-kind.h"
#include "request-sink.h"
#include "spark.pb-c.h"
#include "speed.h"
#include "users/user.h"

struct manager;
struct model;
struct lease;
struct load;
struct session;
struct session_text;
struct request;
struct request_question;
struct usage_query;
struct store_op;
struct job;

#define REQUEST_CREDIT_DEFAULT 256u
#define REQUEST_CREDIT_ALL UINT64_MAX          /* a sink that takes whatever comes */
#define REQUEST_KEY_SLOT_BITS 16               /* of a key; what lies above is a number that never comes again */
#define REQUEST_INPUT_MAX ((uint64_t)64 << 20) /* bytes of an input sent as a memfd */

enum request_state {
        REQUEST_WAITING, /* for its model */
        REQUEST_QUEUED,  /* to be sent to the engine */
        REQUEST_SENT,
        REQUEST_FINISHING, /* done, but for a file; the engine knows nothing of it any more */
};

/* What a request keeps for sessions; see session.h. */
struct request_turn {
        struct session_text *prefix; /* the journal points into it */
        struct session *answers;     /* FINISHING: whose state goes with the answer */
        uint8_t *done;               /* FINISHING: the answer, packed; NULL = an empty one */
        size_t done_size;
        struct session_text *text;   /* FINISHING: what the journal had come to, n_prompt of it the prompt */
        size_t n_prompt, n_text;
        uint64_t session_tokens;     /* another process began it, on a session of this length; else UINT64_MAX */
        uint64_t version, since_us;
};

struct request {
        struct manager *manager;
        struct model *model;
        struct load *dry_run;
        struct usage_query *usage;
        struct store_op *store_op;
        struct job *job;     /* NULL: it is none */
        struct lease *lease; /* that it is; else NULL */
        struct request_question *question; /* whether it may be: nothing is done for it before that is answered; or NULL */
        const struct request_sink *sink; /* NULL: detached */
        void *userdata;
        struct user *user;
        struct request_origin origin;
        struct list model_link;   /* model->waiting or model->active */
        struct list command_link; /* engine->commands */
        struct list session_link; /* of sessions: to be looked at, or waiting for a file */
        struct session *session;  /* goes on with this request, or NULL */
        struct request_turn turn;
        uint64_t key;
        enum request_kind kind;
        enum request_state state;
        bool cancel_due, stalled, engine_queued, engine_paused;
        bool told_power;    /* that it waits for that */
        bool kept;          /* a later process would go on with it */
        bool input_kept;    /* with its input */
        bool lossless; /* LOAD: of coded weights */
        bool begun, refused, settled; /* as the usage ledger has it */
        unsigned losses;
        Spark__V1__Priority priority;
        uint32_t *counted; /* of its user's running and queued: where it counts, or NULL */
        /* what the engine said of the work that it took */
        uint32_t prompt_tokens, cached_tokens, worked_tokens;
        uint64_t metered_tokens; /* of its prompt: computed, and told to the energy meter */
        bool usage_known;
        int input_fd;
        struct journal journal;
        uint64_t client_credit; /* granted by the sink, not passed on yet */
        uint32_t engine_credit; /* what the engine may still send */
        uint32_t window_due;    /* of engine_credit: not told yet */
        uint64_t arrived_us, sent_us, first_token_us;
        uint64_t kv_limit; /* by which an engine admitted it; 0 = none */
};

struct requests {
        struct request **slots;
        uint32_t *free_slots;
        size_t n_slots, n_free;
        uint64_t sequence;
        size_t count; /* with the detached ones */
        struct rate ended;
};

void requests_init(struct requests *t);
void requests_deinit(struct requests *t);
struct request *requests_find(const struct requests *t, uint64_t key);

/* True where its origin has the rights that it takes: then nobody is asked for it. */
bool request_is_permitted(struct manager *m, const struct request_origin *origin, const Spark__V1__ClientFrame *f);
/* Anything but what is about the connection, and what control answers by itself (look.h) unless it is not permitted. The credit of Generate and Chat is the frame's.
 * 0, REQUEST_E_REFUSED with *error filled, or -errno. */
int request_submit(struct manager *m, const struct request_submit *submit, struct request **ret,
                   struct request_error *error);
void request_detach(struct request *r);
/* The sink takes `tokens` more. */
void request_add_credit(struct request *r, uint64_t tokens);
/* The sink's output is backed up: no further credit is passed on until request_resume(). */
void request_stall(struct request *r);
void request_resume(struct request *r);
/* What held credit back (power) may be over: looks at all requests again. */
void requests_pump_credit(struct manager *m);

/* Ends those about which polkit is being asked: the service stops. */
void requests_end_questions(struct manager *m);

/* Ends the request; it is gone afterwards. */
void request_finish(struct request *r, const Spark__V1__Done *done);
void request_fail(struct request *r, const struct request_error *error);
void request_fail_with(struct request *r, Spark__V1__ErrorCode code, const char *fmt, ...) _printf_(3, 4);
void request_fail_busy(struct request *r, const char *text, uint32_t retry_after_ms);
/* Ends it for whoever asked; where an engine has it, it lives on until that has let go. */
void request_abort(struct request *r, Spark__V1__ErrorCode code, const char *fmt, ...) _printf_(3, 4);

/* For session.c: the model it is for is known now. */
void request_wait_for(struct request *r, struct model *model);
/* Nothing but its answer is left. */
void request_finishing(struct request *r);
/* Frees it; its sink has been told. */
void request_release(struct request *r);

/* For model.c and engine.c. */
void request_progress(struct request *r, const char *stage, uint64_t done, uint64_t total);
/* The same for bytes that get on at this speed. */
void request_progress_at(struct request *r, const char *stage, const struct speed *speed, uint64_t done, uint64_t total);
/* The model is ready: to the engine with it. */
void request_activate(struct request *r);
/* The engine that had it is gone. True where it waits for another one, false when it was ended: after too many losses. */
bool request_lost(struct request *r);
/* The same where we took it from an engine that was in order: no loss. */
bool request_take_back(struct request *r);
/* Writes what the engine is to be told. 0 = all of it, CHANNEL_E_FULL = later, or -errno. The request may be gone. */
int request_write_commands(struct request *r, struct channel *engine);
/* What the engine said about it: 0, or REQUEST_E_REFUSED where the engine broke the rules. */
int request_take_accepted(struct request *r, const Spark__Engine__V1__Accepted *a);
int request_take_tokens(struct request *r, const Spark__V1__Token *token);
/* How far the engine got, and what of that it found in its cache. */
void request_take_progress(struct request *r, const Spark__Engine__V1__RequestProgress *p);
/* What it took in the end; NULL = the engine did not say. */
void request_note_usage(struct request *r, const Spark__V1__Usage *usage);
/* True while it waits, for its model or in the engine. */
bool request_is_queued(const struct request *r);
/* It is a lease, and has what it was asked for. */
bool request_holds_lease(const struct request *r);
/* Brings its user's counts up to date with its state. */
void request_count(struct request *r);
/* A request that was turned away without having become one: counts as refused. */
void request_note_refusal(struct manager *m, struct user *user, const Spark__V1__ClientFrame *frame);
