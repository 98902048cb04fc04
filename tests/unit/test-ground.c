/* SPDX-License-Identifier: Apache-2.0 */

/* Memory taken in huge pages before it is written: odd sizes, several threads, what was there stays, nothing beyond the end. */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/huge.h"
#include "base/macro.h"
#include "daemon/loader/ground.h"

#define THREADS 4u

struct writer {
        struct ground *ground;
        char *map;
        uint64_t size;
        unsigned first;
};

static uint64_t blocks_of(int fd) {
        struct stat st;

        assert_int_equal(fstat(fd, &st), 0);
        return (uint64_t)st.st_blocks * 512;
}

/* At a huge page's beginning; whatever the size is, all of it and no more is mapped. */
static void test_map(void **state) {
        size_t huge = huge_bytes() ? huge_bytes() : 1 << 21;
        const size_t sizes[] = { 1, 4096, huge - 1, huge, huge + 1, 3 * huge + 12345 };

        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                _cleanup_fd_ int fd = fd_memfd_new("test", sizes[i]);
                char *p;

                assert_true(fd >= 0);
                p = huge_map(fd, sizes[i], PROT_READ | PROT_WRITE);
                assert_true(p != MAP_FAILED);
                if (huge_bytes() && sizes[i] >= huge)
                        assert_int_equal((uintptr_t)p % huge, 0);
                p[0] = 1;
                p[sizes[i] - 1] = 2;
                assert_int_equal(munmap(p, sizes[i]), 0);
        }
        assert_true(huge_map(-1, huge, PROT_READ) == MAP_FAILED);
        assert_int_equal(errno, EBADF);
}

static void test_take(void **state) {
        size_t huge = huge_bytes(), size = 4 * huge + 4096;
        _cleanup_fd_ int fd = -1;
        char *p;
        int r;

        if (huge == 0)
                return;
        fd = fd_memfd_new("test", size);
        p = huge_map(fd, size, PROT_READ | PROT_WRITE);
        assert_true(p != MAP_FAILED);
        assert_int_equal(huge_take(p + 4096, huge), -EINVAL);
        assert_int_equal(huge_take(p, huge + 4096), -EINVAL);
        p[5000] = 'x'; /* there already */
        r = huge_take(p, 2 * huge);
        assert_int_equal(p[5000], 'x');
        assert_int_equal(p[2 * huge - 1], 0);
        if (r == 0 && !getenv("SPARK_TEST_EMULATED")) /* an emulator says yes to advice that it does not know */
                assert_int_equal(blocks_of(fd), 2 * huge);
        assert_true(blocks_of(fd) <= 2 * huge); /* nobody asked for more */
        (void)munmap(p, size);
}

static void *write_all(void *arg) {
        struct writer *w = arg;

        for (uint64_t at = w->first * 70001; at < w->size; at += THREADS * 70001) {
                uint64_t n = MIN((uint64_t)70001, w->size - at);

                ground_take(w->ground, 1, at, n);
                for (uint64_t i = 0; i < n; i++)
                        w->map[at + i] = (char)((at + i) % 251);
        }
        return NULL;
}

static void write_in_threads(uint64_t size) {
        _cleanup_fd_ int fd = fd_memfd_new("test", size);
        char *map = huge_map(fd, size, PROT_READ | PROT_WRITE);
        void *maps[] = { NULL, map };
        const uint64_t sizes[] = { 100, size };
        struct writer writers[THREADS];
        pthread_t threads[THREADS];
        struct ground g;

        assert_true(map != MAP_FAILED);
        assert_int_equal(ground_init(&g, maps, sizes, 2), 0);
        ground_take(&g, 0, 0, 100);          /* one that is not written */
        ground_take(&g, 1, size, 1);         /* beyond the end */
        ground_take(&g, 1, 0, 0);
        ground_take(NULL, 1, 0, 1);
        assert_int_equal(blocks_of(fd), 0);
        for (unsigned i = 0; i < THREADS; i++) {
                writers[i] = (struct writer){ .ground = &g, .map = map, .size = size, .first = i };
                assert_int_equal(pthread_create(&threads[i], NULL, write_all, &writers[i]), 0);
        }
        for (unsigned i = 0; i < THREADS; i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
        ground_take(&g, 1, size - 1, UINT64_MAX);
        ground_deinit(&g);
        for (uint64_t i = 0; i < size; i++)
                if (map[i] != (char)(i % 251))
                        fail_msg("byte %llu of %llu is wrong", (unsigned long long)i, (unsigned long long)size);
        assert_int_equal(blocks_of(fd), (size + 4095) / 4096 * 4096); /* nothing is taken in vain */
        (void)munmap(map, size);
}

static void test_threads(void **state) {
        uint64_t huge = huge_bytes() ? huge_bytes() : 1 << 21;

        if (sysconf(_SC_PAGESIZE) != 4096)
                return;
        write_in_threads(1);
        write_in_threads(huge - 1);
        write_in_threads(huge + 4097);
        write_in_threads(17 * huge + 99);
}

static void test_what_it_may_cost(void **state) {
        struct ground_cost c = { .plain_us = 100 }, unknown = { .plain_us = 0 };

        for (unsigned i = 0; i < 100; i++)
                assert_true(ground_cost_add(&c, 200));
        assert_true(ground_cost_add(&c, 200));
        assert_false(ground_cost_add(&c, 900)); /* it got dear */
        c = (struct ground_cost){ .plain_us = 100 };
        for (unsigned i = 0; i < 3; i++)
                assert_true(ground_cost_add(&c, 5000)); /* too few to know */
        assert_false(ground_cost_add(&c, 5000));
        c = (struct ground_cost){ .plain_us = 100 };
        assert_true(ground_cost_add(&c, 400));
        for (unsigned i = 0; i < 50; i++)
                assert_true(ground_cost_add(&c, 50)); /* one alone says little */
        for (unsigned i = 0; i < 50; i++)
                assert_true(ground_cost_add(&unknown, 5000));
}

static void test_null(void **state) {
        struct ground g = GROUND_NULL;

        ground_take(&g, 0, 0, 1);
        ground_deinit(&g);
        ground_deinit(&g);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_map),
                cmocka_unit_test(test_take),
                cmocka_unit_test(test_threads),
                cmocka_unit_test(test_what_it_may_cost),
                cmocka_unit_test(test_null),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
