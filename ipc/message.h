/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Protobuf messages in and out of channels. protobuf-c takes what it gets: it has no limit on memory, depth or fields
 * and does not look at strings. So a message is checked on the wire before it is unpacked (depth, text is UTF-8 without
 * NUL), and unpacking has a budget in proportion to the frame.
 */

#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "base/macro.h"
#include "channel.h"

#define MESSAGE_DEPTH_MAX 16u

enum {
        MESSAGE_E_INVALID = 1, /* not such a message */
        MESSAGE_E_LIMIT = 2,   /* takes more memory than a message of its size may, or is too deep */
        MESSAGE_E_UTF8 = 3,    /* a text field is not UTF-8: INVALID_UTF8 */
        MESSAGE_E_NUL = 4,     /* a text field holds a NUL character: INVALID_ARGUMENT */
};

/* What is wrong, where. `id` is set with every fault that lies in a known field: field 1 of the outermost message where
 * that is an integer (the request's id in ClientFrame), so that the fault can be answered to its request; else 0. */
struct message_fault {
        uint64_t id;
        char field[128];  /* full path, e.g. "chat.messages[2].content"; "" where unknown */
        size_t offset;    /* of the bad byte in that field (MESSAGE_E_UTF8, _NUL), else in the message */
        char text[256];   /* a sentence for a person */
};

/* Checks and unpacks. Free *ret with message_free(). Unknown fields are skipped and not kept in mind any further.
 * 0, MESSAGE_E_* (*fault is filled where fault is not NULL), or -ENOMEM. */
int message_unpack(const ProtobufCMessageDescriptor *descriptor, const void *data, size_t size, ProtobufCMessage **ret,
                   struct message_fault *fault);
ProtobufCMessage *message_free(ProtobufCMessage *m);

/* Packs m into the channel's output queue, in place; fds are borrowed. Returns as channel_queue(); a message without
 * any field set packs to nothing and is -EINVAL. */
int message_queue(struct channel *c, const ProtobufCMessage *m);
int message_queue_fds(struct channel *c, const ProtobufCMessage *m, const int *fds, size_t n_fds);
