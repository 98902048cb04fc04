/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "client/spark.h"
#include "load-request.h"

#define TEXT_MAX ((size_t)64 << 20)
#define BUSY_PAUSE_MIN_US 10e3
#define FAILURES_MAX 3u             /* in a row, then a client gives up */
#define EARLY_CANCEL_US 20000u      /* a request that shall not see its first token is cancelled so soon */
#define SLOW_WINDOW 16u             /* tokens under way to a slow reader, where the group names no window */

static void on_start(struct load_timer *t, double now_us) {
        struct load_request *q = CONTAINER_OF(t, struct load_request, start);

        /* another of the client's requests may have taken its last turn since this one was set */
        if (load_run_may_begin(q->client))
                load_request_begin(q, t->at_us);
}

static void on_cancel(struct load_timer *t, double now_us) {
        load_request_cancel(CONTAINER_OF(t, struct load_request, cancel));
}

/* A slow reader takes one token, if there is one; else the next one that comes starts the clock again. */
static void on_credit(struct load_timer *t, double now_us) {
        struct load_request *q = CONTAINER_OF(t, struct load_request, credit);
        const struct load_run *run = q->client->party->run;

        if (!q->under_way || q->read >= q->tokens)
                return;
        q->read++;
        run->transport->credit_grant(q->client->link, q->id, 1);
        load_loop_at(run->context.loop, t, t->at_us + 1e6 / q->client->party->group->read);
}

struct load_request *load_request_get(struct load_client *c) {
        struct list *pos, *tmp;
        struct load_request *q;

        LIST_FOREACH(pos, tmp, &c->requests) {
                q = LIST_ENTRY(pos, struct load_request, in_client);
                if (!q->under_way && !q->taken)
                        return q;
        }
        q = calloc(1, sizeof(*q));
        if (!q)
                return NULL;
        q->client = c;
        q->start.fn = on_start;
        q->cancel.fn = on_cancel;
        q->credit.fn = on_credit;
        q->text = BUF_NULL(TEXT_MAX);
        list_append(&c->requests, &q->in_client);
        return q;
}

void load_requests_free(struct load_client *c) {
        while (!list_empty(&c->requests)) {
                struct load_request *q = LIST_ENTRY(c->requests.next, struct load_request, in_client);

                load_loop_clear(&c->party->run->loop, &q->start);
                load_loop_clear(&c->party->run->loop, &q->cancel);
                load_loop_clear(&c->party->run->loop, &q->credit);
                list_remove(&q->in_client);
                buf_deinit(&q->text);
                free(q);
        }
}

void load_request_cancel(struct load_request *q) {
        const struct load_run *run = q->client->party->run;

        if (!q->under_way || q->cancelling)
                return;
        q->cancelling = true;
        q->cancel_us = measure_now_us();
        load_loop_clear(run->context.loop, &q->cancel);
        run->transport->cancel(q->client->link, q->id);
}

/* The prompt: the given text, words for a new conversation, or more words for one that goes on. 0, or an error. */
static int make_prompt(struct load_request *q, struct load_random *random) {
        const struct load_party *party = q->client->party;
        const struct load_run *run = party->run;
        const struct load_group *g = party->group;
        uint32_t tokens = load_random_in(random, g->prompt);
        int r = 0;

        if (g->prompt.high == 0) {
                buf_clear(&q->text);
                return buf_append_str(&q->text, run->options->prompt);
        }
        if (q->turn > 0)
                (void)load_words_append(&run->words, &q->text, random, tokens, &r);
        else
                r = load_words_prompt(&run->words, &q->text, party->shared, random, g->shared, tokens);
        return r;
}

/* Whether and when it shall be cancelled. */
static void plan_cancel(struct load_request *q, struct load_random *random, uint32_t tokens) {
        const struct load_party *party = q->client->party;
        const struct load_group *g = party->group;

        q->cancel_at = UINT32_MAX;
        if (load_random_below(random, 100) >= g->cancel)
                return;
        q->cancel_at = MIN(load_random_in(random, (struct load_range){ 0, g->cancel_after }), tokens - 1);
        if (q->cancel_at == 0)
                load_loop_at(&party->run->loop, &q->cancel,
                             measure_now_us() + load_random_below(random, EARLY_CANCEL_US));
}

static void on_ended(void *request, const struct load_outcome *outcome);

