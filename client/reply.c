/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "message.h"

/* The public result, with what it points at. */
struct result {
        struct spark_result public;
        struct spark_tokens tokens;
        struct collected collected;
        struct reply *reply;
};

const char *spark_code_name(int code) {
        const ProtobufCEnumValue *v;

        if (code == SPARK_DISCONNECTED)
                return "DISCONNECTED";
        if (code == SPARK_PROTOCOL)
                return "PROTOCOL";
        v = code > 0 ? protobuf_c_enum_descriptor_get_value(&spark__v1__error_code__descriptor, code) : NULL;
        return v ? v->name : "UNKNOWN";
}

/* An error without a code is still an error. Cast first: the compiler takes the enum to be unsigned. */
int error_code(const Spark__V1__Error *e, int otherwise) {
        int code = (int)e->code;

        return code > 0 ? code : otherwise;
}

struct reply *reply_free(struct reply *r) {
        if (!r)
                return NULL;
        (void)message_free(r->frame);
        free(r->text);
        free(r->models);
        free(r->model_list);
        free(r->requests);
        free(r->request_list);
        free(r->users);
        free(r->user_list);
        free(r->usage_rows);
        free(r->usage_list);
        free(r->sessions);
        free(r->session_list);
        shown_weights_free(r->weights);
        free(r->stored_files);
        free(r->stored_list);
        free(r->leases);
        free(r->lease_list);
        free(r->jobs);
        free(r->job_list);
        free(r);
        return NULL;
}

static int usage_show(struct reply *r, const Spark__V1__UsageResult *p) {
        r->usage_rows = calloc(p->n_rows ? p->n_rows : 1, sizeof(*r->usage_rows));
        r->usage_list = calloc(p->n_rows ? p->n_rows : 1, sizeof(struct spark_usage_row *));
        if (!r->usage_rows || !r->usage_list)
                return -ENOMEM;
        for (size_t i = 0; i < p->n_rows; i++) {
                const Spark__V1__UsageRow *row = p->rows[i];

                r->usage_rows[i] = (struct spark_usage_row){
                        .day = row->day,
                        .uid = row->uid,
                        .model = row->model,
                        .requests = row->requests,
                        .prompt_tokens = row->prompt_tokens,
                        .cached_tokens = row->cached_tokens,
                        .completion_tokens = row->completion_tokens,
                        .refused = row->refused,
                        .energy_uj = row->energy_uj,
                        .energy_tokens = row->energy_tokens,
                };
                r->usage_list[i] = &r->usage_rows[i];
        }
        r->usage = (struct spark_usage_result){
                .rows = r->usage_list,
                .n_rows = p->n_rows,
                .tokens_today = p->tokens_today,
                .tokens_per_day = p->tokens_per_day,
                .energy_uj_today = p->energy_uj_today,
                .energy_tokens_today = p->energy_tokens_today,
        };
        r->done.usage = &r->usage;
        return 0;
}

/* NULL where it is not said. */
static int sessions_show(struct reply *r, Spark__V1__SessionInfo *const *sessions, size_t n) {
        r->sessions = calloc(n ? n : 1, sizeof(*r->sessions));
        r->session_list = calloc(n ? n : 1, sizeof(struct spark_session *));
        if (!r->sessions || !r->session_list)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                const Spark__V1__SessionInfo *p = sessions[i];

                r->sessions[i] = (struct spark_session){
                        .id = p->id,
                        .model = p->model,
                        .name = p->name,
                        .state = p->state,
                        .uid = p->uid,
                        .persistent = p->persistent,
                        .tokens = p->tokens,
                        .stored_bytes = p->stored_bytes,
                        .idle_s = p->idle_s,
                };
                r->session_list[i] = &r->sessions[i];
        }
        return 0;
}

