/* SPDX-License-Identifier: Apache-2.0 */

/* Steps: batch, forward pass, sampling, events; the ends of requests; notices. */

#include <errno.h>
#include <math.h>

#include "base/clock.h"
#include "engine-private.h"

static float ms_between(uint64_t from, uint64_t to) {
        return from && to > from ? (float)(to - from) / 1000 : 0;
}

/* --- the ends of a request ------------------------------------------------------------------------------------- */

void engine_detach(struct engine *e, struct sequence *s) {
        list_remove(&s->link);
        if (s->state == SEQUENCE_DRAINING) {
                e->n_draining--;
                return;
        }
        engine_release(e, s);
        schedule_remove(&e->schedule, &s->turn);
}

void engine_fail(struct engine *e, struct sequence *s, Spark__V1__ErrorCode code, const char *text) {
        struct request *r = s->request;
        struct failure f;

        (void)failure_set(&f, code, "%s", text);
        engine_detach(e, s);
        (void)sequence_free(s);
        e->events.failed(e->userdata, r, &f);
}

static void report_done(struct engine *e, struct sequence *s) {
        struct request *r = s->request;
        uint64_t now = clock_now_us();
        size_t n_prompt = MIN(r->n_tokens, (size_t)UINT32_MAX);
        struct engine_done done = {
                .reason = s->reason,
                .prompt_tokens = (uint32_t)n_prompt,
                .cached_tokens = s->n_cached,
                .completion_tokens = s->output.n,
                .queue_ms = ms_between(r->arrived_us, s->first_step_us ? s->first_step_us : now),
                .prefill_ms = ms_between(s->first_step_us, s->first_token_us ? s->first_token_us : now),
                .decode_ms = ms_between(s->first_token_us, now),
                .seed = r->sampling.seed,
                .scored = s->scored,
                .nll = s->scored ? s->nll_sum / (double)s->scored : 0,
        };

        e->us_per_request = e->us_per_request * 0.8 + 0.2 * (double)(now - (s->first_step_us ? s->first_step_us : now));
        (void)sequence_free(s);
        e->events.finished(e->userdata, r, &done);
}

bool engine_drain(struct engine *e, struct sequence *s) {
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

void engine_finish(struct engine *e, struct sequence *s, Spark__V1__FinishReason reason) {
        s->reason = reason;
        engine_detach(e, s);
        s->state = SEQUENCE_DRAINING;
        if (engine_drain(e, s)) {
                report_done(e, s);
                return;
        }
        list_append(&e->draining, &s->link);
        e->n_draining++;
}

/* --- notices ----------------------------------------------------------------------------------------------------- */

void engine_notice(struct engine *e) {
        atomic_store_explicit(&e->noticed, true, memory_order_release);
}

void engine_notice_credit(struct engine *e) {
        atomic_store_explicit(&e->noticed_credit, true, memory_order_release);
}

static void end_cancelled(struct engine *e, struct list *head) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, head) {
                struct sequence *s = LIST_ENTRY(pos, struct sequence, link);

                if (atomic_load_explicit(&s->request->cancelled, memory_order_relaxed))
                        engine_fail(e, s, SPARK__V1__ERROR_CODE__CANCELLED, "cancelled");
        }
}

static void use_credit(struct engine *e) {
        struct list *pos, *tmp;

        LIST_FOREACH(pos, tmp, &e->paused) {
                struct sequence *s = LIST_ENTRY(pos, struct sequence, link);

                if (!engine_drain(e, s) || sequence_is_stalled(s))
                        continue;
                schedule_wake(&e->schedule, &s->turn);
                list_remove(&s->link);
                list_append(&e->waiting, &s->link);
                s->state = SEQUENCE_WAITING;
        }
        LIST_FOREACH(pos, tmp, &e->draining) {
                struct sequence *s = LIST_ENTRY(pos, struct sequence, link);

                if (!engine_drain(e, s))
                        continue;
                engine_detach(e, s);
                report_done(e, s);
        }
}

void engine_handle_notices(struct engine *e) {
        bool all = atomic_exchange_explicit(&e->noticed, false, memory_order_acq_rel);

        if (all) {
                end_cancelled(e, &e->waiting);
                end_cancelled(e, &e->running);
                end_cancelled(e, &e->paused);
                end_cancelled(e, &e->draining);
        }
        if (atomic_exchange_explicit(&e->noticed_credit, false, memory_order_acq_rel) || all)
                use_credit(e);
}

/* --- a step ------------------------------------------------------------------------------------------------------ */

struct step {
        struct batch batch;
        uint32_t n_logits;
        bool parked; /* something made room: it may go on in the next step */
};

/* How many of a row's best logits the sequence wants to see, 0 = all or none. */
static uint32_t wanted_top(const struct engine *e, const struct sequence *s) {
        const struct request *r = s->request;

        return e->top.rows && r->kind == REQUEST_GENERATE ? sampler_top(&r->sampling, e->model->shape.n_vocab) : 0;
}

