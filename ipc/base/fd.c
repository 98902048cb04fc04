/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fd.h"

#define SEALS_READ_ONLY (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK)

int fd_close(int fd) {
        int saved = errno;

        if (fd >= 0)
                (void)close(fd);
        errno = saved;
        return -1;
}

int fd_memfd_new(const char *name, uint64_t size) {
        _cleanup_fd_ int fd = -1;

        if (size > INT64_MAX)
                return -EFBIG;
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return -errno;
        if (ftruncate(fd, (off_t)size) < 0)
                return -errno;
        return fd_steal(&fd);
}

int fd_memfd_new_sealed(const char *name, const void *data, size_t size) {
        _cleanup_fd_ int fd = -1;
        size_t done = 0;
        int r;

        fd = fd_memfd_new(name, size);
        if (fd < 0)
                return fd;
        while (done < size) {
                ssize_t n = pwrite(fd, (const char *)data + done, size - done, (off_t)done);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                done += (size_t)n;
        }
        r = fd_memfd_seal(fd);
        if (r < 0)
                return r;
        return fd_steal(&fd);
}

int fd_memfd_seal(int fd) {
        if (fcntl(fd, F_ADD_SEALS, SEALS_READ_ONLY | F_SEAL_SEAL) < 0)
                return -errno;
        return 0;
}

int fd_memfd_check_sealed(int fd, uint64_t *ret_size) {
        struct stat st;
        int seals;

        seals = fcntl(fd, F_GET_SEALS);
        if (seals < 0 || (seals & SEALS_READ_ONLY) != SEALS_READ_ONLY)
                return -EINVAL;
        if (fstat(fd, &st) < 0)
                return -errno;
        *ret_size = (uint64_t)st.st_size;
        return 0;
}

int fd_set_nonblock(int fd, int on) {
        int flags;

        flags = fcntl(fd, F_GETFL);
        if (flags < 0)
                return -errno;
        flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
        if (fcntl(fd, F_SETFL, flags) < 0)
                return -errno;
        return 0;
}

bool fd_has_option(int fd, int option, int wanted) {
        int value = 0;
        socklen_t size = sizeof(value);

        return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 && value == wanted;
}
