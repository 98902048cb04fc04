/* SPDX-License-Identifier: Apache-2.0 */

/* The transport through libspark: a connection per client, any number of requests on it. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/list.h"
#include "base/macro.h"
#include "client/spark.h"
#include "load-transport.h"

#define TOKENIZE_TIMEOUT_MS 60000

struct load_link {
        struct load_watch watch;
        const struct load_context *context;
        struct spark *spark;
        struct list calls;
        void *client;
        bool greeted;
};

/* A request under way: what names it to the run. Owned by the link's list. */
struct call {
        struct list in_link;
        struct load_link *link;
        void *request;
};

static struct call *call_free(struct call *call) {
        if (!call)
                return NULL;
        list_remove(&call->in_link);
        free(call);
        return NULL;
}
DEFINE_CLEANUP(struct call *, call_free)

static void link_lose(struct load_link *l) {
        const struct load_context *c = l->context;
        struct spark_error e = { .code = SPARK_DISCONNECTED, .message = "The connection is gone." };

        load_loop_unwatch(c->loop, &l->watch);
        (void)spark_failed(l->spark, &e);
        c->listener->lost(l->client, e.code, e.message);
}

static void on_readable(struct load_watch *w, uint32_t events) {
        struct load_link *l = CONTAINER_OF(w, struct load_link, watch);
        int r = spark_process(l->spark);

        if (!l->greeted && spark_server_software(l->spark)) {
                l->greeted = true;
                l->context->listener->connected(l->client);
        }
        /* at once: a next request must not be tried on what is gone */
        if (r < 0 || spark_failed(l->spark, NULL))
                link_lose(l);
}

static struct load_link *link_free(struct load_link *l) {
        if (!l)
                return NULL;
        load_loop_unwatch(l->context->loop, &l->watch);
        l->spark = spark_unref(l->spark);
        while (!list_empty(&l->calls))
                (void)call_free(LIST_ENTRY(l->calls.next, struct call, in_link));
        free(l);
        return NULL;
}
DEFINE_CLEANUP(struct load_link *, link_free)

static int link_new(struct load_link **ret, const struct load_context *c, void *client, int fd) {
        _cleanup_(link_freep) struct load_link *l = calloc(1, sizeof(*l));
        int r;

        if (!l)
                return -ENOMEM;
        *l = (struct load_link){ .watch = { -1, on_readable }, .context = c, .client = client };
        list_init(&l->calls);
        r = fd < 0 ? spark_connect(&l->spark, c->target->socket, "spark-bench")
                   : spark_connect_fd(&l->spark, fd, "spark-bench");
        if (r == 0)
                r = load_loop_watch(c->loop, &l->watch, spark_fd(l->spark), EPOLLIN);
        if (r < 0)
                return r;
        *ret = steal_ptr(&l);
        return 0;
}

static int on_event(struct spark *s, const struct spark_event *event, void *userdata) {
        struct call *call = userdata;
        const struct load_listener *listener = call->link->context->listener;
        struct load_outcome o = { .queue_ms = -1 };

        switch (event->type) {
        case SPARK_EVENT_TOKEN:
                listener->tokens(call->request, event->tokens->n, event->tokens->text, event->tokens->text_size);
                return 0;
        case SPARK_EVENT_ERROR:
                o.code = event->error->code;
                o.message = event->error->message;
                o.retry_after_ms = event->error->retry_after_ms;
                break;
        case SPARK_EVENT_DONE:
                o.prompt_tokens = event->done->prompt_tokens;
                o.cached_tokens = event->done->cached_tokens;
                o.queue_ms = event->done->queue_ms;
                break;
        default:
                return 0;
        }
        listener->ended(call->request, &o);
        call = call_free(call);
        return 0;
}

static int link_ask(struct load_link *l, const struct load_ask *ask, void *request, uint64_t *ret_id) {
        struct spark_sampling sampling = SPARK_SAMPLING_INIT;
        struct spark_generate_request q = SPARK_GENERATE_INIT;
        _cleanup_(call_freep) struct call *call = malloc(sizeof(*call));
        int r;

        if (!call)
                return -ENOMEM;
        *call = (struct call){ .link = l, .request = request };
        list_append(&l->calls, &call->in_link);
        sampling.set = SPARK_SET_TEMPERATURE | SPARK_SET_SEED | SPARK_SET_MAX_TOKENS;
        sampling.temperature = l->context->target->temperature;
        sampling.seed = ask->seed;
        sampling.max_tokens = ask->tokens;
        sampling.ignore_eos = 1;
        q.model = l->context->target->model;
        q.prompt = ask->prompt;
        q.prompt_size = ask->prompt_size;
        q.sampling = &sampling;
        q.priority = ask->priority;
        q.credit = ask->window;
        q.flags = ask->manual_credit ? SPARK_MANUAL_CREDIT : 0;
        r = spark_generate(l->spark, &q, on_event, call, ret_id);
        if (r == 0)
                (void)steal_ptr(&call);
        return r;
}

static void link_cancel(struct load_link *l, uint64_t id) {
        (void)spark_cancel(l->spark, id);
}

static void link_credit(struct load_link *l, uint64_t id, uint32_t tokens) {
        (void)spark_credit(l->spark, id, tokens);
}

static int tokenize(const struct load_context *c, const char *const *texts, size_t n, uint32_t *ret) {
        _cleanup_free_ uint64_t *ids = calloc(n ? n : 1, sizeof(*ids));
        struct spark *s = NULL;
        int r = ids ? spark_connect(&s, c->target->socket, "spark-bench") : -ENOMEM;

        for (size_t i = 0; i < n && r == 0; i++) {
                struct spark_tokenize_request q = SPARK_TOKENIZE_INIT;

                q.model = c->target->model;
                q.text = texts[i];
                q.text_size = strlen(texts[i]);
                q.add_bos_eos = 1;
                r = spark_tokenize(s, &q, NULL, NULL, &ids[i]);
        }
        for (size_t i = 0; i < n && r == 0; i++) {
                struct spark_result *result = NULL;

                r = spark_wait(s, ids[i], TOKENIZE_TIMEOUT_MS, &result);
                if (r == 0)
                        ret[i] = (uint32_t)result->done->n_ids;
                result = spark_result_free(result);
        }
        s = spark_unref(s);
        return r;
}

const struct load_transport load_transport_spark = {
        .name = "sparkd",
        .credit = true,
        .identity = true,
        .link_new = link_new,
        .link_free = link_free,
        .ask = link_ask,
        .cancel = link_cancel,
        .credit_grant = link_credit,
        .tokenize = tokenize,
};
