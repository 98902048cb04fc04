/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The reader of images: maps and opens them; what is checked then is image-check.c's. The checks hold for as long as the
 * segments do not change: callers pass sealed memfds.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/huge.h"
#include "kernels/format.h"

#include "image-private.h"

static int map_segments(struct image_reader *r, const int *fds, size_t n_fds) {
        struct image *image = r->image;
        struct stat st;

        if (n_fds < 1 || n_fds > IMAGE_SEGMENTS_MAX)
                return image_fault(r, 0, "%zu segments, at least 1 and at most %u are possible", n_fds, IMAGE_SEGMENTS_MAX);
        for (size_t i = 0; i < n_fds; i++) {
                void *map;

                if (fstat(fds[i], &st) < 0)
                        return -errno;
                if (!S_ISREG(st.st_mode) || st.st_size <= 0)
                        return image_fault(r, 0, "segment %zu is empty or not a file", i);
                map = huge_map(fds[i], (size_t)st.st_size, PROT_READ);
                if (map == MAP_FAILED)
                        return -errno;
                image->map[i] = map;
                image->map_size[i] = (uint64_t)st.st_size;
                image->n_segments = i + 1;
        }
        return 0;
}

int image_open(struct image *ret, const int *fds, size_t n_fds, struct image_error *error) {
        _cleanup_(image_close) struct image image = IMAGE_NULL;
        struct image_reader r = { .image = &image, .error = error };
        int e;

        e = map_segments(&r, fds, n_fds);
        if (e)
                return e;
        r.base = image.map[0];
        r.header = image.map[0];
        e = image_check_begin(&r, image.map_size[0]);
        if (!e)
                e = image_check_tables(&r);
        if (!e)
                e = image_check_coded(&r);
        if (e)
                return e;
        *ret = image;
        image = IMAGE_NULL;
        return 0;
}

int image_open_growing(struct image *ret, const int *fds, size_t n_fds, const struct image_arrival *arrival,
                       struct image_error *error) {
        _cleanup_(image_close) struct image image = IMAGE_NULL;
        struct image_reader r = { .image = &image, .error = error };
        uint64_t size;
        int e;

        e = map_segments(&r, fds, n_fds);
        if (e)
                return e;
        size = image_tables_size(image.map[0], (size_t)image.map_size[0], error);
        if (size == 0 || size > image.map_size[0])
                return IMAGE_E_INVALID;
        image.tables = malloc((size_t)size);
        if (!image.tables)
                return -ENOMEM;
        (void)memcpy(image.tables, image.map[0], (size_t)size);
        r.base = image.tables;
        r.header = image.tables;
        e = image_check_begin(&r, (size_t)size);
        if (!e && r.header->tables_size != size)
                e = image_fault(&r, offsetof(struct image_header, tables_size), "the tables change while they are read");
        if (!e)
                e = image_check_tables(&r);
        if (e)
                return e;
        image.arrival = *arrival;
        *ret = image;
        image = IMAGE_NULL;
        return 0;
}

int image_settle(struct image *image, struct image_error *error) {
        struct image_reader r = { .image = image, .header = image->tables, .base = image->tables, .error = error };
        int e;

        if (!image->arrival.wait)
                return 0;
        e = image->arrival.wait(image->arrival.userdata, IMAGE_ALL);
        if (!e && memcmp(image->tables, image->map[0], (size_t)r.header->tables_size) != 0)
                e = image_fault(&r, 0, "the tables were changed after they were read");
        if (!e)
                e = image_check_coded(&r);
        if (!e)
                image->arrival.wait = NULL;
        return e;
}

int image_await(struct image *image, const struct image_tensor *tensor, struct image_error *error) {
        if (!image->arrival.wait)
                return 0;
        if (fmt_is_coded(fmt_info(tensor->fmt)))
                return image_settle(image, error);
        return image->arrival.wait(image->arrival.userdata, (size_t)(tensor - image->tensors) + 1);
}

uint64_t image_tables_size(const void *begin, size_t n, struct image_error *error) {
        struct image_reader r = { .header = begin, .error = error };

        if (image_check_begin(&r, n))
                return 0;
        if (r.header->tables_size >= sizeof(*r.header) && r.header->tables_size <= r.header->segment_size[0])
                return r.header->tables_size;
        (void)image_fault(&r, offsetof(struct image_header, tables_size), "tables of %llu bytes do not fit",
                          (unsigned long long)r.header->tables_size);
        return 0;
}

int image_open_tables(struct image *ret, const void *tables, uint64_t size, struct image_error *error) {
        struct image image = IMAGE_NULL;
        struct image_reader r = { .image = &image, .header = tables, .base = tables, .error = error };
        uint64_t whole = image_tables_size(tables, (size_t)size, error);
        int e;

        if (whole == 0)
                return IMAGE_E_INVALID;
        if (whole != size)
                return image_fault(&r, offsetof(struct image_header, tables_size), "the tables are not whole");
        if (r.header->n_segments < 1 || r.header->n_segments > IMAGE_SEGMENTS_MAX)
                return image_fault(&r, offsetof(struct image_header, n_segments),
                                   "%u segments, at least 1 and at most %u are possible",
                                   r.header->n_segments, IMAGE_SEGMENTS_MAX);
        image.n_segments = r.header->n_segments;
        for (size_t i = 0; i < image.n_segments; i++)
                image.map_size[i] = r.header->segment_size[i];
        e = image_check_tables(&r);
        if (!e)
                *ret = image;
        return e;
}

void image_close(struct image *image) {
        for (size_t i = 0; i < image->n_segments; i++)
                if (image->map[i])
                        (void)munmap(image->map[i], (size_t)image->map_size[i]);
        free(image->tables);
        *image = IMAGE_NULL;
}

const struct image_tensor *image_find(const struct image *image, const char *name) {
        size_t lo = 0, hi = image->n_tensors;

        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;
                const struct image_tensor *t = &image->tensors[image->name_index[mid]];
                int c = strcmp(name, t->name);

                if (c == 0)
                        return t;
                if (c < 0)
                        hi = mid;
                else
                        lo = mid + 1;
        }
        return NULL;
}
