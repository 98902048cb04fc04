/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A model in several GGUF files: each has a header of its own that says which part it is ('split.no', from 0), of how
 * many ('split.count'), and how many tensors all have together ('split.tensors.count'); the first has the metadata.
 * Source: the GGUF specification on naming, and what its splitting tool writes.
 */

#include "gguf.h"

/* Reads the metadata of n files (in any order) into parts, which end up in their order by 'split.no', the first with
 * the others as its further parts. One file may be anything. 0, LOADER_E_*, or -ENOMEM; gguf_deinit() all n in any case
 * (zero-initialise them). */
int split_read_metadata(struct gguf *parts, struct source *sources, size_t n, struct loader_error *error);
