/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Any bytes as a packed image, as they are and with checksums that are right, so that what is behind them is reached. What is accepted
 * is opened as an engine opens it, and every row of a coded tensor is decoded, whatever its codes are.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fd.h"
#include "base/macro.h"
#include "daemon/image/checksum.h"
#include "daemon/image/tensor-size.h"
#include "daemon/loader/load.h"
#include "kernels/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Tensors of the first segment, then the tables. */
static void correct(uint8_t *file, size_t size) {
        struct image_header *h = (void *)file;
        const struct image_span *s = &h->sections[IMAGE_SECTION_TENSORS];

        if (size < sizeof(*h) || h->tables_size < sizeof(*h) || h->tables_size > size)
                return;
        for (uint64_t at = s->offset, n = 0; s->offset % IMAGE_ALIGN == 0 && n < h->n_tensors; n++, at += sizeof(struct image_tensor)) {
                struct image_tensor *t = (void *)(file + at);

                if (!checked_range(at, sizeof(*t), h->tables_size))
                        break;
                if (t->offset >= h->tables_size && checked_range(t->offset, t->size, size))
                        t->checksum = image_checksum(file + t->offset, (size_t)t->size);
        }
        h->tables_checksum = image_checksum_tables(file, (size_t)h->tables_size);
}

/* From memory that ends where the tensor ends, so that a sanitizer sees a byte too many. */
static void decode(const struct image *image, const struct image_tensor *t) {
        _cleanup_free_ char *data = NULL;
        _cleanup_free_ uint16_t *row = NULL;
        struct lossless_parts parts;

        if (!image_tensor_parts(t, &parts))
                return;
        if (posix_memalign((void **)&data, 64, (size_t)t->size) != 0)
                return;
        (void)memcpy(data, image_data(image, t), (size_t)t->size);
        row = calloc(t->dims[0], sizeof(*row));
        for (uint64_t p = 0; row && p < parts.n_entries / parts.units; p++)
                for (unsigned r = 0; r < WEIGHT_PANEL; r++)
                        lossless_decode_row(data + p * (t->dims[0] / LOSSLESS_COLUMN) * LOSSLESS_COLUMN_BYTES,
                                            data + parts.index + p * parts.units * sizeof(uint64_t), data + parts.escapes, r, t->dims[0],
                                            row);
}

static void load(const uint8_t *data, size_t size) {
        _cleanup_fd_ int fd = fd_memfd_new("input", 0);
        int fds[IMAGE_SEGMENTS_MAX];
        struct loader_error error = { 0 };
        struct image_error why = { 0 };
        struct image image = IMAGE_NULL;
        size_t n = 0;
        int r;

        if (fd < 0 || write(fd, data, size) != (ssize_t)size)
                return;
        r = loader_load(fd, fds, &n, &error);
        if (r > 0 && !error.text[0])
                abort(); /* refused without a word */
        if (r == 0 && image_open(&image, fds, n, &why) == 0)
                for (size_t i = 0; i < image.n_tensors; i++)
                        decode(&image, &image.tensors[i]);
        else if (r == 0 && size >= 8 && memcmp(data, IMAGE_MAGIC, 8) == 0)
                abort(); /* what was checked here must be good enough for everybody */
        image_close(&image);
        for (size_t i = 0; i < n; i++)
                fds[i] = fd_close(fds[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_free_ uint8_t *file = malloc(size + 1);

        load(data, size);
        if (!file || size == 0)
                return 0;
        (void)memcpy(file, data, size);
        correct(file, size);
        load(file, size);
        return 0;
}
