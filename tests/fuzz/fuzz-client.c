/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a service may say to libspark, rightly or wrongly: a greeting and whatever follows, while four requests of
 * different kinds are open (ids 1 to 4).
 */

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/macro.h"
#include "client/spark.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Touches all that an event shows, so that a sanitizer sees what is not there. */
static int on_event(struct spark *s, const struct spark_event *e, void *userdata) {
        unsigned *sum = userdata;

        if (e->type == SPARK_EVENT_TOKEN) {
                for (size_t i = 0; i < e->tokens->n; i++)
                        *sum += e->tokens->ids[i] + (e->tokens->logprobs && e->tokens->logprobs[i] < 0);
                for (size_t i = 0; i < e->tokens->n * e->tokens->top_n; i++)
                        *sum += e->tokens->top_ids[i] + (e->tokens->top_logprobs[i] < 0);
                *sum += (unsigned)strlen(e->tokens->text);
        } else if (e->type == SPARK_EVENT_DONE) {
                for (size_t i = 0; i < e->done->n_models; i++)
                        *sum += (unsigned)strlen(e->done->models[i]->name);
                for (size_t i = 0; i < e->done->n_ids; i++)
                        *sum += e->done->ids[i];
                *sum += e->done->text ? (unsigned)e->done->text[e->done->text_size] : 0;
                for (size_t i = 0; i < e->done->n_sessions; i++)
                        *sum += (unsigned)strlen(e->done->sessions[i]->id);
                *sum += e->done->session ? (unsigned)strlen(e->done->session->state) : 0;
                *sum += e->done->load ? (unsigned)strlen(e->done->load->model) : 0;
                *sum += e->done->status ? (unsigned)strlen(e->done->status->version) : 0;
        } else if (e->type == SPARK_EVENT_ERROR) {
                *sum += (unsigned)strlen(e->error->message);
        } else {
                *sum += (unsigned)strlen(e->progress->stage);
        }
        return (int)(*sum & 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const uint8_t hello[] = { 6, 0, 0, 0, 0x12, 4, 0x08, 1, 0x1a, 0 };
        struct spark_generate_request g = SPARK_GENERATE_INIT;
        struct spark_tokenize_request t = SPARK_TOKENIZE_INIT;
        struct spark_result *result = NULL;
        struct spark *s = NULL;
        unsigned sum = 0;
        uint64_t id = 0;
        int sv[2];

        if (size > 65536 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) < 0)
                return 0;
        if (spark_connect_fd(&s, sv[0], "fuzz") < 0)
                abort();
        (void)spark_generate(s, &g, on_event, &sum, NULL);
        (void)spark_generate(s, &g, NULL, NULL, &id);
        (void)spark_status(s, on_event, &sum, NULL);
        (void)spark_tokenize(s, &t, on_event, &sum, NULL);
        if (send(sv[1], hello, sizeof(hello), MSG_NOSIGNAL) != (ssize_t)sizeof(hello))
                abort();
        if (size > 0 && send(sv[1], data, size, MSG_NOSIGNAL) < 0)
                abort();
        for (unsigned i = 0; i < 16 && spark_process(s) > 0; i++)
                ;
        (void)fd_close(sv[1]);
        for (unsigned i = 0; i < 16 && spark_process(s) >= 0; i++)
                ;
        /* by now it has ended, one way or another */
        if (spark_wait(s, id, 0, &result) < 0)
                abort();
        (void)spark_result_free(result);
        (void)spark_unref(s);
        return 0;
}
