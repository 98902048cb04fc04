/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "kept.h"
#include "message.h"
#include "request/request.h"

#define OUTPUT_MAX ((size_t)1 << 30)
#define INPUT_MAX ((size_t)CHANNEL_FRAME_MAX + (1u << 20))
#define TEXT_MAX ((size_t)1 << 20)
#define HEADER_SIZE 4u

/* ---- tables ---- */

static struct list *bucket_of(struct list *buckets, uint64_t id) {
        return &buckets[(id ^ id >> 16) % KEPT_BUCKETS];
}

static struct kept_place *find(struct list *buckets, uint64_t number) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, bucket_of(buckets, number)) {
                struct kept_place *p = LIST_ENTRY(pos, struct kept_place, link);

                if (p->number == number)
                        return p;
        }
        return NULL;
}

static void enter(struct list *buckets, struct kept_place *p, uint64_t number) {
        p->number = number;
        list_append(bucket_of(buckets, number), &p->link);
}

struct kept_connection *kept_find_connection(struct kept *k, uint64_t id) {
        struct kept_place *p = find(k->connection_buckets, id);

        return p ? CONTAINER_OF(p, struct kept_connection, place) : NULL;
}

struct kept_request *kept_find_request(struct kept *k, uint64_t key) {
        struct kept_place *p = find(k->request_buckets, key);

        return p ? CONTAINER_OF(p, struct kept_request, place) : NULL;
}

static void connection_free(struct kept_connection *c) {
        list_remove(&c->link);
        list_remove(&c->place.link);
        buf_deinit(&c->input);
        buf_deinit(&c->output);
        free(c);
}

static void request_free(struct kept_request *r) {
        list_remove(&r->link);
        list_remove(&r->place.link);
        buf_deinit(&r->frame);
        buf_deinit(&r->tokens);
        buf_deinit(&r->text);
        pending_deinit(&r->pending);
        free(r);
}

int kept_new(struct kept **ret) {
        struct kept *k = calloc(1, sizeof(*k));

        if (!k)
                return -ENOMEM;
        list_init(&k->connections);
        list_init(&k->requests);
        for (size_t i = 0; i < KEPT_BUCKETS; i++) {
                list_init(&k->connection_buckets[i]);
                list_init(&k->request_buckets[i]);
        }
        *ret = k;
        return 0;
}

struct kept *kept_free(struct kept *k) {
        struct list *pos, *tmp;

        if (!k)
                return NULL;
        LIST_FOREACH(pos, tmp, &k->connections)
                connection_free(LIST_ENTRY(pos, struct kept_connection, link));
        LIST_FOREACH(pos, tmp, &k->requests)
                request_free(LIST_ENTRY(pos, struct kept_request, link));
        free(k);
        return NULL;
}

static void spoil(struct kept *k, bool *bad) {
        if (!*bad)
                k->spoiled++;
        *bad = true;
}

static void set_text(char *out, size_t size, const char *text) {
        (void)snprintf(out, size, "%s", text);
}

static bool append(struct buf *b, const void *data, size_t n) {
        return n == 0 || buf_append(b, data, n) == 0;
}

static uint64_t sequence_of(uint64_t key) {
        return key >> REQUEST_KEY_SLOT_BITS;
}

/* ---- connections ---- */