static void add_rows(struct engine *e, struct step *step, struct sequence *s) {
        uint32_t seq = step->batch.n_seqs++;
        const struct schedule_request *turn = &s->turn;

        e->tables[seq] = s->kv.pages;
        e->seqs[seq] = s;
        for (uint32_t i = 0; i < turn->rows; i++) {
                uint32_t row = step->batch.n_rows++;

                e->row_token[row] = s->tokens[s->n_past + i];
                e->row_pos[row] = s->n_past + i;
                e->row_seq[row] = seq;
                if (turn->all_logits ||
                    (s->request->kind == REQUEST_GENERATE && i + 1 == turn->rows && turn->rows == turn->want)) {
                        e->top.k = MAX(e->top.k, wanted_top(e, s));
                        e->logit_row[step->n_logits] = row;
                        e->logit_seq[step->n_logits++] = seq;
                }
        }
        if (s->first_step_us == 0)
                s->first_step_us = clock_now_us();
}

static int build_step(struct engine *e, struct step *step) {
        const struct schedule_limits limits = {
                .max_rows = e->batch,
                .max_logits = e->max_logits,
                .target_us = e->config.step_target_us,
                .pace = &e->pace,
        };
        struct schedule *sched = &e->schedule;
        int r;

        r = engine_grow(e);
        if (r < 0)
                return r;
        step->parked = r > 0;
        for (uint32_t i = 0; i < sched->n_running; i++) {
                struct sequence *s = sequence_of(sched->running[i]);

                s->turn.want = sequence_want(s);
                s->turn.decoding = s->request->kind == REQUEST_GENERATE && s->turn.want == 1 && s->n_tokens > s->n_prompt;
        }
        step->batch = (struct batch){ .token = e->row_token, .pos = e->row_pos, .seq = e->row_seq };
        step->batch.page_table = e->tables;
        e->top.k = 0;
        if (schedule_rows(sched, &limits) == 0)
                return 0;
        for (uint32_t i = 0; i < sched->n_running; i++)
                if (sched->running[i]->rows > 0)
                        add_rows(e, step, sequence_of(sched->running[i]));
        return 0;
}

/* From the best logits of a row where they tell, else from all of them. 0, SAMPLER_E_LOGITS, or negative. */
static int choose(struct engine *e, struct sequence *s, uint32_t row, uint32_t index, struct sampler_choice *ret) {
        const struct sampler_params *p = &s->request->sampling;
        const struct backend_top *top = wanted_top(e, s) > 0 ? &e->top.rows[row] : NULL;
        size_t at = (size_t)row * e->top.k;
        int r = SAMPLER_E_MORE;

        if (top)
                r = sampler_choose_top(&e->sampler, p, top, e->top.values + at, e->top.ids + at, index, ret);
        if (r != SAMPLER_E_MORE)
                return r;
        r = engine_fetch_logits(e, row, 1);
        if (r < 0)
                return r;
        return sampler_choose(&e->sampler, p, e->logits + (size_t)row * e->model->shape.n_vocab, top, s->tokens,
                              s->n_tokens, index, ret);
}

/* The next token of a sequence, from its row of logits. */
static int generate(struct engine *e, struct sequence *s, uint32_t row) {
        struct request *r = s->request;
        uint32_t index = (uint32_t)s->n_tokens - s->n_prompt;
        struct sampler_choice choice;
        bool last;
        int n;

        n = choose(e, s, row, index, &choice);
        if (n < 0)
                return n;
        if (n > 0) {
                engine_fail(e, s, SPARK__V1__ERROR_CODE__INTERNAL, "the model gave no finite logits");
                return 0;
        }
        if (s->first_token_us == 0)
                s->first_token_us = clock_now_us();
        if (!r->ignore_eos && tokenizer_is_eog(e->tokenizer, choice.token)) {
                s->n_outbox = (unsigned)output_finish(&s->output, s->outbox);
                engine_finish(e, s, SPARK__V1__FINISH_REASON__STOP);
                return 0;
        }
        e->tokens++;
        r->so_far.completion++;
        last = index + 1 == s->limit;
        n = output_push(&s->output, &choice, last, s->outbox);
        if (n < 0)
                return -EINVAL;
        s->n_outbox = (unsigned)n;
        if (s->output.stopped || last) {
                engine_finish(e, s, s->output.stopped ? SPARK__V1__FINISH_REASON__STOP_STRING :
                                                 SPARK__V1__FINISH_REASON__LENGTH);
                return 0;
        }
        (void)engine_drain(e, s);
        return sequence_append(s, choice.token);
}

/* Score: what the row at pos says of the token behind it. */
static bool score(struct engine *e, struct sequence *s, uint32_t pos, const float *logits) {
        double nll;

        if (pos < s->window_scored)
                return true; /* it was parked in the middle of the window, and has read it again */
        nll = sampler_nll(logits, e->model->shape.n_vocab, s->tokens[pos + 1]);
        if (!isfinite(nll)) {
                engine_fail(e, s, SPARK__V1__ERROR_CODE__INTERNAL, "the model gave no finite logits");
                return false;
        }
        s->nll_sum += nll;
        s->scored++;
        s->window_scored = pos + 1;
        return true;
}

