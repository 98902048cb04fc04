/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "keep/keep.h"
#include "restore-clients.h"
#include "session-keep.h"
#include "session-private.h"

/* ---- writing ---- */

static void append_session(struct keep *k, const struct session *s) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;
        Spark__State__V1__Session m = SPARK__STATE__V1__SESSION__INIT;

        m.id = (char *)s->id;
        m.connection = s->connection;
        m.uid = (uint32_t)s->user->uid;
        m.model = (char *)s->model;
        m.name = (char *)s->name;
        m.vocabulary = s->vocabulary;
        m.parameters = s->parameters;
        m.tokens = s->text ? s->text->ids : NULL;
        m.n_tokens = s->n;
        m.used_us = s->used_us;
        record.body_case = SPARK__STATE__V1__RECORD__BODY_SESSION;
        record.session = &m;
        keep_append(k, &record);
}

static void append_text(struct keep *k, const struct session *s) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;
        Spark__State__V1__SessionText m = SPARK__STATE__V1__SESSION_TEXT__INIT;

        m.id = (char *)s->id;
        m.keep = MIN(s->kept_n, s->n);
        m.tokens = s->n > m.keep ? s->text->ids + m.keep : NULL;
        m.n_tokens = s->n - m.keep;
        m.vocabulary = s->vocabulary;
        m.parameters = s->parameters;
        record.body_case = SPARK__STATE__V1__RECORD__BODY_SESSION_TEXT;
        record.session_text = &m;
        keep_append(k, &record);
}

void session_keep(struct session *s) {
        struct keep *k = s->table->manager->keep;

        if (s->persistent || !keep_is_on(k))
                return;
        if (s->kept)
                append_text(k, s);
        else
                append_session(k, s);
        s->kept = true;
        s->kept_n = s->n;
}

void session_keep_gone(struct session *s) {
        Spark__State__V1__Record record = SPARK__STATE__V1__RECORD__INIT;
        Spark__State__V1__SessionGone m = SPARK__STATE__V1__SESSION_GONE__INIT;

        if (!s->kept)
                return;
        m.id = s->id;
        record.body_case = SPARK__STATE__V1__RECORD__BODY_SESSION_GONE;
        record.session_gone = &m;
        keep_append(s->table->manager->keep, &record);
}

void sessions_keep_all(struct sessions *t, struct keep *k) {
        struct list *pos, *tmp;

        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &t->buckets[i]) {
                        struct session *s = LIST_ENTRY(pos, struct session, link);

                        if (s->persistent)
                                continue;
                        append_session(k, s);
                        s->kept = true;
                        s->kept_n = s->n;
                }
}

/* ---- reading ---- */

struct session_kept {
        char id[SESSION_ID_TEXT + 1], model[CONFIG_MODEL_NAME_MAX + 1], name[SESSION_NAME_MAX + 1];
        uint64_t connection, parameters, used_us;
        uid_t uid;
        uint32_t vocabulary;
        uint32_t *ids;
        size_t n, room;
};

static struct session_kept *find_kept(struct sessions_kept *kept, const char *id) {
        for (size_t i = kept->n; i > 0; i--)
                if (strcmp(kept->list[i - 1].id, id) == 0)
                        return &kept->list[i - 1];
        return NULL;
}

/* The first `keep` tokens, and these behind them. */
static int set_tokens(struct session_kept *s, uint64_t keep, const uint32_t *ids, size_t n) {
        size_t end;

        if (keep > s->n || __builtin_add_overflow((size_t)keep, n, &end))
                return -EBADMSG;
        if (end > s->room) {
                size_t room = MAX(end, s->room * 2);
                uint32_t *p = reallocarray(s->ids, room, sizeof(*p));

                if (!p)
                        return -ENOMEM;
                s->ids = p;
                s->room = room;
        }
        if (n)
                memcpy(s->ids + keep, ids, n * sizeof(*ids));
        s->n = end;
        return 0;
}

