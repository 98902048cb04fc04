/* SPDX-License-Identifier: Apache-2.0 */

/* The prep thread and the step thread: jobs in, frames out. */

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "link-private.h"
#include "message.h"

/* Waits where the socket is slow; where the link is closing, what was to be sent goes. */
static void send_frame(struct link *l, struct frame *frame) {
        if (queue_push_wait(&l->out_queue, (struct queue_item){ .type = OUT_FRAME, .ptr = frame }) != 0)
                free(frame);
}

static void end_job(struct link *l, struct job *job, struct frame *frame) {
        send_frame(l, frame);
        (void)queue_push_wait(&l->out_queue, (struct queue_item){ .type = OUT_RETIRE, .ptr = job });
}

static void report_lost(struct link *l, int error) {
        struct failure f;
        struct frame *frame;

        (void)failure_set(&f, SPARK__V1__ERROR_CODE__INTERNAL, "the engine cannot go on: %s", strerror(-error));
        log_error("%s", f.text);
        frame = frame_new_failed(0, &f);
        if (frame)
                send_frame(l, frame);
        (void)queue_push_wait(&l->out_queue, (struct queue_item){ .type = OUT_LOST });
}

/* --- prep -------------------------------------------------------------------------------------------------------- */

static int prepare(struct link *l, struct job *job) {
        struct frame *answer = NULL;
        struct failure f;
        int r;

        if (atomic_load_explicit(&job->request.cancelled, memory_order_relaxed))
                r = failure_set(&f, SPARK__V1__ERROR_CODE__CANCELLED, "cancelled");
        else
                r = prep_job(&l->host->prep, job, &answer, &f);
        if (r == -ENOMEM)
                r = failure_set(&f, SPARK__V1__ERROR_CODE__NO_MEMORY, "no memory for the request");
        if (r < 0)
                r = failure_set(&f, SPARK__V1__ERROR_CODE__INTERNAL, "the request cannot be prepared: %s", strerror(-r));
        job_drop_message(job);
        if (r == 0)
                return queue_push_wait(&l->step_queue, (struct queue_item){ .type = STEP_JOB, .ptr = job });
        if (r == PREP_E_FAILED && job->file_fd >= 0)
                answer = frame_new_errand(&job->request, 0, 0, f.text);
        else if (r == PREP_E_FAILED)
                answer = frame_new_failed(job->request.key, &f);
        if (!answer)
                return -ENOMEM;
        end_job(l, job, answer);
        return 0;
}

void *link_prep_thread(void *userdata) {
        struct link *l = userdata;

        while (!queue_is_closed(&l->prep_queue)) {
                struct queue_item item;
                int r = 0;

                while (r == 0 && queue_pop(&l->prep_queue, &item) && !queue_is_closed(&l->prep_queue))
                        r = prepare(l, item.ptr);
                if (r < 0) {
                        report_lost(l, r);
                        return NULL;
                }
                queue_wait(&l->prep_queue);
        }
        return NULL;
}

/* --- events into frames ------------------------------------------------------------------------------------------ */

/* Makes room for `more` elements behind n of an array that grows by doubling. */
static bool grow(void *array, size_t n, size_t more, size_t *cap, size_t size) {
        void **at = array, *grown;
        size_t want = *cap ? *cap : 64;

        if (n + more <= *cap)
                return true;
        while (want < n + more)
                want *= 2;
        grown = reallocarray(*at, want, size);
        if (!grown)
                return false;
        *at = grown;
        *cap = want;
        return true;
}

static bool grow_top(struct link *l, size_t more) {
        size_t cap = l->cap_top;

        if (!grow(&l->top_ids, l->n_top, more, &cap, sizeof(*l->top_ids)))
                return false;
        return grow(&l->top_logprobs, l->n_top, more, &l->cap_top, sizeof(*l->top_logprobs));
}

static void on_accepted(void *userdata, struct request *r) {
        struct link *l = userdata;
        struct job *job = job_of(r);

        if (job->accepted)
                send_frame(l, steal_ptr(&job->accepted));
}

