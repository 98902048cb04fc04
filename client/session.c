/* SPDX-License-Identifier: Apache-2.0 */

/* What goes out, too: sessions and the prefix cache. */

#include <errno.h>

#include "internal.h"

int spark_session_create(struct spark *s, const struct spark_session_create_request *request, spark_event_fn fn,
                         void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__SessionCreate m = SPARK__V1__SESSION_CREATE__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_session_create_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        m.model = string_or_empty(a.model);
        m.name = string_or_empty(a.name);
        m.persistent = a.persistent != 0;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_SESSION_CREATE;
        frame.session_create = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_session_append(struct spark *s, const struct spark_session_append_request *request, spark_event_fn fn,
                         void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__SessionAppend m = SPARK__V1__SESSION_APPEND__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        _cleanup_input_ struct input in = INPUT_NULL;
        struct spark_session_append_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        if (!a.session || (a.n_tokens > 0 && (!a.tokens || a.text_size > 0)))
                return -EINVAL;
        r = input_init(&in, a.text, a.text_size);
        if (r < 0)
                return r;
        m.session = string_or_empty(a.session);
        m.text = in.bytes;
        m.input_fd = in.in_fd;
        m.tokens = (uint32_t *)a.tokens;
        m.n_tokens = a.n_tokens;
        m.special = a.special != 0;
        m.no_bos = a.no_bos != 0;
        m.priority = (Spark__V1__Priority)a.priority;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_SESSION_APPEND;
        frame.session_append = &m;
        return request_start(s, &frame, in.fd, &spec, ret_id);
}

int spark_session_fork(struct spark *s, const struct spark_session_fork_request *request, spark_event_fn fn,
                       void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__SessionFork m = SPARK__V1__SESSION_FORK__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_session_fork_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        if (!a.session)
                return -EINVAL;
        m.session = string_or_empty(a.session);
        m.name = string_or_empty(a.name);
        m.persistent = a.persistent != 0;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_SESSION_FORK;
        frame.session_fork = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_session_rewind(struct spark *s, const struct spark_session_rewind_request *request, spark_event_fn fn,
                         void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__SessionRewind m = SPARK__V1__SESSION_REWIND__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_session_rewind_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        if (!a.session)
                return -EINVAL;
        m.session = string_or_empty(a.session);
        m.tokens = a.tokens;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_SESSION_REWIND;
        frame.session_rewind = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_session_close(struct spark *s, const char *session, spark_event_fn fn, void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__SessionClose m = SPARK__V1__SESSION_CLOSE__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };

        if (!session)
                return -EINVAL;
        m.session = string_or_empty(session);
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_SESSION_CLOSE;
        frame.session_close = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}

int spark_session_list(struct spark *s, spark_event_fn fn, void *userdata, uint64_t *ret_id) {
        const struct spark_session_list_request request = SPARK_SESSION_LIST_INIT;

        return spark_session_query(s, &request, fn, userdata, ret_id);
}

/* One of text, tokens and messages, and what goes with it. */
static bool prewarm_makes_sense(const struct spark_prewarm_request *a) {
        if ((a->n_tokens > 0 && !a->tokens) || (a->n_messages > 0 && !a->messages))
                return false;
        return (a->text_size > 0) + (a->n_tokens > 0) + (a->n_messages > 0) + (a->messages_json && a->messages_json[0]) <= 1;
}

int spark_prewarm(struct spark *s, const struct spark_prewarm_request *request, spark_event_fn fn, void *userdata,
                  uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Prewarm m = SPARK__V1__PREWARM__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        _cleanup_(conversation_deinit) struct conversation conversation = { 0 };
        _cleanup_input_ struct input in = INPUT_NULL;
        struct spark_prewarm_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        if (!prewarm_makes_sense(&a))
                return -EINVAL;
        r = input_init(&in, a.text, a.text_size);
        if (r == 0)
                r = conversation_init(&conversation, a.messages, a.n_messages);
        if (r < 0)
                return r;
        m.model = string_or_empty(a.model);
        m.text = in.bytes;
        m.input_fd = in.in_fd;
        m.tokens = (uint32_t *)a.tokens;
        m.n_tokens = a.n_tokens;
        m.messages = conversation.list;
        m.n_messages = a.n_messages;
        m.messages_json = string_or_empty(a.messages_json);
        m.tools_json = string_or_empty(a.tools_json);
        m.template_args_json = string_or_empty(a.template_args_json);
        m.special = a.special != 0;
        m.no_bos = a.no_bos != 0;
        m.share = a.share != 0;
        m.priority = (Spark__V1__Priority)a.priority;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_PREWARM;
        frame.prewarm = &m;
        return request_start(s, &frame, in.fd, &spec, ret_id);
}

int spark_forget_prefixes(struct spark *s, const struct spark_forget_prefixes_request *request, spark_event_fn fn,
                          void *userdata, uint64_t *ret_id) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Forget m = SPARK__V1__FORGET__INIT;
        const struct request_spec spec = { .fn = fn, .userdata = userdata };
        struct spark_forget_prefixes_request a;
        int r;

        r = arguments_copy(&a, sizeof(a), request);
        if (r < 0)
                return r;
        m.model = string_or_empty(a.model);
        m.all_users = a.all_users != 0;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_FORGET;
        frame.forget = &m;
        return request_start(s, &frame, -1, &spec, ret_id);
}
