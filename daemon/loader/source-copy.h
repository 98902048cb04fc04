/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Reads from anywhere in a source to anywhere in memory, for what is read once and in one go. */

#include "source.h"

/* Reads exactly [offset, offset + n), which lies within the file. 0, LOADER_E_IO, or -ENOMEM. */
int source_copy(struct source *s, uint64_t offset, void *buf, uint64_t n, struct loader_error *error);
