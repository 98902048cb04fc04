/* SPDX-License-Identifier: Apache-2.0 */

/* The first that an engine is told: what it serves, from which image, with what. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/fd.h"
#include "engine.h"
#include "load.h"
#include "manager.h"
#include "message.h"

#define MEMORY_BACK_SECONDS 60u

/* The device memory of an engine that ended comes back within a minute. */
static uint32_t memory_wait_ms(const struct engine *e) {
        uint64_t gone = e->manager->engine_gone_us;

        return gone && manager_now_us() - gone < MEMORY_BACK_SECONDS * 1000000ull ? MEMORY_BACK_SECONDS * 1000u : 0;
}

/* Descriptors that can't be written to: with others an engine could change the image, and it could not be sealed while the engine
 * has it mapped. */
static int open_for_reading(const int *fds, size_t n, int *ret) {
        char path[32];

        for (size_t i = 0; i < n; i++) {
                (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[i]);
                ret[i] = open(path, O_RDONLY | O_CLOEXEC);
                if (ret[i] < 0) {
                        int r = -errno;

                        while (i > 0)
                                (void)fd_close(ret[--i]);
                        return r;
                }
        }
        return 0;
}

/* Init for an image that is still being written. */
static int queue_growing(struct engine *e, Spark__Engine__V1__ControlFrame *frame) {
        const struct load *load = e->model->load;
        int fds[LOADLINK_SEGMENTS_MAX] = { 0 }, r;

        r = open_for_reading(load->segments, load->n_segments, fds);
        if (r < 0)
                return r;
        frame->init->growing = true;
        frame->init->segments = (uint32_t)load->n_segments;
        frame->init->kv_bytes = load->plan.kv ? load->plan.kv : e->manager->config->memory_kv;
        r = message_queue_fds(&e->channel, &frame->base, fds, load->n_segments);
        for (size_t i = 0; i < load->n_segments; i++)
                (void)fd_close(fds[i]);
        return r;
}

int engine_queue_init(struct engine *e) {
        const struct config *c = e->manager->config;
        struct model *model = e->model;
        Spark__Engine__V1__ControlFrame frame = SPARK__ENGINE__V1__CONTROL_FRAME__INIT;
        Spark__Engine__V1__Init init = SPARK__ENGINE__V1__INIT__INIT;

        init.version = 1;
        init.model = model->name;
        init.backend = c->backend;
        init.threads = (uint32_t)c->threads;
        init.kv_bytes = model->kv_promised ? model->kv_promised : c->memory_kv;
        init.kv_format = c->kv_format;
        init.max_rows = (uint32_t)c->limits.rows;
        init.max_sequences = (uint32_t)c->limits.sequences;
        init.max_queued = (uint32_t)c->limits.requests;
        init.context = (uint32_t)model->context;
        init.segments = (uint32_t)model->n_segments;
        init.inter_token_ms = (uint32_t)c->inter_token_ms;
        init.backend_library = c->cuda_library;
        init.placement = c->cuda_placement;
        init.activations = c->cuda_activations;
        init.step_timeout_ms = (uint32_t)c->limits.step_timeout_ms;
        init.memory_wait_ms = memory_wait_ms(e);
        init.null_step_us = (uint32_t)c->null_step_us;
        init.log_level = (int32_t)c->log_level;
        frame.body_case = SPARK__ENGINE__V1__CONTROL_FRAME__BODY_INIT;
        frame.init = &init;
        if (model->load)
                return queue_growing(e, &frame);
        return message_queue_fds(&e->channel, &frame.base, model->segments, model->n_segments);
}