static int load_show(struct reply *r, const Spark__V1__LoadResult *p) {
        r->load = (struct spark_load_result){
                .model = p->model,
                .image_bytes = p->image_bytes,
                .kv_bytes = p->kv_bytes,
                .available_bytes = p->available_bytes,
                .floor_bytes = p->floor_bytes,
                .load_ms = p->load_ms,
                .engine_bytes = p->engine_bytes,
                .promised_bytes = p->promised_bytes,
                .kv_bytes_per_1000_tokens = p->kv_bytes_per_1000_tokens,
                .kv_format = p->kv_format,
                .kv_tokens = p->kv_tokens,
                .context = p->context,
                .context_max = p->context_max,
                .left_bytes = p->left_bytes,
                .fits = p->fits,
                .architecture = p->architecture,
                .format = p->format,
                .parameters = p->parameters,
                .read_bytes = p->read_bytes,
                .read_ms = p->read_ms,
                .bytes_per_second = p->bytes_per_second,
                .memory_bytes = p->memory_bytes,
        };
        return weights_show(&r->weights, p->weights, &r->load.weights);
}

static int detokenize_show(struct reply *r, const Spark__V1__DetokenizeResult *p) {
        r->text = malloc(p->text.len + 1);
        if (!r->text)
                return -ENOMEM;
        if (p->text.len > 0)
                memcpy(r->text, p->text.data, p->text.len);
        r->text[p->text.len] = 0;
        r->done.text = r->text;
        r->done.text_size = p->text.len;
        return 0;
}

static int stored_show(struct reply *r, const Spark__V1__StoredModel *p) {
        r->stored_files = calloc(p->n_files + 1, sizeof(*r->stored_files));
        r->stored_list = calloc(p->n_files + 1, sizeof(struct spark_stored_file *));
        if (!r->stored_files || !r->stored_list)
                return -ENOMEM;
        for (size_t i = 0; i < p->n_files; i++) {
                const Spark__V1__ModelFile *f = p->files[i];

                r->stored_files[i] = (struct spark_stored_file){ .role = f->role, .name = f->name, .sha256 = f->sha256,
                                                                 .bytes = f->size };
                r->stored_list[i] = &r->stored_files[i];
        }
        r->stored = (struct spark_stored){
                .digest = p->digest,
                .names = (const char *const *)p->names,
                .n_names = p->n_names,
                .files = r->stored_list,
                .n_files = p->n_files,
                .bytes = p->bytes,
                .imported = p->imported,
                .uid = p->uid,
                .pinned = p->pinned,
                .damaged = p->damaged,
                .state = p->state,
                .architecture = p->architecture,
                .format = p->format,
                .parameters = p->parameters,
                .context = p->context,
                .vocabulary = p->vocabulary,
                .has_chat_template = p->has_chat_template,
                .image_bytes = p->image_bytes,
                .kv_bytes = p->kv_bytes,
                .available_bytes = p->available_bytes,
                .floor_bytes = p->floor_bytes,
                .freed_bytes = p->freed_bytes,
                .method = p->method,
        };
        r->done.stored = &r->stored;
        return weights_show(&r->weights, p->weights, &r->stored.weights);
}

/* What an answer of any kind may say. */
static void figures_show(struct spark_done *d, const Spark__V1__Done *p) {
        d->finish = (int)p->finish_reason;
        d->seed = p->seed;
        if (p->usage) {
                d->prompt_tokens = p->usage->prompt_tokens;
                d->cached_tokens = p->usage->cached_tokens;
                d->completion_tokens = p->usage->completion_tokens;
        }
        if (p->timing) {
                d->queue_ms = p->timing->queue_ms;
                d->prefill_ms = p->timing->prefill_ms;
                d->decode_ms = p->timing->decode_ms;
        }
}

