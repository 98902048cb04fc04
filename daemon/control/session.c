/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/log.h"
#include "engine.h"
#include "message.h"
#include "session-private.h"

/* ---- table ---- */

static struct list *bucket_of(struct sessions *t, const char *id) {
        unsigned v = 5381;

        for (size_t i = 0; i < 4 && id[i]; i++) /* ids are drawn: any part of them will do */
                v = v * 33 + (unsigned char)id[i];
        return &t->buckets[v % SESSION_BUCKETS];
}

struct session *session_find(struct sessions *t, const char *id) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, bucket_of(t, id)) {
                struct session *s = LIST_ENTRY(pos, struct session, link);

                if (strcmp(s->id, id) == 0)
                        return s;
        }
        return NULL;
}

struct session *session_new(struct sessions *t, struct user *user, const char *id) {
        struct session *s = calloc(1, sizeof(*s));

        if (!s)
                return NULL;
        s->table = t;
        s->user = user_ref(user);
        (void)snprintf(s->id, sizeof(s->id), "%s", id);
        list_init(&s->doomed_link);
        list_init(&s->waiting);
        list_init(&s->finishing);
        list_append(bucket_of(t, id), &s->link);
        return s;
}

struct session *session_free(struct session *s) {
        struct sessions *t = s->table;
        struct list *node;

        if (s->turn)
                request_abort(s->turn, SPARK__V1__ERROR_CODE__CANCELLED, "The session was closed.");
        list_remove(&s->link); /* requests that look for it from here on do not find it */
        list_remove(&s->doomed_link);
        session_answer_waiting(s, true);
        while ((node = list_pop(&s->waiting)))
                list_append(&t->incoming, node);
        session_kv_forget(s);
        if (s->saving)
                s->saving->session = NULL;
        if (s->loading)
                s->loading->session = NULL;
        if (!s->persistent)
                t->n_bound--;
        user_release(s->user, USER_SESSIONS, 1);
        user_release(s->user, USER_DISK, s->file_bytes + s->kv_bytes);
        s->text = session_text_unref(s->text);
        s->user = user_unref(s->user);
        free(s);
        manager_kick(t->manager);
        return NULL;
}

struct session *session_get(struct sessions *t, const char *id, const struct user *user, struct request_error *error) {
        struct session *s = session_find(t, id);

        if (s && s->user == user)
                return s;
        if (s && manager_is_privileged(user->uid))
                request_error_set(error, SPARK__V1__ERROR_CODE__PERMISSION_DENIED,
                                  "session: it is user %u's, to be listed and closed by you but not to be read.",
                                  (unsigned)s->user->uid);
        else /* the same for one that is another user's: nobody learns of those */
                request_error_set(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                  "session: there is no session '%.64s'.", id);
        return NULL;
}

void session_set_text(struct session *s, struct session_text *text, uint64_t n) {
        (void)session_text_unref(s->text);
        s->text = text;
        s->n = n;
}

void session_changed(struct session *s) {
        s->version++;
        s->used_us = manager_now_us();
        s->used_s = (uint64_t)time(NULL);
        if (s->persistent)
                session_store_save(s);
}

uint64_t session_idle_us(const struct session *s, uint64_t now_us) {
        uint64_t now_s = (uint64_t)time(NULL);

        if (s->turn)
                return 0;
        if (s->used_us)
                return now_us > s->used_us ? now_us - s->used_us : 0;
        return now_s > s->used_s ? (now_s - s->used_s) * 1000000u : 0;
}

/* ---- answers ---- */

static void fill_info(const struct session *s, Spark__V1__SessionInfo *info) {
        *info = (Spark__V1__SessionInfo)SPARK__V1__SESSION_INFO__INIT;
        info->id = (char *)s->id;
        info->model = (char *)s->model;
        info->name = (char *)s->name;
        info->uid = s->user->uid;
        info->tokens = s->n;
        info->persistent = s->persistent;
        info->state = (char *)(s->turn ? "busy" : s->stored ? "stored" : "idle");
        info->idle_s = (float)((double)session_idle_us(s, manager_now_us()) / 1e6);
        if (s->persistent && s->saved == s->version)
                info->stored_bytes = s->file_bytes + s->kv_bytes;
}

static void answer_at_once(struct request *r, const struct session *s, const Spark__V1__Done *done) {
        Spark__V1__Done full = done ? *done : (Spark__V1__Done)SPARK__V1__DONE__INIT;
        Spark__V1__SessionInfo info;

        fill_info(s, &info);
        full.result_case = SPARK__V1__DONE__RESULT_SESSION;
        full.session = &info;
        if (r->sink)
                r->sink->done(r->userdata, r, &full);
        request_release(r);
}

void session_answer_now(struct request *r) {
        ProtobufCMessage *m = NULL;

        /* we packed it ourselves: what is missing of it now is memory, and then all but the session is left out */
        if (r->turn.done &&
            message_unpack(&spark__v1__done__descriptor, r->turn.done, r->turn.done_size, &m, NULL) != 0)
                m = NULL;
        answer_at_once(r, r->turn.answers, (Spark__V1__Done *)m);
        (void)message_free(m);
}

static uint8_t *done_pack(const Spark__V1__Done *done, size_t *ret_size) {
        Spark__V1__Done plain = *done;
        uint8_t *packed;

        plain.result_case = SPARK__V1__DONE__RESULT__NOT_SET;
        plain.tokenize = NULL;
        *ret_size = spark__v1__done__get_packed_size(&plain);
        packed = malloc(*ret_size + 1);
        if (packed)
                (void)spark__v1__done__pack(&plain, packed);
        return packed;
}

