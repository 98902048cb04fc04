/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "daemon/text/jinja/json.h"

/* From memory of exactly that size, so that a sanitizer sees a byte too many. */
static int parse(struct arena *a, const char *text, size_t n, unsigned depth, struct json *ret) {
        struct json_error e;
        char *copy = malloc(n ? n : 1);
        int r;

        assert_non_null(copy);
        memcpy(copy, text, n);
        r = json_parse(a, copy, n, depth, ret, &e);
        if (r > 0) {
                assert_true(e.text[0]);
                assert_true(e.offset <= n);
        }
        free(copy);
        return r;
}

static void test_values(void **state) {
        static const char text[] = " {\"a\": [1, -2.5, true, null, \"x\\u00e9\\ud83d\\ude42\\n\"], \"b\": {}, \"a\": 7,"
                                   " \"big\": 12345678901234567890, \"min\": -9223372036854775808, \"z\": -0} ";
        struct arena a = ARENA_NULL(1 << 20);
        const struct json *v;
        struct json root;

        assert_int_equal(parse(&a, text, sizeof(text) - 1, 0, &root), 0);
        assert_int_equal(root.kind, JSON_OBJECT);
        assert_int_equal(root.n, 6);
        assert_memory_equal(root.members[0].name, "a", 1);
        v = &root.members[0].value;
        assert_int_equal(v->kind, JSON_ARRAY);
        assert_int_equal(v->n, 5);
        assert_int_equal(v->items[0].integer, 1);
        assert_true(v->items[1].number == -2.5);
        assert_true(v->items[2].boolean);
        assert_int_equal(v->items[3].kind, JSON_NULL);
        assert_true(json_is_string(&v->items[4], "x\xc3\xa9\xf0\x9f\x99\x82\n"));
        assert_int_equal(json_get(&root, "a")->integer, 7); /* the last one */
        assert_int_equal(json_get(&root, "big")->kind, JSON_BIG);
        assert_memory_equal(json_get(&root, "big")->text, "12345678901234567890", 20);
        assert_true(json_get(&root, "min")->integer == INT64_MIN);
        assert_int_equal(json_get(&root, "z")->integer, 0);
        assert_null(json_get(&root, "nope"));
        assert_null(json_get(NULL, "a"));
        arena_deinit(&a);
}

static void test_refused(void **state) {
        static const char *const texts[] = {
                "", " ", "{", "[", "[1", "[1,", "[1,]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "nul", "tru", "01", "-",
                "+1", "1.", ".5", "1e", "1e+", "0x1", "NaN", "Infinity", "'a'", "\"", "\"\\", "\"\\q\"", "\"\\u12\"",
                "\"\\ud83d\"", "\"\\ud83d\\u0041\"", "\"\\ude42\"", "\"\n\"", "1 2", "[1] x", "\"\xff\"", "\"\xc3\"",
                "\"\xed\xa0\x80\"", "]", "}", "{\"a\":1 \"b\":2}", "[1 2]", "//", ("\xef\xbb\xbf" "1"),
        };
        struct json v;

        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
                struct arena a = ARENA_NULL(1 << 20);

                if (parse(&a, texts[i], strlen(texts[i]), 0, &v) != JSON_E_SYNTAX)
                        fail_msg("accepted: %s", texts[i]);
                arena_deinit(&a);
        }
}

/* Every prefix of a valid text is refused, and every byte flip ends. */
static void test_cut(void **state) {
        static const char text[] = "{\"a\":[1,-2.5e3,true,null,\"x\\u00e9\\ud83d\\ude42\"],\"b\":{\"c\":\"\xc3\xa9\"}}";
        char copy[sizeof(text)];
        struct json v;

        for (size_t n = 0; n < sizeof(text) - 1; n++) {
                struct arena a = ARENA_NULL(1 << 20);

                assert_int_equal(parse(&a, text, n, 0, &v), JSON_E_SYNTAX);
                for (unsigned bit = 0; bit < 8; bit++) {
                        memcpy(copy, text, sizeof(text));
                        copy[n] = (char)(copy[n] ^ (1 << bit));
                        assert_true(parse(&a, copy, sizeof(text) - 1, 0, &v) >= 0);
                }
                arena_deinit(&a);
        }
}

