/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "message.h"
#include "session-keep.h"
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

const struct session *sessions_next(const struct sessions *t, const struct session *before) {
        const struct list *bucket = t->buckets, *end = t->buckets + SESSION_BUCKETS, *link = t->buckets;

        if (before) {
                bucket = bucket_of((struct sessions *)t, before->id);
                link = &before->link;
        }
        while (link->next == bucket) { /* its last one */
                if (++bucket == end)
                        return NULL;
                link = bucket;
        }
        return LIST_ENTRY(link->next, struct session, link);
}

const char *session_id(const struct session *s) {
        return s->id;
}

uid_t session_uid(const struct session *s) {
        return s->user->uid;
}

void sessions_watch(struct sessions *t, void (*told)(void *userdata, const struct session *s, bool removed), void *userdata) {
        t->told = told;
        t->told_userdata = userdata;
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
        if (t->told)
                t->told(t->told_userdata, s, false);
        return s;
}

struct session *session_free(struct session *s) {
        struct sessions *t = s->table;
        struct list *node;

        if (t->told)
                t->told(t->told_userdata, s, true);
        if (s->turn)
                request_abort(s->turn, SPARK__V1__ERROR_CODE__CANCELLED, "The session was closed.");
        session_keep_gone(s);
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
        else
                session_keep(s);
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

void session_fill_info(const struct session *s, Spark__V1__SessionInfo *info) {
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

        session_fill_info(s, &info);
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
                        session_operate(t, r);
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

bool sessions_sync(struct sessions *t) {
        uint64_t now_us = manager_now_us();
        struct list *pos, *tmp;
        bool synced = true;

        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &t->buckets[i]) {
                        struct session *s = LIST_ENTRY(pos, struct session, link);

                        if (s->persistent && (s->tried != s->version || now_us >= s->retry_us))
                                session_store_save(s); /* nothing where nothing is due */
                        synced = synced && !s->saving;
                }
        return synced;
}

size_t sessions_count_unsaved(const struct sessions *t) {
        struct list *pos, *tmp;
        size_t n = 0;

        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, (struct list *)&t->buckets[i]) {
                        const struct session *s = LIST_ENTRY(pos, struct session, link);

                        n += s->persistent && s->saved != s->version;
                }
        return n;
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
