/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/splitname.h"
#include "import-files.h"
#include "model-file.h"

#define FILES_MAX IMPORT_FILES_MAX

void import_files_deinit(struct import_files *f) {
        for (size_t i = 0; i < f->n; i++) {
                (void)fd_close(f->fds[i]);
                free(f->paths[i]);
        }
}

static int files_add(const struct ctl *ctl, struct import_files *f, const char *path) {
        const char *slash;
        int status;

        if (f->n == FILES_MAX)
                return ctl_fail(ctl, EXIT_BAD_DATA, "FILE", NULL, "A model has at most %u files.", FILES_MAX);
        f->fds[f->n] = -1;
        f->paths[f->n] = strdup(path);
        if (!f->paths[f->n])
                return ctl_fail(ctl, EXIT_OTHER, "MEMORY", NULL, "Out of memory.");
        slash = strrchr(f->paths[f->n], '/');
        f->names[f->n] = slash ? slash + 1 : f->paths[f->n];
        status = model_file_open(ctl, path, &f->fds[f->n]);
        f->n++;
        return status;
}

/* The files of a directory that are a model's. */
static int files_add_directory(const struct ctl *ctl, struct import_files *f, const char *path) {
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        char text[MODELDIR_TEXT_MAX];
        struct modeldir d = { .n = 0 };
        int r;

        r = fd < 0 ? -errno : modeldir_open(&d, fd, path, text);
        if (r < 0)
                return ctl_fail(ctl, r == -EACCES ? EXIT_NOT_PERMITTED : EXIT_BAD_DATA, "FILE", NULL,
                                "%s can't be read: %s.", path, strerror(-r));
        if (r > 0)
                return ctl_fail(ctl, EXIT_BAD_DATA, "FILE", NULL, "%s.", text);
        for (; f->n < d.n; f->n++) {
                f->fds[f->n] = d.fds[f->n];
                f->paths[f->n] = strdup(d.names[f->n]);
                f->names[f->n] = f->paths[f->n];
        }
        for (size_t i = 0; i < f->n; i++)
                if (!f->names[i])
                        return ctl_fail(ctl, EXIT_OTHER, "MEMORY", NULL, "Out of memory.");
        return 0;
}

int import_files_open(const struct ctl *ctl, struct import_files *f, const char *path) {
        char part[PATH_MAX];
        unsigned total = splitname_part(path, 1, part, sizeof(part));
        int status = 0;

        if (model_file_is_directory(path))
                return files_add_directory(ctl, f, path);
        if (total == 0)
                return files_add(ctl, f, path);
        for (unsigned i = 1; i <= total && !status; i++) {
                (void)splitname_part(path, i, part, sizeof(part));
                status = files_add(ctl, f, part);
        }
        return status;
}
