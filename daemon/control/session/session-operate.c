/* SPDX-License-Identifier: Apache-2.0 */

/* What is asked of sessions themselves: create, fork, rewind, close, list; and of the prefix caches: forget. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "message.h"
#include "session-private.h"

static int draw_id(struct sessions *t, char out[SESSION_ID_TEXT + 1]) {
        uint8_t bytes[SESSION_ID_BYTES];

        do {
                if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
                        return -EIO;
                for (size_t i = 0; i < sizeof(bytes); i++)
                        (void)snprintf(out + 2 * i, 3, "%02x", bytes[i]);
        } while (session_find(t, out));
        return 0;
}

/* A new, empty one for the user who asks; NULL where r has failed. */
static struct session *make_session(struct sessions *t, struct request *r, const char *model, const char *name,
                                    bool persistent) {
        char id[SESSION_ID_TEXT + 1];
        struct session *s;

        if (!session_name_valid(name)) {
                request_fail_with(r, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                  "name: it has at most %u bytes and no control characters.", SESSION_NAME_MAX);
                return NULL;
        }
        if (user_charge(r->user, USER_SESSIONS, 1)) {
                request_fail_with(r, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                  "Your user has %llu sessions, which is all it may have; close one.",
                                  (unsigned long long)r->user->limits[USER_SESSIONS]);
                return NULL;
        }
        s = draw_id(t, id) < 0 ? NULL : session_new(t, r->user, id);
        if (!s) {
                user_release(r->user, USER_SESSIONS, 1);
                request_fail_with(r, SPARK__V1__ERROR_CODE__INTERNAL, "Out of memory.");
                return NULL;
        }
        (void)snprintf(s->model, sizeof(s->model), "%s", model);
        (void)snprintf(s->name, sizeof(s->name), "%s", name);
        s->persistent = persistent;
        if (!persistent) {
                s->connection = r->origin.client;
                t->n_bound++;
        }
        return s;
}

static void operate_create(struct sessions *t, struct request *r, const Spark__V1__SessionCreate *c) {
        struct request_error error;
        struct model *model = models_find(t->manager, c->model, &error);
        struct session *s;

        if (!model) {
                request_fail(r, &error);
                return;
        }
        s = make_session(t, r, model->name, c->name, c->persistent);
        if (!s)
                return;
        session_changed(s);
        session_answer(r, s, NULL);
}

static void operate_fork(struct sessions *t, struct request *r, const Spark__V1__SessionFork *f) {
        struct request_error error;
        struct session *from = session_get(t, f->session, r->user, &error), *s;

        if (!from) {
                request_fail(r, &error);
                return;
        }
        if (!session_need_text(from, r))
                return;
        s = make_session(t, r, from->model, *f->name ? f->name : from->name, f->persistent);
        if (!s)
                return;
        session_set_text(s, session_text_ref(from->text), from->n);
        s->vocabulary = from->vocabulary;
        s->parameters = from->parameters;
        s->kv_engine = from->kv_engine;
        from->used_us = manager_now_us();
        session_changed(s);
        session_answer(r, s, NULL);
}

static bool session_is_busy(const struct session *s, struct request *r) {
        if (s->turn)
                request_fail_busy(r, "The session is busy with another request.", SESSION_BUSY_RETRY_MS);
        return s->turn;
}

static void operate_rewind(struct sessions *t, struct request *r, const Spark__V1__SessionRewind *w) {
        struct request_error error;
        struct session *s = session_get(t, w->session, r->user, &error);

        if (!s) {
                request_fail(r, &error);
                return;
        }
        if (session_is_busy(s, r) || !session_need_text(s, r))
                return;
        if (w->tokens > s->n) {
                request_fail_with(r, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                  "tokens: the session has %llu, it can't be cut back to %llu.",
                                  (unsigned long long)s->n, (unsigned long long)w->tokens);
                return;
        }
        if (w->tokens < s->n) {
                if (w->tokens == 0)
                        session_set_text(s, NULL, 0);
                s->n = w->tokens;
                session_changed(s);
        }
        session_answer(r, s, NULL);
}

