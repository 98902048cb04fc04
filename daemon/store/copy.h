/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Takes a file's bytes into the store, and hashes them: by a reflink where the file system has that (a snapshot, which
 * later changes of the original do not reach), else by a copy. Never by a hard link: whoever owns the original could
 * change what is stored. What is hashed is what is stored, in any case: the clone, or the very blocks that are written.
 */

#include <stdint.h>

#include "hasher.h"
#include "storelink.h"

enum {
        STORE_COPY_E_CHANGED = STORELINK_CODE_CHANGED,
        STORE_COPY_E_SPACE = STORELINK_CODE_SPACE,
        STORE_COPY_E_IO = STORELINK_CODE_IO,
};

struct store_copy {
        struct hasher *hasher;
        int input, output; /* borrowed; output -1 = only hash */
        void (*progress)(void *arg, uint64_t done, uint64_t total);
        void *arg;
        /* results */
        uint64_t size;
        uint8_t digest[SHA256_DIGEST_SIZE];
        enum storelink_method method;
        char error[256];
};

/* When it returns 0, the output is on disk. 0, or STORE_COPY_E_* with c->error filled. */
int store_copy_run(struct store_copy *c);
