/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The reader of images, for the files that it is made of: image.c maps and opens, image-check.c checks the tables,
 * image-vocab.c the vocabulary among them. What returns int gives 0, or IMAGE_E_INVALID with the reader's error filled, or
 * -errno.
 */

#include "base/macro.h"

#include "layout.h"

struct image_reader {
        struct image *image;
        const struct image_header *header;
        const char *base; /* segment 0 */
        struct image_error *error;
};

extern const char *const image_section_names[IMAGE_SECTION_N];

/* Says what is wrong, and where in segment 0. IMAGE_E_INVALID. */
_printf_(3, 4)
int image_fault(struct image_reader *r, uint64_t offset, const char *fmt, ...);

static inline const void *image_table(const struct image_reader *r, enum image_section i) {
        return r->base + r->header->sections[i].offset;
}

static inline uint64_t image_table_offset(const struct image_reader *r, enum image_section i, size_t more) {
        return r->header->sections[i].offset + more;
}

/* That a section has room for exactly so many of such a size. */
int image_expect_size(struct image_reader *r, enum image_section i, uint64_t count, uint64_t each);
int image_check_string(struct image_reader *r, enum image_section i);
/* What has to be so before anything else may be looked for in `size` bytes. */
int image_check_begin(struct image_reader *r, uint64_t size);
/* All tables; afterwards the image's fields are set. */
int image_check_tables(struct image_reader *r);
int image_check_vocab(struct image_reader *r);
/* The indexes of coded tensors, which are data. */
int image_check_coded(struct image_reader *r);
