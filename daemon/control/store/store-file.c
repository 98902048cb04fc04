/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "store-file.h"

#define BESIDE ".new" /* begins with a dot, as no name does */

/* ---- folders ---- */

int store_dirs_open(struct store_dirs *d, const char *state_dir) {
        static const char *const names[] = { "blobs", "models", "names", "incoming", "quarantine" };
        _cleanup_fd_ int state = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), store = -1;
        int *const fds[] = { &d->blobs, &d->models, &d->names, &d->incoming, &d->quarantine };

        *d = STORE_DIRS_NULL;
        if (state < 0)
                return -errno;
        store = file_folder_open_at(state, "store", 1);
        if (store < 0)
                return store;
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
                int r = file_folder_open_at(store, names[i], 1);

                if (r < 0) {
                        store_dirs_close(d);
                        return r;
                }
                *fds[i] = r;
        }
        return 0;
}

void store_dirs_close(struct store_dirs *d) {
        d->blobs = fd_close(d->blobs);
        d->models = fd_close(d->models);
        d->names = fd_close(d->names);
        d->incoming = fd_close(d->incoming);
        d->quarantine = fd_close(d->quarantine);
}

/* ---- incoming ---- */

int store_incoming_create(const struct store_dirs *d, const char *name) {
        int fd = openat(d->incoming, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0400);

        return fd < 0 ? -errno : fd;
}

int store_incoming_remove(const struct store_dirs *d, const char *name) {
        return file_remove_at(d->incoming, name);
}

int store_free_bytes(const struct store_dirs *d, uint64_t *ret) {
        struct statvfs st;

        if (fstatvfs(d->incoming, &st) < 0)
                return -errno;
        *ret = (uint64_t)st.f_bavail * st.f_frsize;
        return 0;
}

/* ---- changes ---- */

static int add_blobs(const struct store_dirs *d, const struct store_addition *a) {
        bool any = false;

        for (size_t i = 0; i < a->manifest->n_files; i++) {
                if (!*a->incoming[i])
                        continue;
                if (renameat(d->incoming, a->incoming[i], d->blobs, a->manifest->files[i].digest) < 0)
                        return -errno;
                any = true;
        }
        return any && fsync(d->blobs) < 0 ? -errno : 0;
}

int store_file_update(const struct store_dirs *d, const struct store_manifest *m) {
        struct buf text = BUF_NULL(STORE_MANIFEST_MAX);
        int r = store_manifest_format(m, &text);

        if (r == 0)
                r = file_replace_at(d->models, m->id, BESIDE, text.data, text.len);
        buf_deinit(&text);
        return r;
}

static int add_name(const struct store_dirs *d, const struct store_name *n) {
        struct buf text = BUF_NULL(STORE_MANIFEST_MAX);
        int r = store_name_format(n, &text);

        if (r == 0)
                r = file_replace_at(d->names, n->name, BESIDE, text.data, text.len);
        buf_deinit(&text);
        return r;
}

int store_file_add(const struct store_dirs *d, const struct store_addition *a) {
        int r = 0;

        if (a->manifest) {
                r = add_blobs(d, a);
                if (r == 0)
                        r = store_file_update(d, a->manifest);
        }
        if (r == 0 && a->name)
                r = add_name(d, a->name);
        return r;
}

int store_file_remove(const struct store_dirs *d, const struct store_removal *r, struct store_removed *ret) {
        int e = 0;

        *ret = (struct store_removed){ .gone = false };
        while (ret->n_names < r->n_names && e == 0) {
                e = file_remove_at(d->names, r->names[ret->n_names]);
                ret->n_names += e == 0;
        }
        if (e == 0 && fsync(d->names) < 0) /* without a name, too: an earlier removal may have been cut off here */
                e = -errno;
        if (e < 0)
                return e;
        ret->gone = true;
        if (!*r->id)
                return 0;
        e = file_remove_at(d->models, r->id);
        if (e == 0 && fsync(d->models) < 0)
                e = -errno;
        for (size_t i = 0; i < r->n_blobs && e == 0; i++)
                e = file_remove_at(d->blobs, r->blobs[i]);
        if (e == 0 && r->n_blobs > 0 && fsync(d->blobs) < 0)
                e = -errno;
        return e;
}

int store_file_quarantine(const struct store_dirs *d, const char *digest) {
        if (renameat(d->blobs, digest, d->quarantine, digest) < 0)
                return -errno;
        if (fsync(d->quarantine) < 0 || fsync(d->blobs) < 0)
                return -errno;
        return 0;
}
