/* SPDX-License-Identifier: Apache-2.0 */

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
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

/* Bit i of *ret_new: the i-th file was not there, and is now. */
static int add_blobs(const struct store_dirs *d, const struct store_addition *a, uint64_t *ret_new) {
        bool any = false;

        *ret_new = 0;
        for (size_t i = 0; i < a->manifest->n_files; i++) {
                const char *digest = a->manifest->files[i].digest;
                bool was = faccessat(d->blobs, digest, F_OK, AT_SYMLINK_NOFOLLOW) == 0;

                if (!*a->incoming[i])
                        continue;
                if (renameat(d->incoming, a->incoming[i], d->blobs, digest) < 0)
                        return -errno;
                if (!was)
                        *ret_new |= (uint64_t)1 << i;
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

/* It may have been written all the same, only not brought to the disk for certain. */
static bool name_may_mean(const struct store_dirs *d, const struct store_name *n) {
        _cleanup_free_ char *text = NULL;
        size_t size;
        int r = file_read_at(d->names, n->name, STORE_MANIFEST_MAX, &text, &size);

        return r < 0 ? r != -ENOENT : memmem(text, size, n->id, strlen(n->id)) != NULL;
}

/* Large files are not to lie where nobody knows them, on a disk that is full, until the next start: they are incoming ones again. */
static void take_back(const struct store_dirs *d, const struct store_addition *a, uint64_t fresh) {
        if ((a->name && name_may_mean(d, a->name)) || file_remove_at(d->models, a->manifest->id) < 0)
                return;
        for (size_t i = 0; i < a->manifest->n_files; i++)
                if (fresh >> i & 1)
                        (void)renameat(d->blobs, a->manifest->files[i].digest, d->incoming, a->incoming[i]);
}

int store_file_add(const struct store_dirs *d, const struct store_addition *a) {
        bool known = a->manifest && faccessat(d->models, a->manifest->id, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
        uint64_t fresh = 0;
        int r = 0;

        static_assert(STORE_FILES_MAX <= 64, "one bit each");
        if (a->manifest) {
                r = add_blobs(d, a, &fresh);
                if (r == 0)
                        r = store_file_update(d, a->manifest);
        }
        if (r == 0 && a->name)
                r = add_name(d, a->name);
        if (r < 0 && a->manifest && !known)
                take_back(d, a, fresh);
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
