/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <math.h>
#include <time.h>

#include "engine-private.h"

#define RATE_ROWS 8u     /* steps of fewer rows say little about what a prompt's row takes */
#define RETRY_MS_MIN 100u
#define RETRY_MS_MAX 10000u


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
        size_t n_prompt = MIN(r->n_tokens, (size_t)UINT32_MAX);
        struct engine_done done = {
                .reason = s->reason,
                .prompt_tokens = (uint32_t)n_prompt,
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
                (void)failure_set(&f, SPARK__V1__ERROR_CODE__NO_MEMORY, "no memory for the request");
        if (c != 0)
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
                        e->candidates[n++] = (struct schedule_waiting){
                                s->request->client, s->request->weight ? s->request->weight : 1u,
                        };
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
        if (r == -ENOMEM)
                fail_with(e, s, SPARK__V1__ERROR_CODE__NO_MEMORY, "no memory for the request");
        if (r < 0)
                return r == -ENOMEM ? 0 : r;
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
