/* SPDX-License-Identifier: Apache-2.0 */

/* Limits of control groups: where they are, in either version, and what they leave. The trees are folders with files here. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/control/memory/memory-cgroup.h"

#define MIB (1ull << 20)
#define MACHINE (16384 * MIB)

static char folder[64];

static int setup(void **state) {
        (void)snprintf(folder, sizeof(folder), "/tmp/test-cgroup.XXXXXX");
        return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state) {
        char command[128];

        (void)snprintf(command, sizeof(command), "rm -r %s", folder);
        return system(command);
}

static void put(const char *group, const char *name, const char *text) {
        char path[512];
        FILE *file;

        for (const char *p = group; (p = strchr(p, '/')); p++) {
                (void)snprintf(path, sizeof(path), "%s%.*s", folder, (int)(p - group), group);
                (void)mkdir(path, 0700);
        }
        (void)snprintf(path, sizeof(path), "%s%s", folder, group);
        (void)mkdir(path, 0700);
        (void)snprintf(path, sizeof(path), "%s%s/%s", folder, group, name);
        file = fopen(path, "we");
        assert_non_null(file);
        assert_true(fputs(text, file) >= 0);
        assert_int_equal(fclose(file), 0);
}

static void look(const char *cgroup, const char *mounts, int version, struct memory_cgroup_room *room) {
        struct memory_cgroup c;

        memory_cgroup_init(&c, cgroup, mounts);
        assert_int_equal(c.version, version);
        memory_cgroup_look(&c, MACHINE, room);
        memory_cgroup_deinit(&c);
        assert_int_equal(c.n, 0);
}

static const char *mounts_v2(const char *root) {
        static char text[512];

        (void)snprintf(text, sizeof(text), "23 1 0:1 / / rw - ext4 /dev/x rw\n"
                       "41 31 0:38 %s %s rw,relatime shared:4 - cgroup2 cgroup2 rw\n", root, folder);
        return text;
}

static const char *mounts_v1(void) {
        static char text[768];

        (void)snprintf(text, sizeof(text), "34 31 0:31 / /nowhere/cpuset rw - cgroup cgroup rw,cpuset\n"
                       "35 31 0:32 / %s rw,relatime - cgroup cgroup rw,xattr,memory\n", folder);
        return text;
}

static void test_unlimited(void **state) {
        struct memory_cgroup_room room;

        look("", "", 0, &room);
        assert_true(room.limit == UINT64_MAX && room.available == UINT64_MAX && !room.trouble);
        put("/a", "memory.max", "max\n");
        put("/a", "memory.high", "max\n");
        look("0::/a\n", mounts_v2("/"), 2, &room);
        assert_true(room.limit == UINT64_MAX && room.available == UINT64_MAX);
        look("0::/a", mounts_v2("/"), 2, &room); /* without its last newline */
        assert_true(room.limit == UINT64_MAX);
}

static void test_v2(void **state) {
        struct memory_cgroup_room room;

        put("/sys.slice", "memory.max", "2097152000\n"); /* 2000 MiB */
        put("/sys.slice", "memory.high", "max\n");
        put("/sys.slice", "memory.current", "1992294400\n"); /* 1900 MiB */
        put("/sys.slice", "memory.stat",
            "anon 5\nfile 900000000\ninactive_file 104857600\nactive_file 52428800\nslab_reclaimable 0\n");
        put("/sys.slice/s.service", "memory.max", "1048576000\n"); /* 1000 MiB */
        put("/sys.slice/s.service", "memory.high", "838860800\n"); /* 800 MiB */
        put("/sys.slice/s.service", "memory.current", "104857600\n"); /* 100 MiB */
        put("/sys.slice/s.service", "memory.stat", "inactive_file 10485760\nactive_file 0\nslab_reclaimable 1048576\n");
        look("1:name=systemd:/other\n0::/sys.slice/s.service\n", mounts_v2("/"), 2, &room);
        assert_true(room.limit == 800 * MIB); /* memory.high is what counts, */
        assert_true(room.available == 250 * MIB); /* and what is around us */
        assert_false(room.trouble);
        put("/sys.slice/s.service", "memory.current", "733003776\n"); /* 699 MiB + 11 MiB of files and slabs */
        look("0::/sys.slice/s.service\n", mounts_v2("/"), 2, &room);
        assert_true(room.available == 112 * MIB || room.available == 800 * MIB - (733003776ull - 11 * MIB));
        put("/sys.slice/s.service", "memory.current", "9999999999\n");
        look("0::/sys.slice/s.service\n", mounts_v2("/"), 2, &room);
        assert_int_equal(room.available, 0);
        put("/sys.slice/s.service", "memory.current", "rubbish\n");
        look("0::/sys.slice/s.service\n", mounts_v2("/"), 2, &room);
        assert_true(room.trouble && room.available == 250 * MIB);
}