static void on_token(void *userdata, struct request *r, const struct output_chunk *chunk) {
        struct link *l = userdata;
        struct link_chunk *c;

        if (!grow(&l->chunks, l->n_chunks, 1, &l->cap_chunks, sizeof(*l->chunks)) ||
            !grow(&l->text, l->n_text, chunk->size + 1, &l->cap_text, 1) || !grow_top(l, chunk->choice.n_top)) {
                l->out_of_memory = true;
                return;
        }
        c = &l->chunks[l->n_chunks++];
        *c = (struct link_chunk){
                .key = r->key,
                .id = (uint32_t)chunk->choice.token,
                .index = chunk->index,
                .text = l->n_text,
                .size = chunk->size,
                .logprob = chunk->choice.logprob,
                .has_logprob = r->sampling.logprobs > 0,
                .n_top = chunk->choice.n_top,
                .top = (uint32_t)l->n_top,
        };
        memcpy(l->text + l->n_text, chunk->text, chunk->size);
        l->n_text += chunk->size;
        for (uint32_t i = 0; i < c->n_top; i++) {
                l->top_ids[l->n_top] = (uint32_t)chunk->choice.top_ids[i];
                l->top_logprobs[l->n_top++] = chunk->choice.top_logprobs[i];
        }
}

/* Keeps an end back until the step's tokens are out. */
static void send_late(struct link *l, struct job *job, struct frame *frame) {
        struct late *late = malloc(sizeof(*late));

        if (!late || (!frame && job)) {
                free(late);
                free(frame);
                l->out_of_memory = true;
                return;
        }
        *late = (struct late){ .frame = frame, .job = job };
        if (!l->late)
                l->late_end = &l->late;
        *l->late_end = late;
        l->late_end = &late->next;
}

static const char *stage_of(const struct request *r) {
        return r->kind == REQUEST_SCORE ? "score" : "prefill";
}

static void on_progress(void *userdata, struct request *r, uint64_t done, uint64_t total) {
        Spark__V1__Progress progress = SPARK__V1__PROGRESS__INIT;
        Spark__Engine__V1__RequestProgress m = SPARK__ENGINE__V1__REQUEST_PROGRESS__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;
        struct frame *packed;

        progress.stage = (char *)stage_of(r);
        progress.done = done;
        progress.total = total;
        m.key = r->key;
        m.progress = &progress;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_PROGRESS;
        frame.progress = &m;
        packed = frame_new(&frame);
        if (packed)
                send_frame(userdata, packed);
}

static void on_finished(void *userdata, struct request *r, const struct engine_done *done) {
        Spark__V1__Usage usage = SPARK__V1__USAGE__INIT;
        Spark__V1__Timing timing = SPARK__V1__TIMING__INIT;
        Spark__V1__ScoreResult score = SPARK__V1__SCORE_RESULT__INIT;
        Spark__V1__PrewarmResult prewarm = SPARK__V1__PREWARM_RESULT__INIT;
        Spark__V1__Done m = SPARK__V1__DONE__INIT;
        Spark__Engine__V1__Finished finished = SPARK__ENGINE__V1__FINISHED__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;

        usage.prompt_tokens = done->prompt_tokens;
        usage.cached_tokens = done->cached_tokens;
        usage.completion_tokens = done->completion_tokens;
        timing.queue_ms = done->queue_ms;
        timing.prefill_ms = done->prefill_ms;
        timing.decode_ms = done->decode_ms;
        m.finish_reason = done->reason;
        m.usage = &usage;
        m.timing = &timing;
        m.seed = done->seed;
        if (r->kind == REQUEST_SCORE) {
                score.tokens = done->scored;
                score.nll = done->nll;
                score.perplexity = exp(done->nll);
                m.result_case = SPARK__V1__DONE__RESULT_SCORE;
                m.score = &score;
        } else if (r->kind == REQUEST_PREWARM) {
                prewarm.tokens = done->prompt_tokens;
                prewarm.cached_tokens = done->cached_tokens;
                m.result_case = SPARK__V1__DONE__RESULT_PREWARM;
                m.prewarm = &prewarm;
        }
        finished.key = r->key;
        finished.done = &m;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FINISHED;
        frame.finished = &finished;
        send_late(userdata, job_of(r), frame_new(&frame));
}

static void on_failed(void *userdata, struct request *r, const struct failure *failure) {
        send_late(userdata, job_of(r), frame_new_failed(r->key, failure));
}

const struct engine_events link_events = {
        .accepted = on_accepted,
        .token = on_token,
        .progress = on_progress,
        .finished = on_finished,
        .failed = on_failed,
};

/* The protobuf structs of one chunk, side by side in one allocation for all. */
struct chunk_message {
        Spark__Engine__V1__TokenChunk chunk;
        Spark__V1__Token token;
};

