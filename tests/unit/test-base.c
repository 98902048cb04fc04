/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/list.h"
#include "base/utf8.h"
#include "base/words.h"

static void test_checked(void **state) {
        uint64_t v = 7;

        assert_true(checked_add(1, 2, &v) && v == 3);
        assert_false(checked_add(UINT64_MAX, 1, &v));
        assert_int_equal(v, 3);
        assert_true(checked_mul(1ull << 32, (1ull << 32) - 1, &v));
        assert_false(checked_mul(1ull << 32, 1ull << 32, &v));
        assert_true(checked_align(1, 64, &v) && v == 64);
        assert_true(checked_align(128, 64, &v) && v == 128);
        assert_false(checked_align(UINT64_MAX, 64, &v));
        assert_true(checked_range(10, 0, 10));
        assert_false(checked_range(11, 0, 10));
        assert_false(checked_range(1, UINT64_MAX, 10));
}

static void test_buf(void **state) {
        struct buf b = BUF_NULL(10);

        assert_int_equal(buf_append(&b, "hello", 5), 0);
        assert_int_equal(buf_append(&b, " worldX", 7), BUF_E_LIMIT);
        assert_string_equal(b.data, "hello");
        assert_int_equal(buf_printf(&b, "%d", 12345), 0);
        assert_int_equal(buf_printf(&b, "1"), BUF_E_LIMIT);
        assert_string_equal(b.data, "hello12345");
        buf_consume(&b, 5);
        assert_string_equal(b.data, "12345");
        buf_deinit(&b);
        assert_null(b.data);
}

static void test_words(void **state) {
        static const struct {
                uint64_t bytes;
                const char *text;
        } expect[] = {
                { 0, "0 B" },
                { 1023, "1023 B" },
                { 1024, "1.0 KiB" },
                { 1048524, "1023.9 KiB" },
                { 1048525, "1.0 MiB" }, /* 1023.95 KiB, which one digit would make 1024.0 */
                { 3u << 20, "3.0 MiB" },
                { (1ull << 30) - 1, "1.00 GiB" },
                { 130674630656, "121.70 GiB" },
                { 1ull << 40, "1.00 TiB" },
                { UINT64_MAX, "16.00 EiB" },
        };
        char out[WORDS_BYTES];

        for (size_t i = 0; i < ARRAY_SIZE(expect); i++) {
                assert_ptr_equal(words_bytes(expect[i].bytes, out), out);
                assert_string_equal(out, expect[i].text);
        }
        assert_string_equal(words_s(0), "s");
        assert_string_equal(words_s(1), "");
        assert_string_equal(words_s(2), "s");
        assert_string_equal(words_s(UINT64_MAX), "s");
}

static void test_utf8(void **state) {
        static const struct {
                const char *s;
                size_t n, bad;
        } invalid[] = {
                { "a\x80", 2, 1 },       { "\xc0\xaf", 2, 0 },         { "ab\xed\xa0\x80", 5, 2 },
                { "\xf5\x80\x80\x80", 4, 0 }, { "\xe2\x82", 2, 0 },    { "\xf4\x90\x80\x80", 4, 0 },
                { "\xe0\x9f\xbf", 3, 0 },
        };
        size_t bad;
        char out[4];

        assert_true(utf8_valid("h\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\x00z", 12, NULL));
        for (size_t i = 0; i < ARRAY_SIZE(invalid); i++) {
                assert_false(utf8_valid(invalid[i].s, invalid[i].n, &bad));
                assert_int_equal(bad, invalid[i].bad);
        }
        /* every scalar value there and back */
        for (uint32_t c = 0; c < 0x110000; c++) {
                uint32_t back = 0;
                size_t n;

                if (c >= 0xd800 && c < 0xe000)
                        continue;
                n = utf8_encode(c, out);
                assert_int_equal(utf8_decode(out, n, &back), n);
                assert_int_equal(back, c);
                if (n > 1)
                        assert_int_equal(utf8_decode(out, n - 1, &back), 0);
                for (size_t cut = 1; cut < n; cut++)
                        assert_int_equal(utf8_complete(out, cut), 0);
                assert_int_equal(utf8_complete(out, n), n);
        }
        for (size_t i = 0; i < ARRAY_SIZE(invalid); i++) { /* what is mended is valid, and as long as before */
                char text[16] = "\xc3\xa9";

                memcpy(text + 2, invalid[i].s, invalid[i].n);
                utf8_mend(text);
                assert_int_equal(strlen(text), 2 + invalid[i].n);
                assert_true(utf8_valid(text, strlen(text), NULL));
                assert_memory_equal(text, "\xc3\xa9", 2);
                assert_int_equal(text[2 + invalid[i].bad], '?');
        }
        assert_int_equal(utf8_complete("abc\xff", 4), 4);
        assert_int_equal(utf8_complete("", 0), 0);
}

