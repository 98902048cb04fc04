/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* For tests of models as directories, after cmocka.h: a directory's files, one of which may be another text. */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "daemon/loader/load.h"
#include "modeldir.h"

#define MODELS "tests/reference/hf-models/"

struct hf_dir {
        struct modeldir d;
        const char *names[MODELDIR_FILES_MAX];
        int fds[MODELDIR_FILES_MAX]; /* borrowed from d, but for `other` */
        size_t n;
        int other;
};

static inline int memfd_of(const void *data, size_t n) {
        int fd = fd_memfd_new("file", 0);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, data, n), n);
        return fd;
}

/* The model's files with this data instead of the file `name` (data NULL: without it); name NULL: as they are. */
static inline void hf_dir_open(struct hf_dir *x, const char *model, const char *name, const void *data, size_t size) {
        char say[MODELDIR_TEXT_MAX];
        _cleanup_fd_ int dir = open(model, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        *x = (struct hf_dir){ .other = -1 };
        assert_true(dir >= 0);
        assert_int_equal(modeldir_open(&x->d, dir, model, say), 0);
        for (size_t i = 0; i < x->d.n; i++)
                if (!name || strcmp(x->d.names[i], name) != 0) {
                        x->names[x->n] = x->d.names[i];
                        x->fds[x->n++] = x->d.fds[i];
                }
        if (data) {
                x->other = memfd_of(data, size);
                x->names[x->n] = name;
                x->fds[x->n++] = x->other;
        }
}

static inline void hf_dir_close(struct hf_dir *x) {
        modeldir_close(&x->d);
        x->other = fd_close(x->other);
}

/* After loader_init_directory() and loader_plan(): what loader_write() gives, into sealed memfds. */
static inline int hf_write_image(struct loader *l, int *fds, size_t *ret_n) {
        int r;

        *ret_n = l->plan.n_segments;
        for (size_t i = 0; i < *ret_n; i++)
                fds[i] = fd_memfd_new("image", l->plan.segment_size[i]);
        r = loader_write(l, fds, *ret_n, NULL);
        for (size_t i = 0; i < *ret_n && !r; i++)
                assert_int_equal(fd_memfd_seal(fds[i]), 0);
        return r;
}
