/* SPDX-License-Identifier: Apache-2.0 */

/* What the step thread tells: the engine's events become frames. */

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "link-private.h"
#include "message.h"

void link_send_frame(struct link *l, struct frame *frame) {
        if (queue_push_wait(&l->out_queue, (struct queue_item){ .type = OUT_FRAME, .ptr = frame }) != 0)
                free(frame);
}

void link_end_job(struct link *l, struct job *job, struct frame *frame) {
        link_send_frame(l, frame);
        (void)queue_push_wait(&l->out_queue, (struct queue_item){ .type = OUT_RETIRE, .ptr = job });
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
                link_send_frame(l, steal_ptr(&job->accepted));
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
        m.cached_tokens = r->so_far.cached;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_PROGRESS;
        frame.progress = &m;
        packed = frame_new(&frame);
        if (packed)
                link_send_frame(userdata, packed);
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
        send_late(userdata, job_of(r), frame_new_ended(r, failure));
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
        link_send_frame(l, packed);
        l->n_chunks = l->n_text = l->n_top = 0;
        return 0;
}

int link_send_step(struct link *l) {
        int r = send_tokens(l);

        while (l->late) {
                struct late *late = l->late;

                l->late = late->next;
                link_end_job(l, late->job, late->frame);
                free(late);
        }
        return l->out_of_memory ? -ENOMEM : r;
}

void link_step_deinit(struct link *l) {
        free(l->chunks);
        free(l->text);
        free(l->top_ids);
        free(l->top_logprobs);
        free(l->messages);
}
