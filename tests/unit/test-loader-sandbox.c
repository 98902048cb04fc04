/* SPDX-License-Identifier: Apache-2.0 */

/* The cage holds: a child enters it and reports, through its exit status, the first thing that it should not have been
 * able to do, or the first that it should have been. */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/macro.h"
#include "cage-fixture.h"
#include "daemon/loader/ring.h"
#include "daemon/cage/cage.h"
#include "daemon/loader/sandbox.h"
#include "daemon/loader/source.h"
#include "loadlink.h"

static bool enter_for(bool pack) {
        bool landlock;

        return cage_enter_files(&landlock) == 0 && sandbox_enter_calls(pack) == 0;
}

static bool enter(void) {
        return enter_for(false);
}

static int try_forbidden(void) {
        int n = 60, r;

        if (!enter())
                return 100;
        r = cage_try_forbidden();
        if (r)
                return r;
        FORBID(syscall(SYS_clone3, NULL, 0));
        FORBID(syscall(SYS_io_uring_register, 0, 0, NULL, 0));
        FORBID(memfd_create("x", 0));
        FORBID(fcntl(0, F_DUPFD, 10));
        FORBID(ioctl(0, 0x5401, NULL));
        FORBID(fdatasync(0));
        FORBID(sync_file_range(0, 0, 0, 0));
        FORBID(fallocate(0, 0, 0, 1));
        FORBID(connect(0, (const struct sockaddr *)&(struct sockaddr_un){ .sun_family = AF_UNIX }, sizeof(struct sockaddr_un)));
        FORBID(pwrite(0, "x", 1, 0));
        FORBID(ftruncate(0, 0));
        FORBID(syscall(SYS_dup, 0));
        return 0;
}

/* Who packs may do three things more, to a file that was made as long as it is to be. */
static int try_pack(void) {
        char path[] = "./test-loader-sandbox-XXXXXX";
        int fd = mkostemp(path, O_CLOEXEC);
        char *p;

        if (fd < 0 || unlink(path) < 0 || ftruncate(fd, 8192) < 0 || !enter_for(true))
                return 100;
        if (fallocate(fd, 0, 0, 8192) < 0 && errno != EOPNOTSUPP)
                return 1;
        p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED)
                return 2;
        (void)memset(p, 1, 8192);
        if (madvise(p, 4096, MADV_DONTNEED) < 0 || p[0] != 1)
                return 3;
        if (sync_file_range(fd, 0, 4096, SYNC_FILE_RANGE_WRITE) < 0 || posix_fadvise(fd, 0, 4096, POSIX_FADV_DONTNEED) != 0)
                return 4;
        if (fdatasync(fd) < 0)
                return 5;
        if (!cage_refused(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096)) || !cage_refused(ftruncate(fd, 0)))
                return 6;
        if (fallocate(fd, 0, 0, 16384) == 0 || write(fd, "x", 1) == 1) /* no longer, and through the mapping alone */
                return 7;
        return cage_refused(open("/etc/passwd", O_RDONLY)) && cage_refused(fsync(fd)) &&
                       cage_refused(socket(AF_UNIX, SOCK_STREAM, 0)) ? 0 : 8;
}

static int try_allowed(void) {
        char buf[16];
        int s[2], fd;
        void *p;

        fd = fd_memfd_new("input", 4096);
        if (fd < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s) < 0 || !enter())
                return 100;
        if (pread(fd, buf, sizeof(buf), 0) != sizeof(buf))
                return 1;
        p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED)
                return 2;
        (void)memset(p, 1, 4096);
        if (munmap(p, 4096) < 0)
                return 3;
        if (sendmsg(s[0], &(struct msghdr){ .msg_iov = &(struct iovec){ buf, 4 }, .msg_iovlen = 1 }, 0) != 4)
                return 4;
        if (recvmsg(s[1], &(struct msghdr){ .msg_iov = &(struct iovec){ buf, 16 }, .msg_iovlen = 1 }, 0) != 4)
                return 5;
        p = malloc(100 << 20);
        if (!p)
                return 6;
        free(p);
        return 0;
}

static int check_state(void) {
        bool landlock;
        struct rlimit core;
        int fd = fd_memfd_new("file", 0);

        if (cage_enter_files(&landlock) < 0)
                return 100;
        if (getrlimit(RLIMIT_CORE, &core) < 0 || core.rlim_max != 0)
                return 1;
        if (prctl(PR_GET_DUMPABLE) != 0 || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
                return 3;
        if (sandbox_enter_calls(false) < 0)
                return 101;
        errno = 0;
        if (write(fd, "x", 1) != -1 || errno != EFBIG)
                return 2;
        return 0;
}

/* All inputs are open when all segments come. */
static int take_all_descriptors(void) {
        struct loadlink_record record = { .type = LOADLINK_SEGMENTS, .n_segments = LOADLINK_SEGMENTS_MAX };
        int fds[LOADLINK_SEGMENTS_MAX], pair[2], fd = fd_memfd_new("file", 0);
        bool landlock;
        size_t n = 0;

        for (size_t i = 0; i < SOURCES_MAX + LOADLINK_SEGMENTS_MAX; i++)
                if (i < LOADLINK_SEGMENTS_MAX)
                        fds[i] = fd;
                else if (dup(fd) < 0)
                        return 1;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0 ||
            loadlink_send(pair[0], &record, fds, LOADLINK_SEGMENTS_MAX) != 0)
                return 2;
        if (cage_enter_files(&landlock) < 0 || sandbox_enter_calls(false) < 0)
                return 100;
        return loadlink_recv(pair[1], &record, fds, &n) == 1 && n == LOADLINK_SEGMENTS_MAX ? 0 : 3;
}