static void fill_chunk(const struct link *l, struct link_chunk *c, struct chunk_message *m) {
        spark__engine__v1__token_chunk__init(&m->chunk);
        spark__v1__token__init(&m->token);
        m->chunk.key = c->key;
        m->chunk.token = &m->token;
        m->token.n_ids = 1;
        m->token.ids = &c->id;
        m->token.index = c->index;
        m->token.text.data = (uint8_t *)l->text + c->text;
        m->token.text.len = c->size;
        if (!c->has_logprob)
                return;
        m->token.n_logprobs = 1;
        m->token.logprobs = &c->logprob;
        m->token.top_n = c->n_top;
        m->token.n_top_ids = m->token.n_top_logprobs = c->n_top;
        m->token.top_ids = l->top_ids + c->top;
        m->token.top_logprobs = l->top_logprobs + c->top;
}

/* All tokens of the step in one frame. */
static int send_tokens(struct link *l) {
        Spark__Engine__V1__Tokens tokens = SPARK__ENGINE__V1__TOKENS__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;
        struct chunk_message *messages;
        struct frame *packed;
        size_t size = sizeof(*messages) + sizeof(void *);

        if (l->n_chunks == 0)
                return 0;
        if (!grow(&l->messages, 0, l->n_chunks, &l->cap_messages, size))
                return -ENOMEM;
        messages = l->messages;
        tokens.n_chunks = l->n_chunks;
        tokens.chunks = (Spark__Engine__V1__TokenChunk **)(void *)(messages + l->n_chunks);
        for (size_t i = 0; i < l->n_chunks; i++) {
                fill_chunk(l, &l->chunks[i], &messages[i]);
                tokens.chunks[i] = &messages[i].chunk;
        }
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_TOKENS;
        frame.tokens = &tokens;
        packed = frame_new(&frame);
        if (!packed)
                return -ENOMEM;
        send_frame(l, packed);
        l->n_chunks = l->n_text = l->n_top = 0;
        return 0;
}

static int send_step(struct link *l) {
        int r = send_tokens(l);

        while (l->late) {
                struct late *late = l->late;

                l->late = late->next;
                end_job(l, late->job, late->frame);
                free(late);
        }
        return l->out_of_memory ? -ENOMEM : r;
}

/* --- step -------------------------------------------------------------------------------------------------------- */

#define USERS_MAX 1024u /* that a State lists */

struct user_messages {
        struct engine_user users[USERS_MAX];
        Spark__Engine__V1__UserState states[USERS_MAX];
        Spark__Engine__V1__UserState *pointers[USERS_MAX];
};

static void fill_users(const struct engine *e, struct user_messages *m, Spark__Engine__V1__State *state) {
        state->n_users = engine_list_users(e, m->users, USERS_MAX);
        state->users = m->pointers;
        for (size_t i = 0; i < state->n_users; i++) {
                Spark__Engine__V1__UserState *u = m->pointers[i] = &m->states[i];

                spark__engine__v1__user_state__init(u);
                u->uid = m->users[i].uid;
                u->running = m->users[i].running;
                u->queued = m->users[i].queued;
                u->kv_used_bytes = m->users[i].kv_used_bytes;
                u->kv_cached_bytes = m->users[i].kv_cached_bytes;
        }
}

static int answer_ping(struct link *l, uint64_t cookie) {
        Spark__Engine__V1__State state = SPARK__ENGINE__V1__STATE__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;
        _cleanup_free_ struct user_messages *users = NULL;
        _cleanup_free_ uint64_t *keys = NULL;
        struct engine_stats stats = { 0 };
        size_t max = l->jobs.max; /* fixed at birth */
        struct frame *packed;

        keys = calloc(2 * max, sizeof(*keys));
        users = malloc(sizeof(*users));
        if (!keys || !users)
                return -ENOMEM;
        if (l->host->engine) {
                engine_get_stats(l->host->engine, &stats);
                state.n_queued_keys = engine_list_queued(l->host->engine, keys, max);
                state.n_paused_keys = engine_list_paused(l->host->engine, keys + max, max);
                fill_users(l->host->engine, users, &state);
        }
        state.cookie = cookie;
        state.steps = stats.steps;
        state.running = stats.running;
        state.queued = stats.queued;
        state.paused = stats.paused;
        state.kv_used_bytes = stats.kv_used_bytes;
        state.kv_cached_bytes = stats.kv_cached_bytes;
        state.tokens = stats.tokens;
        state.queued_keys = keys;
        state.paused_keys = keys + max;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_STATE;
        frame.state = &state;
        packed = frame_new(&frame);
        if (!packed)
                return -ENOMEM;
        send_frame(l, packed);
        return 0;
}

