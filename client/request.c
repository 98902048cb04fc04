/* SPDX-License-Identifier: Apache-2.0 */

/* What goes out: each public structure becomes one ClientFrame, packed straight into the output queue. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "internal.h"

struct request *request_free(struct request *r) {
        if (!r)
                return NULL;
        list_remove(&r->link);
        collected_deinit(&r->collected);
        (void)reply_free(r->reply);
        free(r);
        return NULL;
}

int arguments_copy(void *known, size_t known_size, const void *given) {
        const unsigned char *p = given;
        size_t size;

        if (!given)
                return -EINVAL;
        memcpy(&size, given, sizeof(size));
        if (size < sizeof(size))
                return -EINVAL;
        for (size_t i = known_size; i < size; i++)
                if (p[i] != 0)
                        return -E2BIG;
        memset(known, 0, known_size);
        memcpy(known, given, MIN(size, known_size));
        return 0;
}

char *string_or_empty(const char *s) {
        return s ? (char *)s : (char *)protobuf_c_empty_string;
}

void input_deinit(struct input *in) {
        in->fd = fd_close(in->fd);
}

int input_init(struct input *in, const char *text, size_t size) {
        if (!text && size > 0)
                return -EINVAL;
        if (size <= CLIENT_INLINE_MAX) {
                in->bytes = (ProtobufCBinaryData){ .data = (uint8_t *)text, .len = size };
                return 0;
        }
        in->fd = fd_memfd_new_sealed("spark-input", text, size);
        if (in->fd < 0)
                return in->fd;
        in->in_fd = 1;
        return 0;
}

/* Sampling as a message, with the arrays that it points at. */
struct sampling {
        Spark__V1__Sampling message;
        Spark__V1__LogitBias *biases;
        Spark__V1__LogitBias **bias_list;
};

static void sampling_deinit(struct sampling *s) {
        free(s->biases);
        free(s->bias_list);
}
#define _cleanup_sampling_ _cleanup_(sampling_deinit)
#define SAMPLING_NULL ((struct sampling){ .message = SPARK__V1__SAMPLING__INIT })

static int sampling_set_bias(struct sampling *s, const struct spark_logit_bias *bias, size_t n) {
        if (n == 0)
                return 0;
        if (!bias)
                return -EINVAL;
        s->biases = calloc(n, sizeof(*s->biases));
        s->bias_list = calloc(n, sizeof(Spark__V1__LogitBias *));
        if (!s->biases || !s->bias_list)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                spark__v1__logit_bias__init(&s->biases[i]);
                s->biases[i].has_token = s->biases[i].has_bias = 1;
                s->biases[i].token = bias[i].token;
                s->biases[i].bias = bias[i].bias;
                s->bias_list[i] = &s->biases[i];
        }
        s->message.n_logit_bias = n;
        s->message.logit_bias = s->bias_list;
        return 0;
}

static int sampling_init(struct sampling *s, const struct spark_sampling *given) {
        Spark__V1__Sampling *m = &s->message;
        struct spark_sampling a;
        int r;

        r = arguments_copy(&a, sizeof(a), given);
        if (r < 0)
                return r;
#define SET(field, flag) (m->has_##field = (a.set & (flag)) != 0, m->field = m->has_##field ? a.field : m->field)
        SET(temperature, SPARK_SET_TEMPERATURE);
        SET(top_k, SPARK_SET_TOP_K);
        SET(top_p, SPARK_SET_TOP_P);
        SET(min_p, SPARK_SET_MIN_P);
        SET(repetition_penalty, SPARK_SET_REPETITION_PENALTY);
        SET(presence_penalty, SPARK_SET_PRESENCE_PENALTY);
        SET(frequency_penalty, SPARK_SET_FREQUENCY_PENALTY);
        SET(penalty_window, SPARK_SET_PENALTY_WINDOW);
        SET(seed, SPARK_SET_SEED);
        SET(max_tokens, SPARK_SET_MAX_TOKENS);
#undef SET
        m->has_logprobs = a.logprobs > 0;
        m->logprobs = a.logprobs;
        m->has_ignore_eos = a.ignore_eos != 0;
        m->ignore_eos = a.ignore_eos != 0;
        if (a.n_stop > 0 && !a.stop)
                return -EINVAL;
        for (size_t i = 0; i < a.n_stop; i++)
                if (!a.stop[i])
                        return -EINVAL;
        m->n_stop = a.n_stop;
        m->stop = (char **)a.stop;
        return sampling_set_bias(s, a.logit_bias, a.n_logit_bias);
}