void load_request_begin(struct load_request *q, double due_us) {
        struct load_client *c = q->client;
        struct load_party *party = c->party;
        struct load_run *run = party->run;
        const struct load_group *g = party->group;
        struct load_random random;
        struct load_ask ask;
        int r;

        load_random_init(&random, run->options->seed, (uint64_t)(party - run->parties), (uint64_t)(c - party->clients),
                         c->begun++);
        q->under_way = true;
        q->counts = run->measuring;
        q->cancelling = false;
        q->first = true;
        q->tokens = q->read = 0;
        q->due_us = due_us;
        party->under_way++;
        run->under_way++;
        if (q->counts) {
                c->counted++;
                party->owed -= party->owed != UINT64_MAX;
        }
        r = make_prompt(q, &random);
        ask = (struct load_ask){
                .prompt = q->text.data,
                .prompt_size = q->text.len,
                .tokens = load_random_in(&random, g->tokens),
                .seed = load_random_next(&random),
                .priority = g->priority,
                .window = g->window ? g->window : g->read ? SLOW_WINDOW : 0,
                .manual_credit = g->read > 0,
        };
        plan_cancel(q, &random, ask.tokens);
        if (q->counts && r == 0)
                load_stats_count_asked(&c->stats, ask.prompt, ask.prompt_size, ask.tokens);
        if (r == 0)
                r = run->transport->ask(c->link, &ask, q, &q->id);
        if (r != 0) {
                const struct load_outcome o = { .code = r == -ENOTCONN ? SPARK_DISCONNECTED : SPARK_INTERNAL,
                                                .message = r < 0 ? strerror(-r) : "the prompt is too large" };

                on_ended(q, &o);
        }
}

/* ---- what the transport tells ---- */

static void on_connected(void *client) {
        load_run_connected(client);
}

static void on_lost(void *client, int code, const char *message) {
        struct load_client *c = client;

        if (c->error[0] == 0)
                (void)snprintf(c->error, sizeof(c->error), "%s: %s", spark_code_name(code), message);
        if (!c->connected)
                load_stats_count_error(&c->stats, code);
        load_run_lost(c);
}

static void on_tokens(void *request, size_t n, const char *text, size_t text_size) {
        struct load_request *q = request;
        const struct load_party *party = q->client->party;
        struct load_run *run = party->run;
        struct load_stats *stats = &q->client->stats;
        double now = measure_now_us();
        int r = 0;

        if (run->measuring && !run->ending) {
                stats->tokens += n;
                if (!q->first)
                        r = samples_add(&stats->gap, (now - q->last_us) / 1e3);
                else if (q->counts)
                        r = samples_add(&stats->ttft, (now - q->due_us) / 1e3);
        }
        q->first = false;
        q->last_us = now;
        q->tokens += (uint32_t)MIN(n, (size_t)(UINT32_MAX - q->tokens));
        if (r == 0 && party->group->turns > 1)
                r = buf_append(&q->text, text, text_size);
        if (r != 0)
                load_loop_fail(&run->loop, -ENOMEM);
        if (party->group->read > 0 && q->credit.place == 0)
                load_loop_at(&run->loop, &q->credit, now + 1e6 / party->group->read);
        if (q->tokens >= q->cancel_at)
                load_request_cancel(q);
}

/* Counts how a request ended. True when it was answered. */
static bool count_end(struct load_request *q, const struct load_outcome *o, double now) {
        struct load_client *c = q->client;
        struct load_stats *s = &c->stats;
        int r = 0;

        s->requests++;
        if (o->code == SPARK_CANCELLED && q->cancelling) {
                s->cancelled++;
                r = samples_add(&s->cancel, (now - q->cancel_us) / 1e3);
        } else if (o->code != 0) {
                load_stats_count_error(s, o->code);
        } else {
                s->prompt_tokens += o->prompt_tokens;
                s->cached_tokens += o->cached_tokens;
                r = samples_add(&s->total, (now - q->due_us) / 1e3);
                if (r == 0 && o->queue_ms >= 0)
                        r = samples_add(&s->queue, o->queue_ms);
        }
        if (r < 0)
                load_loop_fail(&c->party->run->loop, r);
        return o->code == 0;
}

static void on_ended(void *request, const struct load_outcome *o) {
        struct load_request *q = request;
        struct load_client *c = q->client;
        struct load_run *run = c->party->run;
        double now = measure_now_us(), pause_us = 0;
        bool failed = o->code != 0 && !q->cancelling;

        load_loop_clear(&run->loop, &q->cancel);
        load_loop_clear(&run->loop, &q->credit);
        q->under_way = false;
        c->party->under_way--;
        run->under_way--;
        if (q->counts && run->ending)
                c->stats.cut++;
        else if (q->counts)
                (void)count_end(q, o, now);
        q->turn = o->code == 0 && q->turn + 1 < c->party->group->turns ? q->turn + 1 : 0;
        if (failed && !run->ending)
                (void)snprintf(c->error, sizeof(c->error), "%s: %s", spark_code_name(o->code), o->message);
        c->failures = failed ? c->failures + 1 : 0;
        /* what time heals is no reason to give up */
        if (o->code == SPARK_BUSY || o->retry_after_ms > 0) {
                pause_us = MAX(o->retry_after_ms * 1e3, BUSY_PAUSE_MIN_US);
                c->failures = 0;
        }
        if (c->failures >= FAILURES_MAX)
                load_run_lost(c);
        load_run_request_ended(q, pause_us);
}

const struct load_listener load_request_listener = {
        .connected = on_connected,
        .lost = on_lost,
        .tokens = on_tokens,
        .ended = on_ended,
};
