/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/splitname.h"
#include "model-files.h"
#include "model.h"
#include "store/store.h"

_Static_assert(MODELDIR_FILES_MAX <= MODEL_FILES_MAX, "a directory's files must fit");

void model_files_deinit(struct model_files *f) {
        for (size_t i = 0; i < f->n; i++)
                f->fds[i] = fd_close(f->fds[i]);
        f->n = 0;
        free(f->names);
        f->names = NULL;
}

static int open_file(struct model_files *f, const char *path, struct request_error *error) {
        _cleanup_fd_ int fd = -1;
        struct stat st;
        Spark__V1__ErrorCode code = SPARK__V1__ERROR_CODE__MODEL_INVALID;

        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0 || fstat(fd, &st) < 0) {
                if (errno == ENOENT || errno == ENOTDIR)
                        code = SPARK__V1__ERROR_CODE__MODEL_NOT_FOUND;
                request_error_set(error, code, "%.300s: %s.", path, strerror(errno));
                return REQUEST_E_REFUSED;
        }
        if (!S_ISREG(st.st_mode)) {
                request_error_set(error, code, "%.300s is no regular file.", path);
                return REQUEST_E_REFUSED;
        }
        (void)fd_set_nonblock(fd, 0);
        f->fds[f->n++] = fd_steal(&fd);
        return 0;
}

/* -ENOTDIR: open_file() takes it, or says what is wrong. */
static int open_directory(struct model_files *f, const char *path, struct request_error *error) {
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        char text[MODELDIR_TEXT_MAX];
        struct modeldir d = { .n = 0 };
        int r;

        if (fd < 0)
                return -ENOTDIR;
        f->names = calloc(MODELDIR_FILES_MAX, sizeof(*f->names));
        if (!f->names)
                return -ENOMEM;
        r = modeldir_open(&d, fd, path, text);
        if (r > 0) {
                request_error_set(error, SPARK__V1__ERROR_CODE__MODEL_INVALID, "%s.", text);
                return REQUEST_E_REFUSED;
        }
        if (r < 0)
                return r;
        f->n = d.n;
        (void)memcpy(f->fds, d.fds, d.n * sizeof(*f->fds));
        (void)memcpy(f->names, d.names, d.n * sizeof(*f->names));
        return 0;
}

static int open_stored(struct model_files *f, const struct store_model *stored, struct request_error *error) {
        if (store_is_directory(stored)) {
                f->names = calloc(MODEL_FILES_MAX, sizeof(*f->names));
                if (!f->names)
                        return -ENOMEM;
        }
        return store_open_files(stored, f->fds, f->names, MODEL_FILES_MAX, &f->n, error);
}

static int open_descriptor(struct model_files *f, int input_fd) {
        int fd = fcntl(input_fd, F_DUPFD_CLOEXEC, 0);

        if (fd < 0)
                return -errno;
        f->fds[f->n++] = fd;
        return 0;
}

int model_files_open(struct model_files *f, const struct model *model, struct request_error *error) {
        char name[4096];
        unsigned parts;
        int r;

        *f = (struct model_files){ .n = 0 };
        if (model->stored)
                return open_stored(f, model->stored, error);
        if (model->input_fd >= 0)
                return open_descriptor(f, model->input_fd);
        r = open_directory(f, model->path, error);
        if (r != -ENOTDIR)
                return r;
        parts = splitname_part(model->path, 1, name, sizeof(name));
        if (parts > MODEL_FILES_MAX) {
                request_error_set(error, SPARK__V1__ERROR_CODE__MODEL_INVALID, "%u parts, at most %u are read.", parts,
                                  MODEL_FILES_MAX);
                return REQUEST_E_REFUSED;
        }
        r = open_file(f, model->path, error);
        for (unsigned i = 2; i <= parts && r == 0; i++) {
                (void)splitname_part(model->path, i, name, sizeof(name));
                r = open_file(f, name, error);
        }
        return r;
}

const char *model_files_argument(const struct model_files *f, size_t i, size_t at, char *value, size_t size) {
        spawn_argument(at, f->names ? f->names[i] : NULL, value, size);
        return f->names ? "--file" : i == 0 ? "--input" : "--split";
}

static void mix(uint64_t *mark, uint64_t v) {
        *mark = (*mark ^ v) * 0x9e3779b97f4a7c15u;
        *mark ^= *mark >> 31;
}

uint64_t model_files_mark(const struct model_files *f) {
        uint64_t mark = f->n;
        struct stat st;

        for (size_t i = 0; i < f->n; i++) {
                if (fstat(f->fds[i], &st) < 0)
                        st = (struct stat){ .st_size = -errno };
                mix(&mark, st.st_dev);
                mix(&mark, st.st_ino);
                mix(&mark, (uint64_t)st.st_size);
                mix(&mark, (uint64_t)st.st_mtim.tv_sec);
                mix(&mark, (uint64_t)st.st_mtim.tv_nsec);
        }
        return mark;
}
