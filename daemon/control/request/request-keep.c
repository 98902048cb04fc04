/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What of a request outlives this process, and how the next one takes it up. A generation goes on behind the tokens it has: the
 * engine gets them as a replay, as when an engine was lost. Anything else is asked again as it came: nothing of its answer was
 * told. What has effects that can't be told twice (imports, packs) ends.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "job.h"
#include "keep/keep-clients.h"
#include "kept.h"
#include "message.h"
#include "model/load.h"
#include "request-keep.h"
#include "request-private.h"
#include "session/session-text.h"
#include "session/session-view.h"
#include "session/session.h"

#define AGAIN_MS 500u

/* ---- as it stands ---- */

/* What the journal had come to is the session's by now. */
static void fill_finishing(const struct request *r, Spark__State__V1__Request *m) {
        m->accepted = r->turn.text != NULL;
        if (!r->turn.text)
                return;
        m->prompt = r->turn.text->ids;
        m->n_prompt = r->turn.n_prompt;
        m->generated = r->turn.text->ids + r->turn.n_prompt;
        m->n_generated = r->turn.n_text - r->turn.n_prompt;
}

static void fill_journal(const struct request *r, Spark__State__V1__Request *m) {
        const struct journal *j = &r->journal;

        m->accepted = j->accepted && j->generation;
        if (!m->accepted)
                return;
        m->prompt = j->n_prompt ? j->tokens : NULL;
        m->n_prompt = j->n_prompt;
        m->generated = j->n_generated ? j->tokens + j->n_prompt : NULL;
        m->n_generated = j->n_generated;
}

void request_fill_record(const struct request *r, Spark__State__V1__Request *m) {
        const struct session *s = r->session ? r->session : r->turn.answers;

        *m = (Spark__State__V1__Request)SPARK__STATE__V1__REQUEST__INIT;
        m->key = r->key;
        m->uid = (uint32_t)r->user->uid;
        m->pid = (uint32_t)r->origin.pid;
        m->unit = r->origin.unit ? (char *)r->origin.unit : (char *)"";
        m->client = r->origin.client;
        m->kind = (uint32_t)r->kind;
        m->priority = (uint32_t)r->priority;
        m->frame = (ProtobufCBinaryData){ .len = r->journal.frame_size, .data = r->journal.frame };
        m->input = r->input_kept;
        m->credit = r->client_credit;
        if (m->credit != REQUEST_CREDIT_ALL)
                m->credit += r->engine_credit;
        m->arrived_us = r->arrived_us;
        m->first_token_us = r->first_token_us;
        m->model = r->model ? r->model->name : (char *)"";
        m->seed = r->journal.seed;
        m->losses = r->losses;
        m->kv_limit = r->kv_limit;
        m->begun = r->begun;
        m->asking = r->question != NULL;
        m->granted = r->origin.granted;
        m->session = s ? (char *)session_id(s) : (char *)"";
        m->session_tokens = s ? r->journal.n_prefix : r->turn.session_tokens;
        if (r->state == REQUEST_FINISHING)
                fill_finishing(r, m);
        else
                fill_journal(r, m);
}

static uint8_t *pack_token(const Spark__V1__Token *token, size_t *ret_size) {
        uint8_t *p;

        *ret_size = spark__v1__token__get_packed_size(token);
        p = malloc(*ret_size + 1);
        if (p)
                (void)spark__v1__token__pack(token, p);
        return p;
}

void request_write(const struct request *r, struct keep *k, uint64_t connection, uint64_t id, const struct pending *pending) {
        _cleanup_free_ uint8_t *packed = NULL;
        Spark__State__V1__Request m;
        Spark__V1__Token token;

        request_fill_record(r, &m);
        m.connection = connection;
        m.id = id;
        if (pending && !pending_is_empty(pending)) {
                pending_fill(pending, &token);
                packed = pack_token(&token, &m.pending.len);
                if (!packed) { /* without them it could not be taken up: it is as if it had ended */
                        m.pending.len = 0;
                        return;
                }
                m.pending.data = packed;
        }
        KEEP_APPEND(k, REQUEST, request, &m);
}

/* ---- becoming kept ---- */

/* The store takes an open file once, whatever its name: input that is sent along with two requests is opened anew. */
static int reopen(int fd) {
        char path[32];

        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        return open(path, O_RDONLY | O_CLOEXEC);
}

static void keep_input(struct request *r) {
        int fd = r->kind == REQUEST_LOAD && r->model ? r->model->input_fd : r->input_fd;
        _cleanup_fd_ int again = -1;
        char name[CLIENTS_NAME_MAX];

        if (fd < 0)
                return;
        again = reopen(fd);
        clients_name_input(name, r->key);
        r->input_kept = keep_push_fd(r->manager->keep, name, again >= 0 ? again : fd);
}