void session_answer(struct request *r, struct session *s, const Spark__V1__Done *done) {
        if (!s->persistent || s->tried == s->version || !r->sink) {
                answer_at_once(r, s, done);
                return;
        }
        if (done) {
                r->turn.done = done_pack(done, &r->turn.done_size);
                if (!r->turn.done) {
                        answer_at_once(r, s, done);
                        return;
                }
        }
        request_finishing(r);
        r->turn.answers = s;
        r->turn.version = s->version;
        r->turn.since_us = manager_now_us();
        list_append(&s->finishing, &r->session_link);
}

void session_answer_waiting(struct session *s, bool all) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &s->finishing) {
                struct request *r = LIST_ENTRY(pos, struct request, session_link);

                if (all || r->turn.version <= s->tried)
                        session_answer_now(r);
        }
}

bool session_need_text(struct session *s, struct request *r) {
        int e;

        if (!s->stored)
                return true;
        list_append(&s->waiting, &r->session_link);
        if (s->loading)
                return false;
        e = session_store_load(s);
        if (e == 0)
                return false;
        if (e == -EDQUOT)
                request_fail_with(r, SPARK__V1__ERROR_CODE__QUOTA_EXCEEDED,
                                  "The requests and sessions of your user take more than %llu bytes.",
                                  (unsigned long long)s->user->limits[USER_BYTES]);
        else
                request_fail_busy(r, "The disk is busy; the session can't be read now.", SESSION_BUSY_RETRY_MS);
        return false;
}

/* ---- what is asked of sessions themselves ---- */

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

        if (!s || !manager_is_privileged(r->user->uid)) /* who may close all is spared the check */
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

static void operate_list(struct sessions *t, struct request *r) {
        Spark__V1__SessionsResult result = SPARK__V1__SESSIONS_RESULT__INIT;
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        _cleanup_free_ Spark__V1__SessionInfo *infos = NULL;
        _cleanup_free_ Spark__V1__SessionInfo **list = NULL;
        bool all = manager_is_privileged(r->user->uid);
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
                        fill_info(s, &infos[result.n_sessions]);
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

        if (f->all_users && !manager_is_privileged(r->user->uid)) {
                request_fail_with(r, SPARK__V1__ERROR_CODE__PERMISSION_DENIED,
                                  "all_users: only root and the daemon's own user may drop what others have cached.");
                return;
        }
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

static void operate(struct sessions *t, struct request *r) {
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
                operate_list(t, r);
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_FORGET:
                operate_forget(t, r, f->forget);
                break;
        default:
                session_turn_begin(t, r, f);
        }
        (void)message_free(m);
}

/* ---- the manager's ---- */

void sessions_add(struct sessions *t, struct request *r) {
        list_append(&t->incoming, &r->session_link);
        manager_kick(t->manager);
}

void sessions_connection_gone(struct sessions *t, uint64_t client) {
        struct list *pos, *tmp;

        for (size_t i = 0; i < SESSION_BUCKETS && t->n_bound > 0; i++)
                LIST_FOREACH(pos, tmp, &t->buckets[i]) {
                        struct session *s = LIST_ENTRY(pos, struct session, link);

                        if (s->persistent || s->connection != client || !list_empty(&s->doomed_link))
                                continue;
                        list_append(&t->doomed, &s->doomed_link);
                        manager_kick(t->manager);
                }
}

void sessions_turn(struct sessions *t) {
        struct list now, *node;

        while ((node = list_pop(&t->doomed)))
                (void)session_free(LIST_ENTRY(node, struct session, doomed_link));
        if (!t->scanned && manager_now_us() - t->since_us < SESSION_SCAN_PATIENCE_US)
                return;
        list_init(&now);
        while ((node = list_pop(&t->incoming)))
                list_append(&now, node);
        while ((node = list_pop(&now))) {
                struct request *r = LIST_ENTRY(node, struct request, session_link);

                if (t->scanned)
                        operate(t, r);
                else
                        request_fail_busy(r, "The sessions on disk are still being looked for.", 1000);
        }
}

void sessions_tick(struct sessions *t, uint64_t now_us) {
        struct list *pos, *tmp;

        if (!list_empty(&t->incoming))
                manager_kick(t->manager);
        session_kv_tick(t, now_us);
        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &t->buckets[i])
                        session_store_tick(LIST_ENTRY(pos, struct session, link), now_us);
}

int sessions_new(struct sessions **ret, struct manager *m) {
        struct sessions *t = calloc(1, sizeof(*t));
        int r;

        if (!t)
                return -ENOMEM;
        t->manager = m;
        t->since_us = manager_now_us();
        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                list_init(&t->buckets[i]);
        list_init(&t->incoming);
        list_init(&t->doomed);
        list_init(&t->errands);
        r = session_store_scan(t);
        if (r < 0) {
                free(t);
                return r;
        }
        *ret = t;
        return 0;
}

struct sessions *sessions_free(struct sessions *t) {
        struct list *pos, *tmp;

        if (!t)
                return NULL;
        session_kv_deinit(t);
        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &t->buckets[i])
                        (void)session_free(LIST_ENTRY(pos, struct session, link));
        free(t);
        return NULL;
}
