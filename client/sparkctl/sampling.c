/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>

#include "sampling.h"

#define ANSWER_MAX ((size_t)1 << 28)

void sampling_options_finish(struct sampling_options *o) {
        o->s.stop = o->stop.items;
        o->s.n_stop = o->stop.n;
        o->s.ignore_eos = o->ignore_eos;
}

void sampling_options_deinit(struct sampling_options *o) {
        string_list_deinit(&o->stop);
}

void answer_init(struct answer *a, struct ctl *ctl) {
        *a = (struct answer){
                .ctl = ctl,
                .echo = !ctl->json,
                .text = BUF_NULL(ANSWER_MAX),
                .ids = BUF_NULL(ANSWER_MAX),
                .logprobs = BUF_NULL(ANSWER_MAX),
                .top_ids = BUF_NULL(ANSWER_MAX),
                .top_logprobs = BUF_NULL(ANSWER_MAX),
        };
}

void answer_deinit(struct answer *a) {
        buf_deinit(&a->text);
        buf_deinit(&a->ids);
        buf_deinit(&a->logprobs);
        buf_deinit(&a->top_ids);
        buf_deinit(&a->top_logprobs);
}

static void gather(struct answer *a, const struct spark_tokens *t) {
        int r;

        r = buf_append(&a->text, t->text, t->text_size);
        if (r == 0)
                r = buf_append(&a->ids, t->ids, t->n * sizeof(*t->ids));
        if (r == 0 && t->logprobs)
                r = buf_append(&a->logprobs, t->logprobs, t->n * sizeof(*t->logprobs));
        if (r == 0 && t->top_n > 0)
                r = buf_append(&a->top_ids, t->top_ids, t->n * t->top_n * sizeof(*t->top_ids));
        if (r == 0 && t->top_n > 0)
                r = buf_append(&a->top_logprobs, t->top_logprobs, t->n * t->top_n * sizeof(*t->top_logprobs));
        a->top_n = t->top_n;
        if (r != 0)
                a->failed = true;
}

void answer_tokens(struct call *call, const struct spark_tokens *tokens) {
        struct answer *a = call->data;

        gather(a, tokens);
        if (!a->echo || tokens->text_size == 0)
                return;
        /* a slow reader blocks us here, so that no credit is granted and only this stream waits */
        (void)fwrite(tokens->text, 1, tokens->text_size, stdout);
        (void)fflush(stdout);
        a->last = tokens->text[tokens->text_size - 1];
}

void answer_done(struct call *call, const struct spark_done *done) {
        struct answer *a = call->data;

        a->done = true;
        a->end = *done;
        a->session_tokens = done->session ? done->session->tokens : 0;
}

void answer_finish(struct answer *a) {
        if (a->echo && a->ctl->tty_out)
                (void)fputc('\n', stdout);
        (void)fflush(stdout);
}

static const char *finish_reason(const struct answer *a, bool cancelled) {
        if (cancelled || !a->done)
                return "cancelled";
        switch (a->end.finish) {
        case SPARK_FINISH_STOP:
                return "stop";
        case SPARK_FINISH_STOP_STRING:
                return "stop_string";
        case SPARK_FINISH_LENGTH:
                return "length";
        default:
                return "unknown";
        }
}

/* What the service only tells at the end is null where the end did not come. */
static void json_end(struct json *j, const struct answer *a, size_t n_tokens) {
        json_open(j, "usage", '{');
        if (a->done) {
                json_u64(j, "prompt_tokens", a->end.prompt_tokens);
                json_u64(j, "cached_tokens", a->end.cached_tokens);
                json_u64(j, "completion_tokens", a->end.completion_tokens);
        } else {
                json_null(j, "prompt_tokens");
                json_null(j, "cached_tokens");
                json_u64(j, "completion_tokens", n_tokens);
        }
        json_close(j, '}');
        json_open(j, "timing", '{');
        if (a->done) {
                json_number(j, "queue_ms", a->end.queue_ms, 9);
                json_number(j, "prefill_ms", a->end.prefill_ms, 9);
                json_number(j, "decode_ms", a->end.decode_ms, 9);
        } else {
                json_null(j, "queue_ms");
                json_null(j, "prefill_ms");
                json_null(j, "decode_ms");
        }
        json_close(j, '}');
        if (a->done)
                json_u64(j, "seed", a->end.seed);
        else
                json_null(j, "seed");
}

static void json_logprobs(struct json *j, const struct answer *a) {
        const uint32_t *ids = (const uint32_t *)(const void *)a->ids.data;
        const float *logprobs = (const float *)(const void *)a->logprobs.data;
        const uint32_t *top_ids = (const uint32_t *)(const void *)a->top_ids.data;
        const float *top_logprobs = (const float *)(const void *)a->top_logprobs.data;
        size_t n = a->logprobs.len / sizeof(*logprobs), n_top = a->top_ids.len / sizeof(*top_ids);

        json_open(j, "logprobs", '[');
        for (size_t i = 0; i < n; i++) {
                json_open(j, NULL, '{');
                json_u64(j, "id", ids[i]);
                json_number(j, "logprob", (double)logprobs[i], 9);
                json_open(j, "top", '[');
                for (size_t k = i * a->top_n; k < (i + 1) * a->top_n && k < n_top; k++) {
                        json_open(j, NULL, '{');
                        json_u64(j, "id", top_ids[k]);
                        json_number(j, "logprob", (double)top_logprobs[k], 9);
                        json_close(j, '}');
                }
                json_close(j, ']');
                json_close(j, '}');
        }
        json_close(j, ']');
}

int answer_print_json(const struct answer *a, const char *model, bool cancelled) {
        _cleanup_json_ struct json j = JSON_NULL;
        size_t n = a->ids.len / sizeof(uint32_t);

        json_open(&j, NULL, '{');
        json_text(&j, "text", a->text.data ? a->text.data : "", a->text.len);
        json_ids(&j, "tokens", (const uint32_t *)(const void *)a->ids.data, n);
        json_string(&j, "finish_reason", finish_reason(a, cancelled));
        json_end(&j, a, n);
        if (model)
                json_string(&j, "model", model);
        else
                json_null(&j, "model");
        if (a->logprobs.len > 0)
                json_logprobs(&j, a);
        if (a->session) {
                json_open(&j, "session", '{');
                json_string(&j, "id", a->session);
                if (a->done)
                        json_u64(&j, "tokens", a->session_tokens);
                else
                        json_null(&j, "tokens");
                json_close(&j, '}');
        }
        json_close(&j, '}');
        return json_print(&j);
}