void request_keep(struct request *r, uint64_t connection, uint64_t id, const struct pending *pending) {
        if (r->kept || !keep_is_on(r->manager->keep))
                return;
        keep_input(r);
        r->kept = true;
        request_write(r, r->manager->keep, connection, id, pending);
}

void request_keep_again(struct request *r) {
        r->input_kept = false;
        keep_input(r);
        r->kept = true;
}

/* ---- what becomes of it ---- */

void request_note_accepted(struct request *r) {
        Spark__State__V1__RequestAccepted m = SPARK__STATE__V1__REQUEST_ACCEPTED__INIT;

        if (!r->kept)
                return;
        m.key = r->key;
        m.seed = r->journal.seed;
        m.of_session = r->session != NULL;
        m.session_tokens = r->journal.n_prefix;
        m.kv_limit = r->kv_limit;
        if (r->journal.generation) {
                m.prompt = r->journal.tokens;
                m.n_prompt = r->journal.n_prompt;
        }
        KEEP_APPEND(r->manager->keep, REQUEST_ACCEPTED, request_accepted, &m);
}

void request_note_tokens(struct request *r, const Spark__V1__Token *token, bool pending) {
        Spark__State__V1__RequestTokens m = SPARK__STATE__V1__REQUEST_TOKENS__INIT;
        _cleanup_free_ uint8_t *packed = NULL;

        if (!r->kept)
                return;
        m.key = r->key;
        m.ids = token->ids;
        m.n_ids = token->n_ids;
        if (pending) {
                packed = pack_token(token, &m.pending.len);
                m.pending.data = packed;
                if (!packed)
                        m.pending.len = 0;
        }
        KEEP_APPEND(r->manager->keep, REQUEST_TOKENS, request_tokens, &m);
}

void request_note_queued(struct request *r) {
        Spark__State__V1__RequestQueued m = SPARK__STATE__V1__REQUEST_QUEUED__INIT;

        if (!r->kept)
                return;
        m.key = r->key;
        KEEP_APPEND(r->manager->keep, REQUEST_QUEUED, request_queued, &m);
}

void request_note_credit(struct request *r, uint64_t tokens) {
        Spark__State__V1__RequestCredit m = SPARK__STATE__V1__REQUEST_CREDIT__INIT;

        if (!r->kept)
                return;
        m.key = r->key;
        m.tokens = tokens;
        KEEP_APPEND(r->manager->keep, REQUEST_CREDIT, request_credit, &m);
}

void request_note_granted(struct request *r) {
        Spark__State__V1__RequestGranted m = SPARK__STATE__V1__REQUEST_GRANTED__INIT;

        if (!r->kept)
                return;
        m.key = r->key;
        m.granted = r->origin.granted;
        KEEP_APPEND(r->manager->keep, REQUEST_GRANTED, request_granted, &m);
}

void request_note_end(struct request *r) {
        Spark__State__V1__RequestGone m = SPARK__STATE__V1__REQUEST_GONE__INIT;
        char name[CLIENTS_NAME_MAX];

        if (!r->kept || clients_are_handed_on(r->manager, true))
                return;
        r->kept = false;
        m.key = r->key;
        KEEP_APPEND(r->manager->keep, REQUEST_GONE, request_gone, &m);
        if (!r->input_kept)
                return;
        clients_name_input(name, r->key);
        clients_drop_fd(r->manager, name);
        r->input_kept = false;
}

/* ---- in the next process ---- */

static int again(struct request_error *error) {
        request_error_set(error, SPARK__V1__ERROR_CODE__BUSY, "The service was restarted while it worked on this; ask again.");
        error->retry_after_ms = AGAIN_MS;
        return REQUEST_E_REFUSED;
}

static bool can_go_on(const struct request_outline *o, const Spark__V1__ClientFrame *f, const struct kept_request *kept) {
        if (kept->bad || o->store || o->kind == REQUEST_USAGE || (o->kind == REQUEST_LOAD && f->load->dry_run))
                return false;
        if (o->kind == REQUEST_SESSION && kept->session[0]) /* done, but for a file */
                return false;
        return !o->input_fd || kept->input || (kept->accepted && o->kind == REQUEST_GENERATE);
}

static bool is_generation(enum request_kind kind) {
        return kind == REQUEST_GENERATE || kind == REQUEST_CHAT;
}

