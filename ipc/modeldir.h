/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A model that is a directory (Hugging Face's layout): which of its files are read, and opening them. Only these names
 * count, whatever else lies there; each must be a regular file.
 */

#include <stdbool.h>
#include <stddef.h>

#define MODELDIR_FILES_MAX 64u
#define MODELDIR_NAME_MAX 40u /* with NUL */

struct modeldir {
        char names[MODELDIR_FILES_MAX][MODELDIR_NAME_MAX];
        int fds[MODELDIR_FILES_MAX];
        size_t n;
};

enum {
        MODELDIR_E_REFUSED = 1, /* *text has a sentence */
};

#define MODELDIR_TEXT_MAX 512u

/* Is this one of the names? */
bool modeldir_knows(const char *name);
/* "model-00002-of-00003.safetensors" -> 2 and 3; false for any other name. */
bool modeldir_shard(const char *name, unsigned *ret_number, unsigned *ret_count);
/* Opens the files of the directory `fd` (borrowed); path is for the sentence. 0, MODELDIR_E_REFUSED, or -errno. On success
 * the caller closes. */
int modeldir_open(struct modeldir *d, int fd, const char *path, char text[MODELDIR_TEXT_MAX]);
void modeldir_close(struct modeldir *d);
