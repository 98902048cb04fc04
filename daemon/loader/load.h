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
#include "pack.h"
#include "packed.h"

struct loader_options {
        bool lossless; /* weights in BF16 are coded (kernels/lossless.h), and all of them read for the plan */
        bool pack;     /* the image goes to one file, with checksums (pack.h) */
        uint64_t segments; /* only these are written (bit i: segment i); 0 = all */
        uint64_t segment_bytes; /* no segment gets longer, unless one tensor is; 0 = LOADLINK_SEGMENT_BYTES */
        const struct copy_progress *survey; /* how far reading for the plan is; NULL = nobody wants to know */
};

struct loader {
        struct loader_error *error;
        struct loader_options options; /* set between init and plan, if at all */
        struct source sources[SOURCES_MAX];
        size_t n_sources;
        struct copy copy;
        struct gguf parts[SOURCES_MAX]; /* the first one knows the others */
        struct hf *hf; /* a directory's files instead of these */
        struct packed *packed; /* a packed image instead of these */
        struct coder coder; /* lossless: which tensors are coded, and how */
        struct model model;
        struct image_plan plan;
        struct copy_piece *pieces;
        size_t n_pieces;
};

/* Takes a model's files (borrowed, up to SOURCES_MAX), makes ring and threads; reads nothing. 0, LOADER_E_*, or -errno.
 * Deinit in any case. */
int loader_init(struct loader *l, const int *fds, size_t n_fds, struct loader_error *error);
/* The same for the files of a directory, by name (modeldir.h). */
int loader_init_directory(struct loader *l, const char *const *names, const int *fds, size_t n, struct loader_error *error);
void loader_deinit(struct loader *l);
/* Reads and checks the files' headers; fills l->plan. A single file may be a packed image (packed.h). 0, LOADER_E_*, or -errno. */
int loader_plan(struct loader *l);
/* Of the image's tables, as they are written. 0, or -ENOMEM. */
int loader_checksum(const struct loader *l, uint64_t *ret);
/* Writes the image into memfds (borrowed) of the planned sizes (only the segments that were named get one), or into one file of
 * all of them together where it is packed; they are unmapped again when this returns. */
int loader_write(struct loader *l, const int *fds, size_t n_fds, const struct copy_progress *progress);
/* How many of the plan's first tensors loader_write() has put in place, behind the tables; 0 where that is not known (packed
 * images). For its progress function. */
size_t loader_arrived(struct loader *l);
/* Bytes of tensor data that loader_write() will report progress on. */
uint64_t loader_total(const struct loader *l);

/* File -> sealed memfds. fds: room for IMAGE_SEGMENTS_MAX, owned by the caller on success. 0, LOADER_E_* with *error
 * filled, or -errno. */
int loader_load(int input_fd, int *ret_fds, size_t *ret_n_fds, struct loader_error *error);
int loader_load_files(const int *inputs, size_t n_inputs, int *ret_fds, size_t *ret_n_fds, struct loader_error *error);
/* The same for a path; that of the first part stands for all, that of a directory for its files. What
 * cannot be opened is LOADER_E_IO. */
int loader_load_path(const char *path, int *ret_fds, size_t *ret_n_fds, struct loader_error *error);
/* The same, with weights in BF16 coded losslessly where they get smaller. */
int loader_load_path_as(const char *path, bool lossless, int *ret_fds, size_t *ret_n_fds, struct loader_error *error);
/* Packs it into a file (borrowed, open for reading and writing) instead, which gets the size that it needs. */
int loader_pack_path(const char *path, bool lossless, int file, struct loader_error *error);