static int restore_journal(struct request *r, const struct kept_request *kept) {
        const struct journal_kept j = {
                .frame = kept->frame.data,
                .frame_size = kept->frame.len,
                .generation = is_generation(r->kind),
                .accepted = kept->accepted,
                .tokens = (const uint32_t *)(const void *)kept->tokens.data,
                .n_prompt = kept->n_prompt,
                .n_generated = kept->n_generated,
                .seed = kept->seed,
        };

        return journal_restore(&r->journal, r->user, &j);
}

static int restore_place(struct request *r, const struct kept_request *kept, const Spark__V1__ClientFrame *f,
                         const struct request_outline *o, int *input_fd, struct request_error *error) {
        struct manager *m = r->manager;
        struct model *model;

        if (o->kind == REQUEST_LOAD) {
                model = models_find_for_load(m, f->load, fd_steal(input_fd), error);
                r->lossless = f->load->lossless;
        } else if (o->look) {
                return again(error);
        } else if (o->lease) {
                return request_submit_lease(r, f, error);
        } else if (o->session) {
                r->input_fd = fd_steal(input_fd);
                r->turn.session_tokens = kept->session_tokens;
                sessions_add(m->sessions, r);
                return 0;
        } else {
                model = models_find(m, kept->model[0] ? kept->model : o->model, error);
                r->input_fd = fd_steal(input_fd);
        }
        if (!model)
                return REQUEST_E_REFUSED;
        request_wait_for(r, model);
        return 0;
}

/* The last process was asking whether it may be. Nothing was done for it: it is taken as if it came now. */
static int ask_again(struct request *r, const Spark__V1__ClientFrame *f, const struct request_outline *o, int *input_fd,
                     struct request_error *error) {
        struct demand demand;
        int e;

        r->sent_us = 0;
        demand_of_frame(r->manager, r->user, f, &demand);
        e = request_check_rights(&r->origin, &demand, error);
        if (e == 0)
                e = request_ask(r, &demand, f->interactive_authorization, input_fd, NULL, 0, error);
        return e ? e : request_place(r, o, f, input_fd, NULL, 0, error);
}

static int restore_unpacked(struct manager *m, const struct kept_request *kept, const Spark__V1__ClientFrame *f,
                            const struct request_origin *origin, const struct request_sink *sink, void *userdata,
                            int *input_fd, struct request **ret, struct request_error *error) {
        _cleanup_(request_freep) struct request *r = NULL;
        struct request_outline o;
        int e;

        if (request_outline_read(f, &o) || !can_go_on(&o, f, kept))
                return again(error);
        r = request_alloc(m, o.kind, origin);
        if (!r)
                return -ENOMEM;
        r->sink = sink;
        r->userdata = userdata;
        r->client_credit = kept->credit;
        r->arrived_us = r->sent_us = MIN(kept->arrived_us, manager_now_us()); /* an engine had it, as far as limits go */
        r->first_token_us = kept->first_token_us;
        r->losses = kept->losses;
        r->begun = kept->begun;
        r->origin.granted |= kept->granted & RIGHTS_ALL;
        r->priority = (Spark__V1__Priority)MIN(kept->priority, (uint32_t)SPARK__V1__PRIORITY__INTERACTIVE);
        r->kv_limit = kept->accepted ? kept->kv_limit : origin->user->policy.kv;
        user_charge_found(origin->user, USER_REQUESTS, 1);
        r->user = user_ref(origin->user);
        e = restore_journal(r, kept);
        if (e == 0)
                e = requests_add_again(&m->requests, r, kept->key);
        if (e < 0)
                return e;
        r->kept = true;
        r->input_kept = kept->input;
        e = kept->asking ? ask_again(r, f, &o, input_fd, error) : restore_place(r, kept, f, &o, input_fd, error);
        if (e && e != REQUEST_ASKED)
                return e;
        if (!kept->asking) {
                r->job = job_new_of_request(r, f);
                request_count(r);
        }
        *ret = steal_ptr(&r);
        return 0;
}

int request_restore(struct manager *m, const struct kept_request *kept, const struct request_origin *origin,
                    const struct request_sink *sink, void *userdata, int input_fd, struct request **ret,
                    struct request_error *error) {
        _cleanup_fd_ int fd = input_fd;
        ProtobufCMessage *f;
        int e;

        e = message_unpack(&spark__v1__client_frame__descriptor, kept->frame.data, kept->frame.len, &f, NULL);
        if (e)
                return e < 0 ? e : again(error);
        e = restore_unpacked(m, kept, (const Spark__V1__ClientFrame *)f, origin, sink, userdata, &fd, ret, error);
        (void)message_free(f);
        return e;
}
