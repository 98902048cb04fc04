/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* libspark connected to a played service (fake-service.h), for its tests. */

#include "client/spark.h"
#include "fake-service.h"

/* Starts the service with its script and connects; `data` is the script's. */
static inline struct spark *client_start(struct fake *f, void (*script)(struct fake *f), void *data) {
        struct spark *s = NULL;
        int fd = fake_start(f, script, data);

        assert_true(fd >= 0);
        assert_int_equal(spark_connect_fd(&s, fd, "test 1.0"), 0);
        return s;
}

/* Lets go of the connection and fails where the service found something wrong. */
static inline void client_finish(struct fake *f, struct spark *s) {
        assert_null(spark_unref(s));
        fake_stop(f);
        if (f->fault[0])
                fail_msg("service: %s", f->fault);
}

static inline uint64_t client_generate(struct spark *s, const char *prompt, spark_event_fn fn, void *userdata) {
        struct spark_generate_request g = SPARK_GENERATE_INIT;
        uint64_t id = 0;

        g.prompt = prompt;
        g.prompt_size = strlen(prompt);
        assert_int_equal(spark_generate(s, &g, fn, userdata, &id), 0);
        assert_true(id != 0);
        return id;
}

/* What a request's events came to. */
struct client_seen {
        struct spark *s;
        char text[4096];
        size_t n_text;
        uint32_t n_tokens, n_progress, n_done, n_error;
        int code, cancel_at;
        uint64_t id;
        uint64_t total;
};

static inline int client_see(struct spark *s, const struct spark_event *e, void *userdata) {
        struct client_seen *seen = userdata;

        seen->id = e->id;
        switch (e->type) {
        case SPARK_EVENT_TOKEN:
                assert_int_equal(e->tokens->index, seen->n_tokens);
                seen->n_tokens += (uint32_t)e->tokens->n;
                if (seen->n_text + e->tokens->text_size < sizeof(seen->text))
                        memcpy(seen->text + seen->n_text, e->tokens->text, e->tokens->text_size + 1);
                seen->n_text += e->tokens->text_size;
                return seen->cancel_at && seen->n_tokens >= (uint32_t)seen->cancel_at;
        case SPARK_EVENT_PROGRESS:
                seen->n_progress++;
                seen->total = e->progress->total;
                return 0;
        case SPARK_EVENT_DONE:
                assert_int_equal(e->done->completion_tokens, seen->n_tokens);
                seen->n_done++;
                return 0;
        default:
                seen->n_error++;
                seen->code = e->error->code;
                return 0;
        }
}

static inline void client_script_silent(struct fake *f) {
        fake_greet(f);
        while (!f->fault[0]) {
                Spark__V1__ClientFrame *m = fake_receive(f);

                if (!m)
                        break;
                (void)message_free(&m->base);
        }
}
