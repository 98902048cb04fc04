/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "listener.h"

static int open_reserve(void) {
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

        return fd < 0 ? -errno : fd;
}

static int address_set(struct sockaddr_un *addr, const char *path) {
        size_t n = strlen(path);

        if (path[0] != '/' || n >= sizeof(addr->sun_path))
                return LISTENER_E_PATH;
        *addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
        memcpy(addr->sun_path, path, n + 1);
        return 0;
}

/* Removes a socket that its owner left behind. 0 when the path is free then. */
static int remove_stale(const struct sockaddr_un *addr) {
        _cleanup_fd_ int fd = -1;
        struct stat st;

        if (lstat(addr->sun_path, &st) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (!S_ISSOCK(st.st_mode))
                return LISTENER_E_NOT_SOCKET;
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        /* refused: nobody listens. Anything else (connected, queue full, wrong type) means that somebody has it. */
        if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno != ECONNREFUSED)
                return LISTENER_E_IN_USE;
        if (unlink(addr->sun_path) < 0 && errno != ENOENT)
                return -errno;
        return 0;
}

/* Between bind() and chmod() the file has no permissions for anybody else, thanks to fchmod() on the unbound socket:
 * the kernel takes the file's mode from it. */
static int bind_with_mode(int fd, const struct sockaddr_un *addr, mode_t mode, gid_t gid) {
        if (fchmod(fd, 0600) < 0)
                return -errno;
        if (bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
                return -errno;
        if ((gid != (gid_t)-1 && lchown(addr->sun_path, (uid_t)-1, gid) < 0) || chmod(addr->sun_path, mode) < 0) {
                int r = -errno;

                (void)unlink(addr->sun_path);
                return r;
        }
        return 0;
}

int listener_init(struct listener *l, const char *path, mode_t mode, gid_t gid) {
        _cleanup_fd_ int fd = -1, reserve = -1;
        struct sockaddr_un addr;
        struct stat st;
        int r;

        r = address_set(&addr, path);
        if (r)
                return r;
        reserve = open_reserve();
        if (reserve < 0)
                return reserve;
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        r = remove_stale(&addr);
        if (r)
                return r;
        r = bind_with_mode(fd, &addr, mode, gid);
        if (r < 0)
                return r == -EADDRINUSE ? LISTENER_E_IN_USE : r;
        if (listen(fd, LISTENER_BACKLOG) < 0 || lstat(path, &st) < 0) {
                r = -errno;
                (void)unlink(path);
                return r;
        }
        *l = (struct listener){ .dev = st.st_dev, .ino = st.st_ino };
        memcpy(l->path, addr.sun_path, sizeof(l->path));
        l->fd = fd_steal(&fd);
        l->reserve = fd_steal(&reserve);
        return 0;
}

int listener_init_fd(struct listener *l, int fd) {
        int r, reserve;

        if (!fd_has_option(fd, SO_DOMAIN, AF_UNIX) || !fd_has_option(fd, SO_TYPE, SOCK_STREAM) ||
            !fd_has_option(fd, SO_ACCEPTCONN, 1))
                return LISTENER_E_NOT_SOCKET;
        r = fd_set_nonblock(fd, 1);
        if (r < 0)
                return r;
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
                return -errno;
        reserve = open_reserve();
        if (reserve < 0)
                return reserve;
        *l = (struct listener){ .fd = fd, .reserve = reserve };
        return 0;
}

void listener_deinit(struct listener *l) {
        struct stat st;

        if (l->path[0] && lstat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino)
                (void)unlink(l->path);
        (void)fd_close(l->fd);
        (void)fd_close(l->reserve);
        *l = LISTENER_NULL;
}

static int accept_one(struct listener *l) {
        int fd;

        /* a client that gave up while it waited (ECONNABORTED) says nothing about the next one */
        do
                fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
        return fd < 0 ? -errno : fd;
}

int listener_accept(struct listener *l, int *ret_fd) {
        int fd = accept_one(l);

        if (fd == -EMFILE || fd == -ENFILE) {
                l->reserve = fd_close(l->reserve);
                fd = accept_one(l);
                (void)fd_close(fd);
                l->reserve = open_reserve();
                if (fd >= 0)
                        return LISTENER_E_NO_FDS;
        }
        if (fd == -EAGAIN || fd == -EWOULDBLOCK)
                return 0;
        if (fd < 0)
                return fd;
        *ret_fd = fd;
        return 1;
}
