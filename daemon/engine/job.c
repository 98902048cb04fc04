/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "job.h"
#include "message.h"

struct job *job_new(void) {
        struct job *job = calloc(1, sizeof(*job));

        if (job)
                job->input_fd = job->file_fd = -1;
        return job;
}

void job_drop_message(struct job *job) {
        job->message = message_free(job->message);
        job->submit = NULL;
        job->spill = NULL;
        job->restore = NULL;
        job->input_fd = fd_close(job->input_fd);
}

struct job *job_free(struct job *job) {
        if (!job)
                return NULL;
        job_drop_message(job);
        request_deinit(&job->request);
        job->file_fd = fd_close(job->file_fd);
        free(job->accepted);
        free(job);
        return NULL;
}

int job_table_init(struct job_table *t, size_t max) {
        size_t n = 16;

        while (n < 2 * max)
                n *= 2;
        *t = (struct job_table){ .mask = n - 1, .max = max };
        t->slots = calloc(n, sizeof(struct job *));
        return t->slots ? 0 : -ENOMEM;
}

void job_table_deinit(struct job_table *t) {
        for (size_t i = 0; t->slots && i <= t->mask; i++)
                (void)job_free(t->slots[i]);
        free(t->slots);
        *t = (struct job_table){ 0 };
}

static size_t home_of(const struct job_table *t, uint64_t key) {
        return (size_t)((key * 0x9E3779B97F4A7C15u) >> 32) & t->mask;
}

static size_t slot_of(const struct job_table *t, uint64_t key) {
        size_t i = home_of(t, key);

        while (t->slots[i] && t->slots[i]->request.key != key)
                i = (i + 1) & t->mask;
        return i;
}

struct job *job_table_find(const struct job_table *t, uint64_t key) {
        return t->slots[slot_of(t, key)];
}

int job_table_add(struct job_table *t, struct job *job) {
        size_t i = slot_of(t, job->request.key);

        if (t->slots[i])
                return JOB_E_EXISTS;
        if (t->n >= t->max)
                return JOB_E_FULL;
        t->slots[i] = job;
        t->n++;
        return 0;
}

void job_table_remove(struct job_table *t, struct job *job) {
        size_t hole = slot_of(t, job->request.key);

        if (t->slots[hole] != job)
                return;
        t->slots[hole] = NULL;
        t->n--;
        /* Moves up what lies behind the hole and could not be found across it. */
        for (size_t i = (hole + 1) & t->mask; t->slots[i]; i = (i + 1) & t->mask) {
                size_t home = home_of(t, t->slots[i]->request.key);

                if (((i - home) & t->mask) < ((i - hole) & t->mask))
                        continue;
                t->slots[hole] = t->slots[i];
                t->slots[i] = NULL;
                hole = i;
        }
}

struct frame *frame_new(const Spark__Engine__V1__EngineFrame *message) {
        size_t size = spark__engine__v1__engine_frame__get_packed_size(message);
        struct frame *frame = malloc(sizeof(*frame) + size);

        if (!frame)
                return NULL;
        frame->next = NULL;
        frame->size = spark__engine__v1__engine_frame__pack(message, frame->data);
        return frame;
}

static struct frame *frame_failed(uint64_t key, const struct failure *f, Spark__V1__Usage *usage) {
        Spark__V1__Error error = SPARK__V1__ERROR__INIT;
        Spark__Engine__V1__Failed failed = SPARK__ENGINE__V1__FAILED__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;

        error.code = f->code;
        error.message = (char *)f->text;
        error.retry_after_ms = f->retry_after_ms;
        error.have = f->have;
        error.max = f->max;
        failed.key = key;
        failed.error = &error;
        failed.usage = usage;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_FAILED;
        frame.failed = &failed;
        return frame_new(&frame);
}

struct frame *frame_new_failed(uint64_t key, const struct failure *f) {
        return frame_failed(key, f, NULL);
}

struct frame *frame_new_ended(const struct request *r, const struct failure *f) {
        Spark__V1__Usage usage = SPARK__V1__USAGE__INIT;

        usage.prompt_tokens = r->so_far.prompt;
        usage.cached_tokens = r->so_far.cached;
        usage.completion_tokens = r->so_far.completion;
        return frame_failed(r->key, f, r->so_far.prompt > 0 ? &usage : NULL);
}

struct frame *frame_new_accepted(const struct request *r) {
        Spark__Engine__V1__Accepted accepted = SPARK__ENGINE__V1__ACCEPTED__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;

        accepted.key = r->key;
        if (r->kind != REQUEST_SCORE) {
                accepted.n_prompt_tokens = r->n_tokens;
                accepted.prompt_tokens = (uint32_t *)r->tokens; /* ids are never negative */
        }
        accepted.seed = r->sampling.seed;
        frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_ACCEPTED;
        frame.accepted = &accepted;
        return frame_new(&frame);
}

struct frame *frame_new_errand(const struct request *r, uint32_t n_tokens, uint64_t bytes, const char *error) {
        Spark__Engine__V1__Spilled spilled = SPARK__ENGINE__V1__SPILLED__INIT;
        Spark__Engine__V1__Restored restored = SPARK__ENGINE__V1__RESTORED__INIT;
        Spark__Engine__V1__EngineFrame frame = SPARK__ENGINE__V1__ENGINE_FRAME__INIT;

        if (r->kind == REQUEST_SPILL) {
                spilled.key = r->key;
                spilled.tokens = n_tokens;
                spilled.bytes = bytes;
                spilled.error = (char *)error;
                frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_SPILLED;
                frame.spilled = &spilled;
        } else {
                restored.key = r->key;
                restored.tokens = n_tokens;
                restored.error = (char *)error;
                frame.body_case = SPARK__ENGINE__V1__ENGINE_FRAME__BODY_RESTORED;
                frame.restored = &restored;
        }
        return frame_new(&frame);
}
