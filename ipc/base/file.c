/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fd.h"
#include "file.h"

int file_write_all(int fd, const void *data, size_t size) {
        const uint8_t *p = data;

        while (size > 0) {
                ssize_t n = write(fd, p, size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        return -EIO;
                p += n;
                size -= (size_t)n;
        }
        return 0;
}

int file_folder_open_at(int at, const char *name, int create) {
        int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        if (fd >= 0 || errno != ENOENT || !create)
                return fd < 0 ? -errno : fd;
        if (mkdirat(at, name, 0700) < 0 && errno != EEXIST)
                return -errno;
        if (fsync(at) < 0)
                return -errno;
        fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

int file_create_at(int dir, const char *name) {
        int fd;

        if (unlinkat(dir, name, 0) < 0 && errno != ENOENT)
                return -errno;
        fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        return fd < 0 ? -errno : fd;
}

int file_settle_at(int dir, const char *from, const char *to) {
        if (renameat(dir, from, dir, to) < 0)
                return -errno;
        return fsync(dir) < 0 ? -errno : 0;
}

int file_remove_at(int dir, const char *name) {
        return unlinkat(dir, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int file_replace_at(int dir, const char *name, const char *beside, const void *data, size_t size) {
        _cleanup_fd_ int fd = file_create_at(dir, beside);
        int r;

        if (fd < 0)
                return fd;
        r = file_write_all(fd, data, size);
        if (r == 0 && fsync(fd) < 0)
                r = -errno;
        if (r == 0)
                r = file_settle_at(dir, beside, name);
        if (r < 0)
                (void)unlinkat(dir, beside, 0);
        return r;
}

int file_read_at(int dir, const char *name, size_t max, char **ret, size_t *ret_size) {
        _cleanup_fd_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        _cleanup_free_ char *data = NULL;
        struct stat st;
        size_t got = 0;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        if (st.st_size < 0 || (uint64_t)st.st_size > max)
                return -EFBIG;
        data = malloc((size_t)st.st_size + 1);
        if (!data)
                return -ENOMEM;
        while (got < (size_t)st.st_size) {
                ssize_t n = pread(fd, data + got, (size_t)st.st_size - got, (off_t)got);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        break; /* shorter by now: what is there is judged by its contents */
                got += (size_t)n;
        }
        data[got] = 0;
        *ret = steal_ptr(&data);
        *ret_size = got;
        return 0;
}
