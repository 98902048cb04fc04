/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/control/keep/inherited.h"
#include "fdstore-fixture.h"

#define CHECK(x)               \
        do {                   \
                if (!(x))      \
                        return __LINE__; \
        } while (0)

static int setup(void **state) {
        struct fdstore *s = calloc(1, sizeof(*s));

        fdstore_init(s, FDSTORE_MAX);
        *state = s;
        return 0;
}

static int teardown(void **state) {
        fdstore_deinit(*state);
        free(*state);
        return 0;
}

static void add_socket(struct fdstore *s, const char *name, int domain, int type, bool listens) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(domain, type | SOCK_CLOEXEC, 0);

        assert_true(fd >= 0);
        if (listens) {
                if (domain == AF_UNIX)
                        assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
                assert_int_equal(listen(fd, 1), 0);
        }
        fdstore_add(s, name, fd);
}

static bool is_open(int fd) {
        return fcntl(fd, F_GETFD) >= 0;
}

static int take_all(void *userdata) {
        struct inherited *in;
        const char *name;
        size_t pos = 0;
        int fd;

        CHECK(inherited_new(&in) == 0);
        CHECK(!getenv("LISTEN_FDS") && !getenv("LISTEN_PID"));
        CHECK(fcntl(3, F_GETFD) & FD_CLOEXEC);
        fd = inherited_take_listener(in);
        CHECK(fd == 5); /* and none that does not listen, or is of another kind */
        CHECK(inherited_take_listener(in) == -1);
        CHECK(inherited_take(in, "nobody") == -1);
        CHECK(inherited_take(in, "twice") == 6);
        CHECK(inherited_take(in, "twice") == 7);
        CHECK(inherited_take(in, "twice") == -1);
        CHECK((name = inherited_next(in, &pos)) && strcmp(name, "client.1") == 0);
        CHECK(inherited_fd(in, pos) == 3 && !inherited_is_listener(in, pos));
        CHECK((name = inherited_next(in, &pos)) && strcmp(name, "datagrams") == 0);
        CHECK(!inherited_next(in, &pos));
        in = inherited_free(in);
        CHECK(!in && !is_open(3) && !is_open(4)); /* nobody took them */
        CHECK(is_open(5) && is_open(6) && is_open(7));
        return 0;
}

static void test_take(void **state) {
        struct fdstore *s = *state;

        add_socket(s, "client.1", AF_UNIX, SOCK_STREAM, false);
        add_socket(s, "datagrams", AF_UNIX, SOCK_DGRAM, false);
        add_socket(s, "sparkd.socket", AF_UNIX, SOCK_STREAM, true);
        add_socket(s, "twice", AF_UNIX, SOCK_STREAM, false);
        add_socket(s, "twice", AF_UNIX, SOCK_STREAM, false);
        assert_int_equal(fdstore_run(s, take_all, NULL), 0);
}

static int take_nothing(void *userdata) {
        struct inherited *in;
        size_t pos = 0;

        CHECK(inherited_new(&in) == 0);
        CHECK(inherited_take_listener(in) == -1 && inherited_take(in, "x") == -1 && !inherited_next(in, &pos));
        CHECK(!inherited_free(in));
        CHECK(inherited_take(NULL, "x") == -1 && inherited_take_listener(NULL) == -1 && !inherited_next(NULL, &pos));
        return 0;
}

static void test_nothing(void **state) {
        assert_int_equal(fdstore_run(*state, take_nothing, NULL), 0);
}

/* What is said to another process is not for us. */
static int look_at_others(void *userdata) {
        struct inherited *in;

        (void)setenv("LISTEN_PID", "1", 1);
        CHECK(inherited_new(&in) == 0);
        CHECK(inherited_take(in, "client.1") == -1);
        CHECK(!inherited_free(in));
        return 0;
}

static void test_of_another_process(void **state) {
        add_socket(*state, "client.1", AF_UNIX, SOCK_STREAM, false);
        assert_int_equal(fdstore_run(*state, look_at_others, NULL), 0);
}

#define INHERITED_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                INHERITED_TEST(test_take),
                INHERITED_TEST(test_nothing),
                INHERITED_TEST(test_of_another_process),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
