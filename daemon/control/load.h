/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One run of spark-loader: opens the model's files, starts the loader with nothing but their descriptors, checks its
 * plan against the memory floor before any segment is handed out, and seals the segments after it has exited. For a
 * model, or as a dry run for one request. Owned by the model or by the request.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/macro.h"
#include "loadlink.h"
#include "modeldir.h"
#include "request.h"

#define LOAD_SPLITS_MAX 64u

struct load {
        struct manager *manager;
        struct model *model;     /* whose image it makes, or whose file a dry run looks at */
        struct request *request; /* dry run; else NULL */
        pid_t pid;
        int pidfd, link;
        sd_event_source *link_source, *exit_source;
        int inputs[LOAD_SPLITS_MAX];
        size_t n_inputs;
        struct modeldir *directory; /* names of inputs, where the model is a directory */
        int segments[LOADLINK_SEGMENTS_MAX];
        uint64_t segment_bytes[LOADLINK_SEGMENTS_MAX];
        size_t n_segments;
        bool planned, written, failed;
        struct request_error error;
        uint64_t image_bytes, kv_bytes, done_bytes, available;
        uint64_t started_us, active_us;
};

/* Starts the loader. 0, REQUEST_E_REFUSED with *error filled (the file cannot be opened, no loader), or -errno. */
int load_start(struct load **ret, struct model *model, struct request *dry_run, struct request_error *error);
/* Ends the loader where it still runs. */
struct load *load_free(struct load *load);
DEFINE_CLEANUP(struct load *, load_free)
/* Once a second: gives up a loader that does not move. */
void load_tick(struct load *load, uint64_t now_us);
