/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The writer of images. Fill in hyper-parameters, vocabulary and template (borrowed until the tables are written), add
 * tensors in the order in which they shall lie, lay out, make segments of the sizes that come out, then write the tables
 * and each tensor's data at its place. Owned by the caller; zero-initialise (IMAGE_PLAN_NULL).
 */

#include <stdbool.h>

#include "image.h"

enum {
        IMAGE_PLAN_E_LIMIT = 1, /* more tensors, segments or bytes than an image can hold */
        IMAGE_PLAN_E_SHAPE = 2, /* a size that does not fit the format, or an unknown format */
        IMAGE_PLAN_E_DUPLICATE = 3, /* two tensors of one name */
};

struct image_plan {
        struct image_hparams hparams;
        struct image_vocab vocab;
        const char *chat_template; /* NULL = none; need not be NUL-terminated */
        size_t chat_template_size;

        struct image_tensor *tensors;
        size_t n_tensors;
        size_t cap_tensors;
        uint64_t n_params;

        /* after image_plan_layout() */
        uint32_t *name_index;
        uint64_t tables_size;
        uint64_t data_size; /* bytes of tensor data */
        size_t n_segments;
        uint64_t segment_size[IMAGE_SEGMENTS_MAX];
        bool checked; /* tensors have their checksums: the tables get one, too */
};

#define IMAGE_PLAN_NULL ((struct image_plan){ 0 })

void image_plan_deinit(struct image_plan *plan);
/* Adds a tensor; name shorter than IMAGE_NAME_MAX, layout an enum weight_layout (panels: two dimensions or three). 0,
 * IMAGE_PLAN_E_*, or -ENOMEM. */
int image_plan_add_tensor(struct image_plan *plan, const char *name, uint32_t fmt, uint32_t layout, uint32_t n_dims,
                          const uint64_t *dims);
/* Tensor i, a matrix in BF16 or coded already, is to be coded losslessly, with so many bytes of escapes. 0, or IMAGE_PLAN_E_SHAPE and
 * it stays as it is: the form is not possible. Layout comes after. */
int image_plan_code_tensor(struct image_plan *plan, size_t i, uint64_t escapes);
/* Gives every tensor its segment and offset; no segment gets longer than segment_max unless one tensor is. Large images get
 * segments that are shorter than that, so that a part of one can be given back (control's model_give_part()). 0,
 * IMAGE_PLAN_E_*, or -ENOMEM. May be called again when tensors have changed. */
int image_plan_layout(struct image_plan *plan, uint64_t segment_max);
/* The format of most weights, by bytes; "" where there is no matrix. */
const char *image_plan_format(const struct image_plan *plan);
/* Writes header and tables (tables_size bytes) to the start of segment 0, which is zero there. */
void image_plan_write_tables(const struct image_plan *plan, void *segment0);