/* A thread that was made between the two steps is inside as well. */
static int pipe_fds[2];

static void *thread_main(void *arg) {
        char c;

        if (read(pipe_fds[0], &c, 1) != 1)
                return (void *)1;
        return cage_refused(open("/etc/passwd", O_RDONLY)) && cage_refused(socket(AF_UNIX, SOCK_STREAM, 0)) ? NULL : (void *)2;
}

static int try_thread(void) {
        bool landlock;
        pthread_t thread;
        void *result;

        if (pipe(pipe_fds) < 0 || cage_enter_files(&landlock) < 0)
                return 100;
        if (pthread_create(&thread, NULL, thread_main, NULL) != 0)
                return 101;
        if (sandbox_enter_calls(false) < 0)
                return 102;
        if (write(pipe_fds[1], "x", 1) != 1 || pthread_join(thread, &result) != 0)
                return 103;
        return result ? 1 : 0;
}

/* Landlock alone (the first step) already keeps files shut, where the kernel has it. */
static int try_landlock(void) {
        bool landlock;
        char name[64];

        if (cage_enter_files(&landlock) < 0)
                return 100;
        if (!landlock)
                return 77;
        (void)snprintf(name, sizeof(name), "/tmp/spark-sandbox.%d", (int)getpid()); /* nobody has made it */
        return cage_refused(open("/etc/passwd", O_RDONLY)) && cage_refused(open(name, O_RDWR | O_CREAT, 0600)) ? 0 : 1;
}

static int submit_raw(struct ring *ring, void (*prep)(struct io_uring_sqe *sqe, int fd), int fd) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
        struct io_uring_cqe *cqe;
        int result;

        prep(sqe, fd);
        if (io_uring_submit(&ring->uring) < 0 || io_uring_wait_cqe(&ring->uring, &cqe) < 0)
                return -1000;
        result = cqe->res;
        io_uring_cqe_seen(&ring->uring, cqe);
        return result;
}

static char ring_buf[16];

static void prep_write(struct io_uring_sqe *sqe, int fd) {
        io_uring_prep_write(sqe, 0, "x", 1, 0);
        sqe->flags |= IOSQE_FIXED_FILE;
}

static void prep_open(struct io_uring_sqe *sqe, int fd) {
        io_uring_prep_openat(sqe, AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
}

static void prep_read_other(struct io_uring_sqe *sqe, int fd) {
        io_uring_prep_read(sqe, fd, ring_buf, sizeof(ring_buf), 0);
}

static void prep_read(struct io_uring_sqe *sqe, int fd) {
        io_uring_prep_read(sqe, 0, ring_buf, sizeof(ring_buf), 0);
        sqe->flags |= IOSQE_FIXED_FILE;
}

static int try_ring(void) {
        int fd = fd_memfd_new("input", 4096), other = fd_memfd_new("other", 4096);
        struct ring ring;

        ring_init(&ring, &fd, 1, 4);
        if (!ring.ok)
                return 77;
        if (!enter())
                return 100;
        if (submit_raw(&ring, prep_read, fd) != sizeof(ring_buf))
                return 1;
        if (submit_raw(&ring, prep_write, fd) != -EACCES)
                return 2;
        if (submit_raw(&ring, prep_open, fd) != -EACCES)
                return 3;
        if (submit_raw(&ring, prep_read_other, other) != -EACCES)
                return 4;
        return 0;
}

static void test_forbidden(void **state) {
        assert_int_equal(cage_run(try_forbidden), 0);
}

static void test_pack(void **state) {
        assert_int_equal(cage_run(try_pack), 0);
}

static void test_allowed(void **state) {
        assert_int_equal(cage_run(try_allowed), 0);
}

static void test_state(void **state) {
        assert_int_equal(cage_run(check_state), 0);
}

static void test_descriptors(void **state) {
        assert_int_equal(cage_run(take_all_descriptors), 0);
}

static void test_thread(void **state) {
        assert_int_equal(cage_run(try_thread), 0);
}

static void skip_or_pass(int r, const char *what) {
        if (r == 77) {
                print_message("this kernel has no %s\n", what);
                skip();
        }
        assert_int_equal(r, 0);
}

static void test_landlock(void **state) {
        skip_or_pass(cage_run(try_landlock), "Landlock");
}

static void test_ring(void **state) {
        skip_or_pass(cage_run(try_ring), "io_uring");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_forbidden), cmocka_unit_test(test_allowed),  cmocka_unit_test(test_state),
                cmocka_unit_test(test_thread),    cmocka_unit_test(test_landlock), cmocka_unit_test(test_ring),
                cmocka_unit_test(test_descriptors), cmocka_unit_test(test_pack),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
