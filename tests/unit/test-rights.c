/* SPDX-License-Identifier: Apache-2.0 */

/* Who may connect to a socket's file, the names of rights, and what is decided where polkit can't be asked. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/control/rights/authorize.h"

struct fixture {
        char folder[64];
        struct sockaddr_un address;
        int fd;
};

static int set_up(void **state) {
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        (void)strcpy(f->folder, "/tmp/sparkd-rights-XXXXXX");
        assert_non_null(mkdtemp(f->folder));
        f->address.sun_family = AF_UNIX;
        (void)snprintf(f->address.sun_path, sizeof(f->address.sun_path), "%s/s", f->folder);
        f->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(f->fd >= 0);
        assert_int_equal(bind(f->fd, (const struct sockaddr *)&f->address, sizeof(f->address)), 0);
        assert_int_equal(listen(f->fd, 1), 0);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        struct fixture *f = *state;

        (void)close(f->fd);
        (void)unlink(f->address.sun_path);
        (void)rmdir(f->folder);
        free(f);
        return 0;
}

static void test_modes(void **state) {
        static const struct {
                mode_t mode;
                bool owner, member, stranger;
        } cases[] = {
                { 0666, true, true, true },    { 0660, true, true, false }, { 0600, true, false, false },
                { 0000, false, false, false }, { 0602, true, false, true }, { 0444, false, false, false },
                { 0060, false, true, false },  { 0620, true, true, false },
        };
        const struct fixture *f = *state;
        struct stat st;

        assert_int_equal(stat(f->address.sun_path, &st), 0);
        const gid_t with[] = { st.st_gid + 1, st.st_gid }, without[] = { st.st_gid + 1, st.st_gid + 2 };

        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                assert_int_equal(chmod(f->address.sun_path, cases[i].mode), 0);
                assert_int_equal(rights_socket_admits(f->fd, st.st_uid, NULL, 0), cases[i].owner);
                assert_int_equal(rights_socket_admits(f->fd, st.st_uid + 1, with, 2), cases[i].member);
                assert_int_equal(rights_socket_admits(f->fd, st.st_uid + 1, without, 2), cases[i].stranger);
                assert_int_equal(rights_socket_admits(f->fd, st.st_uid + 1, NULL, 0), cases[i].stranger);
        }
}

static void test_no_socket_admits_nobody(void **state) {
        const struct fixture *f = *state;
        int fds[2];

        assert_int_equal(chmod(f->address.sun_path, 0666), 0);
        assert_true(rights_socket_admits(f->fd, 4711, NULL, 0));
        assert_int_equal(unlink(f->address.sun_path), 0);
        assert_false(rights_socket_admits(f->fd, 4711, NULL, 0)); /* its file is gone */
        fclose(fopen(f->address.sun_path, "w"));
        assert_int_equal(chmod(f->address.sun_path, 0666), 0);
        assert_false(rights_socket_admits(f->fd, 4711, NULL, 0)); /* something else has its place */
        assert_false(rights_socket_admits(-1, 4711, NULL, 0));
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        assert_false(rights_socket_admits(fds[0], 4711, NULL, 0)); /* has no name */
        assert_false(rights_socket_admits(STDIN_FILENO, 4711, NULL, 0));
        (void)close(fds[0]);
        (void)close(fds[1]);
}

static void test_names(void **state) {
        for (int i = 0; i < RIGHTS; i++) {
                assert_int_equal(strncmp(right_action((enum right)i), "org.sparkd.Spark1.", 18), 0);
                assert_non_null(strstr(right_refusal((enum right)i), right_action((enum right)i)));
                for (int k = 0; k < i; k++)
                        assert_string_not_equal(right_action((enum right)i), right_action((enum right)k));
        }
        for (int i = 0; i < RIGHTS; i++) {
                assert_non_null(strstr(right_advice((enum right)i, true), "--ask-password"));
                assert_non_null(strstr(right_advice((enum right)i, false), "sudo"));
        }
        assert_int_equal(RIGHTS_ALL, RIGHT_BIT(RIGHTS) - 1);
        assert_int_equal(RIGHTS_OF_SOCKET & RIGHT_BIT(RIGHT_MANAGE_MODELS), 0);
}

static void on_decided(void *userdata, int result) {
        fail_msg("decided later, with %d", result);
}

/* Where nobody can be asked: what is granted counts, what is required and is not is denied, all else is done without. */
static void test_nobody_to_ask(void **state) {
        static const struct {
                uint32_t granted;
                struct demand demand;
                int result;
                enum right denied;
        } cases[] = {
                { 0, { 0, 0, 0, NULL }, 0, RIGHT_USE },
                { RIGHT_BIT(RIGHT_USE), { RIGHT_BIT(RIGHT_USE), 0, 0, NULL }, 0, RIGHT_USE },
                { RIGHTS_OF_SOCKET, { RIGHT_BIT(RIGHT_CONFIGURE), 0, 0, NULL }, AUTHORIZE_E_DENIED, RIGHT_CONFIGURE },
                { RIGHTS_OF_SOCKET, { 0, RIGHT_BIT(RIGHT_MANAGE_MODELS), RIGHT_BIT(RIGHT_OBSERVE_OTHERS), NULL }, 0, RIGHT_USE },
                { RIGHTS_ALL, { RIGHTS_ALL, RIGHTS_ALL, RIGHTS_ALL, NULL }, 0, RIGHT_USE },
                { 0, { RIGHTS_ALL, 0, 0, NULL }, AUTHORIZE_E_DENIED, RIGHT_USE },
        };
        struct polkit polkit;

        polkit_init(&polkit); /* without a bus, which is the same */
        for (size_t i = 0; i < ARRAY_SIZE(cases) * 2; i++) {
                struct authorization a = { .polkit = i % 2 ? &polkit : NULL, .subject = { .bus_name = ":1.1" }, .uid = 4711,
                                           .granted = cases[i / 2].granted, .decided = on_decided };

                assert_int_equal(authorize_begin(&a, &cases[i / 2].demand), cases[i / 2].result);
                assert_int_equal(a.granted, cases[i / 2].granted);
                if (cases[i / 2].result)
                        assert_int_equal(a.denied, cases[i / 2].denied);
                authorize_end(&a);
        }
        assert_int_equal(polkit.n_checks, 0);
}

/* A process that is not there any more, or of which only the pid is known, is not asked about. */
static void test_peers_that_are_gone(void **state) {
        struct peer reused = { .uid = getuid(), .pid = getpid(), .pidfd = -1, .start_time = 1 };
        struct peer unknown = { .uid = getuid(), .pid = getpid(), .pidfd = -1 };
        const struct peer *peers[] = { &reused, &unknown, &PEER_NULL };
        struct polkit_check *check = NULL;
        struct polkit polkit;

        polkit_init(&polkit);
        for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
                const struct polkit_question q = { .subject = { .peer = peers[i] }, .right = RIGHT_CONFIGURE };

                assert_int_equal(polkit_ask(&polkit, &q, &check), POLKIT_E_GONE);
                assert_null(check);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_modes, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_no_socket_admits_nobody, set_up, tear_down),
                cmocka_unit_test(test_names),
                cmocka_unit_test(test_nobody_to_ask),
                cmocka_unit_test(test_peers_that_are_gone),
        };

        return cmocka_run_group_tests_name("rights", tests, NULL, NULL);
}
