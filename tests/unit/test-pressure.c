/* SPDX-License-Identifier: Apache-2.0 */

/* What the kernel says of stalls, and who can be listened to. */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/control/memory/pressure-source.h"
#include "daemon/control/memory/pressure.h"
#include "daemon/control/memory/psi.h"

static void test_psi(void **state) {
        struct psi psi = { .some10 = 42 };

        assert_true(psi_parse("some avg10=12.34 avg60=0.00 avg300=100.00 total=123456\n"
                              "full avg10=0.07 avg60=0.00 avg300=0.00 total=99\n",
                              &psi));
        assert_true(psi.some10 > 12.33f && psi.some10 < 12.35f);
        assert_true(psi.full10 > 0.06f && psi.full10 < 0.08f);
        assert_int_equal(psi.some_us, 123456);
        assert_int_equal(psi.full_us, 99);
        assert_true(psi_parse("some avg10=1.00 avg60=0.00 avg300=0.00 total=1", &psi));
        assert_true(psi.full10 == 0);
}

static void test_psi_rubbish(void **state) {
        static const char *const texts[] = {
                "", "full avg10=0.07 avg60=0.00 avg300=0.00 total=99\n", "some\n",
                "some avg10=1.0 avg60=0.00 avg300=0.00 total=1\n",
                "some avg10=-1.00 avg60=0.00 avg300=0.00 total=1\n", "some avg10=1.00 avg300=0.00 avg60=0.00 total=1\n",
                "some avg10=101.00 avg60=0.00 avg300=0.00 total=1\n", "some avg10=1.00 avg60=0.00 avg300=0.00 total=x\n",
                "some avg10=1.00 avg60=0.00 avg300=0.00 total=99999999999999999999999\n",
                "some avg10=99999999999999.00 avg60=0.00 avg300=0.00 total=1\n",
                "some avg10=1.00 avg60=0.00 avg300=0.00 total=1\nsome avg10=1.00 avg60=0.00 avg300=0.00 total=1\n",
                "some avg10=1.00 avg60=0.00 avg300=0.00 total=1\nfull oops\n",
        };
        struct psi psi = { .some_us = 7 };

        for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
                if (psi_parse(texts[i], &psi))
                        fail_msg("taken: %s", texts[i]);
        assert_int_equal(psi.some_us, 7);
        assert_false(psi_read(-1, &psi));
}

static void test_decode(void **state) {
        char out[64];

        assert_int_equal(pressure_decode("c29tZSAyMDAwMDAgMjAwMDAwMAA=", out, sizeof(out)), 20);
        assert_memory_equal(out, "some 200000 2000000", 20);
        assert_int_equal(pressure_decode("", out, sizeof(out)), 0);
        assert_int_equal(pressure_decode("YQ==", out, sizeof(out)), 1);
        assert_int_equal(pressure_decode("YWI=", out, sizeof(out)), 2);
        assert_int_equal(pressure_decode("YWJj", out, sizeof(out)), 3);
        assert_int_equal(pressure_decode("YWJj", out, 2), -ENOBUFS);
        assert_int_equal(pressure_decode("YWJ", out, sizeof(out)), -EINVAL);
        assert_int_equal(pressure_decode("Y===", out, sizeof(out)), -EINVAL);
        assert_int_equal(pressure_decode("YQ==YQ==", out, sizeof(out)), -EINVAL);
        assert_int_equal(pressure_decode("YW\xff=", out, sizeof(out)), -EINVAL);
}

static void test_margin(void **state) {
        assert_int_equal(pressure_margin(0), 32 << 20);
        assert_int_equal(pressure_margin(1ull << 30), 128 << 20);
        assert_true(pressure_margin(6ull << 30) == 768ull << 20);
        assert_true(pressure_margin(1ull << 40) == 1ull << 30);
}

