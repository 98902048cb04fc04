/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "daemon/text/pretokenize.h"

static struct pretokenizer_index index_of;

static void begin(struct pretokenize *p, const char *name, const char *text, size_t n) {
        const struct pretokenizer_entry *entry = pretokenizer_find(name);

        assert_non_null(entry);
        pretokenizer_index_init(&index_of, entry->pretokenizer);
        pretokenize_begin(p, entry->pretokenizer, &index_of, text, n);
}

/* All words of a text, with '|' between them. */
static const char *cut(const char *name, const char *text, char out[512]) {
        struct pretokenize p;
        size_t start, end, len = 0;

        begin(&p, name, text, strlen(text));
        while (pretokenize_next(&p, &start, &end)) {
                if (len)
                        out[len++] = '|';
                assert_true(len + (end - start) + 2 < 512);
                memcpy(out + len, text + start, end - start);
                len += end - start;
        }
        out[len] = 0;
        return out;
}

static void test_by_hand(void **state) {
        static const struct {
                const char *name;
                const char *text;
                const char *expect;
        } cases[] = {
                { "gpt-2", "", "" },
                { "gpt-2", "don't  stop", "don|'t| | stop" },
                { "gpt-2", "DON'T", "DON|'|T" },
                { "gpt-2", "a\nb \n", "a|\n|b| \n" },
                { "gpt-2", "x12345 67", "x|12345| 67" },
                { "llama-bpe", "DON'T 12345", "DON|'T| |123|45" },
                { "llama-bpe", "a\n\n  b", "a|\n\n| | b" },
                { "llama-bpe", "!!\n\nx", "!!\n\n|x" },
                { "llama-bpe", "\tx", "\tx" },
                { "qwen2", "a123", "a|1|2|3" },
                { "default", "x=1234;", "x|=|123|4|;" },
                { "", "x=1234;", "x|=|123|4|;" },
                { "gpt-4o", "fooBarBAZ's", "foo|Bar|BAZ's" },
                { "tekken", "fooBarBAZ's", "foo|Bar|BAZ|'s" },
                { "deepseek-llm", "ab  cd\n", "ab| | cd|\n" },
                { "starcoder", "x12", "x|1|2" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                char out[512];

                assert_string_equal(cut(cases[i].name, cases[i].text, out), cases[i].expect);
        }
}

/* White space at the end is a stage of its own in deepseek-llm: wide characters, and bytes that only look like one. */
static void test_trailing_space(void **state) {
        char out[512];

        assert_string_equal(cut("deepseek-llm", "7 \xe3\x80\x80\xc2\xa0", out), "7| \xe3\x80\x80\xc2\xa0");
        assert_string_equal(cut("deepseek-llm", "7\x80\x80\x80\x80", out), "7|\x80\x80\x80\x80");
        assert_string_equal(cut("deepseek-llm", "  ", out), "  ");
}

static void test_unknown(void **state) {
        assert_null(pretokenizer_find("no-such"));
        assert_null(pretokenizer_find("llama-bp"));
        assert_non_null(pretokenizer_find("default"));
        assert_ptr_equal(pretokenizer_find(""), pretokenizer_find("default"));
        assert_true(pretokenizer_find("llama-bpe")->habits & PRETOKENIZER_WHOLE_WORDS);
        assert_true(pretokenizer_find("llama-bpe")->habits & PRETOKENIZER_BOS);
        assert_int_equal(pretokenizer_find("qwen2")->habits, 0);
}

static void check_line(char *line) {
        char *name, *hex, *lengths, *save = NULL, text[1024];
        struct pretokenize p;
        size_t n, start, end;

        name = strtok_r(line, " \n", &save);
        hex = strtok_r(NULL, " \n", &save);
        lengths = strtok_r(NULL, " \n", &save);
        assert_non_null(lengths);
        n = strlen(hex) / 2;
        assert_true(n <= sizeof(text));
        for (size_t i = 0; i < n; i++) {
                char digits[3] = { hex[2 * i], hex[2 * i + 1], 0 };

                text[i] = (char)strtoul(digits, NULL, 16);
        }
        begin(&p, name, text, n);
        while (pretokenize_next(&p, &start, &end)) {
                size_t expect = strtoul(lengths, &lengths, 10);

                if (end - start != expect)
                        fail_msg("%s: %s: %zu to %zu, expected length %zu", name, hex, start, end, expect);
                if (*lengths == ',')
                        lengths++;
        }
        assert_int_equal(*lengths, 0);
}

static void test_expressions(void **state) {
        char line[4096];
        size_t n = 0;
        FILE *f;

        f = fopen("tests/reference/pretokens.txt", "re");
        if (!f) {
                print_message("skipped: no tests/reference/pretokens.txt (run from the project's root)\n");
                skip();
        }
        for (; fgets(line, sizeof(line), f); n++)
                check_line(line);
        (void)fclose(f);
        assert_true(n > 1000);
}

/* Whatever the bytes: words follow each other, none is empty, together they are the text. */
static void test_any_bytes(void **state) {
        static const char *const names[] = { "default", "gpt-2", "llama-bpe", "qwen2", "qwen35", "gpt-4o", "tekken",
                                             "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon", "starcoder",
                                             "viking", "bloom", "seed-coder", "ufakzeka", "laguna", "minicpm5",
                                             "kimi-k2", "youtu", "spark2_5", "tiny_aya", "afmoe", "exaone-moe",
                                             "gemma4" };
        uint32_t seed = 1;

        for (size_t k = 0; k < ARRAY_SIZE(names); k++)
                for (size_t n = 0; n < 300; n += 1 + n / 7) {
                        char text[300];
                        struct pretokenize p;
                        size_t start, end, at = 0;

                        for (size_t i = 0; i < n; i++) {
                                seed = seed * 1664525 + 1013904223;
                                text[i] = seed >> 28 & 1 ? (char)(seed >> 20) : " \n'aB1."[(seed >> 20) % 7];
                        }
                        begin(&p, names[k], text, n);
                        while (pretokenize_next(&p, &start, &end)) {
                                assert_int_equal(start, at);
                                assert_true(end > start && end <= n);
                                at = end;
                        }
                        assert_int_equal(at, n);
                }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_by_hand),     cmocka_unit_test(test_trailing_space),
                cmocka_unit_test(test_unknown),     cmocka_unit_test(test_expressions),
                cmocka_unit_test(test_any_bytes),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
