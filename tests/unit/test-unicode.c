/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#include "base/macro.h"
#include "daemon/text/unicode.h"

static void test_ascii(void **state) {
        for (unsigned c = 0; c < 128; c++) {
                uint8_t class = unicode_class(c);
                bool mark = class & (UNICODE_PUNCTUATION | UNICODE_SYMBOL);

                assert_int_equal(!!(class & UNICODE_LETTER), !!isalpha((int)c));
                assert_int_equal(!!(class & UNICODE_NUMBER), !!isdigit((int)c));
                assert_int_equal(!!(class & UNICODE_SPACE), !!isspace((int)c));
                assert_int_equal(!!(class & UNICODE_UPPER), !!isupper((int)c));
                assert_int_equal(!!(class & UNICODE_LOWER), !!islower((int)c));
                assert_int_equal(mark, !!ispunct((int)c));
                assert_int_equal(!!(class & UNICODE_SYMBOL), c != 0 && strchr("$+<=>^`|~", (int)c) != NULL);
        }
}

static void test_some(void **state) {
        static const struct {
                uint32_t c;
                uint8_t class;
        } cases[] = {
                { 0x85, UNICODE_SPACE },
                { 0xa0, UNICODE_SPACE },
                { 0xaa, UNICODE_LETTER },
                { 0xb5, UNICODE_LETTER | UNICODE_LOWER },
                { 0xbd, UNICODE_NUMBER },
                { 0xc9, UNICODE_LETTER | UNICODE_UPPER },
                { 0x1c5, UNICODE_LETTER | UNICODE_UPPER },
                { 0x301, UNICODE_MARK },
                { 0x903, UNICODE_MARK },
                { 0x200b, 0 },
                { 0x200d, 0 },
                { 0x2028, UNICODE_SPACE },
                { 0x2160, UNICODE_NUMBER },
                { 0x3000, UNICODE_SPACE },
                { 0x4e00, UNICODE_LETTER },
                { 0xac00, UNICODE_LETTER },
                { 0xd7a3, UNICODE_LETTER },
                { 0xe000, 0 },
                { 0xfffd, UNICODE_SYMBOL },
                { 0x1f600, UNICODE_SYMBOL },
                { 0x2a6d6, UNICODE_LETTER },
                { 0x10fffd, 0 },
                { 0x10ffff, 0 },
                { 0x110000, 0 },
                { UINT32_MAX, 0 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                assert_int_equal(unicode_class(cases[i].c), cases[i].class);
}

/* A character is of one major category at most, and has case only if it is a letter. */
static void test_consistent(void **state) {
        size_t spaces = 0;

        for (uint32_t c = 0; c <= 0x10ffff; c++) {
                uint8_t class = unicode_class(c);

                assert_true(__builtin_popcount(class & 0x1f) <= 1);
                if (class & (UNICODE_UPPER | UNICODE_LOWER))
                        assert_true(class & UNICODE_LETTER);
                assert_false((class & UNICODE_UPPER) && (class & UNICODE_LOWER));
                spaces += !!(class & UNICODE_SPACE);
        }
        assert_int_equal(spaces, 25);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_ascii),
                cmocka_unit_test(test_some),
                cmocka_unit_test(test_consistent),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