/* A container: what is mounted is a part of the hierarchy, or nothing that our path would lead to. */
static void test_v2_container(void **state) {
        char where[MEMORY_CGROUP_PATH], expected[128];
        size_t top;

        put("", "memory.max", "1048576000\n");
        assert_true(memory_cgroup_find("0::/docker/abc\n", mounts_v2("/docker/abc"), 2, where, sizeof(where), &top));
        assert_string_equal(where, folder);
        assert_true(memory_cgroup_find("0::/docker/abc/x\n", mounts_v2("/docker/abc"), 2, where, sizeof(where), &top));
        (void)snprintf(expected, sizeof(expected), "%s/x", folder);
        assert_string_equal(where, expected);
        assert_int_equal(top, strlen(folder));
        assert_true(memory_cgroup_find("0::/docker/abcd\n", mounts_v2("/docker/abc"), 2, where, sizeof(where), &top));
        assert_string_equal(where, folder); /* not ours: all that we see is the mount */
        assert_true(memory_cgroup_find("0::/../../x\n", mounts_v2("/"), 2, where, sizeof(where), &top));
        assert_string_equal(where, folder);
        assert_true(memory_cgroup_find("0::/\n", mounts_v2("/"), 2, where, sizeof(where), &top));
        assert_string_equal(where, folder);
        assert_true(memory_cgroup_find("0::/a\n", "1 2 0:3 / /with\\040blank rw - cgroup2 none rw\n", 2, where, sizeof(where),
                                       &top));
        assert_string_equal(where, "/with blank/a");
}

static void test_v1(void **state) {
        struct memory_cgroup_room room;

        put("", "memory.limit_in_bytes", "9223372036854771712\n");
        put("/box", "memory.limit_in_bytes", "1073741824\n");
        put("/box", "memory.usage_in_bytes", "536870912\n");
        put("/box", "memory.stat",
            "cache 1\ninactive_file 999999999\ntotal_inactive_file 33554432\ntotal_active_file 33554432\n");
        put("/box/sub", "memory.limit_in_bytes", "9223372036854771712\n");
        look("5:devices:/\n4:memory:/box/sub\n0::/\n", mounts_v1(), 1, &room);
        assert_true(room.limit == 1024 * MIB);
        assert_true(room.available == 576 * MIB);
        look("4:memory:/box\n", mounts_v1(), 1, &room);
        assert_true(room.available == 576 * MIB);
        look("4:memory:/\n", mounts_v1(), 1, &room);
        assert_true(room.limit == UINT64_MAX);
        look("4:memoryx,cpu:/box\n", mounts_v1(), 0, &room);
}

/* Version 2 for processes alone, the controller of version 1. */
static void test_both(void **state) {
        char both[1400];
        struct memory_cgroup c;

        put("/box2", "memory.limit_in_bytes", "1073741824\n");
        (void)snprintf(both, sizeof(both), "%s41 31 0:38 / %s/unified rw - cgroup2 cgroup2 rw\n", mounts_v1(), folder);
        put("/unified/u", "memory.pressure", "");
        memory_cgroup_init(&c, "4:memory:/box2\n0::/u\n", both);
        assert_int_equal(c.version, 1);
        assert_non_null(strstr(c.unified, "/unified/u"));
        memory_cgroup_deinit(&c);
}

/* Whatever is made of the texts, nothing is read beyond them (with a sanitizer), and nothing is found that is not there. */
static void test_cut(void **state) {
        static const char cgroup[] = "4:memory:/box\n0::/a/b\n";
        char where[MEMORY_CGROUP_PATH], *mounts = strdup(mounts_v2("/")), *text;
        size_t top;

        assert_non_null(mounts);
        for (size_t n = 0; n < sizeof(cgroup); n++)
                for (size_t k = 0; k <= strlen(mounts); k += 3) {
                        char *cut = strndup(mounts, k);

                        text = strndup(cgroup, n);
                        assert_true(text && cut);
                        if (memory_cgroup_find(text, cut, 2, where, sizeof(where), &top))
                                assert_int_equal(where[0], '/');
                        (void)memory_cgroup_find(text, cut, 1, where, sizeof(where), &top);
                        free(text);
                        free(cut);
                }
        assert_false(memory_cgroup_find(cgroup, mounts, 2, where, 8, &top));
        free(mounts);
}

static void test_stat(void **state) {
        uint64_t v = 7;

        assert_true(memory_cgroup_stat("a 1\nactive_file 22\n", "active_file", &v));
        assert_int_equal(v, 22);
        assert_true(memory_cgroup_stat("inactive_file 5", "inactive_file", &v));
        assert_int_equal(v, 5);
        assert_false(memory_cgroup_stat("inactive_file 5\n", "active_file", &v));
        assert_false(memory_cgroup_stat("a x\n", "a", &v));
        assert_false(memory_cgroup_stat("a 99999999999999999999999\n", "a", &v));
        assert_false(memory_cgroup_stat("a 5 6\n", "a", &v));
        assert_int_equal(v, 5);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_unlimited),
                cmocka_unit_test(test_v2),
                cmocka_unit_test(test_v2_container),
                cmocka_unit_test(test_v1),
                cmocka_unit_test(test_both),
                cmocka_unit_test(test_cut),
                cmocka_unit_test(test_stat),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}
