/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * All that a process needs to serve one model, put together: backend, image or fake vocabulary, tokenizer, chat
 * template, model, engine. Used by spark-engine, spark-bench and tests. The order of birth is the struct's order; death
 * goes the other way.
 */

#include "chat.h"
#include "daemon/image/image.h"
#include "engine.h"
#include "fake.h"
#include "kvfile.h"
#include "prep.h"

struct host_config {
        const char *backend;       /* "auto", "cpu", ... */
        struct backend_config be;
        struct engine_config engine;
        const struct image_arrival *arrival; /* of an image that is still being written; NULL = it is whole */
};

struct host {
        const char *backend_name; /* that was chosen */
        struct backend *backend;
        struct image image; /* n_segments 0: none */
        struct fake_vocab fake;
        struct tokenizer_def def;
        struct tokenizer *tokenizer;
        struct chat *chat;
        struct failure chat_failure;
        struct lm *model;   /* NULL: vocabulary only */
        struct engine *engine; /* NULL: vocabulary only */
        struct prep prep;
        struct kvfile_kind kv_kind; /* what its KV on disk is like */
};

#define HOST_NULL ((struct host){ 0 })

/* Opens the backend now if it has a device (backend.h): that takes files and threads which the sandbox takes away. Where it
 * has none, nothing is done. *h is new. 0, REQUEST_E_FAILED with *f, or negative. On failure host_close() is still due. */
int host_open_device(struct host *h, const struct host_config *config, struct failure *f);
/* All the rest, and the backend if it isn't open. fds: the image's segments (borrowed), none for a backend that fakes. As
 * above. */
int host_open_model(struct host *h, const struct host_config *config, const int *fds, size_t n_fds,
                    const struct engine_events *events, void *userdata, struct failure *f);
/* Both. */
int host_open(struct host *h, const struct host_config *config, const int *fds, size_t n_fds,
              const struct engine_events *events, void *userdata, struct failure *f);
/* Undoes host_open_model() but for the backend, so that it can be called again. */
void host_close_model(struct host *h);
void host_close(struct host *h);
/* What the backend says of itself; one that says nothing computes on the host. */
void host_get_facts(const struct host *h, struct backend_facts *ret);
/* A KV budget for where nobody planned one: a quarter of the memory that is available now. */
uint64_t host_default_kv_bytes(void);
