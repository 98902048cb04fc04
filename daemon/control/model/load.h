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
#include "model-files.h"
#include "request-error.h"
#include "speed.h"

#define LOAD_CONTEXT_MAX (1u << 30)
#define LOAD_MACHINE_MIN (64ull << 20) /* bytes of a machine that a dry run may be about */
#define LOAD_MACHINE_MAX (1ull << 50)

struct manager;
struct model;
struct request;

struct load {
        struct manager *manager;
        struct model *model;     /* whose image it makes, or whose file a dry run looks at */
        struct request *request; /* dry run; else NULL */
        pid_t pid;
        int pidfd, link;
        sd_event_source *link_source, *exit_source;
        struct model_files files;
        int segments[LOADLINK_SEGMENTS_MAX];
        uint64_t segment_bytes[LOADLINK_SEGMENTS_MAX];
        size_t n_segments;
        uint64_t missing;        /* only these are loaded (bit i: the image's segment i), the model has the others; 0 = all */
        uint64_t checksum;       /* of the image's tables */
        uint64_t mark;           /* of the files */
        bool planned, written, failed;
        bool waits;              /* its plan does not fit; others may make room */
        struct loadlink_record record; /* the plan, as it came */
        bool shape;              /* dry run of a shape: there is no file */
        uint32_t context;        /* dry run: the KV cache shall hold so many tokens, 0 = as it is chosen */
        uint64_t machine;        /* dry run: of a machine with so many bytes, 0 = of this one */
        bool lossless;           /* BF16 weights are coded */
        const char *stage;       /* "survey" (values are looked through, for the plan) or "load" */
        uint64_t stage_done, stage_total; /* bytes */
        struct request_error error;
        struct plan plan;
        uint64_t image_bytes, done_bytes, read_bytes; /* image_bytes: that it makes; read_bytes: all that is to be read */
        struct speed speed;
        uint64_t started_us, active_us, handed_us, written_us;
};

/* Starts the loader; where the model has a part of its image still (model_give_back_part()), for the rest of it. 0,
 * REQUEST_E_REFUSED with *error filled (the file cannot be opened, no loader), or -errno. */
int load_start(struct load **ret, struct model *model, struct request_error *error);
/* The same for a plan alone, of the model's file or of the shape that is wanted; answers the request when it ends. */
int load_start_dry(struct load **ret, struct model *model, struct request *request, const Spark__V1__Load *wanted,
                   struct request_error *error);
/* Ends the loader where it still runs. */
struct load *load_free(struct load *load);
DEFINE_CLEANUP(struct load *, load_free)
/* One that waits looks again whether there is room. */
void load_retry(struct load *load);
/* Once a second: gives up a loader that does not move. */
void load_tick(struct load *load, uint64_t now_us);