static int done_show(struct reply *r, const Spark__V1__Done *p) {
        struct spark_done *d = &r->done;

        figures_show(d, p);
        switch (p->result_case) {
        case SPARK__V1__DONE__RESULT_TOKENIZE:
                d->ids = p->tokenize->ids;
                d->n_ids = p->tokenize->n_ids;
                return 0;
        case SPARK__V1__DONE__RESULT_DETOKENIZE:
                return detokenize_show(r, p->detokenize);
        case SPARK__V1__DONE__RESULT_SCORE:
                d->score_tokens = p->score->tokens;
                d->nll = p->score->nll;
                d->perplexity = p->score->perplexity;
                return 0;
        case SPARK__V1__DONE__RESULT_MODELS:
                d->n_models = p->models->n_models;
                if (reply_show_models(r, p->models->models, p->models->n_models) < 0)
                        return -ENOMEM;
                d->models = r->model_list;
                return 0;
        case SPARK__V1__DONE__RESULT_LOAD:
                if (load_show(r, p->load) < 0)
                        return -ENOMEM;
                r->done.load = &r->load;
                return 0;
        case SPARK__V1__DONE__RESULT_STATUS:
                return reply_show_status(r, p->status);
        case SPARK__V1__DONE__RESULT_USAGE_REPORT:
                return usage_show(r, p->usage_report);
        case SPARK__V1__DONE__RESULT_PREWARM:
                d->prompt_tokens = p->prewarm->tokens;
                d->cached_tokens = p->prewarm->cached_tokens;
                return 0;
        case SPARK__V1__DONE__RESULT_SESSION:
                if (sessions_show(r, &p->session, 1) < 0)
                        return -ENOMEM;
                d->session = r->sessions;
                return 0;
        case SPARK__V1__DONE__RESULT_SESSIONS:
                if (sessions_show(r, p->sessions->sessions, p->sessions->n_sessions) < 0)
                        return -ENOMEM;
                d->n_sessions = p->sessions->n_sessions;
                d->sessions = r->session_list;
                return 0;
        case SPARK__V1__DONE__RESULT_JOBS:
                return jobs_show(r, p->jobs->jobs, p->jobs->n_jobs);
        case SPARK__V1__DONE__RESULT_STORED:
                return stored_show(r, p->stored);
        default:
                return 0;
        }
}

int reply_new(struct reply **ret, Spark__V1__ServerFrame *frame) {
        _cleanup_(reply_freep) struct reply *r = NULL;
        int k;

        r = calloc(1, sizeof(*r));
        if (!r)
                return -ENOMEM;
        if (frame->body_case == SPARK__V1__SERVER_FRAME__BODY_DONE) {
                k = done_show(r, frame->done);
                if (k < 0)
                        return k;
        } else {
                const Spark__V1__Error *e = frame->error;

                r->error = (struct spark_error){
                        .code = error_code(e, SPARK_INTERNAL),
                        .message = e->message,
                        .retry_after_ms = e->retry_after_ms,
                        .have = e->have,
                        .max = e->max,
                        .needs_person = e->needs_person,
                };
                if (e->load) {
                        if (load_show(r, e->load) < 0)
                                return -ENOMEM;
                        r->refused = &r->load;
                }
        }
        r->frame = &frame->base;
        *ret = steal_ptr(&r);
        return 0;
}

int reply_new_error(struct reply **ret, int code, const char *message) {
        struct reply *r;

        r = calloc(1, sizeof(*r));
        if (!r)
                return -ENOMEM;
        (void)snprintf(r->message, sizeof(r->message), "%s", message);
        r->error = (struct spark_error){ .code = code, .message = r->message };
        *ret = r;
        return 0;
}

