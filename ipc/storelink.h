/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What control and spark-store say to each other: fixed-size records over a SOCK_SEQPACKET socketpair, all of them from
 * spark-store. Free of protobuf, as ipc/loadlink.h and for its reason.
 *
 *   PROGRESS  bytes hashed so far, at most ten a second
 *   DONE      size, digest, and how the bytes came into the store; everything is on disk; it exits with 0
 *   ERROR     at any time instead; it exits with 1
 *
 * The command line is: spark-store --link FD --input FD [--output FD]
 * Without an output the input is only hashed.
 */

#include <stddef.h>
#include <stdint.h>

#define STORELINK_VERSION 1u
#define STORELINK_DIGEST 32u

enum storelink_type {
        STORELINK_PROGRESS = 1,
        STORELINK_DONE = 2,
        STORELINK_ERROR = 3,
};

enum storelink_code {
        STORELINK_CODE_CHANGED = 1, /* the file changed while it was read, or is none to be stored */
        STORELINK_CODE_SPACE = 2,   /* no room for it */
        STORELINK_CODE_IO = 3,
        STORELINK_CODE_INTERNAL = 4,
};

enum storelink_method {
        STORELINK_HASHED = 1, /* nothing was written */
        STORELINK_REFLINK = 2,
        STORELINK_COPY = 3,
};

struct storelink_record {
        uint32_t version;
        uint32_t type;   /* enum storelink_type */
        uint32_t code;   /* ERROR: enum storelink_code */
        uint32_t method; /* DONE: enum storelink_method */
        uint64_t done;   /* PROGRESS, DONE: bytes */
        uint64_t total;  /* the same */
        uint8_t digest[STORELINK_DIGEST]; /* DONE: SHA-256 */
        char text[256];  /* ERROR: a sentence, NUL-terminated */
};

/* Sends one record. 0 or -errno. Blocks as the socket does. */
int storelink_send(int sock, const struct storelink_record *record);
/* Receives one. 1 = got one, 0 = the other end has gone, -EAGAIN, -EPROTO for anything malformed (descriptors that came
 * along are closed), other -errno. */
int storelink_recv(int sock, struct storelink_record *ret);
