/* SPDX-License-Identifier: Apache-2.0 */

/* A frame from control, from its bytes to what the engine makes of it: unpacking, every check of prep, a few steps. */

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "daemon/engine/host.h"
#include "message.h"

#define STEPS 20

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char source[] = "{% for m in messages %}<s>{{ m.role }}: {{ m.content | trim }}{{ m.tool_calls | tojson }}"
                             "</s>{% endfor %}{{ tools | tojson }}";

static void ended(struct request *r) {
        if (r->key == 0)
                abort(); /* twice */
        r->key = 0;
}

static void on_accepted(void *userdata, struct request *r) {
        if (r->n_tokens == 0)
                abort();
}

static void on_token(void *userdata, struct request *r, const struct output_chunk *chunk) {
        if (chunk->choice.token < 0 || chunk->choice.token >= (int32_t)FAKE_VOCAB)
                abort();
}

static void on_progress(void *userdata, struct request *r, uint64_t done, uint64_t total) {
        if (done > total)
                abort();
}

static void on_finished(void *userdata, struct request *r, const struct engine_done *done) {
        ended(r);
}

static void on_failed(void *userdata, struct request *r, const struct failure *f) {
        if (f->code == 0 || f->text[0] == 0)
                abort(); /* every refusal has a code and a sentence */
        ended(r);
}

static const struct engine_events events = {
        .accepted = on_accepted, .token = on_token, .progress = on_progress, .finished = on_finished, .failed = on_failed,
};

static struct host *open_host(void) {
        static struct host host;
        const struct host_config config = { .backend = "null", .engine = { .context = 512, .max_sequences = 2 } };
        struct failure f;

        if (host.engine)
                return &host;
        log_init("fuzz-request", LOG_LEVEL_ERROR, 0);
        if (host_open(&host, &config, NULL, 0, &events, NULL, &f) != 0 ||
            chat_new(&host.chat, &host.def, host.tokenizer, source, strlen(source), &f) != 0)
                abort();
        host.prep.chat = host.chat;
        return &host;
}

static void run(struct host *h, struct job *job) {
        struct frame *answer = NULL;
        struct failure f = { 0 };
        int r;

        r = prep_job(&h->prep, job, &answer, &f);
        if (r == PREP_E_FAILED && (f.code == 0 || f.text[0] == 0))
                abort();
        if ((r == PREP_E_ANSWERED) != (answer != NULL))
                abort();
        free(answer);
        if (r != 0)
                return;
        if (engine_submit(h->engine, &job->request) < 0)
                abort();
        for (unsigned i = 0; i < STEPS; i++)
                if (engine_step(h->engine) < 0)
                        abort();
        if (job->request.key != 0) {
                atomic_store(&job->request.cancelled, true);
                engine_notice(h->engine);
                (void)engine_step(h->engine);
        }
        if (job->request.key != 0)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct host *h = open_host();
        ProtobufCMessage *message = NULL;
        const Spark__Engine__V1__ControlFrame *m;
        struct job *job;

        if (message_unpack(&spark__engine__v1__control_frame__descriptor, data, size, &message, NULL) != 0)
                return 0;
        m = (const Spark__Engine__V1__ControlFrame *)message;
        job = m->body_case == SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT ? job_new() : NULL;
        if (!job) {
                (void)message_free(message);
                return 0;
        }
        job->message = message;
        job->submit = m->submit;
        job->request.key = 1;
        atomic_store(&job->request.granted, m->submit->credit);
        run(h, job);
        (void)job_free(job);
        return 0;
}