static void test_how_long_it_must_be_calm(void **state) {
        const uint64_t never = UINT64_MAX, second = 1000000;
        static const struct {
                struct pressure_calm calm;
                uint64_t seconds;
        } table[] = {
                { { 99, 100, 500, 3600000000, 1 }, UINT64_MAX },
                { { 100, 100, 500, 3600000000, 1 }, 30 },
                { { 100, 100, 500, 3600000000, 16 }, 480 },
                { { 100, 100, 500, 9999999, 1 }, UINT64_MAX },
                { { 1199, 100, 500, 9999999, 1 }, UINT64_MAX },
                { { 1199, 100, 500, 10000000, 4 }, 120 },
                { { 1200, 100, 500, 0, 16 }, 30 },
                { { UINT64_MAX, 100, UINT64_MAX, 3600000000, 2 }, 60 },
                { { UINT64_MAX, 100, UINT64_MAX / 2, 3600000000, 2 }, 60 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(table); i++)
                assert_int_equal(pressure_wait_us(30 * second, &table[i].calm),
                                 table[i].seconds == never ? never : table[i].seconds * second);
}

static void test_named_file(void **state) {
        char path[] = "/tmp/test-pressure.XXXXXX", text[32] = "";
        struct pressure_source s;
        int fd = mkstemp(path);

        assert_true(fd >= 0);
        assert_int_equal(pressure_source_open(&s, "", path, "c29tZSAyMDAwMDAgMjAwMDAwMAA="), 0);
        assert_int_equal(s.kind, PRESSURE_SERVICE);
        assert_int_equal(s.events, EPOLLPRI);
        assert_true(s.fd >= 0);
        assert_int_equal(pread(fd, text, sizeof(text), 0), 20);
        assert_string_equal(text, "some 200000 2000000");
        assert_true(pressure_source_take(&s, EPOLLPRI));
        assert_false(pressure_source_take(&s, EPOLLPRI | EPOLLERR)); /* the group is gone */
        pressure_source_deinit(&s);
        assert_int_equal(s.fd, -1);
        assert_int_equal(pressure_source_open(&s, "", path, "rubbish!"), 0);
        assert_true(s.fd < 0 && s.trouble[0]);
        (void)fd_close(fd);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(pressure_source_open(&s, "", path, NULL), 0);
        assert_true(s.fd < 0 && strstr(s.trouble, path));
        assert_int_equal(pressure_source_open(&s, "", "relative", NULL), 0);
        assert_true(s.fd < 0 && s.trouble[0]);
}

static void test_nobody_is_to_watch(void **state) {
        struct pressure_source s;

        assert_int_equal(pressure_source_open(&s, "", "/dev/null", "YWJj"), 0);
        assert_int_equal(s.kind, PRESSURE_NOBODY);
        assert_true(s.fd < 0 && !s.trouble[0]);
}

static void test_fifo(void **state) {
        char path[] = "/tmp/test-pressure-fifo.XXXXXX";
        struct pressure_source s;
        int fd = mkstemp(path), far;

        (void)fd_close(fd);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(mkfifo(path, 0600), 0);
        assert_int_equal(pressure_source_open(&s, "", path, NULL), 0);
        assert_int_equal(s.kind, PRESSURE_SERVICE);
        assert_int_equal(s.events, EPOLLIN);
        far = open(path, O_WRONLY | O_CLOEXEC);
        assert_true(far >= 0);
        assert_int_equal(write(far, "x", 1), 1);
        assert_true(pressure_source_take(&s, EPOLLIN));
        (void)fd_close(far);
        assert_false(pressure_source_take(&s, EPOLLIN)); /* nobody writes any more */
        pressure_source_deinit(&s);
        assert_int_equal(unlink(path), 0);
}

static void test_socket(void **state) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), far;
        struct pressure_source s;
        char text[8] = "";

        (void)snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/test-pressure-%d", (int)getpid());
        (void)unlink(address.sun_path);
        assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(listen(listener, 1), 0);
        assert_int_equal(pressure_source_open(&s, "", address.sun_path, "YWJj"), 0);
        assert_int_equal(s.kind, PRESSURE_SERVICE);
        far = accept(listener, NULL, NULL);
        assert_int_equal(read(far, text, sizeof(text)), 3);
        assert_string_equal(text, "abc");
        assert_int_equal(write(far, "now", 3), 3);
        assert_true(pressure_source_take(&s, EPOLLIN));
        (void)fd_close(far);
        assert_false(pressure_source_take(&s, EPOLLIN));
        pressure_source_deinit(&s);
        (void)fd_close(listener);
        assert_int_equal(unlink(address.sun_path), 0);
}

static void make_empty(const char *folder, const char *name) {
        char path[128];
        FILE *file;

        (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
        file = fopen(path, "we");
        assert_non_null(file);
        assert_int_equal(fclose(file), 0);
}

static void remove_file(const char *folder, const char *name) {
        char path[128];

        (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
        assert_int_equal(unlink(path), 0);
}

/* The group's file before the machine's, but not that of the root of all groups; where neither may be written, why. */
static void test_kernel(void **state) {
        char folder[] = "/tmp/test-pressure-group.XXXXXX";
        struct pressure_source s;

        assert_non_null(mkdtemp(folder));
        make_empty(folder, "memory.pressure");
        make_empty(folder, "cgroup.type");
        assert_int_equal(pressure_source_open(&s, folder, NULL, NULL), 0);
        assert_int_equal(s.kind, PRESSURE_CGROUP);
        pressure_source_deinit(&s);
        remove_file(folder, "cgroup.type");
        assert_int_equal(pressure_source_open(&s, folder, NULL, NULL), 0);
        assert_true(s.kind == PRESSURE_MACHINE || (s.fd < 0 && s.trouble[0]));
        pressure_source_deinit(&s);
        remove_file(folder, "memory.pressure");
        assert_int_equal(rmdir(folder), 0);
        assert_int_equal(pressure_source_open(&s, folder, NULL, NULL), 0);
        assert_true(s.kind == PRESSURE_MACHINE || (s.fd < 0 && s.trouble[0]));
        pressure_source_deinit(&s);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_psi),
                cmocka_unit_test(test_psi_rubbish),
                cmocka_unit_test(test_decode),
                cmocka_unit_test(test_margin),
                cmocka_unit_test(test_how_long_it_must_be_calm),
                cmocka_unit_test(test_named_file),
                cmocka_unit_test(test_nobody_is_to_watch),
                cmocka_unit_test(test_fifo),
                cmocka_unit_test(test_socket),
                cmocka_unit_test(test_kernel),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
