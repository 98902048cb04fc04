/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What control and a loader say to each other: fixed-size records over a SOCK_SEQPACKET socketpair, descriptors by
 * SCM_RIGHTS. Kept free of protobuf, so that the process that reads hostile model files links as little as possible.
 *
 *   loader  -> control  PLAN      once the file's tables are understood: what the image will take
 *   control -> loader   SEGMENTS  one memfd of the planned size per segment (up to LOADLINK_SEGMENTS_MAX), or of those that were
 *                                 named; where the image is packed, one file of all segments' size, in which they lie one after
 *                                 another
 *   loader  -> control  PROGRESS  bytes of tensor data written so far, at most ten a second; where weights are to be coded
 *                                 losslessly, also in front of PLAN: bytes looked through (phase)
 *   loader  -> control  DONE      everything is written and unmapped; the loader exits with 0
 *   loader  -> control  ERROR     at any time instead; the loader exits with 1
 *
 * The loader's command line is: spark-loader --link FD (--input FD [--split FD]... | --file NAME=FD...) [--plan-only]
 * [--lossless] [--pack] [--segments HEX] [--segment-bytes N] [--rows N] [--sequences N]. --lossless: BF16 weights are coded
 * (kernels/lossless.h); what they take depends on their values, so all of them are read before there is a plan. --pack: the image
 * goes to a file, with checksums. --segments: only these are written (bit i: the image's segment i), the others are there from a
 * load before; the plan is that of the whole image, but for its total. --segment-bytes: segments are no longer than that, where
 * no tensor is. An input may be a packed image. A directory's files go by name (modeldir.h). Rows and sequences are what the
 * engine's steps are to be (0 = its own default). Instead of files, --shape NAME --format FORMAT plans a model of a known shape
 * (daemon/image/shapes.h) and ends; with --lossless, BF16 stands for its coded form.
 * Control seals the segments after the loader has exited.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/macro.h"

#define LOADLINK_VERSION 4u
#define LOADLINK_SEGMENTS_MAX 64u
#define LOADLINK_SEGMENT_BYTES (4ull << 30) /* a segment holds at most this much (a single larger tensor gets its own) */

enum loadlink_type {
        LOADLINK_PLAN = 1,
        LOADLINK_SEGMENTS = 2,
        LOADLINK_PROGRESS = 3,
        LOADLINK_DONE = 4,
        LOADLINK_ERROR = 5,
};

/* PROGRESS */
enum loadlink_phase {
        LOADLINK_PHASE_WRITE = 0,
        LOADLINK_PHASE_SURVEY = 1, /* values are looked through, for the plan */
};

/* What tensors are for; of experts all their matrices. */
enum loadlink_kind {
        LOADLINK_KIND_EMBEDDING = 0, /* also where it is the output matrix, too */
        LOADLINK_KIND_ATTENTION = 1,
        LOADLINK_KIND_FEED_FORWARD = 2,
        LOADLINK_KIND_EXPERTS = 3,
        LOADLINK_KIND_OUTPUT = 4,
        LOADLINK_KIND_OTHER = 5, /* norms, biases, scales, routers */
        LOADLINK_KINDS,
};

struct loadlink_share {
        uint64_t params, bytes;
};

enum loadlink_code {
        LOADLINK_CODE_MODEL_INVALID = 1, /* the file's fault; text names the field and its offset */
        LOADLINK_CODE_UNSUPPORTED = 2,   /* sound, but of a kind this version does not know */
        LOADLINK_CODE_IO = 3,            /* reading failed */
        LOADLINK_CODE_INTERNAL = 4,
};

struct loadlink_record {
        uint32_t version;
        uint32_t type; /* enum loadlink_type */
        uint32_t code; /* ERROR: enum loadlink_code */
        uint32_t n_segments; /* PLAN, SEGMENTS */
        uint64_t done; /* PROGRESS: bytes */
        uint64_t total; /* PLAN, PROGRESS: bytes */
        uint64_t segment_bytes[LOADLINK_SEGMENTS_MAX]; /* PLAN */
        uint64_t checksum; /* PLAN: of the image's tables: another one where the model is another one, or is laid out another
                            * way */
        uint64_t n_params; /* PLAN */
        uint64_t kv_bytes_per_token; /* PLAN: for an F16 KV cache (F32: twice that) ... */
        uint64_t kv_bytes_per_token_q8_0; /* ... and for one in Q8_0 */
        uint64_t engine_bytes; /* PLAN: activations, logits and what else an engine takes */
        uint32_t context; /* PLAN: what the model was trained for */
        uint32_t vocabulary; /* PLAN: tokens */
        uint32_t has_chat_template; /* PLAN */
        uint32_t phase; /* PROGRESS: enum loadlink_phase */
        uint32_t tensors; /* PROGRESS: so many of the image's first tensors are in place, behind its tables; 0 = not known */
        struct loadlink_share kinds[LOADLINK_KINDS]; /* PLAN: bytes in the image */
        struct loadlink_share coded; /* PLAN: of these, coded losslessly */
        uint32_t packed; /* PLAN: the input is a packed image */
        uint32_t estimated; /* PLAN: of a shape whose bytes depend on values */
        char architecture[64], format[32]; /* PLAN: for people, the format of most weights; NUL-terminated where shorter */
        char text[512]; /* ERROR: a sentence, NUL-terminated */
};

/* Sends one record with n_fds descriptors (borrowed). 0 or -errno. Blocks as the socket does. */
int loadlink_send(int sock, const struct loadlink_record *record, const int *fds, size_t n_fds);
/* Receives one record; descriptors go to fds (room for LOADLINK_SEGMENTS_MAX, owned by the caller), their number to
 * ret_n_fds. 1 = got one, 0 = the other end has gone, -EAGAIN, -EPROTO for anything malformed, other -errno. */
int loadlink_recv(int sock, struct loadlink_record *ret_record, int *fds, size_t *ret_n_fds);
/* Hands on what is there, a few records at most: who has a loop goes on in its next turn. 1 = there may be more, 0 = the other
 * end has gone, or -errno as loadlink_recv() but -EAGAIN. */
int loadlink_read(int sock, void (*on_record)(void *userdata, const struct loadlink_record *record), void *userdata);