int request_start(struct spark *s, Spark__V1__ClientFrame *frame, int fd, const struct request_spec *spec,
                  uint64_t *ret_id) {
        return request_start_fds(s, frame, &fd, fd >= 0, spec, ret_id);
}

int request_start_fds(struct spark *s, Spark__V1__ClientFrame *frame, const int *fds, size_t n_fds,
                      const struct request_spec *spec, uint64_t *ret_id) {
        struct request *q;
        int r;

        q = calloc(1, sizeof(*q));
        if (!q)
                return -ENOMEM;
        list_init(&q->link);
        collected_init(&q->collected);
        q->fn = spec->fn;
        q->userdata = spec->userdata;
        q->window = spec->window ? spec->window : CLIENT_CREDIT_DEFAULT;
        q->manual_credit = spec->manual_credit;
        q->streams = spec->streams;

        pthread_mutex_lock(&s->lock);
        q->id = s->next_id;
        frame->id = q->id;
        frame->interactive_authorization = s->interactive;
        r = connection_send(s, frame, fds, n_fds, CLIENT_OUT_BYTES_MAX - CLIENT_OUT_BYTES_SPARE);
        if (r == 0) {
                s->next_id++;
                list_append(&s->buckets[q->id % CLIENT_BUCKETS], &q->link);
                if (ret_id)
                        *ret_id = q->id;
                connection_flush(s);
        }
        pthread_mutex_unlock(&s->lock);
        if (r < 0)
                (void)request_free(q);
        return r;
}

int spark_generate(struct spark *s, const struct spark_generate_request *request, spark_event_fn fn, void *userdata,
                   uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Generate m = SPARK__V1__GENERATE__INIT;
        _cleanup_sampling_ struct sampling sampling = SAMPLING_NULL;
        _cleanup_input_ struct input in = INPUT_NULL;
        struct spark_generate_request a;
        struct request_spec spec;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        if (a.n_prompt_tokens > 0 && (!a.prompt_tokens || a.prompt_size > 0))
                return -EINVAL;
        r = input_init(&in, a.prompt, a.prompt_size);
        if (r == 0 && a.sampling)
                r = sampling_init(&sampling, a.sampling);
        if (r < 0)
                return r;
        m.model = string_or_empty(a.model);
        m.prompt = in.bytes;
        m.input_fd = in.in_fd;
        m.prompt_tokens = (uint32_t *)a.prompt_tokens;
        m.n_prompt_tokens = a.n_prompt_tokens;
        m.special = a.special != 0;
        m.no_bos = a.no_bos != 0;
        m.raw_bytes = a.raw_bytes != 0;
        m.sampling = a.sampling ? &sampling.message : NULL;
        m.credit = a.credit;
        m.priority = (Spark__V1__Priority)a.priority;
        m.session = string_or_empty(a.session);
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_GENERATE;
        frame.generate = &m;
        spec = (struct request_spec){ fn, userdata, a.credit, a.flags & SPARK_MANUAL_CREDIT, true };
        return request_start(s, &frame, in.fd, &spec, ret_id);
}

void conversation_deinit(struct conversation *c) {
        free(c->messages);
        free(c->list);
}