static void end_of_window(struct engine *e, struct sequence *s) {
        e->events.progress(e->userdata, s->request, s->next - (s->n_tokens - 1 - s->n_past), s->request->n_tokens);
        if (s->n_past + 1 < s->n_tokens)
                return;
        if (!sequence_next_window(s, e->opening))
                engine_finish(e, s, SPARK__V1__FINISH_REASON__FINISH_REASON_UNSPECIFIED);
}

/* Hands a sequence its logits [first, first + n) of the step; it may be gone after that. */
static int take_logits(struct engine *e, const struct step *step, struct sequence *s, uint32_t first, uint32_t n) {
        size_t n_vocab = e->model->shape.n_vocab;
        int r;

        if (s->request->kind == REQUEST_GENERATE)
                return generate(e, s, first);
        r = engine_fetch_logits(e, first, n);
        if (r < 0)
                return r;
        for (uint32_t i = first; i < first + n; i++)
                if (!score(e, s, e->row_pos[e->logit_row[i]], e->logits + i * n_vocab))
                        return 0;
        end_of_window(e, s);
        return 0;
}

/* A prompt that takes more than one step says how far it is. */
static void tell_progress(struct engine *e, struct sequence *s) {
        if (s->request->kind != REQUEST_SCORE && s->n_past < s->n_prompt && s->first_token_us == 0)
                e->events.progress(e->userdata, s->request, s->n_past, s->n_prompt);
}

/* A sequence that reads its prompt again, parked meanwhile, has no more of it than it had. */
static void count_prompt(struct sequence *s) {
        uint32_t read = MIN(s->n_past, s->n_prompt);

        if (s->request->kind != REQUEST_SCORE && read > s->request->so_far.prompt)
                s->request->so_far.prompt = read;
}

/* What was computed before, and is computed again because its pages went to others, is not charged: else what is longer than
 * a quantum would have to make way at the same place again and again. */
static void charge_rows(struct engine *e, struct sequence *s) {
        uint32_t lost = s->n_computed > s->n_past ? s->n_computed - s->n_past : 0;

        schedule_charge(&e->schedule, &s->turn, s->turn.rows - MIN(lost, s->turn.rows));
        s->n_past += s->turn.rows;
        s->n_computed = MAX(s->n_computed, s->n_past);
}

/* What the rows have done for their sequences. What ends here has no logits in the step. */
static int count_rows(struct engine *e, const struct step *step) {
        for (uint32_t i = 0; i < step->batch.n_seqs; i++) {
                struct sequence *s = e->seqs[i];
                int r;

                charge_rows(e, s);
                count_prompt(s);
                r = engine_store(e, s);
                if (r < 0)
                        return r;
                if (s->request->kind == REQUEST_PREWARM && s->n_past == s->n_tokens)
                        engine_finish(e, s, SPARK__V1__FINISH_REASON__FINISH_REASON_UNSPECIFIED);
                else
                        tell_progress(e, s);
        }
        return 0;
}

static int finish_step(struct engine *e, const struct step *step) {
        int r = count_rows(e, step);

        for (uint32_t i = 0, n; r >= 0 && i < step->n_logits; i += n) {
                for (n = 1; i + n < step->n_logits && e->logit_seq[i + n] == e->logit_seq[i]; n++)
                        ;
                r = take_logits(e, step, e->seqs[e->logit_seq[i]], i, n);
        }
        return r;
}

int engine_run(struct engine *e, const struct batch *batch, const uint32_t *logit_rows, uint32_t n,
               const struct forward_top *top) {
        int r;

        watchdog_begin(e->config.watchdog, schedule_pace_predict(&e->pace, batch->n_rows), batch->n_rows);
        r = forward_run(e->forward, batch, logit_rows, n, top);
        watchdog_end(e->config.watchdog);
        return r;
}

int engine_fetch_logits(struct engine *e, uint32_t first, uint32_t n) {
        int r;

        watchdog_begin(e->config.watchdog, 0, 0);
        r = forward_logits(e->forward, first, n, e->logits + (size_t)first * e->model->shape.n_vocab);
        watchdog_end(e->config.watchdog);
        return r;
}

int engine_step(struct engine *e) {
        struct step step = { 0 };
        uint64_t began;
        int r;

        engine_handle_notices(e);
        r = engine_admit(e);
        if (r == 0)
                r = build_step(e, &step);
        if (r < 0)
                return r;
        if (step.batch.n_rows == 0) {
                engine_keep_bounds(e, true);
                return step.parked;
        }
        began = clock_now_us();
        r = engine_run(e, &step.batch, e->logit_row, step.n_logits, &e->top);
        if (r < 0)
                return r;
        schedule_pace_learn(&e->pace, step.batch.n_rows, (double)(clock_now_us() - began));
        e->steps++;
        r = finish_step(e, &step);
        if (r < 0)
                return r;
        engine_keep_bounds(e, false);
        return 1;
}

void engine_rest(struct engine *e) {
        engine_handle_notices(e);
        engine_keep_bounds(e, true);
}
