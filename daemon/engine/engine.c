/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "engine.h"
#include "forward.h"
#include "sampler.h"
#include "schedule.h"
#include "sequence.h"

#define RATE_ROWS 8u     /* steps of fewer rows say little about what a prompt's row takes */
#define LOGITS_BYTES (64ull << 20)
#define RETRY_MS_MIN 100u
#define RETRY_MS_MAX 10000u

struct engine {
        struct lm *model;               /* borrowed */
        const struct tokenizer *tokenizer; /* borrowed */
        struct engine_config config;
        struct engine_events events;
        void *userdata;
        int32_t bos; /* -1 where the model wants none */
        struct kv_pool pool;
        struct kv_cache *kv;
        uint64_t page_bytes;
        struct forward *forward;
        struct sampler sampler;
        uint32_t max_logits;

        struct list waiting, running, draining;
        uint32_t n_waiting, n_running;
        uint64_t steps, tokens;
        size_t turn;            /* where the round of prompts begins */
        double us_per_row;      /* of prompts, as measured lately */
        double us_per_request;  /* for telling when to try again */
        bool gave_up; /* a sequence gave up its pages in this step: others may go on with them */
        atomic_bool noticed;

        /* one step's arrays */
        struct sequence **seqs;          /* [max_sequences] */
        struct schedule_entry *entries;  /* [max_sequences] */
        const uint32_t **tables;         /* [max_sequences] */
        int32_t *row_token;              /* [max_rows] */
        uint32_t *row_pos, *row_seq;     /* [max_rows] */
        uint32_t *logit_row, *logit_seq; /* [max_logits] */
        float *logits;                   /* [max_logits][n_vocab] */
        struct schedule_waiting *candidates; /* [max_queued] */
        uint64_t *clients;               /* [max_sequences] */
};