int conversation_init(struct conversation *c, const struct spark_chat_message *given, size_t n) {
        const char *p = (const char *)given;

        c->messages = calloc(n ? n : 1, sizeof(*c->messages));
        c->list = calloc(n ? n : 1, sizeof(Spark__V1__ChatMessage *));
        if (!c->messages || !c->list)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                Spark__V1__ChatMessage *m = &c->messages[i];
                struct spark_chat_message a;
                int r;

                r = arguments_copy(&a, sizeof(a), p);
                if (r < 0)
                        return r;
                if (a.size != given->size || !a.role)
                        return -EINVAL;
                p += a.size;
                spark__v1__chat_message__init(m);
                m->role = string_or_empty(a.role);
                m->content = string_or_empty(a.content);
                m->tool_calls_json = string_or_empty(a.tool_calls_json);
                m->tool_call_id = string_or_empty(a.tool_call_id);
                m->name = string_or_empty(a.name);
                m->content_json = string_or_empty(a.content_json);
                m->reasoning_content = string_or_empty(a.reasoning_content);
                c->list[i] = m;
        }
        return 0;
}

int spark_chat(struct spark *s, const struct spark_chat_request *request, spark_event_fn fn, void *userdata,
               uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Chat m = SPARK__V1__CHAT__INIT;
        _cleanup_sampling_ struct sampling sampling = SAMPLING_NULL;
        _cleanup_(conversation_deinit) struct conversation conversation = { 0 };
        struct spark_chat_request a;
        struct request_spec spec;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        if ((a.messages && a.n_messages > 0) == (a.messages_json && a.messages_json[0]))
                return -EINVAL;
        r = conversation_init(&conversation, a.messages, a.messages ? a.n_messages : 0);
        if (r == 0 && a.sampling)
                r = sampling_init(&sampling, a.sampling);
        if (r < 0)
                return r;
        m.model = string_or_empty(a.model);
        m.messages = conversation.list;
        m.n_messages = a.messages ? a.n_messages : 0;
        m.messages_json = string_or_empty(a.messages_json);
        m.tools_json = string_or_empty(a.tools_json);
        m.template_args_json = string_or_empty(a.template_args_json);
        m.sampling = a.sampling ? &sampling.message : NULL;
        m.credit = a.credit;
        m.priority = (Spark__V1__Priority)a.priority;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_CHAT;
        frame.chat = &m;
        spec = (struct request_spec){ fn, userdata, a.credit, a.flags & SPARK_MANUAL_CREDIT, true };
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_tokenize(struct spark *s, const struct spark_tokenize_request *request, spark_event_fn fn, void *userdata,
                   uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Tokenize m = SPARK__V1__TOKENIZE__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        _cleanup_input_ struct input in = INPUT_NULL;
        struct spark_tokenize_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r == 0)
                r = input_init(&in, a.text, a.text_size);
        if (r < 0)
                return r;
        m.model = string_or_empty(a.model);
        m.text = in.bytes;
        m.input_fd = in.in_fd;
        m.special = a.special != 0;
        m.add_bos_eos = a.add_bos_eos != 0;
        m.raw_bytes = a.raw_bytes != 0;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_TOKENIZE;
        frame.tokenize = &m;
        return request_start(s, &frame, in.fd, &spec, ret_id);
}