static int read_session(struct sessions_kept *kept, const Spark__State__V1__Session *m) {
        struct session_kept *s;

        if (strlen(m->id) > SESSION_ID_TEXT || find_kept(kept, m->id))
                return -EBADMSG;
        if (kept->n == kept->room) {
                size_t room = MAX(kept->room * 2, (size_t)16);
                struct session_kept *list = reallocarray(kept->list, room, sizeof(*list));

                if (!list)
                        return -ENOMEM;
                kept->list = list;
                kept->room = room;
        }
        s = &kept->list[kept->n++];
        *s = (struct session_kept){ .connection = m->connection, .parameters = m->parameters, .used_us = m->used_us,
                                    .uid = (uid_t)m->uid, .vocabulary = m->vocabulary };
        (void)snprintf(s->id, sizeof(s->id), "%s", m->id);
        (void)snprintf(s->model, sizeof(s->model), "%s", m->model);
        (void)snprintf(s->name, sizeof(s->name), "%s", m->name);
        return set_tokens(s, 0, m->tokens, m->n_tokens);
}

static int read_text(struct sessions_kept *kept, const Spark__State__V1__SessionText *m) {
        struct session_kept *s = find_kept(kept, m->id);

        if (!s)
                return -EBADMSG;
        s->vocabulary = m->vocabulary;
        s->parameters = m->parameters;
        return set_tokens(s, m->keep, m->tokens, m->n_tokens);
}

static void read_gone(struct sessions_kept *kept, const char *id) {
        struct session_kept *s = find_kept(kept, id);

        if (!s)
                return;
        free(s->ids);
        *s = kept->list[--kept->n];
}

void sessions_kept_read(struct sessions_kept *kept, const Spark__State__V1__Record *record) {
        int r = 0;

        if (record->body_case == SPARK__STATE__V1__RECORD__BODY_SESSION)
                r = read_session(kept, record->session);
        else if (record->body_case == SPARK__STATE__V1__RECORD__BODY_SESSION_TEXT)
                r = read_text(kept, record->session_text);
        else if (record->body_case == SPARK__STATE__V1__RECORD__BODY_SESSION_GONE)
                read_gone(kept, record->session_gone->id);
        if (r < 0)
                kept->failed = true;
}

void sessions_kept_deinit(struct sessions_kept *kept) {
        for (size_t i = 0; i < kept->n; i++)
                free(kept->list[i].ids);
        free(kept->list);
        *kept = (struct sessions_kept){ 0 };
}

/* ---- putting them back ---- */

/* A user may have more than it is allowed now: what there is stays. */
static int restore_text(struct session *s, const struct session_kept *kept) {
        uint64_t bytes = (uint64_t)kept->n * sizeof(*kept->ids);
        uint32_t *ids = malloc(bytes + 1);

        if (!ids)
                return -ENOMEM;
        if (kept->n)
                memcpy(ids, kept->ids, bytes);
        user_charge_found(s->user, USER_BYTES, bytes);
        s->text = session_text_new(s->user, ids, kept->n, bytes);
        if (!s->text) {
                user_release(s->user, USER_BYTES, bytes);
                free(ids);
                return -ENOMEM;
        }
        s->n = kept->n;
        return 0;
}

static int restore_one(struct sessions *t, const struct session_kept *kept) {
        struct user *user = users_get(&t->manager->users, kept->uid);
        struct session *s = user ? session_new(t, user, kept->id) : NULL;

        (void)user_unref(user);
        if (!s)
                return -ENOMEM;
        user_charge_found(s->user, USER_SESSIONS, 1);
        t->n_bound++;
        (void)snprintf(s->model, sizeof(s->model), "%s", kept->model);
        (void)snprintf(s->name, sizeof(s->name), "%s", kept->name);
        s->connection = kept->connection;
        s->vocabulary = kept->vocabulary;
        s->parameters = kept->parameters;
        s->used_us = kept->used_us;
        return kept->n ? restore_text(s, kept) : 0;
}

int sessions_restore(struct manager *m, const struct sessions_kept *kept) {
        int r = 0;

        if (kept->failed)
                log_warning("sessions without files could not be read out of what was kept; some are gone");
        for (size_t i = 0; i < kept->n && r >= 0; i++)
                if (!session_find(m->sessions, kept->list[i].id))
                        r = restore_one(m->sessions, &kept->list[i]);
        return r;
}

void sessions_restored(struct manager *m) {
        struct list *pos, *tmp;

        for (size_t i = 0; i < SESSION_BUCKETS; i++)
                LIST_FOREACH(pos, tmp, &m->sessions->buckets[i]) {
                        struct session *s = LIST_ENTRY(pos, struct session, link);

                        if (!s->persistent && !clients_has(m, s->connection))
                                sessions_connection_gone(m->sessions, s->connection);
                }
}
