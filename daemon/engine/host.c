/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "host.h"
#include "vocab.h"

#define MODEL_INVALID SPARK__V1__ERROR_CODE__MODEL_INVALID

uint64_t host_default_kv_bytes(void) {
        unsigned long long kib = 0;
        char line[128];
        FILE *f;

        f = fopen("/proc/meminfo", "re");
        if (!f)
                return 0;
        while (fgets(line, sizeof(line), f))
                if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
                        break;
        (void)fclose(f);
        return kib * 1024 / 4;
}

static int open_backend(struct host *h, const struct host_config *config, const char *name, struct failure *f) {
        struct backend_error error;
        int r;

        r = backend_open(name, &config->be, &h->backend, &error);
        if (r > 0)
                return failure_set(f, r == BACKEND_E_NO_MEMORY ? SPARK__V1__ERROR_CODE__NO_MEMORY :
                                      r == BACKEND_E_MISSING   ? SPARK__V1__ERROR_CODE__INVALID_ARGUMENT :
                                                                 SPARK__V1__ERROR_CODE__INTERNAL,
                                   "%s", error.text);
        if (r < 0)
                log_error("%s", error.text);
        return r;
}

int host_open_device(struct host *h, const struct host_config *config, struct failure *f) {
        const struct backend_ops *ops;
        struct backend_error error;

        *h = HOST_NULL;
        ops = backend_choose(config->backend, &config->be, &error);
        if (!ops)
                return failure_set(f, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT, "%s", error.text);
        if (error.text[0])
                log_notice("%s", error.text);
        h->backend_name = ops->name;
        return ops->device ? open_backend(h, config, ops->name, f) : 0;
}

/* Opens what has no device: from within the sandbox the choice can't be made again. */
static int need_backend(struct host *h, const struct host_config *config, size_t n_fds, struct failure *f) {
        int r = h->backend ? 0 : open_backend(h, config, h->backend_name, f);

        if (r == 0 && h->backend->ops->fake != (n_fds == 0))
                return failure_set(f, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                   n_fds == 0 ? "the %s backend needs an image" : "the %s backend takes no image",
                                   h->backend->ops->name);
        return r;
}

static int open_image(struct host *h, const struct host_config *config, const int *fds, size_t n_fds, struct failure *f) {
        struct image_error error = { .text = "" };
        int r;

        if (n_fds == 0) {
                fake_vocab_init(&h->fake, &h->def);
                return 0;
        }
        r = config->arrival ? image_open_growing(&h->image, fds, n_fds, config->arrival, &error) :
                              image_open(&h->image, fds, n_fds, &error);
        if (r > 0)
                return failure_set(f, MODEL_INVALID, "image: %s", error.text);
        if (r < 0)
                return r;
        if (vocab_to_tokenizer_def(&h->image, &h->def) != 0)
                return failure_set(f, MODEL_INVALID, "the model has no vocabulary");
        return 0;
}

static int open_text(struct host *h, struct failure *f) {
        struct text_error error = { .text = "" };
        int r;

        r = tokenizer_new(&h->tokenizer, &h->def, &error);
        if (r > 0)
                return failure_set(f, MODEL_INVALID, "tokenizer: %s", error.text);
        if (r < 0)
                return r;
        if (!h->image.chat_template) {
                (void)failure_set(&h->chat_failure, MODEL_INVALID, "the model has no chat template");
                return 0;
        }
        r = chat_new(&h->chat, &h->def, h->tokenizer, h->image.chat_template, h->image.chat_template_size,
                     &h->chat_failure);
        if (r > 0) /* Generate works without */
                log_notice("%s", h->chat_failure.text);
        return r < 0 ? r : 0;
}

static int open_model(struct host *h, const struct host_config *config, struct failure *f) {
        struct model_error error = { .text = "no memory" };
        int r;

        if (h->backend->ops->fake)
                r = model_new_fake(&h->model, h->backend, FAKE_VOCAB, FAKE_LIKELY,
                                   config->engine.context ? config->engine.context : FAKE_CONTEXT);
        else
                r = model_new_image(&h->model, h->backend, &h->image, &error);
        if (r == MODEL_E_NO_MEMORY)
                return failure_set(f, SPARK__V1__ERROR_CODE__NO_MEMORY, "%s", error.text);
        if (r > 0)
                return failure_set(f, MODEL_INVALID, "%s", error.text);
        return r;
}

/* Behind this, whoever wrote the image can change nothing any more. */
static int settle_image(struct host *h, struct failure *f) {
        struct image_error error = { .text = "" };
        int r = image_settle(&h->image, &error);

        return r > 0 ? failure_set(f, MODEL_INVALID, "image: %s", error.text) : r;
}

static void describe_kv(struct host *h, const struct host_config *config) {
        struct kvfile_kind *k = &h->kv_kind;

        *k = (struct kvfile_kind){
                .kv_format = config->engine.kv_format,
                .page_tokens = ENGINE_PAGE_TOKENS,
                .page_bytes = engine_page_bytes(h->engine),
        };
        (void)snprintf(k->backend, sizeof(k->backend), "%s", h->backend->ops->name);
        if (h->image.n_segments > 0)
                image_fingerprint(&h->image, model_is_long(h->model), k->fingerprint);
}

int host_open_model(struct host *h, const struct host_config *config, const int *fds, size_t n_fds,
                    const struct engine_events *events, void *userdata, struct failure *f) {
        bool vocabulary_only;
        int r;

        r = need_backend(h, config, n_fds, f);
        if (r == 0)
                r = open_image(h, config, fds, n_fds, f);
        if (r == 0)
                r = open_text(h, f);
        if (r != 0)
                return r;
        vocabulary_only = n_fds > 0 && h->image.n_tensors == 0;
        if (!vocabulary_only)
                r = open_model(h, config, f);
        if (r == 0)
                r = settle_image(h, f);
        if (r != 0)
                return r;
        if (!vocabulary_only) {
                r = engine_new(&h->engine, h->model, h->tokenizer, &config->engine, events, userdata, f);
                if (r != 0)
                        return r;
        }
        h->prep = (struct prep){
                .tokenizer = h->tokenizer,
                .chat = h->chat,
                .chat_fault = h->chat_failure.text,
                .n_vocab = (uint32_t)tokenizer_n_tokens(h->tokenizer),
                .vocabulary_only = vocabulary_only,
        };
        if (h->engine) {
                struct engine_stats stats;

                describe_kv(h, config);

                engine_get_stats(h->engine, &stats);
                h->prep.context = stats.context;
        }
        return 0;
}

void host_get_facts(const struct host *h, struct backend_facts *ret) {
        *ret = (struct backend_facts){ .placement = "host", .kv_memory = "host" };
        if (h->backend->ops->facts)
                h->backend->ops->facts(h->backend, ret);
}

int host_open(struct host *h, const struct host_config *config, const int *fds, size_t n_fds,
              const struct engine_events *events, void *userdata, struct failure *f) {
        int r = host_open_device(h, config, f);

        return r == 0 ? host_open_model(h, config, fds, n_fds, events, userdata, f) : r;
}

void host_close_model(struct host *h) {
        struct host kept = { .backend = h->backend, .backend_name = h->backend_name };

        h->engine = engine_free(h->engine);
        h->model = model_free(h->model);
        h->chat = chat_free(h->chat);
        h->tokenizer = tokenizer_free(h->tokenizer);
        image_close(&h->image);
        *h = kept;
}

void host_close(struct host *h) {
        host_close_model(h);
        if (h->backend)
                h->backend = h->backend->ops->close(h->backend);
}