int spark_detokenize(struct spark *s, const struct spark_detokenize_request *request, spark_event_fn fn,
                     void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Detokenize m = SPARK__V1__DETOKENIZE__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_detokenize_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        if (!a.ids && a.n_ids > 0)
                return -EINVAL;
        m.model = string_or_empty(a.model);
        m.tokens = (uint32_t *)a.ids;
        m.n_tokens = a.n_ids;
        m.special = a.special != 0;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_DETOKENIZE;
        frame.detokenize = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_score(struct spark *s, const struct spark_score_request *request, spark_event_fn fn, void *userdata,
                uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Score m = SPARK__V1__SCORE__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        _cleanup_input_ struct input in = INPUT_NULL;
        struct spark_score_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        if (a.n_ids > 0 && (!a.ids || a.text_size > 0))
                return -EINVAL;
        r = input_init(&in, a.text, a.text_size);
        if (r < 0)
                return r;
        m.model = string_or_empty(a.model);
        m.text = in.bytes;
        m.input_fd = in.in_fd;
        m.tokens = (uint32_t *)a.ids;
        m.n_tokens = a.n_ids;
        m.context = a.context;
        m.priority = (Spark__V1__Priority)a.priority;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_SCORE;
        frame.score = &m;
        return request_start(s, &frame, in.fd, &spec, ret_id);
}

int spark_load(struct spark *s, const struct spark_load_request *request, spark_event_fn fn, void *userdata,
               uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Load m = SPARK__V1__LOAD__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_load_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        if ((!a.model && !a.path && !a.use_fd && !a.shape) || (a.path && a.use_fd) || (a.use_fd && a.fd < 0))
                return -EINVAL;
        if (!a.shape != !a.format || (a.shape && (a.path || a.use_fd)) || ((a.shape || a.context || a.memory_bytes) && !a.dry_run))
                return -EINVAL;
        m.model = string_or_empty(a.model);
        m.path = string_or_empty(a.path);
        m.input_fd = a.use_fd != 0;
        m.dry_run = a.dry_run != 0;
        m.shape = string_or_empty(a.shape);
        m.format = string_or_empty(a.format);
        m.context = a.context;
        m.lossless = a.lossless != 0;
        m.memory = a.memory_bytes;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_LOAD;
        frame.load = &m;
        return request_start(s, &frame, a.use_fd ? a.fd : -1, &spec, ret_id);
}

int spark_unload(struct spark *s, const char *model, spark_event_fn fn, void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Unload m = SPARK__V1__UNLOAD__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };

        m.model = string_or_empty(model);
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_UNLOAD;
        frame.unload = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_models(struct spark *s, spark_event_fn fn, void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Models m = SPARK__V1__MODELS__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };

        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_MODELS;
        frame.models = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_status(struct spark *s, spark_event_fn fn, void *userdata, uint64_t *ret_id) {
        const struct spark_status_request request = SPARK_STATUS_INIT;

        return spark_status_query(s, &request, fn, userdata, ret_id);
}

int spark_usage(struct spark *s, const struct spark_usage_request *request, spark_event_fn fn, void *userdata,
                uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__UsageQuery m = SPARK__V1__USAGE_QUERY__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_usage_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        m.days = a.days;
        m.all_users = a.all_users != 0;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_USAGE_QUERY;
        frame.usage_query = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int request_send_cancel(struct spark *s, uint64_t id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Cancel m = SPARK__V1__CANCEL__INIT;
        int r;

        frame.id = id;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_CANCEL;
        frame.cancel = &m;
        r = connection_send(s, &frame, NULL, 0, CLIENT_OUT_BYTES_MAX);
        connection_flush(s);
        return r;
}

int request_grant(struct spark *s, struct request *q, uint32_t tokens) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Credit m = SPARK__V1__CREDIT__INIT;

        m.tokens = tokens;
        frame.id = q->id;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_CREDIT;
        frame.credit = &m;
        return connection_send(s, &frame, NULL, 0, CLIENT_OUT_BYTES_MAX);
}

int spark_cancel(struct spark *s, uint64_t id) {
        const struct request *q;
        int r = 0;

        pthread_mutex_lock(&s->lock);
        q = connection_find(s, id);
        if (id == 0 || id >= s->next_id)
                r = -EINVAL;
        else if (q && !q->ended)
                r = request_send_cancel(s, id);
        pthread_mutex_unlock(&s->lock);
        return r;
}

int spark_credit(struct spark *s, uint64_t id, uint32_t tokens) {
        struct request *q;
        int r = 0;

        pthread_mutex_lock(&s->lock);
        q = connection_find(s, id);
        if (id == 0 || id >= s->next_id) {
                r = -EINVAL;
        } else if (q && !q->ended && tokens > 0) {
                r = request_grant(s, q, tokens);
                connection_flush(s);
        }
        pthread_mutex_unlock(&s->lock);
        return r;
}

int spark_forget(struct spark *s, uint64_t id) {
        struct request *q;
        int r = 0;

        pthread_mutex_lock(&s->lock);
        q = connection_find(s, id);
        if (id == 0 || id >= s->next_id) {
                r = -EINVAL;
        } else if (q && q->ended) {
                (void)request_free(q);
        } else if (q) {
                q->forgotten = true;
                r = request_send_cancel(s, id);
        }
        pthread_mutex_unlock(&s->lock);
        return r;
}
