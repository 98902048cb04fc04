/* SPDX-License-Identifier: Apache-2.0 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/macro.h"

#include "modeldir.h"

#define ENTRIES_MAX 65536u

static const char *const plain_names[] = {
        "config.json",         "generation_config.json",  "tokenizer.json",     "tokenizer_config.json",
        "chat_template.jinja", "chat_template.json",      "model.safetensors",
};

/* Five digits. */
static bool number(const char *s, unsigned *ret) {
        unsigned v = 0;

        for (unsigned i = 0; i < 5; i++) {
                if (s[i] < '0' || s[i] > '9')
                        return false;
                v = 10 * v + (unsigned)(s[i] - '0');
        }
        *ret = v;
        return true;
}

bool modeldir_shard(const char *name, unsigned *ret_number, unsigned *ret_count) {
        unsigned n = 0, count = 0;

        if (strncmp(name, "model-", 6) != 0 || !number(name + 6, &n) || strncmp(name + 11, "-of-", 4) != 0 ||
            !number(name + 15, &count) || strcmp(name + 20, ".safetensors") != 0 || n < 1 || n > count)
                return false;
        *ret_number = n;
        *ret_count = count;
        return true;
}

bool modeldir_knows(const char *name) {
        unsigned n, count;

        for (size_t i = 0; i < ARRAY_SIZE(plain_names); i++)
                if (strcmp(plain_names[i], name) == 0)
                        return true;
        return modeldir_shard(name, &n, &count);
}

static int open_file(struct modeldir *d, int dir, const char *name, const char *path, char text[MODELDIR_TEXT_MAX]) {
        _cleanup_fd_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0) {
                (void)snprintf(text, MODELDIR_TEXT_MAX, "%.300s/%.64s: %s", path, name, strerror(errno));
                return MODELDIR_E_REFUSED;
        }
        if (!S_ISREG(st.st_mode)) {
                (void)snprintf(text, MODELDIR_TEXT_MAX, "%.300s/%.64s is no regular file", path, name);
                return MODELDIR_E_REFUSED;
        }
        if (d->n == MODELDIR_FILES_MAX) {
                (void)snprintf(text, MODELDIR_TEXT_MAX, "%.300s has more than %u files of a model", path, MODELDIR_FILES_MAX);
                return MODELDIR_E_REFUSED;
        }
        (void)fd_set_nonblock(fd, 0);
        (void)snprintf(d->names[d->n], MODELDIR_NAME_MAX, "%.39s", name);
        d->fds[d->n++] = fd_steal(&fd);
        return 0;
}

static int open_files(struct modeldir *d, DIR *dir, const char *path, char text[MODELDIR_TEXT_MAX]) {
        const struct dirent *entry;
        int r = 0;

        for (unsigned i = 0; i < ENTRIES_MAX && r == 0; i++) {
                errno = 0;
                entry = readdir(dir);
                if (!entry)
                        return errno ? -errno : 0;
                if (modeldir_knows(entry->d_name))
                        r = open_file(d, dirfd(dir), entry->d_name, path, text);
        }
        if (r)
                return r;
        (void)snprintf(text, MODELDIR_TEXT_MAX, "%.300s has more than %u entries", path, ENTRIES_MAX);
        return MODELDIR_E_REFUSED;
}

int modeldir_open(struct modeldir *d, int fd, const char *path, char text[MODELDIR_TEXT_MAX]) {
        int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;
        DIR *dir = own < 0 ? NULL : fdopendir(own);

        d->n = 0;
        if (!dir) {
                r = -errno;
                (void)fd_close(own);
                return r;
        }
        r = open_files(d, dir, path, text);
        (void)closedir(dir);
        if (r == 0 && d->n == 0) {
                (void)snprintf(text, MODELDIR_TEXT_MAX, "%.300s is a directory without files of a model (config.json, ...)",
                               path);
                r = MODELDIR_E_REFUSED;
        }
        if (r)
                modeldir_close(d);
        return r;
}

void modeldir_close(struct modeldir *d) {
        for (size_t i = 0; i < d->n; i++)
                d->fds[i] = fd_close(d->fds[i]);
        d->n = 0;
}
