/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A turn: a Generate or SessionAppend that a session goes on with. The engine is told the session's text as the prefix
 * of the prompt and says what prompt that makes; the journal gathers what comes of it, and in the end its array is the
 * session's new text. So taking over costs nothing, cannot fail for want of quota, and gives exactly what the client saw.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "model/engine.h"
#include "session-private.h"

static const char *session_of(const Spark__V1__ClientFrame *f) {
        return f->body_case == SPARK__V1__CLIENT_FRAME__BODY_GENERATE ? f->generate->session
                                                                      : f->session_append->session;
}

/* The model that the session goes on with, where that is what the request means, too. */
static struct model *find_model(const struct session *s, const Spark__V1__ClientFrame *f,
                                struct request_error *error) {
        const char *asked = f->body_case == SPARK__V1__CLIENT_FRAME__BODY_GENERATE ? f->generate->model : "";

        if (*asked && strcmp(asked, s->model) != 0) {
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                  "model: the session is of model '%s', not '%.64s'.", s->model, asked);
                return NULL;
        }
        return models_find(s->table->manager, s->model, error);
}

/* An earlier process began the turn. Whatever it had made of the session, perhaps to the end of the turn: it stands where it
 * stood then, and comes to the same. False where that can't be. */
static bool take_back(struct session *s, const struct request *r) {
        const struct journal *j = &r->journal;

        if (s->n < r->turn.session_tokens)
                return false;
        if (s->n > r->turn.session_tokens) {
                s->n = r->turn.session_tokens;
                session_changed(s);
        }
        return !j->accepted ||
               (j->n_prompt >= s->n && (s->n == 0 || memcmp(j->tokens, s->text->ids, s->n * sizeof(*j->tokens)) == 0));
}

void session_turn_begin(struct sessions *t, struct request *r, const Spark__V1__ClientFrame *f) {
        struct request_error error;
        struct session *s = session_get(t, session_of(f), r->user, &error);
        struct model *model = s ? find_model(s, f, &error) : NULL;

        if (!model) {
                request_fail(r, &error);
                return;
        }
        if (s->turn) {
                request_fail_busy(r, "The session is busy with another request.", SESSION_BUSY_RETRY_MS);
                return;
        }
        if (!session_need_text(s, r))
                return;
        if (r->turn.session_tokens != UINT64_MAX && !take_back(s, r)) {
                request_fail_with(r, SPARK__V1__ERROR_CODE__INTERNAL,
                                  "session: it is not what it was before the service was restarted.");
                return;
        }
        s->turn = r;
        s->used_us = manager_now_us();
        r->session = s;
        r->turn.prefix = session_text_ref(s->text);
        r->journal.prefix = s->text ? s->text->ids : NULL;
        r->journal.n_prefix = s->n;
        request_wait_for(r, model);
}

bool session_turn_prepare(struct request *r) {
        const struct model_facts *facts = &r->model->facts;
        struct session *s = r->session;

        if (s->vocabulary && (s->vocabulary != facts->vocabulary || s->parameters != facts->parameters)) {
                request_fail_with(r, SPARK__V1__ERROR_CODE__MODEL_INVALID,
                                  "session: model '%s' is another one than the session was made with.", s->model);
                return false;
        }
        return session_kv_ready(s, r->model->engine);
}

bool session_turn_accepts(const struct request *r, const Spark__Engine__V1__Accepted *a) {
        size_t n = r->session->n;

        return a->n_prompt_tokens >= n &&
               (n == 0 || memcmp(a->prompt_tokens, r->session->text->ids, n * sizeof(*a->prompt_tokens)) == 0);
}

/* The journal's tokens become the session's text. */
static void take_over(struct session *s, struct request *r) {
        struct session_text *text;
        uint64_t charged;
        uint32_t *ids;
        size_t n;

        if (r->first_token_us) /* the usage ledger wants to know what of the prompt was worked on */
                r->worked_tokens = MAX(r->worked_tokens, (uint32_t)r->journal.n_prompt);
        r->turn.n_prompt = r->journal.n_prompt;
        ids = journal_take_tokens(&r->journal, &n, &charged);
        if (!ids)
                return;
        r->turn.n_text = n;
        text = session_text_new(r->user, ids, n, charged);
        if (!text) {
                log_error("out of memory: a session stays without its last turn");
                user_release(r->user, USER_BYTES, charged);
                free(ids);
                return;
        }
        s->vocabulary = r->model->facts.vocabulary;
        s->parameters = r->model->facts.parameters;
        if (r->kept) /* until the answer is out it may have to be come to again */
                r->turn.text = session_text_ref(text);
        session_set_text(s, text, n);
        session_changed(s);
}

static struct session *turn_end(struct request *r, bool counts) {
        struct session *s = r->session;

        r->session = NULL;
        s->turn = NULL;
        s->used_us = manager_now_us();
        if (counts)
                take_over(s, r);
        return s;
}

void session_turn_finish(struct request *r, const Spark__V1__Done *done) {
        struct session *s = turn_end(r, true);

        session_answer(r, s, done);
}

void session_turn_break(struct request *r) {
        (void)turn_end(r, r->journal.n_generated > 0);
}

void session_turn_leave(struct request *r) {
        (void)turn_end(r, false);
}