int reply_show_tokens(const Spark__V1__Token *token, struct buf *text, struct spark_tokens *ret) {
        size_t n = token->n_ids, n_top;

        if (n == 0 || (token->n_logprobs != 0 && token->n_logprobs != n))
                return SPARK_PROTOCOL;
        if (__builtin_mul_overflow(n, (size_t)token->top_n, &n_top) || token->n_top_ids != n_top ||
            token->n_top_logprobs != n_top)
                return SPARK_PROTOCOL;
        buf_clear(text);
        if (buf_reserve(text, token->text.len) != 0 || buf_append(text, token->text.data, token->text.len) != 0)
                return -ENOMEM;
        *ret = (struct spark_tokens){
                .ids = token->ids,
                .n = n,
                .text = text->data,
                .text_size = text->len,
                .index = token->index,
                .logprobs = token->n_logprobs ? token->logprobs : NULL,
                .top_n = token->top_n,
                .top_ids = token->top_n ? token->top_ids : NULL,
                .top_logprobs = token->top_n ? token->top_logprobs : NULL,
        };
        return 0;
}

void collected_init(struct collected *c) {
        *c = (struct collected){
                .text = BUF_NULL(CLIENT_COLLECT_MAX),
                .ids = BUF_NULL(CLIENT_COLLECT_MAX),
                .logprobs = BUF_NULL(CLIENT_COLLECT_MAX),
                .top_ids = BUF_NULL(CLIENT_COLLECT_MAX),
                .top_logprobs = BUF_NULL(CLIENT_COLLECT_MAX),
        };
}

void collected_deinit(struct collected *c) {
        buf_deinit(&c->text);
        buf_deinit(&c->ids);
        buf_deinit(&c->logprobs);
        buf_deinit(&c->top_ids);
        buf_deinit(&c->top_logprobs);
}

int collected_add(struct collected *c, const struct spark_tokens *t) {
        bool first = c->ids.len == 0;
        int r;

        /* joined, the arrays must still be rectangles */
        if (!first && (c->top_n != t->top_n || (c->logprobs.len > 0) != (t->logprobs != NULL)))
                return SPARK_PROTOCOL;
        c->top_n = t->top_n;
        r = buf_append(&c->text, t->text, t->text_size);
        if (r == 0)
                r = buf_append(&c->ids, t->ids, t->n * sizeof(*t->ids));
        if (r == 0 && t->logprobs)
                r = buf_append(&c->logprobs, t->logprobs, t->n * sizeof(*t->logprobs));
        if (r == 0 && t->top_n > 0)
                r = buf_append(&c->top_ids, t->top_ids, t->n * t->top_n * sizeof(*t->top_ids));
        if (r == 0 && t->top_n > 0)
                r = buf_append(&c->top_logprobs, t->top_logprobs, t->n * t->top_n * sizeof(*t->top_logprobs));
        return r;
}

int result_new(struct spark_result **ret, struct request *request) {
        struct result *r;
        struct collected *c;

        r = calloc(1, sizeof(*r));
        if (!r)
                return -ENOMEM;
        c = &r->collected;
        *c = request->collected;
        collected_init(&request->collected);
        r->reply = steal_ptr(&request->reply);
        r->tokens = (struct spark_tokens){
                .ids = (const uint32_t *)(const void *)c->ids.data,
                .n = c->ids.len / sizeof(uint32_t),
                .text = c->text.data ? c->text.data : "",
                .text_size = c->text.len,
                .logprobs = c->logprobs.len ? (const float *)(const void *)c->logprobs.data : NULL,
                .top_n = c->top_n,
                .top_ids = c->top_ids.len ? (const uint32_t *)(const void *)c->top_ids.data : NULL,
                .top_logprobs = c->top_logprobs.len ? (const float *)(const void *)c->top_logprobs.data : NULL,
        };
        r->public.tokens = &r->tokens;
        if (r->reply->error.code != 0)
                r->public.error = &r->reply->error;
        else
                r->public.done = &r->reply->done;
        r->public.load = r->reply->refused;
        *ret = &r->public;
        return 0;
}

struct spark_result *spark_result_free(struct spark_result *result) {
        struct result *r;

        if (!result)
                return NULL;
        r = CONTAINER_OF(result, struct result, public);
        collected_deinit(&r->collected);
        (void)reply_free(r->reply);
        free(r);
        return NULL;
}
