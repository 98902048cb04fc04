/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/engine/stop.h"

struct outcome {
        char text[1024];
        size_t n;
        bool matched;
};

/* Feeds text in pieces of these sizes, over and over. */
static struct outcome feed(const struct stop_string *s, size_t n, const char *text, const size_t *sizes, size_t n_sizes) {
        struct outcome o = { .n = 0 };
        size_t len = strlen(text), pos = 0;
        struct stop stop;

        assert_int_equal(stop_init(&stop, s, n), 0);
        for (size_t i = 0; pos < len; i++) {
                size_t part = MIN(sizes[i % n_sizes], len - pos);

                o.n += stop_push(&stop, text + pos, part, o.text + o.n);
                pos += part;
        }
        o.matched = stop.matched;
        if (!o.matched)
                o.n += stop_finish(&stop, o.text + o.n);
        stop_deinit(&stop);
        return o;
}

/* By hand: the match that ends first; of those the longest. */
static struct outcome reference(const struct stop_string *s, size_t n, const char *text) {
        struct outcome o = { .n = strlen(text) };
        size_t len = o.n;

        memcpy(o.text, text, len);
        for (size_t end = 1; end <= len; end++) {
                size_t longest = 0;

                for (size_t i = 0; i < n; i++)
                        if (s[i].size <= end && memcmp(text + end - s[i].size, s[i].text, s[i].size) == 0)
                                longest = MAX(longest, (size_t)s[i].size);
                if (longest == 0)
                        continue;
                o.n = end - longest;
                o.matched = true;
                return o;
        }
        return o;
}

static void check(const char *const *strings, size_t n, const char *text) {
        static const size_t ones[] = { 1 }, mixed[] = { 2, 1, 3, 5, 1 }, whole[] = { 1000 };
        struct stop_string s[STOP_STRINGS_MAX];
        struct outcome expected, got[3];

        for (size_t i = 0; i < n; i++)
                s[i] = (struct stop_string){ .text = strings[i], .size = (uint16_t)strlen(strings[i]) };
        expected = reference(s, n, text);
        got[0] = feed(s, n, text, ones, 1);
        got[1] = feed(s, n, text, mixed, 5);
        got[2] = feed(s, n, text, whole, 1);
        for (size_t i = 0; i < 3; i++) {
                assert_int_equal(got[i].matched, expected.matched);
                assert_int_equal(got[i].n, expected.n);
                assert_memory_equal(got[i].text, expected.text, expected.n);
        }
}

#define CHECK(text, ...)                                             \
        do {                                                         \
                static const char *const _s[] = { __VA_ARGS__ };     \
                check(_s, ARRAY_SIZE(_s), text);                     \
        } while (0)

static void test_known(void **state) {
        CHECK("hello world", "wor");
        CHECK("hello world", "xyz");
        CHECK("hello world", "d");
        CHECK("hello", "hello");
        CHECK("", "a");
        CHECK("aaaaab", "aab");
        CHECK("abababac", "ababac");
        CHECK("one\nUser: two", "\nUser:", "two");
        CHECK("abc", "abc", "bc", "c");
        CHECK("abcd", "bcd", "abcde", "cd");
        CHECK("xaxbxc", "xc", "xb", "xd");
        CHECK("ends in the middle of sto", "stop");
        CHECK("sstop", "stop");
        check(NULL, 0, "no string at all");
}

/* Every text over {a, b} up to 9 bytes against strings that overlap in all ways. */
static void test_exhaustive(void **state) {
        static const char *const sets[][3] = {
                { "ab", "ba", "aab" }, { "aaa", "aba", "bb" }, { "abab", "babb", "aaaa" }, { "b", "aaaab", "abba" },
        };

        for (unsigned bits = 0; bits < 512; bits++) {
                char text[10] = { 0 };

                for (unsigned i = 0; i < 9; i++)
                        text[i] = bits >> i & 1 ? 'b' : 'a';
                for (size_t s = 0; s < ARRAY_SIZE(sets); s++)
                        check(sets[s], 3, text);
        }
}

/* Only what could still become a stop string is held back. */
static void test_held(void **state) {
        const struct stop_string s = { .text = "\n\nUser", .size = 6 };
        struct stop stop;
        char out[300];

        assert_int_equal(stop_init(&stop, &s, 1), 0);
        assert_int_equal(stop_push(&stop, "ab\n", 3, out), 2);
        assert_int_equal(stop.n_held, 1);
        assert_int_equal(stop_push(&stop, "\n", 1, out), 0);
        assert_int_equal(stop_push(&stop, "\n", 1, out), 1);
        assert_int_equal(stop.n_held, 2);
        assert_int_equal(stop_push(&stop, "x", 1, out), 3);
        assert_memory_equal(out, "\n\nx", 3);
        assert_int_equal(stop.n_held, 0);
        assert_int_equal(stop_push(&stop, "\n\nUser and more", 15, out), 0);
        assert_true(stop.matched);
        assert_int_equal(stop_push(&stop, "more", 4, out), 0);
        stop_deinit(&stop);
}

static void test_longest(void **state) {
        char text[STOP_BYTES_MAX], out[3 * STOP_BYTES_MAX];
        const struct stop_string s = { .text = text, .size = STOP_BYTES_MAX };
        struct stop_string many[STOP_STRINGS_MAX + 1];
        struct stop stop;

        memset(text, 'a', sizeof(text));
        text[STOP_BYTES_MAX - 1] = 'b';
        assert_int_equal(stop_init(&stop, &s, 1), 0);
        memset(out, 'a', sizeof(out));
        for (unsigned i = 0; i < 1000; i++) {
                char piece[1] = { 'a' };

                assert_int_equal(stop_push(&stop, piece, 1, out), i >= STOP_BYTES_MAX - 1);
        }
        assert_int_equal(stop_push(&stop, "b", 1, out), 0);
        assert_true(stop.matched);
        stop_deinit(&stop);
        for (size_t i = 0; i < ARRAY_SIZE(many); i++)
                many[i] = s;
        assert_true(stop_init(&stop, many, ARRAY_SIZE(many)) < 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_known),
                cmocka_unit_test(test_exhaustive),
                cmocka_unit_test(test_held),
                cmocka_unit_test(test_longest),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