static int forget(struct link *l, struct job *job) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__Engine__V1__Finished finished = SPARK__ENGINE__V1__FINISHED__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;
        struct frame *packed;

        if (job->request.share)
                engine_forget_all(l->host->engine);
        else
                engine_forget(l->host->engine, job->request.uid);
        finished.key = job->request.key;
        finished.done = &done;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FINISHED;
        frame.finished = &finished;
        packed = frame_new(&frame);
        if (!packed)
                return -ENOMEM;
        end_job(l, job, packed);
        return 0;
}

static int take_job(struct link *l, struct job *job) {
        switch (job->request.kind) {
        case REQUEST_FORGET:
                return forget(l, job);
        case REQUEST_SPILL:
        case REQUEST_RESTORE:
                job->next = NULL;
                *l->errands_end = job;
                l->errands_end = &job->next;
                return 0;
        default:
                return engine_submit(l->host->engine, &job->request);
        }
}

/* The step thread's part of an errand; then the file thread's turn, or the answer. */
static int go_on_errand(struct link *l, struct errand *errand) {
        struct job *job = errand->job;
        struct frame *answer;
        int lost;

        if (errand_step(errand, l->host->engine, &lost)) {
                /* Where the link is closing nobody takes it any more. */
                if (queue_push_wait(&l->file_queue, (struct queue_item){ .type = STEP_ERRAND, .ptr = errand }) != 0)
                        (void)errand_free(errand);
                return 0;
        }
        answer = errand_answer(errand);
        (void)errand_free(errand);
        l->on_errand = false;
        if (!answer)
                return -ENOMEM;
        end_job(l, job, answer);
        return lost;
}

/* One at a time. */
static int next_errand(struct link *l) {
        struct job *job = l->errands;
        struct errand *errand;

        if (!job || l->on_errand)
                return 0;
        l->errands = job->next;
        if (!l->errands)
                l->errands_end = &l->errands;
        if (errand_new(&errand, job, &l->host->kv_kind) < 0) {
                struct frame *answer = frame_new_errand(&job->request, 0, 0, strerror(ENOMEM));

                if (!answer)
                        return -ENOMEM;
                end_job(l, job, answer);
                return 0;
        }
        l->on_errand = true;
        return go_on_errand(l, errand);
}

static int take_items(struct link *l) {
        struct queue_item item;
        int r = 0;

        while (r == 0 && queue_pop(&l->step_queue, &item)) {
                if (item.type == STEP_PING)
                        r = answer_ping(l, item.value);
                else if (item.type == STEP_ERRAND)
                        r = go_on_errand(l, item.ptr);
                else
                        r = take_job(l, item.ptr);
        }
        return r;
}

static int work(struct link *l) {
        int r, busy = 0;

        r = take_items(l);
        if (r == 0)
                r = next_errand(l);
        if (r == 0 && l->host->engine)
                r = busy = engine_step(l->host->engine);
        if (r >= 0)
                r = send_step(l);
        return r < 0 ? r : busy;
}

void *link_step_thread(void *userdata) {
        struct link *l = userdata;

        while (!queue_is_closed(&l->step_queue)) {
                int r = work(l);

                if (r < 0) {
                        report_lost(l, r);
                        return NULL;
                }
                if (r == 0)
                        queue_wait(&l->step_queue);
        }
        return NULL;
}

/* --- files ------------------------------------------------------------------------------------------------------- */

void *link_file_thread(void *userdata) {
        struct link *l = userdata;

        while (!queue_is_closed(&l->file_queue)) {
                struct queue_item item;

                while (queue_pop(&l->file_queue, &item)) {
                        errand_file(item.ptr);
                        if (queue_push_wait(&l->step_queue, item) != 0)
                                (void)errand_free(item.ptr);
                }
                queue_wait(&l->file_queue);
        }
        return NULL;
}

void link_step_deinit(struct link *l) {
        free(l->chunks);
        free(l->text);
        free(l->top_ids);
        free(l->top_logprobs);
        free(l->messages);
}