static uint64_t now_us(void) {
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static float ms_between(uint64_t from, uint64_t to) {
        return from && to > from ? (float)(to - from) / 1000 : 0;
}

static struct sequence *sequence_of(struct list *l) {
        return LIST_ENTRY(l, struct sequence, link);
}

/* --- the ends of a request ------------------------------------------------------------------------------------- */

/* Takes it out of its list and gives its pages back at once. */
static void detach(struct engine *e, struct sequence *s) {
        if (s->state == SEQUENCE_WAITING)
                e->n_waiting--;
        else if (s->state == SEQUENCE_RUNNING)
                e->n_running--;
        list_remove(&s->link);
        kv_table_release(&e->pool, &s->kv);
}

static void fail(struct engine *e, struct sequence *s, const struct failure *f) {
        struct request *r = s->request;

        detach(e, s);
        (void)sequence_free(s, &e->pool);
        e->events.failed(e->userdata, r, f);
}

static void fail_with(struct engine *e, struct sequence *s, Spark__V1__ErrorCode code, const char *text) {
        struct failure f;

        (void)failure_set(&f, code, "%s", text);
        fail(e, s, &f);
}

static void report_done(struct engine *e, struct sequence *s) {
        struct request *r = s->request;
        uint64_t now = now_us();
        struct engine_done done = {
                .reason = s->reason,
                .prompt_tokens = (uint32_t)MIN(r->n_tokens, (size_t)UINT32_MAX),
                .completion_tokens = s->output.n,
                .queue_ms = ms_between(r->arrived_us, s->first_step_us ? s->first_step_us : now),
                .prefill_ms = ms_between(s->first_step_us, s->first_token_us ? s->first_token_us : now),
                .decode_ms = ms_between(s->first_token_us, now),
                .seed = r->sampling.seed,
                .scored = s->scored,
                .nll = s->scored ? s->nll_sum / (double)s->scored : 0,
        };

        e->us_per_request = e->us_per_request * 0.8 + 0.2 * (double)(now - (s->first_step_us ? s->first_step_us : now));
        (void)sequence_free(s, &e->pool);
        e->events.finished(e->userdata, r, &done);
}

/* Hands out what waits and has credit. True when nothing waits any more. */
static bool drain(struct engine *e, struct sequence *s) {
        while (s->outbox_pos < s->n_outbox) {
                const struct output_chunk *chunk = &s->outbox[s->outbox_pos];

                if (chunk->index >= s->n_replay) {
                        if (!sequence_has_credit(s))
                                return false;
                        s->sent++;
                        e->events.token(e->userdata, s->request, chunk);
                }
                s->outbox_pos++;
        }
        s->n_outbox = s->outbox_pos = 0;
        return true;
}

/* Computed to its end: the pages go at once, the last chunks may have to wait for credit. */
static void finish(struct engine *e, struct sequence *s, Spark__V1__FinishReason reason) {
        s->reason = reason;
        detach(e, s);
        s->state = SEQUENCE_DRAINING;
        if (drain(e, s))
                report_done(e, s);
        else
                list_append(&e->draining, &s->link);
}

/* --- arrival, notices, admission -------------------------------------------------------------------------------- */

static uint32_t retry_after_ms(const struct engine *e) {
        double ms = e->us_per_request / 1000 * e->n_waiting / MAX(e->config.max_sequences, 1u);

        return ms < RETRY_MS_MIN ? RETRY_MS_MIN : ms > RETRY_MS_MAX ? RETRY_MS_MAX : (uint32_t)ms;
}

static int refuse_request(struct engine *e, struct request *r, const struct failure *f) {
        e->events.failed(e->userdata, r, f);
        return 0;
}

int engine_submit(struct engine *e, struct request *r) {
        struct sequence *s;
        struct failure f;
        int c;

        if (atomic_load_explicit(&r->cancelled, memory_order_relaxed)) {
                (void)failure_set(&f, SPARK__V1__ERROR_CODE__CANCELLED, "cancelled");
                return refuse_request(e, r, &f);
        }
        if (e->n_waiting >= e->config.max_queued) {
                (void)failure_set(&f, SPARK__V1__ERROR_CODE__BUSY, "%u requests are waiting already", e->n_waiting);
                f.retry_after_ms = retry_after_ms(e);
                return refuse_request(e, r, &f);
        }
        c = sequence_new(&s, r, e->config.context, e->bos >= 0, &f);
        if (c < 0)
                return c;
        if (c > 0)
                return refuse_request(e, r, &f);
        e->events.accepted(e->userdata, r);
        s->state = SEQUENCE_WAITING;
        list_append(&e->waiting, &s->link);
        e->n_waiting++;
        return 0;
}

void engine_notice(struct engine *e) {
        atomic_store_explicit(&e->noticed, true, memory_order_release);
}

static void notice_list(struct engine *e, struct list *head) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, head) {
                struct sequence *s = sequence_of(pos);

                if (atomic_load_explicit(&s->request->cancelled, memory_order_relaxed)) {
                        fail_with(e, s, SPARK__V1__ERROR_CODE__CANCELLED, "cancelled");
                } else if (s->n_outbox > 0 && drain(e, s) && s->state == SEQUENCE_DRAINING) {
                        list_remove(&s->link);
                        report_done(e, s);
                }
        }
}

static void handle_notices(struct engine *e) {
        if (!atomic_exchange_explicit(&e->noticed, false, memory_order_acq_rel))
                return;
        notice_list(e, &e->waiting);
        notice_list(e, &e->running);
        notice_list(e, &e->draining);
}

static struct sequence *pick_waiting(struct engine *e) {
        size_t n = 0, n_running = 0, chosen;
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &e->waiting) {
                const struct sequence *s = sequence_of(pos);

                if (s->started)
                        return sequence_of(pos); /* it ran before and had to give up its pages: it comes first */
                if (n < e->config.max_queued)
                        e->candidates[n++] = (struct schedule_waiting){ s->request->client, MAX(s->request->weight, 1u) };
        }
        if (n == 0)
                return NULL;
        LIST_FOREACH(pos, tmp, &e->running)
                e->clients[n_running++] = sequence_of(pos)->request->client;
        chosen = schedule_next(e->candidates, n, e->clients, n_running);
        LIST_FOREACH(pos, tmp, &e->waiting)
                if (chosen-- == 0)
                        return sequence_of(pos);
        return NULL;
}

static int start(struct engine *e, struct sequence *s) {
        int r;

        if (s->started)
                return 0;
        r = sequence_start(s, e->tokenizer);
        if (r < 0)
                return r;
        if (s->request->kind == REQUEST_SCORE && !sequence_next_window(s, e->bos))
                fail_with(e, s, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "the text is too short to score");
        else if (s->reason)
                finish(e, s, s->reason); /* the replayed tokens were all of it */
        return 0;
}