static void operate_close(struct sessions *t, struct request *r, const Spark__V1__SessionClose *c) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        struct request_error error;
        struct session *s = session_find(t, c->session);

        if (!s || !request_origin_may(&r->origin, RIGHT_MANAGE_MODELS)) /* who may close all is spared the check */
                s = session_get(t, c->session, r->user, &error);
        if (!s) {
                request_fail(r, &error);
                return;
        }
        if (s->persistent && session_store_remove(s, r->key) < 0) {
                request_fail_busy(r, "The disk is busy; the session can't be closed now.", SESSION_BUSY_RETRY_MS);
                return;
        }
        done.result_case = SPARK__V1__DONE__RESULT__NOT_SET;
        if (s->persistent) { /* answered when the files are gone */
                (void)session_free(s);
                return;
        }
        (void)session_free(s);
        request_finish(r, &done);
}

static void operate_list(struct sessions *t, struct request *r, const Spark__V1__Sessions *asked) {
        Spark__V1__SessionsResult result = SPARK__V1__SESSIONS_RESULT__INIT;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        _cleanup_free_ Spark__V1__SessionInfo *infos = NULL;
        _cleanup_free_ Spark__V1__SessionInfo **list = NULL;
        bool all = manager_is_privileged(r->user->uid) || asked->all_users;
        struct list *pos, *tmp;
        size_t n = 0;

        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &t->buckets[i])
                        n += all || LIST_ENTRY(pos, struct session, link)->user == r->user;
        infos = calloc(n + 1, sizeof(*infos));
        list = calloc(n + 1, sizeof(Spark__V1__SessionInfo *));
        if (!infos || !list) {
                request_fail_with(r, SPARK__V1__ERROR_CODE__INTERNAL, "Out of memory.");
                return;
        }
        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &t->buckets[i]) {
                        const struct session *s = LIST_ENTRY(pos, struct session, link);

                        if (!all && s->user != r->user)
                                continue;
                        session_fill_info(s, &infos[result.n_sessions]);
                        list[result.n_sessions] = &infos[result.n_sessions];
                        result.n_sessions++;
                }
        result.sessions = list;
        done.result_case = SPARK__V1__DONE__RESULT_SESSIONS;
        done.sessions = &result;
        request_finish(r, &done);
}

/* What the engines cache goes; sessions whose KV is on disk may get it back from there. */
static void operate_forget(struct sessions *t, struct request *r, const Spark__V1__Forget *f) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        struct request_error error;
        struct list *pos, *tmp;
        bool asked = false;

        if (*f->model && !models_find(t->manager, f->model, &error)) {
                request_fail(r, &error);
                return;
        }
        LIST_FOREACH(pos, tmp, &t->manager->models.list) {
                struct model *model = LIST_ENTRY(pos, struct model, link);

                if (model->engine && (!*f->model || strcmp(model->name, f->model) == 0))
                        asked |= session_kv_drop(t, model->engine, r, f->all_users);
        }
        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &t->buckets[i]) {
                        struct session *s = LIST_ENTRY(pos, struct session, link);

                        if ((f->all_users || s->user == r->user) && (!*f->model || strcmp(s->model, f->model) == 0))
                                s->kv_engine = 0;
                }
        if (!asked)
                request_finish(r, &done);
}

void session_operate(struct sessions *t, struct request *r) {
        const Spark__V1__ClientFrame *f;
        ProtobufCMessage *m = NULL;
        int e = message_unpack(&spark__v1__client_frame__descriptor, r->journal.frame, r->journal.frame_size, &m, NULL);

        if (e) { /* it was unpacked when it came, so this is memory */
                request_fail_with(r, SPARK__V1__ERROR_CODE__INTERNAL, "Out of memory.");
                return;
        }
        f = (const Spark__V1__ClientFrame *)m;
        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_CREATE:
                operate_create(t, r, f->session_create);
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_FORK:
                operate_fork(t, r, f->session_fork);
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_REWIND:
                operate_rewind(t, r, f->session_rewind);
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_CLOSE:
                operate_close(t, r, f->session_close);
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SESSIONS:
                operate_list(t, r, f->sessions);
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_FORGET:
                operate_forget(t, r, f->forget);
                break;
        default:
                session_turn_begin(t, r, f);
        }
        (void)message_free(m);
}