/* Takes off whole frames that are sent. */
static bool output_advance(struct kept_connection *c, uint64_t n) {
        size_t at = 0;

        if (n > c->output.len - c->output_skip)
                return false;
        c->output_skip += (size_t)n;
        c->sent += n;
        while (c->output.len - at >= HEADER_SIZE) {
                const uint8_t *p = (const uint8_t *)c->output.data + at;
                size_t size = HEADER_SIZE + ((size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24);

                if (size > c->output_skip)
                        break;
                c->output_skip -= size;
                at += size;
        }
        if (at == c->output.len)
                buf_deinit(&c->output);
        else if (at > 0)
                buf_consume(&c->output, at);
        return true;
}

void kept_connection_sent(struct kept *k, struct kept_connection *c, uint64_t sent) {
        if (sent > c->sent && !output_advance(c, sent - c->sent))
                spoil(k, &c->bad);
}

static void on_connection(struct kept *k, const Spark__State__V1__Connection *m) {
        struct kept_connection *c = kept_find_connection(k, m->id);

        if (c)
                connection_free(c); /* as it stands now */
        c = m->id ? calloc(1, sizeof(*c)) : NULL;
        if (!c) {
                k->spoiled++;
                return;
        }
        *c = (struct kept_connection){
                .id = m->id, .uid = m->uid, .pid = m->pid, .greeted = m->greeted, .prefill_progress = m->prefill_progress,
                .of_bus = m->of_bus, .normal_only = m->normal_only, .closing = m->closing, .sent = m->sent,
                .input = BUF_NULL(INPUT_MAX),
                .output = BUF_NULL(OUTPUT_MAX), .output_skip = (size_t)m->output_skip, .descriptors = m->descriptors,
                .descriptors_kept = m->descriptors_kept, .start_time = m->start_time, .rights = m->rights,
        };
        set_text(c->unit, sizeof(c->unit), m->unit);
        list_append(&k->connections, &c->link);
        enter(k->connection_buckets, &c->place, c->id);
        k->last_connection = MAX(k->last_connection, c->id);
        if (!append(&c->input, m->input.data, m->input.len) || !append(&c->output, m->output.data, m->output.len) ||
            m->output_skip > m->output.len)
                spoil(k, &c->bad);
        if (c->bad)
                c->output_skip = 0;
}

static void on_connection_input(struct kept *k, const Spark__State__V1__ConnectionInput *m) {
        struct kept_connection *c = kept_find_connection(k, m->id);

        if (!c)
                return;
        if (m->taken > c->input.len || m->descriptors < c->descriptors) {
                spoil(k, &c->bad);
                return;
        }
        if (m->taken == c->input.len)
                buf_deinit(&c->input);
        else if (m->taken > 0)
                buf_consume(&c->input, (size_t)m->taken);
        if (!append(&c->input, m->kept.data, m->kept.len))
                spoil(k, &c->bad);
        c->descriptors = m->descriptors;
        c->descriptors_kept = m->descriptors_kept;
}

static void on_connection_output(struct kept *k, const Spark__State__V1__ConnectionOutput *m) {
        struct kept_connection *c = kept_find_connection(k, m->id);

        if (c && !append(&c->output, m->frames.data, m->frames.len))
                spoil(k, &c->bad);
}

static void on_connection_sent(struct kept *k, const Spark__State__V1__ConnectionSent *m) {
        struct kept_connection *c = kept_find_connection(k, m->id);

        if (!c)
                return;
        if (m->sent < c->sent)
                spoil(k, &c->bad);
        else
                kept_connection_sent(k, c, m->sent);
}

static void on_connection_greeted(struct kept *k, const Spark__State__V1__ConnectionGreeted *m) {
        struct kept_connection *c = kept_find_connection(k, m->id);

        if (!c)
                return;
        c->greeted = true;
        c->prefill_progress = m->prefill_progress;
}

static void on_connection_gone(struct kept *k, const Spark__State__V1__ConnectionGone *m) {
        struct kept_connection *c = kept_find_connection(k, m->id);

        if (c)
                connection_free(c);
}

/* ---- requests ---- */

static bool add_tokens(struct kept_request *r, const uint32_t *ids, size_t n) {
        return append(&r->tokens, ids, n * sizeof(*ids));
}

static bool add_pending(struct kept_request *r, const ProtobufCBinaryData *packed) {
        ProtobufCMessage *m;
        Spark__V1__Token *t;
        bool good;

        if (packed->len == 0)
                return true;
        if (message_unpack(&spark__v1__token__descriptor, packed->data, packed->len, &m, NULL) != 0)
                return false;
        t = (Spark__V1__Token *)m;
        good = r->connection ? pending_add(&r->pending, t) == 0 : append(&r->text, t->text.data, t->text.len);
        (void)message_free(m);
        return good;
}

static bool request_fill(struct kept_request *r, const Spark__State__V1__Request *m) {
        if (!append(&r->frame, m->frame.data, m->frame.len) ||
            (!m->accepted && (m->n_prompt > 0 || m->n_generated > 0)))
                return false;
        r->n_prompt = m->n_prompt;
        r->n_generated = m->n_generated;
        return add_tokens(r, m->prompt, m->n_prompt) && add_tokens(r, m->generated, m->n_generated) &&
               append(&r->text, m->text.data, m->text.len) && add_pending(r, &m->pending);
}

static void on_request(struct kept *k, const Spark__State__V1__Request *m) {
        struct kept_request *r = kept_find_request(k, m->key);

        if (r)
                request_free(r);
        r = m->key ? calloc(1, sizeof(*r)) : NULL;
        if (!r) {
                k->spoiled++;
                return;
        }
        *r = (struct kept_request){
                .key = m->key, .connection = m->connection, .id = m->id, .client = m->client, .credit = m->credit,
                .arrived_us = m->arrived_us, .first_token_us = m->first_token_us, .seed = m->seed,
                .session_tokens = m->session_tokens, .sent = m->sent, .kv_limit = m->kv_limit, .uid = m->uid,
                .pid = m->pid, .kind = m->kind,
                .priority = m->priority, .losses = m->losses, .input = m->input, .accepted = m->accepted, .begun = m->begun,
                .ended = m->ended, .asking = m->asking, .granted = m->granted, .frame = BUF_NULL(CHANNEL_FRAME_MAX),
                .tokens = BUF_NULL(KEPT_TOKENS_MAX * sizeof(uint32_t)), .text = BUF_NULL(TEXT_MAX),
        };
        pending_init(&r->pending);
        set_text(r->unit, sizeof(r->unit), m->unit);
        set_text(r->model, sizeof(r->model), m->model);
        set_text(r->session, sizeof(r->session), m->session);
        list_append(&k->requests, &r->link);
        enter(k->request_buckets, &r->place, r->key);
        k->last_request = MAX(k->last_request, sequence_of(r->key));
        k->last_connection = MAX(k->last_connection, r->client);
        if (!request_fill(r, m))
                spoil(k, &r->bad);
}

static void on_request_accepted(struct kept *k, const Spark__State__V1__RequestAccepted *m) {
        struct kept_request *r = kept_find_request(k, m->key);

        if (!r)
                return;
        if (r->n_generated > 0) {
                spoil(k, &r->bad);
                return;
        }
        buf_clear(&r->tokens); /* one that is asked anew is accepted anew */
        r->accepted = r->begun = true;
        r->kv_limit = m->kv_limit;
        r->seed = m->seed;
        if (m->of_session)
                r->session_tokens = m->session_tokens;
        r->n_prompt = m->n_prompt;
        if (!add_tokens(r, m->prompt, m->n_prompt))
                spoil(k, &r->bad);
}

static void on_request_tokens(struct kept *k, const Spark__State__V1__RequestTokens *m) {
        struct kept_request *r = kept_find_request(k, m->key);

        if (!r)
                return;
        if (!r->accepted || (r->credit != KEPT_CREDIT_ALL && m->n_ids > r->credit) || !add_tokens(r, m->ids, m->n_ids) ||
            !add_pending(r, &m->pending)) {
                spoil(k, &r->bad);
                return;
        }
        r->n_generated += m->n_ids;
        if (r->credit != KEPT_CREDIT_ALL)
                r->credit -= m->n_ids;
}

static void on_request_queued(struct kept *k, const Spark__State__V1__RequestQueued *m) {
        struct kept_request *r = kept_find_request(k, m->key);

        if (r)
                pending_clear(&r->pending);
}

static void on_request_credit(struct kept *k, const Spark__State__V1__RequestCredit *m) {
        struct kept_request *r = kept_find_request(k, m->key);

        if (r && r->credit != KEPT_CREDIT_ALL && __builtin_add_overflow(r->credit, m->tokens, &r->credit))
                r->credit = KEPT_CREDIT_ALL - 1;
}

void kept_request_sent(struct kept *k, struct kept_request *r, uint64_t sent) {
        uint64_t n = sent > r->sent ? sent - r->sent : 0;

        if (n > r->text.len) {
                spoil(k, &r->bad);
                return;
        }
        buf_consume(&r->text, (size_t)n);
        r->sent += n;
}

static void on_request_sent(struct kept *k, const Spark__State__V1__RequestSent *m) {
        struct kept_request *r = kept_find_request(k, m->key);

        if (r)
                kept_request_sent(k, r, m->sent);
}

static void on_request_granted(struct kept *k, const Spark__State__V1__RequestGranted *m) {
        struct kept_request *r = kept_find_request(k, m->key);

        if (!r)
                return;
        r->asking = false;
        r->granted = m->granted;
}

static void on_request_gone(struct kept *k, const Spark__State__V1__RequestGone *m) {
        struct kept_request *r = kept_find_request(k, m->key);

        if (r)
                request_free(r);
}

/* ---- records ---- */

static void on_numbers(struct kept *k, const Spark__State__V1__Numbers *m) {
        k->last_connection = MAX(k->last_connection, m->connection);
        k->last_request = MAX(k->last_request, m->request);
}

void kept_apply(struct kept *k, const Spark__State__V1__Record *record) {
        switch (record->body_case) {
        case SPARK__STATE__V1__RECORD__BODY_CONNECTION:
                on_connection(k, record->connection);
                return;
        case SPARK__STATE__V1__RECORD__BODY_CONNECTION_GONE:
                on_connection_gone(k, record->connection_gone);
                return;
        case SPARK__STATE__V1__RECORD__BODY_CONNECTION_GREETED:
                on_connection_greeted(k, record->connection_greeted);
                return;
        case SPARK__STATE__V1__RECORD__BODY_CONNECTION_INPUT:
                on_connection_input(k, record->connection_input);
                return;
        case SPARK__STATE__V1__RECORD__BODY_CONNECTION_OUTPUT:
                on_connection_output(k, record->connection_output);
                return;
        case SPARK__STATE__V1__RECORD__BODY_CONNECTION_SENT:
                on_connection_sent(k, record->connection_sent);
                return;
        case SPARK__STATE__V1__RECORD__BODY_REQUEST:
                on_request(k, record->request);
                return;
        case SPARK__STATE__V1__RECORD__BODY_REQUEST_GONE:
                on_request_gone(k, record->request_gone);
                return;
        case SPARK__STATE__V1__RECORD__BODY_REQUEST_ACCEPTED:
                on_request_accepted(k, record->request_accepted);
                return;
        case SPARK__STATE__V1__RECORD__BODY_REQUEST_TOKENS:
                on_request_tokens(k, record->request_tokens);
                return;
        case SPARK__STATE__V1__RECORD__BODY_REQUEST_QUEUED:
                on_request_queued(k, record->request_queued);
                return;
        case SPARK__STATE__V1__RECORD__BODY_REQUEST_CREDIT:
                on_request_credit(k, record->request_credit);
                return;
        case SPARK__STATE__V1__RECORD__BODY_REQUEST_GRANTED:
                on_request_granted(k, record->request_granted);
                return;
        case SPARK__STATE__V1__RECORD__BODY_REQUEST_SENT:
                on_request_sent(k, record->request_sent);
                return;
        case SPARK__STATE__V1__RECORD__BODY_NUMBERS:
                on_numbers(k, record->numbers);
                return;
        default:
                return;
        }
}

static int by_sequence(const void *a, const void *b) {
        uint64_t x = sequence_of((*(struct kept_request *const *)a)->key),
                 y = sequence_of((*(struct kept_request *const *)b)->key);

        return x < y ? -1 : x > y;
}

int kept_sort(struct kept *k) {
        _cleanup_free_ struct kept_request **all = NULL;
        struct list *pos, *tmp;
        size_t n = 0, i = 0;

        LIST_FOREACH(pos, tmp, &k->requests)
                n++;
        all = reallocarray(NULL, n + 1, sizeof(void *));
        if (!all)
                return -ENOMEM;
        LIST_FOREACH(pos, tmp, &k->requests) {
                list_remove(pos);
                all[i++] = LIST_ENTRY(pos, struct kept_request, link);
        }
        qsort(all, n, sizeof(void *), by_sequence);
        for (i = 0; i < n; i++)
                list_append(&k->requests, &all[i]->link);
        return 0;
}