static int admit(struct engine *e) {
        while (e->n_running < e->config.max_sequences) {
                struct sequence *s = pick_waiting(e);
                int r;

                if (!s)
                        return 0;
                r = kv_table_reserve(&e->pool, &s->kv, sequence_first_reservation(s, e->config.context));
                if (r == KV_E_FULL)
                        return 0; /* it stays first in line: no later one overtakes it for being smaller */
                if (r != 0)
                        return -EINVAL; /* can't be: the context is no larger than the pool */
                list_remove(&s->link);
                list_append(&e->running, &s->link);
                s->state = SEQUENCE_RUNNING;
                e->n_waiting--;
                e->n_running++;
                r = start(e, s);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* --- a step ------------------------------------------------------------------------------------------------------ */

/* Takes a sequence off its pages: it waits, first in line, and computes them again later. */
static void give_up_pages(struct engine *e, struct sequence *s) {
        detach(e, s);
        e->gave_up = true;
        s->n_past = 0;
        s->state = SEQUENCE_WAITING;
        e->n_waiting++;
        s->link.next = e->waiting.next;
        s->link.prev = &e->waiting;
        e->waiting.next->prev = &s->link;
        e->waiting.next = &s->link;
}

static size_t list_running(struct engine *e, bool *ret_decoding) {
        struct list *pos, *tmp;
        size_t n = 0;

        *ret_decoding = false;
        LIST_FOREACH(pos, tmp, &e->running) {
                struct sequence *s = sequence_of(pos);
                uint32_t want = sequence_want(s);

                if (want > 0 && !sequence_has_room(s, &e->pool, e->config.context)) {
                        give_up_pages(e, s);
                        continue;
                }
                *ret_decoding = *ret_decoding || want == 1;
                e->seqs[n] = s;
                e->entries[n++] = (struct schedule_entry){
                        .want = want,
                        .all_logits = s->request->kind == REQUEST_SCORE,
                };
        }
        return n;
}

struct step {
        struct batch batch;
        uint32_t n_logits;
};

static int add_rows(struct engine *e, struct step *step, struct sequence *s, const struct schedule_entry *entry) {
        uint32_t seq = step->batch.n_seqs++;
        int r;

        r = kv_table_extend(&e->pool, &s->kv, (uint64_t)s->n_past + entry->rows);
        if (r < 0)
                return r;
        e->tables[seq] = s->kv.pages;
        e->seqs[seq] = s;
        for (uint32_t i = 0; i < entry->rows; i++) {
                uint32_t row = step->batch.n_rows++;

                e->row_token[row] = s->tokens[s->n_past + i];
                e->row_pos[row] = s->n_past + i;
                e->row_seq[row] = seq;
                if (entry->all_logits || (i + 1 == entry->rows && entry->rows == entry->want)) {
                        e->logit_row[step->n_logits] = row;
                        e->logit_seq[step->n_logits++] = seq;
                }
        }
        if (s->first_step_us == 0)
                s->first_step_us = now_us();
        return 0;
}

static int build_step(struct engine *e, struct step *step) {
        struct schedule_limits limits = { .max_rows = e->config.max_rows, .max_logits = e->max_logits };
        uint32_t target = e->config.step_target_us;
        bool decoding;
        size_t n;

        n = list_running(e, &decoding);
        if (n == 0)
                return 0;
        limits.prefill_rows = schedule_prefill_rows(e->us_per_row, decoding ? target : target * 2, e->config.max_rows);
        if (schedule_rows(e->entries, n, e->turn++, &limits) == 0)
                return 0;
        *step = (struct step){ .batch = { .token = e->row_token, .pos = e->row_pos, .seq = e->row_seq } };
        step->batch.page_table = e->tables;
        for (size_t i = 0; i < n; i++) {
                if (e->entries[i].rows > 0) {
                        int r = add_rows(e, step, e->seqs[i], &e->entries[i]);

                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

/* The next token of a sequence, from its logits. */
static int generate(struct engine *e, struct sequence *s, float *logits) {
        const struct request *r = s->request;
        uint32_t index = (uint32_t)s->n_tokens - s->n_prompt;
        struct sampler_choice choice;
        bool last;
        int n;

        if (sampler_choose(&e->sampler, &r->sampling, logits, s->tokens, s->n_tokens, index, &choice) != 0) {
                fail_with(e, s, SPARK__V1__ERROR_CODE__INTERNAL, "the model gave no finite logits");
                return 0;
        }
        if (s->first_token_us == 0)
                s->first_token_us = now_us();
        if (!r->ignore_eos && tokenizer_is_eog(e->tokenizer, choice.token)) {
                s->n_outbox = (unsigned)output_finish(&s->output, s->outbox);
                finish(e, s, SPARK__V1__FINISH_REASON__STOP);
                return 0;
        }
        e->tokens++;
        last = index + 1 == s->limit;
        n = output_push(&s->output, &choice, last, s->outbox);
        if (n < 0)
                return -EINVAL;
        s->n_outbox = (unsigned)n;
        if (s->output.stopped || last) {
                finish(e, s, s->output.stopped ? SPARK__V1__FINISH_REASON__STOP_STRING :
                                                 SPARK__V1__FINISH_REASON__LENGTH);
                return 0;
        }
        (void)drain(e, s);
        return sequence_append(s, choice.token);
}

/* Score: what the row at pos says of the token behind it. */
static bool score(struct engine *e, struct sequence *s, uint32_t pos, const float *logits) {
        double nll = sampler_nll(logits, e->model->shape.n_vocab, s->tokens[pos + 1]);

        if (!isfinite(nll)) {
                fail_with(e, s, SPARK__V1__ERROR_CODE__INTERNAL, "the model gave no finite logits");
                return false;
        }
        s->nll_sum += nll;
        s->scored++;
        return true;
}

static void end_of_window(struct engine *e, struct sequence *s) {
        e->events.progress(e->userdata, s->request, s->next - (s->n_tokens - 1 - s->n_past), s->request->n_tokens);
        if (s->n_past + 1 < s->n_tokens)
                return;
        if (!sequence_next_window(s, e->bos))
                finish(e, s, SPARK__V1__FINISH_REASON__FINISH_REASON_UNSPECIFIED);
}

/* Hands a sequence its logits [first, first + n) of the step; it may be gone after that. */
static int take_logits(struct engine *e, const struct step *step, struct sequence *s, uint32_t first, uint32_t n) {
        size_t n_vocab = e->model->shape.n_vocab;

        if (s->request->kind == REQUEST_GENERATE)
                return generate(e, s, e->logits + first * n_vocab);
        for (uint32_t i = first; i < first + n; i++)
                if (!score(e, s, e->row_pos[e->logit_row[i]], e->logits + i * n_vocab))
                        return 0;
        end_of_window(e, s);
        return 0;
}

static int finish_step(struct engine *e, const struct step *step) {
        for (uint32_t i = 0; i < step->batch.n_rows; i++)
                e->seqs[e->row_seq[i]]->n_past++;
        for (uint32_t i = 0, n; i < step->n_logits; i += n) {
                int r;

                for (n = 1; i + n < step->n_logits && e->logit_seq[i + n] == e->logit_seq[i]; n++)
                        ;
                r = take_logits(e, step, e->seqs[e->logit_seq[i]], i, n);
                if (r < 0)
                        return r;
        }
        return 0;
}

static void measure(struct engine *e, const struct step *step, uint64_t took_us) {
        double us;

        if (step->batch.n_rows < RATE_ROWS)
                return;
        us = (double)took_us / step->batch.n_rows;
        e->us_per_row = e->us_per_row > 0 ? 0.7 * e->us_per_row + 0.3 * us : us;
}

int engine_step(struct engine *e) {
        struct step step = { 0 };
        uint64_t began;
        int r;

        handle_notices(e);
        r = admit(e);
        if (r < 0)
                return r;
        e->gave_up = false;
        r = build_step(e, &step);
        if (r < 0 || step.batch.n_rows == 0)
                return r < 0 ? r : e->gave_up;
        began = now_us();
        r = forward_run(e->forward, &step.batch, e->logit_row, step.n_logits, e->logits);
        if (r < 0)
                return r;
        measure(e, &step, now_us() - began);
        e->steps++;
        r = finish_step(e, &step);
        return r < 0 ? r : 1;
}

/* --- self-test, statistics --------------------------------------------------------------------------------------- */

static int run_once(struct engine *e, int32_t token, float *out) {
        const uint32_t pos = 0, seq = 0, row = 0;
        struct kv_table table = { 0 };
        const uint32_t *tables[1];
        const struct batch batch = {
                .n_rows = 1, .token = &token, .pos = &pos, .seq = &seq, .n_seqs = 1, .page_table = tables,
        };
        int r;

        r = kv_table_reserve(&e->pool, &table, 1);
        if (r == 0)
                r = kv_table_extend(&e->pool, &table, 1);
        if (r != 0) {
                kv_table_release(&e->pool, &table);
                return r < 0 ? r : -ENOMEM;
        }
        tables[0] = table.pages;
        r = forward_run(e->forward, &batch, &row, 1, out);
        kv_table_release(&e->pool, &table);
        return r;
}

int engine_self_test(struct engine *e, struct failure *f) {
        size_t n_vocab = e->model->shape.n_vocab;
        int32_t token = e->bos >= 0 ? e->bos : 0;
        _cleanup_free_ float *again = NULL;
        int r;

        again = malloc(n_vocab * sizeof(*again));
        if (!again)
                return -ENOMEM;
        r = run_once(e, token, e->logits);
        if (r == 0)
                r = run_once(e, token, again);
        if (r < 0)
                return r;
        for (size_t i = 0; i < n_vocab; i++)
                if (!isfinite(again[i]))
                        return failure_set(f, SPARK__V1__ERROR_CODE__MODEL_INVALID,
                                           "self-test: the logit of token %zu is not finite", i);
        if (memcmp(e->logits, again, n_vocab * sizeof(*again)) != 0)
                return failure_set(f, SPARK__V1__ERROR_CODE__INTERNAL, "self-test: two equal steps gave different bits");
        return 0;
}

static bool is_paused(const struct sequence *s) {
        return s->state == SEQUENCE_DRAINING || sequence_want(s) == 0;
}

size_t engine_list_queued(const struct engine *e, uint64_t *keys, size_t max) {
        size_t n = 0;

        for (const struct list *l = e->waiting.next; l != &e->waiting && n < max; l = l->next)
                keys[n++] = LIST_ENTRY(l, const struct sequence, link)->request->key;
        return n;
}

size_t engine_list_paused(const struct engine *e, uint64_t *keys, size_t max) {
        const struct list *const heads[] = { &e->running, &e->draining };
        size_t n = 0;

        for (size_t i = 0; i < ARRAY_SIZE(heads); i++)
                for (const struct list *l = heads[i]->next; l != heads[i] && n < max; l = l->next)
                        if (is_paused(LIST_ENTRY(l, const struct sequence, link)))
                                keys[n++] = LIST_ENTRY(l, const struct sequence, link)->request->key;
        return n;
}

static uint32_t count_paused(const struct engine *e) {
        uint32_t n = 0;

        for (const struct list *l = e->running.next; l != &e->running; l = l->next)
                n += is_paused(LIST_ENTRY(l, const struct sequence, link));
        return n;
}

void engine_get_stats(const struct engine *e, struct engine_stats *ret) {
        uint32_t n_draining = 0, paused = count_paused(e);

        for (const struct list *l = e->draining.next; l != &e->draining; l = l->next)
                n_draining++;
        *ret = (struct engine_stats){
                .steps = e->steps,
                .tokens = e->tokens,
                .running = e->n_running - paused,
                .queued = e->n_waiting,
                .paused = paused + n_draining,
                .kv_used_bytes = e->pool.n_used * e->page_bytes,
                .kv_bytes = e->pool.n_pages * e->page_bytes,
                .other_bytes = e->model->dev_bytes +
                               forward_bytes(&e->model->shape, e->config.max_rows, e->max_logits) +
                               (uint64_t)e->model->shape.n_vocab * (4ull * e->max_logits + 14),
                .context = e->config.context,
        };
}

int engine_run_logits(struct engine *e, const int32_t *tokens, size_t n,
                      int (*row)(void *userdata, size_t pos, const float *logits), void *userdata, struct failure *f) {
        _cleanup_free_ uint32_t *unused = NULL;
        struct kv_table table = { 0 };
        int r;

        if (n > e->config.context)
                return failure_set(f, SPARK__V1__ERROR_CODE__CONTEXT_OVERFLOW, "%zu tokens, the context has room for %u",
                                   n, e->config.context);
        r = kv_table_reserve(&e->pool, &table, n);
        if (r == 0)
                r = kv_table_extend(&e->pool, &table, n);
        for (size_t done = 0; r == 0 && done < n;) {
                uint32_t rows = (uint32_t)MIN(n - done, (size_t)e->max_logits);
                const uint32_t *tables[1] = { table.pages };
                const struct batch batch = {
                        .n_rows = rows, .token = tokens + done, .pos = e->row_pos, .seq = e->row_seq, .n_seqs = 1,
                        .page_table = tables,
                };

                for (uint32_t i = 0; i < rows; i++) {
                        e->row_pos[i] = (uint32_t)done + i;
                        e->row_seq[i] = 0;
                        e->logit_row[i] = i;
                }
                r = forward_run(e->forward, &batch, e->logit_row, rows, e->logits);
                for (uint32_t i = 0; r == 0 && i < rows; i++)
                        r = row(userdata, done + i, e->logits + (size_t)i * e->model->shape.n_vocab);
                done += rows;
        }
        kv_table_release(&e->pool, &table);
        return r;
}

/* --- birth and death --------------------------------------------------------------------------------------------- */

static void set_defaults(struct engine *e) {
        struct engine_config *c = &e->config;
        uint64_t cheap;

        if (c->max_rows == 0)
                c->max_rows = ENGINE_ROWS;
        if (c->max_sequences == 0)
                c->max_sequences = ENGINE_SEQUENCES;
        c->max_sequences = MIN(c->max_sequences, c->max_rows);
        if (c->max_queued == 0)
                c->max_queued = ENGINE_QUEUED;
        if (c->context == 0 || (c->context > e->model->shape.n_ctx && !e->model->fake))
                c->context = e->model->shape.n_ctx;
        /* Score and `logits` want logits of many rows; a vocabulary's logits are large. */
        cheap = LOGITS_BYTES / (sizeof(float) * e->model->shape.n_vocab);
        e->max_logits = (uint32_t)MAX((uint64_t)c->max_sequences, cheap);
        e->max_logits = MIN(e->max_logits, c->max_rows);
}

/* Pages for all sequences at full length, or what the budget buys; the context shrinks to what one sequence can get. */
static int init_pool(struct engine *e, struct failure *f) {
        struct engine_config *c = &e->config;
        uint64_t pages = c->context / ENGINE_PAGE_TOKENS + (c->context % ENGINE_PAGE_TOKENS != 0), most = UINT32_MAX / 2;
        struct kv_config kv;
        int r;

        pages = MIN(pages * c->max_sequences, most);
        e->page_bytes = ENGINE_PAGE_TOKENS * model_kv_bytes(&e->model->shape, c->kv_format);
        if (e->page_bytes > 0 && c->kv_bytes > 0)
                pages = MIN(pages, c->kv_bytes / e->page_bytes);
        if (pages == 0)
                return failure_set(f, SPARK__V1__ERROR_CODE__NO_MEMORY,
                                   "a KV cache of %llu bytes has no room for %u tokens, which take %llu",
                                   (unsigned long long)c->kv_bytes, ENGINE_PAGE_TOKENS,
                                   (unsigned long long)e->page_bytes);
        if (pages * ENGINE_PAGE_TOKENS < c->context) {
                log_notice("the KV cache has room for %llu tokens: context %u instead of %u",
                           (unsigned long long)(pages * ENGINE_PAGE_TOKENS), (uint32_t)pages * ENGINE_PAGE_TOKENS,
                           c->context);
                c->context = (uint32_t)pages * ENGINE_PAGE_TOKENS;
        }
        r = kv_pool_init(&e->pool, (uint32_t)pages, ENGINE_PAGE_TOKENS);
        if (r < 0)
                return r;
        kv = (struct kv_config){
                .n_layers = e->model->shape.n_layer,
                .n_kv_heads = e->model->shape.n_head_kv,
                .head_dim = e->model->shape.head_dim,
                .n_pages = (uint32_t)pages,
                .page_tokens = ENGINE_PAGE_TOKENS,
                .format = c->kv_format,
        };
        r = e->model->backend->ops->kv_new(e->model->backend, &kv, &e->kv);
        if (r > 0)
                return failure_set(f, SPARK__V1__ERROR_CODE__NO_MEMORY, "no memory for a KV cache of %llu bytes",
                                   (unsigned long long)(pages * e->page_bytes));
        return r;
}

static int alloc_arrays(struct engine *e) {
        const struct engine_config *c = &e->config;

        e->seqs = calloc(c->max_sequences, sizeof(struct sequence *));
        e->entries = calloc(c->max_sequences, sizeof(*e->entries));
        e->tables = calloc(c->max_sequences, sizeof(uint32_t *));
        e->clients = calloc(c->max_sequences, sizeof(*e->clients));
        e->row_token = calloc(c->max_rows, sizeof(*e->row_token));
        e->row_pos = calloc(c->max_rows, sizeof(*e->row_pos));
        e->row_seq = calloc(c->max_rows, sizeof(*e->row_seq));
        e->logit_row = calloc(e->max_logits, sizeof(*e->logit_row));
        e->logit_seq = calloc(e->max_logits, sizeof(*e->logit_seq));
        e->logits = calloc((size_t)e->max_logits * e->model->shape.n_vocab, sizeof(*e->logits));
        e->candidates = calloc(c->max_queued, sizeof(*e->candidates));
        if (!e->seqs || !e->entries || !e->tables || !e->clients || !e->row_token || !e->row_pos || !e->row_seq ||
            !e->logit_row || !e->logit_seq || !e->logits || !e->candidates)
                return -ENOMEM;
        return sampler_init(&e->sampler, e->model->shape.n_vocab);
}

int engine_new(struct engine **ret, struct lm *model, const struct tokenizer *tokenizer,
               const struct engine_config *config, const struct engine_events *events, void *userdata,
               struct failure *f) {
        _cleanup_(engine_freep) struct engine *e = NULL;
        int r;

        e = calloc(1, sizeof(*e));
        if (!e)
                return -ENOMEM;
        e->model = model;
        e->tokenizer = tokenizer;
        e->config = *config;
        e->events = *events;
        e->userdata = userdata;
        list_init(&e->waiting);
        list_init(&e->running);
        list_init(&e->draining);
        if (tokenizer_n_tokens(tokenizer) != model->shape.n_vocab)
                return failure_set(f, SPARK__V1__ERROR_CODE__MODEL_INVALID,
                                   "the vocabulary has %zu tokens, the model computes logits for %u",
                                   tokenizer_n_tokens(tokenizer), model->shape.n_vocab);
        e->bos = tokenizer_adds_bos(tokenizer) ? tokenizer_bos(tokenizer) : -1;
        set_defaults(e);
        r = init_pool(e, f);
        if (r != 0)
                return r;
        r = alloc_arrays(e);
        if (r < 0)
                return r;
        r = forward_new(&e->forward, model, e->kv, e->config.max_rows, e->max_logits);
        if (r > 0)
                return failure_set(f, SPARK__V1__ERROR_CODE__NO_MEMORY, "no memory for activations of %llu bytes",
                                   (unsigned long long)forward_bytes(&model->shape, e->config.max_rows, e->max_logits));
        if (r < 0)
                return r;
        *ret = steal_ptr(&e);
        return 0;
}

static void free_list(struct engine *e, struct list *head) {
        struct list *l;

        while ((l = list_pop(head)))
                (void)sequence_free(sequence_of(l), &e->pool);
}

struct engine *engine_free(struct engine *e) {
        if (!e)
                return NULL;
        free_list(e, &e->waiting);
        free_list(e, &e->running);
        free_list(e, &e->draining);
        e->forward = forward_free(e->forward);
        if (e->kv)
                e->kv = e->model->backend->ops->kv_free(e->model->backend, e->kv);
        kv_pool_deinit(&e->pool);
        sampler_deinit(&e->sampler);
        free(e->seqs);
        free(e->entries);
        free(e->tables);
        free(e->clients);
        free(e->row_token);
        free(e->row_pos);
        free(e->row_seq);
        free(e->logit_row);
        free(e->logit_seq);
        free(e->logits);
        free(e->candidates);
        free(e);
        return NULL;
}