static void test_memfd(void **state) {
        _cleanup_fd_ int fd = fd_memfd_new_sealed("test", "abc", 3);
        _cleanup_fd_ int open_fd = fd_memfd_new("test", 3);
        uint64_t size = 0;

        assert_true(fd >= 0 && open_fd >= 0);
        assert_int_equal(fd_memfd_check_sealed(fd, &size), 0);
        assert_int_equal(size, 3);
        assert_true(fd_memfd_check_sealed(open_fd, &size) < 0);
        assert_true(fd_memfd_check_sealed(0, &size) < 0);
}

struct item {
        int value;
        struct list link;
};

static void test_list(void **state) {
        struct item items[3] = { { .value = 0 }, { .value = 1 }, { .value = 2 } };
        struct list head, *pos, *tmp;
        int sum = 0;

        list_init(&head);
        assert_null(list_pop(&head));
        for (int i = 0; i < 3; i++)
                list_append(&head, &items[i].link);
        LIST_FOREACH(pos, tmp, &head) {
                struct item *it = LIST_ENTRY(pos, struct item, link);

                sum = sum * 10 + it->value;
                if (it->value == 1)
                        list_remove(pos);
        }
        assert_int_equal(sum, 12);
        assert_ptr_equal(list_pop(&head), &items[0].link);
        assert_ptr_equal(list_pop(&head), &items[2].link);
        assert_true(list_empty(&head));
}

static void test_socket_option(void **state) {
        int pair[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        assert_true(fd_has_option(pair[0], SO_DOMAIN, AF_UNIX));
        assert_true(fd_has_option(pair[0], SO_TYPE, SOCK_STREAM));
        assert_false(fd_has_option(pair[0], SO_TYPE, SOCK_DGRAM));
        assert_true(fd_has_option(pair[0], SO_ACCEPTCONN, 0));
        for (size_t i = 0; i < 2; i++)
                (void)fd_close(pair[i]);
        assert_false(fd_has_option(pair[0], SO_ACCEPTCONN, 0));
        assert_false(fd_has_option(-1, SO_ACCEPTCONN, 0));
}

/* Both units are of the clock that waits and timers go by. */
static void test_clock(void **state) {
        struct timespec before, after;
        uint64_t us;
        int64_t ms;

        assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &before), 0);
        us = clock_now_us();
        ms = clock_now_ms();
        assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &after), 0);
        assert_in_range(us, (uint64_t)before.tv_sec * 1000000u + (uint64_t)before.tv_nsec / 1000u,
                        (uint64_t)after.tv_sec * 1000000u + (uint64_t)after.tv_nsec / 1000u);
        assert_in_range(ms, us / 1000u, (uint64_t)after.tv_sec * 1000u + (uint64_t)after.tv_nsec / 1000000u);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_checked), cmocka_unit_test(test_buf),  cmocka_unit_test(test_words),
                cmocka_unit_test(test_utf8),    cmocka_unit_test(test_memfd), cmocka_unit_test(test_list),
                cmocka_unit_test(test_clock), cmocka_unit_test(test_socket_option),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