static void test_limits(void **state) {
        struct arena a = ARENA_NULL(1 << 20), small = ARENA_NULL(1024);
        char deep[2 * JSON_DEPTH_MAX + 3];
        struct json v;
        char *big;

        memset(deep, '[', JSON_DEPTH_MAX);
        memset(deep + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
        assert_int_equal(parse(&a, deep, 2 * JSON_DEPTH_MAX, 0, &v), 0);
        assert_int_equal(parse(&a, deep, 2 * JSON_DEPTH_MAX, JSON_DEPTH_MAX - 1, &v), JSON_E_LIMIT);
        memset(deep, '[', sizeof(deep));
        assert_int_equal(parse(&a, deep, sizeof(deep), 0, &v), JSON_E_LIMIT);

        big = malloc(4000);
        assert_non_null(big);
        memset(big, 'x', 4000);
        big[0] = big[3999] = '"';
        assert_int_equal(parse(&small, big, 4000, 0, &v), JSON_E_LIMIT);
        free(big);
        arena_deinit(&a);
        arena_deinit(&small);
}

static void test_write(void **state) {
        struct buf b = BUF_NULL(100), tiny = BUF_NULL(5);

        assert_int_equal(json_append_string(&b, "a\"\\\n\x01\x7f\xc3\xa9", 8), 0);
        assert_string_equal(b.data, "\"a\\\"\\\\\\n\\u0001\x7f\xc3\xa9\"");
        buf_clear(&b);
        assert_int_equal(json_append_string(&b, "a\0b", 3), 0);
        assert_string_equal(b.data, "\"a\\u0000b\"");
        buf_clear(&b);
        assert_int_equal(json_append_string_ascii(&b, "\xc3\xa9\xf0\x9f\x99\x82", 6), 0);
        assert_string_equal(b.data, "\"\\u00e9\\ud83d\\ude42\"");
        assert_int_equal(json_append_string_ascii(&b, "\xff", 1), -EINVAL);
        assert_int_equal(json_append_string(&tiny, "12345", 5), BUF_E_LIMIT);
        buf_deinit(&b);
        buf_deinit(&tiny);
}

static void test_doubles(void **state) {
        static const struct {
                double v;
                const char *text;
        } cases[] = {
                { 0, "0.0" }, { -0.0, "-0.0" }, { 1, "1.0" }, { 0.1, "0.1" }, { 0.1 + 0.2, "0.30000000000000004" },
                { 1e16, "1e+16" }, { 1e15, "1000000000000000.0" }, { 123456789.125, "123456789.125" },
                { 0.0001, "0.0001" }, { 0.00001, "1e-05" }, { 1.5e-7, "1.5e-07" }, { 5e-324, "5e-324" },
                { 1.7976931348623157e308, "1.7976931348623157e+308" }, { 9007199254740993.0, "9007199254740992.0" },
                { INFINITY, "inf" }, { -INFINITY, "-inf" }, { NAN, "nan" },
        };
        char text[FLOAT_REPR_MAX];

        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                size_t n = json_format_double(cases[i].v, text);

                assert_string_equal(text, cases[i].text);
                assert_int_equal(n, strlen(text));
        }
}

static void test_arena(void **state) {
        struct arena a = ARENA_NULL(10000);
        char *p, *q;

        p = arena_bytes(&a, 3);
        assert_non_null(p);
        assert_true(arena_extend(&a, p + 3, 5));
        q = arena_alloc(&a, 8);
        assert_int_equal((uintptr_t)q % 16, 0);
        assert_true(q >= p + 8);
        assert_false(arena_extend(&a, p + 8, 1)); /* no longer the newest */
        assert_null(arena_alloc(&a, 20000));
        assert_false(a.no_memory);
        assert_null(arena_calloc(&a, SIZE_MAX / 2, 4));
        assert_non_null(arena_alloc(&a, 1000));
        assert_true(a.used <= 10000);
        arena_deinit(&a);
        arena_deinit(&a);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_values), cmocka_unit_test(test_refused), cmocka_unit_test(test_cut),
                cmocka_unit_test(test_limits), cmocka_unit_test(test_write),   cmocka_unit_test(test_doubles),
                cmocka_unit_test(test_arena),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
