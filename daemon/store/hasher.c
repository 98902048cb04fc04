/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <sys/mman.h>

#include "hasher.h"

static void *run(void *arg) {
        struct hasher *h = arg;

        pthread_mutex_lock(&h->lock);
        h->started = true;
        pthread_cond_signal(&h->moved);
        for (;;) {
                size_t slot = h->hashed % HASHER_BLOCKS;

                if (h->hashed == h->pushed) {
                        if (h->ended)
                                break;
                        pthread_cond_wait(&h->moved, &h->lock);
                        continue;
                }
                pthread_mutex_unlock(&h->lock);
                sha256_update(&h->context, h->filled[slot], h->blocks + slot * HASHER_BLOCK);
                pthread_mutex_lock(&h->lock);
                h->hashed++;
                pthread_cond_signal(&h->moved);
        }
        pthread_mutex_unlock(&h->lock);
        return NULL;
}

int hasher_init(struct hasher *h) {
        void *p = mmap(NULL, HASHER_BLOCK * HASHER_BLOCKS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        int r;

        *h = (struct hasher){ .blocks = p == MAP_FAILED ? NULL : p };
        sha256_init(&h->context);
        pthread_mutex_init(&h->lock, NULL);
        pthread_cond_init(&h->moved, NULL);
        if (!h->blocks)
                return -ENOMEM;
        r = pthread_create(&h->thread, NULL, run, h);
        if (r != 0)
                return -r;
        h->running = true;
        pthread_mutex_lock(&h->lock);
        while (!h->started)
                pthread_cond_wait(&h->moved, &h->lock);
        pthread_mutex_unlock(&h->lock);
        return 0;
}

static void hasher_end(struct hasher *h) {
        if (!h->running)
                return;
        pthread_mutex_lock(&h->lock);
        h->ended = true;
        pthread_cond_signal(&h->moved);
        pthread_mutex_unlock(&h->lock);
        (void)pthread_join(h->thread, NULL);
        h->running = false;
}

void hasher_deinit(struct hasher *h) {
        hasher_end(h);
        if (h->blocks)
                (void)munmap(h->blocks, HASHER_BLOCK * HASHER_BLOCKS);
        h->blocks = NULL;
        pthread_cond_destroy(&h->moved);
        pthread_mutex_destroy(&h->lock);
}

uint8_t *hasher_block(struct hasher *h) {
        uint8_t *block;

        pthread_mutex_lock(&h->lock);
        while (h->pushed - h->hashed == HASHER_BLOCKS)
                pthread_cond_wait(&h->moved, &h->lock);
        block = h->blocks + h->pushed % HASHER_BLOCKS * HASHER_BLOCK;
        pthread_mutex_unlock(&h->lock);
        return block;
}

void hasher_push(struct hasher *h, size_t n) {
        pthread_mutex_lock(&h->lock);
        h->filled[h->pushed % HASHER_BLOCKS] = n;
        h->pushed++;
        pthread_cond_signal(&h->moved);
        pthread_mutex_unlock(&h->lock);
}

void hasher_finish(struct hasher *h, uint8_t ret_digest[SHA256_DIGEST_SIZE]) {
        hasher_end(h);
        sha256_digest(&h->context, SHA256_DIGEST_SIZE, ret_digest);
}
