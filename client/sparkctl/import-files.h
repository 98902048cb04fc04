/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A model's files on the command line, opened with the caller's permissions, as they are handed to the service. */

#include "ctl.h"
#include "modeldir.h"

#define IMPORT_FILES_MAX MODELDIR_FILES_MAX

struct import_files {
        int fds[IMPORT_FILES_MAX];
        char *paths[IMPORT_FILES_MAX];
        const char *names[IMPORT_FILES_MAX];
        size_t n;
};

/* A file, all parts of a split one, of which the first is named, or what a directory has of a model. 0 or the exit status,
 * reported; deinit in any case. */
int import_files_open(const struct ctl *ctl, struct import_files *f, const char *path);
void import_files_deinit(struct import_files *f);
