/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Loading a model: file -> plan -> image. The steps are apart so that the program can sandbox itself after
 * loader_init(), before the first byte of the file is read, and so that the owner of memory can say yes or no between
 * plan and write. loader_load() does it all within the calling process, for tools and tests.
 */

#include "copy.h"
#include "hf.h"
#include "model.h"

struct loader {
        struct loader_error *error;
        struct source source;
        struct copy copy;
        struct gguf gguf;
        struct hf *hf; /* a directory's files instead of one */
        struct model model;
        struct image_plan plan;
};

/* Takes the file (borrowed), makes ring and threads; reads nothing. 0, LOADER_E_*, or -errno. Deinit in any case. */
int loader_init(struct loader *l, int input_fd, struct loader_error *error);
/* The same for the files of a directory, by name (modeldir.h). */
int loader_init_directory(struct loader *l, const char *const *names, const int *fds, size_t n, struct loader_error *error);
void loader_deinit(struct loader *l);
/* Reads and checks the file's header; fills l->plan. 0, LOADER_E_*, or -errno. */
int loader_plan(struct loader *l);
/* Writes the image into memfds (borrowed) of the planned sizes; they are unmapped again when this returns. */
int loader_write(struct loader *l, const int *fds, size_t n_fds, const struct copy_progress *progress);
/* Bytes of tensor data that loader_write() will report progress on. */
uint64_t loader_total(const struct loader *l);

/* File -> sealed memfds. fds: room for IMAGE_SEGMENTS_MAX, owned by the caller on success. 0, LOADER_E_* with *error
 * filled, or -errno. */
int loader_load(int input_fd, int *ret_fds, size_t *ret_n_fds, struct loader_error *error);
/* The same for a path, of a file or a directory. What cannot be opened is LOADER_E_IO. */
int loader_load_path(const char *path, int *ret_fds, size_t *ret_n_fds, struct loader_error *error);
