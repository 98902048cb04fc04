/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/macro.h"
#include "load-caller.h"
#include "measure.h"

struct answer {
        double began_us;
        int error; /* 0 or -errno */
};

/* Waits where the service's queue of connections is full. */
static int connect_to(const struct sockaddr_un *address, double *ret_began_us) {
        _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0)
                return -errno;
        *ret_began_us = measure_now_us();
        if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
                return -errno;
        return fd_steal(&fd);
}

static int send_answer(int to, const struct answer *answer, int fd) {
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int))];
        } control = { 0 };
        struct iovec part = { .iov_base = (void *)answer, .iov_len = sizeof(*answer) };
        struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1 };

        if (fd >= 0) {
                struct cmsghdr *c;

                m.msg_control = control.bytes;
                m.msg_controllen = sizeof(control.bytes);
                c = CMSG_FIRSTHDR(&m);
                *c = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET,
                                       .cmsg_type = SCM_RIGHTS };
                memcpy(CMSG_DATA(c), &fd, sizeof(fd));
        }
        return sendmsg(to, &m, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The helper: one connection per byte. */
static void serve(int fd, const struct sockaddr_un *address) {
        char byte;

        while (recv(fd, &byte, 1, 0) == 1) {
                struct answer answer = { 0 };
                _cleanup_fd_ int made = connect_to(address, &answer.began_us);

                answer.error = made < 0 ? made : 0;
                if (send_answer(fd, &answer, made) < 0)
                        break;
        }
}

static int become(uint32_t uid) {
        if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
                return -errno;
        return 0;
}

int load_caller_start(struct load_caller *c, uint32_t uid, const char *socket_path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int pair[2], error = 0;

        if (geteuid() != 0 && uid != geteuid())
                return -EPERM;
        if (strlen(socket_path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        (void)strcpy(address.sun_path, socket_path);
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        *c = (struct load_caller){ .uid = uid, .pid = fork(), .fd = pair[0] };
        if (c->pid == 0) {
                /* other helpers' ends of their sockets above all: who holds one keeps that helper alive */
                (void)close_range(3, (unsigned)pair[1] - 1, 0);
                (void)close_range((unsigned)pair[1] + 1, ~0u, 0);
                error = geteuid() == uid ? 0 : become(uid);
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* after the change of user, which clears it */
                (void)send(pair[1], &error, sizeof(error), MSG_NOSIGNAL);
                if (error == 0)
                        serve(pair[1], &address);
                _exit(0);
        }
        (void)close(pair[1]);
        if (c->pid < 0)
                error = -errno;
        else if (recv(c->fd, &error, sizeof(error), 0) != sizeof(error))
                error = -ECHILD;
        if (error != 0)
                load_caller_stop(c);
        return error;
}

void load_caller_stop(struct load_caller *c) {
        c->fd = fd_close(c->fd);
        if (c->pid > 0)
                (void)waitpid(c->pid, NULL, 0); /* it ends with the other end of its socket */
        c->pid = -1;
}

int load_caller_connect(struct load_caller *c, double *ret_began_us) {
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int))];
        } control = { 0 };
        struct answer answer;
        struct iovec part = { .iov_base = &answer, .iov_len = sizeof(answer) };
        struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes,
                            .msg_controllen = sizeof(control.bytes) };
        const struct cmsghdr *header;
        int fd;

        if (send(c->fd, "c", 1, MSG_NOSIGNAL) != 1)
                return -errno;
        if (recvmsg(c->fd, &m, MSG_CMSG_CLOEXEC) != sizeof(answer))
                return -ECHILD;
        if (answer.error < 0)
                return answer.error;
        header = CMSG_FIRSTHDR(&m);
        if (!header || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof(int)))
                return -EBADMSG;
        memcpy(&fd, CMSG_DATA(header), sizeof(fd));
        (void)fd_set_nonblock(fd, 1);
        *ret_began_us = answer.began_us;
        return fd;
}
