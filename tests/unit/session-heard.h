/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a request on a session was told: the sink of the sessions' tests. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/control/session/session-private.h"

/* What a request was told; kept until the next one is asked with it. */
struct heard {
        size_t tokens, done, errors;
        Spark__V1__ErrorCode code;
        uint32_t retry_after_ms;
        char text[512];
        bool has_session;
        char id[SESSION_ID_TEXT + 1], model[65], name[65], state[16];
        uint64_t n, stored_bytes;
        bool persistent;
        size_t n_sessions;
        uint64_t seed;
};

static void on_token(void *userdata, struct request *r, const Spark__V1__Token *token) {
        ((struct heard *)userdata)->tokens += token->n_ids;
}

static void on_progress(void *userdata, struct request *r, const Spark__V1__Progress *progress) {
}

static void heard_session(struct heard *h, const Spark__V1__SessionInfo *s) {
        h->has_session = true;
        (void)snprintf(h->id, sizeof(h->id), "%s", s->id);
        (void)snprintf(h->model, sizeof(h->model), "%s", s->model);
        (void)snprintf(h->name, sizeof(h->name), "%s", s->name);
        (void)snprintf(h->state, sizeof(h->state), "%s", s->state);
        h->n = s->tokens;
        h->stored_bytes = s->stored_bytes;
        h->persistent = s->persistent;
}

static void on_done(void *userdata, struct request *r, const Spark__V1__Done *done) {
        struct heard *h = userdata;

        h->done++;
        h->seed = done->seed;
        if (done->result_case == SPARK__V1__DONE__RESULT_SESSION)
                heard_session(h, done->session);
        if (done->result_case == SPARK__V1__DONE__RESULT_SESSIONS) {
                h->n_sessions = done->sessions->n_sessions;
                if (h->n_sessions > 0)
                        heard_session(h, done->sessions->sessions[0]);
        }
}

static void on_error(void *userdata, struct request *r, const Spark__V1__Error *error) {
        struct heard *h = userdata;

        h->errors++;
        h->code = error->code;
        h->retry_after_ms = error->retry_after_ms;
        (void)snprintf(h->text, sizeof(h->text), "%s", error->message);
}

static const struct request_sink sink = {
        .token = on_token, .progress = on_progress, .done = on_done, .error = on_error
};
