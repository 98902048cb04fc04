/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The model file: read past the page cache (O_DIRECT) where its file system allows, never mapped, so that a file that
 * shrinks is an error and no signal. The fd is borrowed; its O_DIRECT flag is given back as it was.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

#define SOURCES_MAX 64u     /* files that make one model */
#define SOURCE_ALIGN 4096u /* of offsets, sizes and buffers */

struct source {
        int fd;
        unsigned part;    /* see struct loader_error */
        const char *name; /* of one file among several, for sentences, or NULL; borrowed */
        uint64_t size;
        int flags;   /* as found */
        bool direct; /* O_DIRECT is set by us */
};

#define SOURCE_NULL ((struct source){ .fd = -1 })

/* 0, LOADER_E_IO (not a regular file), or -errno. */
int source_init(struct source *s, int fd, struct loader_error *error);
void source_deinit(struct source *s);
/* Reads [offset, offset + n) up to the end of the file; offset, n and buf are multiples of SOURCE_ALIGN. Fewer than
 * `need` bytes (the file has shrunk since) is an error. 0 or LOADER_E_IO. */
int source_read(struct source *s, uint64_t offset, void *buf, size_t n, size_t need, struct loader_error *error);
/* After an asynchronous read was refused: go on without O_DIRECT. */
void source_stop_direct(struct source *s);
/* Without O_DIRECT, drops what was read from the page cache. */
void source_forget(struct source *s, uint64_t offset, size_t n);
