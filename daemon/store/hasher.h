/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * SHA-256 of a stream on a thread of its own, so that hashing, which is slower than a good disk, never waits for it: the
 * caller fills a block while the blocks before are hashed. Embedded; no call allocates after hasher_init().
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nettle/sha2.h>

#define HASHER_BLOCK ((size_t)4 << 20) /* bytes; a multiple of what O_DIRECT may want */
#define HASHER_BLOCKS 4u

struct hasher {
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t moved;
        uint8_t *blocks; /* HASHER_BLOCKS of them, page-aligned */
        size_t filled[HASHER_BLOCKS];
        uint64_t pushed, hashed; /* blocks */
        bool started, ended, running;
        struct sha256_ctx context;
};

/* The thread is up when this returns: a sandbox that is entered next need not allow what starting one takes. 0 or -errno;
 * deinit in any case. */
int hasher_init(struct hasher *h);
void hasher_deinit(struct hasher *h);
/* A block to fill; waits until one is free. */
uint8_t *hasher_block(struct hasher *h);
/* Its first n bytes are the stream's next ones. */
void hasher_push(struct hasher *h, size_t n);
/* Waits for the end; no further call but hasher_deinit(). */
void hasher_finish(struct hasher *h, uint8_t ret_digest[SHA256_DIGEST_SIZE]);
