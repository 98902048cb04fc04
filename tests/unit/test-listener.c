/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "listener.h"

struct fixture {
        char dir[64];
        char path[100];
};

static int setup(void **state) {
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/test-listener-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        (void)snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        struct fixture *f = *state;

        (void)unlink(f->path);
        (void)rmdir(f->dir);
        free(f);
        return 0;
}

static struct sockaddr_un address(const char *path) {
        struct sockaddr_un addr = { .sun_family = AF_UNIX };

        (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
        return addr;
}

static int connect_to(const char *path) {
        struct sockaddr_un addr = address(path);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_true(fd >= 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
        return fd;
}

static void test_accept(void **state) {
        struct fixture *f = *state;
        struct listener l = LISTENER_NULL;
        struct stat st;
        int fd = -1, client;

        assert_int_equal(listener_init(&l, f->path, 0660, getgid()), 0);
        assert_int_equal(stat(f->path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0660);
        assert_int_equal(listener_accept(&l, &fd), 0);
        client = connect_to(f->path);
        assert_int_equal(listener_accept(&l, &fd), 1);
        assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
        assert_int_equal(send(client, "x", 1, 0), 1);
        assert_int_equal(recv(fd, (char[1]){ 0 }, 1, 0), 1);
        (void)fd_close(fd);
        (void)fd_close(client);
        listener_deinit(&l);
        assert_int_equal(stat(f->path, &st), -1);
        listener_deinit(&l);
}

static void test_stale_and_taken(void **state) {
        struct fixture *f = *state;
        struct listener l = LISTENER_NULL, other = LISTENER_NULL;
        struct sockaddr_un addr = address(f->path);
        int fd;

        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
        (void)fd_close(fd); /* left behind */
        assert_int_equal(listener_init(&l, f->path, 0666, (gid_t)-1), 0);
        assert_int_equal(listener_init(&other, f->path, 0666, (gid_t)-1), LISTENER_E_IN_USE);
        assert_int_equal(other.fd, -1);
        (void)fd_close(connect_to(f->path)); /* the first is unharmed */
        listener_deinit(&l);
}

static void test_file_in_the_way(void **state) {
        struct fixture *f = *state;
        struct listener l = LISTENER_NULL;
        struct stat st;
        int fd = open(f->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        (void)fd_close(fd);
        assert_int_equal(listener_init(&l, f->path, 0666, (gid_t)-1), LISTENER_E_NOT_SOCKET);
        assert_int_equal(stat(f->path, &st), 0);
        assert_true(S_ISREG(st.st_mode));
}

static void test_bad_paths(void **state) {
        struct listener l = LISTENER_NULL;
        char path[200];

        assert_int_equal(listener_init(&l, "relative", 0666, (gid_t)-1), LISTENER_E_PATH);
        assert_int_equal(listener_init(&l, "", 0666, (gid_t)-1), LISTENER_E_PATH);
        memset(path, 'a', sizeof(path));
        path[0] = '/';
        path[108] = 0;
        assert_int_equal(listener_init(&l, path, 0666, (gid_t)-1), LISTENER_E_PATH);
        assert_int_equal(listener_init(&l, "/tmp/no/such/folder/x", 0666, (gid_t)-1), -ENOENT);
}

/* What somebody else bound in our place after us is not ours to remove. */
static void test_unlink_only_ours(void **state) {
        struct fixture *f = *state;
        struct listener l = LISTENER_NULL, second = LISTENER_NULL;

        assert_int_equal(listener_init(&l, f->path, 0666, (gid_t)-1), 0);
        assert_int_equal(unlink(f->path), 0);
        assert_int_equal(listener_init(&second, f->path, 0666, (gid_t)-1), 0);
        listener_deinit(&l);
        (void)fd_close(connect_to(f->path));
        listener_deinit(&second);
        assert_int_equal(access(f->path, F_OK), -1);
}

static void test_handed_over(void **state) {
        struct fixture *f = *state;
        struct listener l = LISTENER_NULL;
        struct sockaddr_un addr = address(f->path);
        _cleanup_fd_ int plain = fd_memfd_new("x", 0), not_listening = socket(AF_UNIX, SOCK_STREAM, 0);
        _cleanup_fd_ int dgram = socket(AF_UNIX, SOCK_DGRAM, 0);
        int fd, client, conn = -1;

        assert_int_equal(listener_init_fd(&l, plain), LISTENER_E_NOT_SOCKET);
        assert_int_equal(listener_init_fd(&l, not_listening), LISTENER_E_NOT_SOCKET);
        assert_int_equal(listener_init_fd(&l, dgram), LISTENER_E_NOT_SOCKET);
        assert_int_equal(listener_init_fd(&l, -1), LISTENER_E_NOT_SOCKET);

        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
        assert_int_equal(listen(fd, 5), 0);
        assert_int_equal(listener_init_fd(&l, fd), 0);
        client = connect_to(f->path);
        assert_int_equal(listener_accept(&l, &conn), 1);
        assert_int_equal(listener_accept(&l, &conn), 0); /* and does not block */
        (void)fd_close(conn);
        (void)fd_close(client);
        listener_deinit(&l);
        assert_int_equal(access(f->path, F_OK), 0); /* systemd's file stays */
}

static void test_out_of_descriptors(void **state) {
        struct fixture *f = *state;
        struct listener l = LISTENER_NULL;
        struct rlimit saved, tight;
        int first, second, fd = -1, probe;

        assert_int_equal(listener_init(&l, f->path, 0666, (gid_t)-1), 0);
        first = connect_to(f->path);
        second = connect_to(f->path);
        probe = dup(first); /* the lowest free number: no more may be opened */
        (void)fd_close(probe);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &saved), 0);
        tight = (struct rlimit){ .rlim_cur = (rlim_t)probe, .rlim_max = saved.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
        assert_int_equal(listener_accept(&l, &fd), LISTENER_E_NO_FDS);
        assert_int_equal(listener_accept(&l, &fd), LISTENER_E_NO_FDS);
        assert_int_equal(listener_accept(&l, &fd), 0); /* nobody waits any more */
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &saved), 0);
        assert_int_equal(fd, -1);
        assert_int_equal(recv(first, (char[1]){ 0 }, 1, 0), 0); /* turned away, not left waiting */
        assert_int_equal(recv(second, (char[1]){ 0 }, 1, 0), 0);
        assert_int_equal(listener_accept(&l, &fd), 0);
        (void)fd_close(first);
        (void)fd_close(second);
        first = connect_to(f->path);
        assert_int_equal(listener_accept(&l, &fd), 1);
        (void)fd_close(fd);
        (void)fd_close(first);
        listener_deinit(&l);
}

#define LISTENER_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                LISTENER_TEST(test_accept),           LISTENER_TEST(test_stale_and_taken),
                LISTENER_TEST(test_file_in_the_way),  LISTENER_TEST(test_bad_paths),
                LISTENER_TEST(test_unlink_only_ours), LISTENER_TEST(test_handed_over),
                LISTENER_TEST(test_out_of_descriptors),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
