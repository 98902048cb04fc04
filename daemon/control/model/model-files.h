/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A model's files, opened for a loader: one, the parts of a split one, or those of a directory, which go by names. */

#include <stddef.h>

#include "modeldir.h"
#include "request-error.h"
#include "spawn.h"

#define MODEL_FILES_MAX 64u

struct model;

struct model_files {
        int fds[MODEL_FILES_MAX]; /* owned */
        size_t n;
        char (*names)[MODELDIR_NAME_MAX]; /* [n], of a directory's; NULL = they go without */
};

/* Opens what the model is made of: the store's files, the descriptor that it came with, or its path. 0, REQUEST_E_REFUSED
 * with *error filled, or -errno; deinit in any case. */
int model_files_open(struct model_files *f, const struct model *model, struct request_error *error);
void model_files_deinit(struct model_files *f);
/* A number that is another one when they are other files, or were written to since: from devices, inodes, sizes and times. */
uint64_t model_files_mark(const struct model_files *f);

/* How file i stands on a loader's command line: the flag, and the value with its descriptor, which is the at-th of those
 * handed over. */
const char *model_files_argument(const struct model_files *f, size_t i, size_t at, char *value, size_t size);
