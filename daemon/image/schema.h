/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which tensors a model of an architecture consists of, and their shapes. Both ends use it: the loader to decide what
 * goes where and to refuse a file early, the reader so that the engine may take every shape for granted.
 */

#include "image.h"

#define IMAGE_VOCAB_MAX (1u << 22) /* tokens */
#define IMAGE_MERGES_MAX (1u << 23)
#define IMAGE_WIDTH_MAX (1u << 19) /* elements of a row, heads times head size, and the like */
#define IMAGE_CONTEXT_MAX (1u << 30)
#define IMAGE_EXPERTS_MAX 4096u
#define IMAGE_EXPERTS_USED_MAX 64u

enum {
        IMAGE_SCHEMA_E_FAULT = 1,       /* a tensor is missing or has a wrong shape */
        IMAGE_SCHEMA_E_UNSUPPORTED = 2, /* an architecture or a tensor that this version does not know */
};

#define IMAGE_SCHEMA_NO_TENSOR SIZE_MAX

/* Fault of hyper-parameters taken by themselves: NULL when they are plausible, else what is wrong. */
const char *image_schema_check_hparams(const struct image_hparams *hp);
/* The number and the rest of a block's tensor's name, "blk.N.REST"; NULL for other names. */
const char *image_schema_split(const char *name, uint32_t *ret_layer);
/* Checks that these are exactly the tensors of such a model. Layouts and formats are not looked at. 0,
 * IMAGE_SCHEMA_E_* with *error filled and *ret_tensor = the tensor at fault or IMAGE_SCHEMA_NO_TENSOR; or -ENOMEM. */
int image_schema_check(const struct image_hparams *hp, const struct image_tensor *tensors, size_t n_tensors,
                       size_t *ret_tensor, struct image_error *error);
/* Calls fn for every tensor that a model of such hyper-parameters must have (output.weight is no such: it may be the
 * embedding). dims: IMAGE_DIMS_MAX of them. Ends with the first result that is not 0, and returns it. */
int image_schema_list(const struct image_hparams *hp,
                      int (*fn)(void *userdata, const char *name, uint32_t n_dims, const uint64_t *dims), void *userdata);
