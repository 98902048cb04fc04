/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Files that must be there whole or not at all, whatever ends the process or the machine: a file is written under
 * another name, synced, renamed, and its folder synced. Names are relative to an open folder. Everything here may block.
 */

#include <stddef.h>

#include "macro.h"

/* Writes all of it. 0 or -errno. */
int file_write_all(int fd, const void *data, size_t size);
/* Opens folder `name` below `at`, for its entries; made (0700) and synced where it is missing and `create`. A descriptor
 * or -errno. */
int file_folder_open_at(int at, const char *name, int create);
/* A new file for writing, mode 0600; what an interrupted writer may have left under its name goes. A descriptor or
 * -errno. */
int file_create_at(int dir, const char *name);
/* Gives a file that is wholly on disk the name that counts, wholly on disk, too. 0 or -errno. */
int file_settle_at(int dir, const char *from, const char *to);
/* Removes a file. 0 (also where there is none) or -errno. */
int file_remove_at(int dir, const char *name);
/* Replaces the file `name` by these contents: all of the above. `beside` is the name it is written under. 0 or -errno:
 * the older file, if there was one, is then still there. */
int file_replace_at(int dir, const char *name, const char *beside, const void *data, size_t size);
/* Reads a regular file of at most `max` bytes whole. *ret is from malloc(), with a NUL behind. 0 or -errno (-EFBIG,
 * -EINVAL for what is no regular file). */
int file_read_at(int dir, const char *name, size_t max, char **ret, size_t *ret_size);
