/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* For tests of the loader, after cmocka.h: an image that was just loaded, and what of it is compared with the file. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "daemon/image/image.h"
#include "daemon/loader/gguf.h"
#include "kernels/format.h"

struct loaded {
        int fds[IMAGE_SEGMENTS_MAX];
        size_t n_fds;
        struct image image;
};

static inline void loaded_close(struct loaded *l) {
        image_close(&l->image);
        for (size_t i = 0; i < l->n_fds; i++)
                l->fds[i] = fd_close(l->fds[i]);
}

static inline const char *test_data(void) {
        const char *path = getenv("SPARK_TESTDATA");

        if (!path)
                path = "../shared/testdata";
        if (access(path, R_OK) < 0) {
                print_message("no test data at %s\n", path);
                skip();
        }
        return path;
}

static inline void open_loaded(struct loaded *l) {
        struct image_error error = { 0 };

        l->image = IMAGE_NULL;
        if (image_open(&l->image, l->fds, l->n_fds, &error) != 0)
                fail_msg("image_open: %s", error.text);
        for (size_t i = 0; i < l->n_fds; i++) {
                uint64_t size;

                assert_int_equal(fd_memfd_check_sealed(l->fds[i], &size), 0);
        }
}

static inline void read_all(int fd, uint64_t offset, void *buf, size_t n) {
        for (size_t done = 0; done < n;) {
                ssize_t r = pread(fd, (char *)buf + done, n - done, (off_t)(offset + done));

                assert_true(r > 0);
                done += (size_t)r;
        }
}

static inline void compare_tensor(int fd, const struct gguf_tensor *t, const struct image *image) {
        const struct image_tensor *it = image_find(image, t->name);
        const struct fmt_info *info = fmt_info(t->fmt);
        uint64_t row_bytes = t->size / t->dims[1];
        _cleanup_free_ void *raw = malloc(row_bytes);
        _cleanup_free_ float *want = calloc(t->dims[0], sizeof(float));
        _cleanup_free_ float *have = calloc(t->dims[0], sizeof(float));
        struct weight w;

        assert_non_null(it);
        assert_int_equal(it->layout, t->n_dims == 2 ? WEIGHT_PANELS : WEIGHT_ROWS);
        w = (struct weight){ .info = fmt_info(it->fmt), .layout = (enum weight_layout)it->layout,
                             .n_out = (uint32_t)it->dims[1], .n_in = (uint32_t)it->dims[0],
                             .data = image_data(image, it) };
        assert_int_equal((uintptr_t)w.data % 64, 0);
        for (uint32_t row = 0; row < t->dims[1]; row++) {
                read_all(fd, t->offset + row * row_bytes, raw, row_bytes);
                fmt_decode(info, raw, t->dims[0], want);
                weight_decode_row(&w, row, have);
                if (memcmp(want, have, t->dims[0] * sizeof(float)) != 0)
                        fail_msg("%s: row %u differs", t->name, row);
        }
}
