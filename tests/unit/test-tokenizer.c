/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/macro.h"
#include "vocab-maker.h"

#define SPACE "\xe2\x96\x81"

static struct tokenizer *make(const struct tokenizer_def *def) {
        struct text_error error = { 0 };
        struct tokenizer *t = NULL;
        int r = tokenizer_new(&t, def, &error);

        if (r)
                fail_msg("tokenizer_new: %d %s", r, error.text);
        return t;
}

static void check_n(const struct tokenizer *t, const char *text, size_t n, unsigned flags, const int32_t *ids,
                    size_t n_ids) {
        struct token_array out = { 0 };

        assert_int_equal(tokenizer_encode(t, text, n, flags, &out), 0);
        assert_int_equal(out.n, n_ids);
        for (size_t i = 0; i < n_ids; i++)
                assert_int_equal(out.ids[i], ids[i]);
        token_array_deinit(&out);
}

#define check(t, text, flags, ...)                                                               \
        do {                                                                                     \
                const int32_t expect[] = { 0, ##__VA_ARGS__ };                                   \
                check_n(t, text, strlen(text), flags, expect + 1, ARRAY_SIZE(expect) - 1);       \
        } while (0)

static void check_error(const struct tokenizer_def *def, int expect, const char *word) {
        struct text_error error = { 0 };
        struct tokenizer *t = NULL;

        assert_int_equal(tokenizer_new(&t, def, &error), expect);
        assert_null(t);
        if (!strstr(error.text, word))
                fail_msg("'%s' does not say '%s'", error.text, word);
}

enum { SP = 259, A, B, AB, BA, SPA, ABA, E_ACUTE, TAB_WORD };

static void fill_spm(struct vocab_maker *m) {
        maker_spm_base(m);
        assert_int_equal(maker_token(m, SPACE, NORMAL, -10), SP);
        (void)maker_token(m, "a", NORMAL, -11);
        (void)maker_token(m, "b", NORMAL, -12);
        (void)maker_token(m, "ab", NORMAL, -2);
        (void)maker_token(m, "ba", NORMAL, -1);
        (void)maker_token(m, SPACE "a", NORMAL, -2);
        (void)maker_token(m, "aba", NORMAL, -3);
        (void)maker_token(m, "\xc3\xa9", NORMAL, -20);
        assert_int_equal(maker_token(m, "<tab>", USER_DEFINED, 0), TAB_WORD);
}

static void test_spm_order(void **state) {
        struct vocab_maker m = { 0 };
        struct tokenizer_def def;
        struct tokenizer *t;

        fill_spm(&m);
        def = maker_def(&m, TOKENIZER_SPM, "");
        t = make(&def);
        check(t, "", 0);
        check(t, "b", 0, SP, B);
        check(t, "a", 0, SPA);
        /* ba (-1) goes first; then " a" and "ab" are worth the same, and the left one wins */
        check(t, "ab", 0, SPA, B);
        check(t, "aba", 0, SPA, BA);
        check(t, "bab", 0, SP, BA, B);
        check(t, "a b", 0, SPA, SP, B);
        check(t, "  a", 0, SP, SP, SPA);
        check(t, "\xc3\xa9", 0, SP, E_ACUTE);
        check(t, "c", 0, SP, 3 + 'c');
        check(t, "\xc3", 0, SP, 3 + 0xc3);
        check(t, "\xc3 a", 0, SP, 3 + 0xc3, SPA);
        (void)tokenizer_free(t);

        def.has_add_space_prefix = true;
        t = make(&def);
        check(t, "aba", 0, ABA);
        check(t, "abab", 0, ABA, B);
        check(t, "aab", 0, A, AB);
        check(t, "bb", 0, B, B);
        (void)tokenizer_free(t);
}

static void test_spm_special(void **state) {
        struct vocab_maker m = { 0 };
        struct tokenizer_def def;
        struct tokenizer *t;
        size_t n;

        fill_spm(&m);
        (void)maker_token(&m, "<", NORMAL, -30);
        (void)maker_token(&m, "s>", NORMAL, -30);
        (void)maker_token(&m, "s", NORMAL, -30);
        (void)maker_token(&m, ">", NORMAL, -30);
        def = maker_def(&m, TOKENIZER_SPM, "");
        t = make(&def);
        assert_int_equal(tokenizer_bos(t), 1);
        assert_int_equal(tokenizer_eos(t), 2);
        assert_true(tokenizer_opening(t, &n) && n == 1 && tokenizer_is_eog(t, 2));
        assert_false(tokenizer_is_eog(t, 1) || tokenizer_is_eog(t, -1) || tokenizer_is_eog(t, 100000));
        check(t, "b", TOKENIZE_BOS_EOS, 1, SP, B);
        check(t, "", TOKENIZE_BOS_EOS, 1);
        check(t, "b<s>b", TOKENIZE_SPECIAL, SP, B, 1, SP, B);
        check(t, "<s></s><unk>", TOKENIZE_SPECIAL, 1, 2, 0);
        /* never from plain text, although merging would reach it */
        check(t, "<s>", 0, SP, TAB_WORD + 1, TAB_WORD + 2);
        /* user defined: always */
        check(t, "b<tab>b", 0, SP, B, TAB_WORD, SP, B);
        check(t, "<0x41>", 0, SP, TAB_WORD + 1, 3 + '0', 3 + 'x', 3 + '4', 3 + '1', TAB_WORD + 4);
        (void)tokenizer_free(t);

        def.add_eos = true;
        def.has_add_bos = true;
        t = make(&def);
        check(t, "b", TOKENIZE_BOS_EOS, SP, B, 2);
        (void)tokenizer_free(t);
}

static void test_around(void **state) {
        struct text_error error = { 0 };
        struct vocab_maker m = { 0 };
        struct tokenizer_def def;
        struct tokenizer *t;
        size_t n;

        fill_spm(&m);
        def = maker_def(&m, TOKENIZER_SPM, "");
        def.opening = (struct tokenizer_around){ 3, { 2, 0, 2 } };
        def.closing = (struct tokenizer_around){ 2, { 0, 1 } };
        def.has_add_bos = def.add_bos = def.add_eos = true;
        t = make(&def);
        check(t, "b", TOKENIZE_BOS_EOS, 2, 0, 2, SP, B, 0, 1);
        check(t, "", TOKENIZE_BOS_EOS, 2, 0, 2, 0, 1);
        check(t, "b", 0, SP, B);
        assert_int_equal(tokenizer_opening(t, &n)[1], 0);
        assert_int_equal(n, 3);
        (void)tokenizer_free(t);
        def.add_bos = false;
        t = make(&def);
        check(t, "b", TOKENIZE_BOS_EOS, SP, B, 0, 1);
        (void)tokenizer_free(t);
        def.opening.n = 9;
        assert_int_equal(tokenizer_new(&t, &def, &error), TOKENIZER_E_INVALID);
        assert_non_null(strstr(error.text, "around a prompt"));
        def.opening.n = 0;
        def.closing.ids[1] = (int32_t)def.n_tokens;
        assert_int_equal(tokenizer_new(&t, &def, &error), TOKENIZER_E_INVALID);
}

/* Without byte tokens a character that no token has is unknown; with a token that spans words, words can't be apart. */
static void test_spm_bare(void **state) {
        struct vocab_maker m = { 0 };
        struct tokenizer_def def;
        struct tokenizer *t;

        (void)maker_token(&m, "<unk>", UNKNOWN, 0);
        (void)maker_token(&m, SPACE, NORMAL, -9);
        (void)maker_token(&m, "a", NORMAL, -9);
        (void)maker_token(&m, "a" SPACE, NORMAL, -1);
        (void)maker_token(&m, SPACE "a", NORMAL, -2);
        (void)maker_token(&m, "a" SPACE "a", NORMAL, -3);
        def = maker_def(&m, TOKENIZER_SPM, "");
        def.scores = NULL;
        t = make(&def);
        check(t, "x", 0, 1, 0);
        check(t, "\xc3\xa9", 0, 1, 0, 0);
        check(t, "a a a", 0, 4, 4, 4);
        (void)tokenizer_free(t);
        def.scores = m.scores;
        t = make(&def);
        check(t, "a a a", 0, 1, 3, 5);
        (void)tokenizer_free(t);
}

enum { HE = 256, LL, HELL, HELLO, SPACE_H, NINES, END, MARK };

static void fill_bpe(struct vocab_maker *m) {
        maker_bpe_base(m);
        assert_int_equal(maker_token(m, "he", NORMAL, 0), HE);
        (void)maker_token(m, "ll", NORMAL, 0);
        (void)maker_token(m, "hell", NORMAL, 0);
        (void)maker_token(m, "hello", NORMAL, 0);
        (void)maker_token(m, "\xc4\xa0h", NORMAL, 0);
        (void)maker_token(m, "999", NORMAL, 0);
        (void)maker_token(m, "<|end|>", CONTROL, 0);
        assert_int_equal(maker_token(m, "<|mark|>", USER_DEFINED, 0), MARK);
        maker_merge(m, "l l");
        maker_merge(m, "h e");
        maker_merge(m, "he ll");
        maker_merge(m, "\xc4\xa0 h");
        maker_merge(m, "hell o");
        maker_merge(m, "h e"); /* once more: the first counts */
        maker_merge(m, "x");   /* no pair: left out */
        maker_merge(m, "y ");
        maker_merge(m, "");
        maker_merge(m, "q r");  /* makes a text that no token has, */
        maker_merge(m, "qr s"); /* and another */
}

static void test_bpe(void **state) {
        struct vocab_maker m = { 0 };
        struct tokenizer_def def;
        struct tokenizer *t;
        size_t n;

        fill_bpe(&m);
        def = maker_def(&m, TOKENIZER_BPE, "gpt-2");
        t = make(&def);
        check(t, "", 0);
        check(t, "hello", 0, HELLO);
        check(t, "hell", 0, HELL);
        check(t, "helo", 0, HE, 'l', 'o');
        check(t, "hlll", 0, 'h', LL, 'l');
        check(t, " hello", 0, ' ', HELLO); /* h e comes before Ġ h */
        check(t, " hi", 0, SPACE_H, 'i');
        check(t, "999", 0, '9', '9', '9');
        check(t, "qrs", 0, 'q', 'r', 's');
        check(t, "\xff\xc3", 0, 0xff, 0xc3);
        check(t, "\xff", TOKENIZE_LENIENT, 0xef, 0xbf, 0xbd);
        check(t, "\xc1\xa1\xed\xa0\x80", TOKENIZE_LENIENT, 'a', 0xed, 0xa0, 0x80);
        check(t, "h<|end|>e", TOKENIZE_SPECIAL, 'h', END, 'e');
        check(t, "<|end|>", 0, '<', '|', 'e', 'n', 'd', '|', '>');
        check(t, "h<|mark|>e", 0, 'h', MARK, 'e');
        assert_int_equal(tokenizer_bos(t), -1);
        (void)tokenizer_opening(t, &n);
        assert_int_equal(n, 0);
        assert_true(tokenizer_is_eog(t, END));
        (void)tokenizer_free(t);
}

static void test_bpe_defaults(void **state) {
        struct vocab_maker m = { 0 };
        struct tokenizer_def def;
        struct tokenizer *t;

        fill_bpe(&m);
        def = maker_def(&m, TOKENIZER_BPE, "llama-bpe");
        def.bos = END;
        t = make(&def);
        check(t, "999", TOKENIZE_BOS_EOS, END, NINES); /* a word that is a token, whatever the merges */
        (void)tokenizer_free(t);
        def.has_add_bos = true;
        def.bos = 1 << 20; /* outside: as if absent */
        t = make(&def);
        assert_int_equal(tokenizer_bos(t), -1);
        check(t, "h", TOKENIZE_BOS_EOS, 'h');
        (void)tokenizer_free(t);
}

/* Bytes without a token: unknown where there is one, else nothing. */
static void test_bpe_gaps(void **state) {
        struct vocab_maker m = { 0 };
        struct tokenizer_def def;
        struct tokenizer *t;

        (void)maker_token(&m, "a", NORMAL, 0);
        (void)maker_token(&m, "<unk>", UNKNOWN, 0);
        (void)maker_token(&m, "bc", NORMAL, 0);
        maker_merge(&m, "b c");
        def = maker_def(&m, TOKENIZER_BPE, "default");
        t = make(&def);
        check(t, "abc", 0, 0, 2);
        check(t, "ab", 0, 0);
        (void)tokenizer_free(t);
        def.unk = 1;
        t = make(&def);
        check(t, "ab", 0, 0, 1);
        (void)tokenizer_free(t);
}

/* Phi-3's special tokens take the white space behind them. */
static void test_strip(void **state) {
        struct vocab_maker m = { 0 };
        struct tokenizer_def def;
        struct tokenizer *t;

        fill_bpe(&m);
        def = maker_def(&m, TOKENIZER_BPE, "gpt-2");
        def.name = "A Phi-3 mini";
        t = make(&def);
        check(t, "<|end|> \n\tx<|end|> ", TOKENIZE_SPECIAL, END, 'x', END);
        (void)tokenizer_free(t);
        def.name = "Phoenix";
        t = make(&def);
        check(t, "<|end|> x", TOKENIZE_SPECIAL, END, ' ', 'x');
        (void)tokenizer_free(t);
}

static void test_roles(void **state) {
        struct vocab_maker m = { 0 };
        struct tokenizer_def def;
        struct tokenizer *t;
        int32_t end, call, give, done;

        maker_bpe_base(&m);
        end = maker_token(&m, "<|end|>", CONTROL, 0);
        call = maker_token(&m, "<|call|>", CONTROL, 0);
        give = maker_token(&m, "<|return|>", CONTROL, 0);
        done = maker_token(&m, "<|im_end|>", NORMAL, 0);
        def = maker_def(&m, TOKENIZER_BPE, "gpt-2");
        def.eot = 'e';
        t = make(&def);
        assert_false(tokenizer_is_eog(t, end));
        assert_true(tokenizer_is_eog(t, call) && tokenizer_is_eog(t, give) && tokenizer_is_eog(t, 'e'));
        assert_true(tokenizer_is_eog(t, done));
        check(t, "<|im_end|>", TOKENIZE_SPECIAL, done);
        (void)tokenizer_free(t);
}

static void test_bad_tables(void **state) {
        struct vocab_maker m = { 0 };
        struct tokenizer_def def;
        static char longest[DETOKENIZER_PIECE_MAX + 1];

        fill_bpe(&m);
        def = maker_def(&m, TOKENIZER_BPE, "no-such-thing");
        check_error(&def, TOKENIZER_E_UNSUPPORTED, "no-such-thing");
        def.model = 7;
        check_error(&def, TOKENIZER_E_UNSUPPORTED, "tokenizer.ggml.model");
        def = maker_def(&m, TOKENIZER_BPE, "gpt-2");
        def.n_tokens = 0;
        check_error(&def, TOKENIZER_E_INVALID, "0 tokens");
        def.n_tokens = SIZE_MAX;
        check_error(&def, TOKENIZER_E_INVALID, "tokens");
        def = maker_def(&m, TOKENIZER_BPE, "gpt-2");
        def.n_merges = SIZE_MAX;
        check_error(&def, TOKENIZER_E_INVALID, "merges");
        def = maker_def(&m, TOKENIZER_BPE, "gpt-2");
        m.token_offsets[5] = 3;
        check_error(&def, TOKENIZER_E_INVALID, "token 4");
        m.token_offsets[5] = 5 * 2;
        m.merge_offsets[2] = 1;
        check_error(&def, TOKENIZER_E_INVALID, "merge 1");

        memset(&m, 0, sizeof(m));
        maker_spm_base(&m);
        memset(longest, 'a', sizeof(longest));
        (void)maker_token_n(&m, longest, DETOKENIZER_PIECE_MAX + 1, NORMAL, 0);
        def = maker_def(&m, TOKENIZER_SPM, "");
        check_error(&def, TOKENIZER_E_INVALID, "token 259");
        def.n_tokens--;
        m.scores[17] = NAN;
        check_error(&def, TOKENIZER_E_INVALID, "token 17");
        m.scores[17] = -INFINITY;
        (void)tokenizer_free(make(&def));
        /* 1,000 letters fit a piece; 1,000 bytes that are no characters would come out as 3,000 */
        memset(&m, 0, sizeof(m));
        maker_spm_base(&m);
        (void)maker_token_n(&m, longest, 1000, NORMAL, 0);
        def = maker_def(&m, TOKENIZER_SPM, "");
        (void)tokenizer_free(make(&def));
        memset(longest, 0xff, sizeof(longest));
        (void)maker_token_n(&m, longest, 1000, NORMAL, 0);
        def = maker_def(&m, TOKENIZER_SPM, "");
        check_error(&def, TOKENIZER_E_INVALID, "token 260");
}

static void test_too_long(void **state) {
        struct vocab_maker m = { 0 };
        struct token_array out = { 0 };
        struct tokenizer_def def;
        struct tokenizer *t;

        fill_bpe(&m);
        def = maker_def(&m, TOKENIZER_BPE, "gpt-2");
        t = make(&def);
        assert_int_equal(token_array_append(&out, 42), 0);
        assert_int_equal(tokenizer_encode(t, "x", (size_t)1 << 31, 0, &out), -E2BIG);
        assert_int_equal(out.n, 1);
        token_array_deinit(&out);
        (void)tokenizer_free(t);
}

static void round_trip(const struct tokenizer *t, const char *text, size_t n, unsigned flags) {
        struct buf back = BUF_NULL(1 << 20);
        struct token_array out = { 0 };

        assert_int_equal(tokenizer_encode(t, text, n, flags, &out), 0);
        assert_int_equal(tokenizer_decode(t, out.ids, out.n, true, &back), 0);
        assert_int_equal(back.len, n);
        if (n)
                assert_memory_equal(back.data, text, n);
        buf_deinit(&back);
        token_array_deinit(&out);
}

static void test_round_trip(void **state) {
        static const char *const pre[] = { "gpt-2", "llama-bpe", "qwen2", "default", "gpt-4o", "deepseek-llm" };
        struct vocab_maker m = { 0 }, s = { 0 };
        struct tokenizer_def def;
        uint32_t seed = 7;

        fill_bpe(&m);
        fill_spm(&s);
        for (size_t k = 0; k <= ARRAY_SIZE(pre); k++) {
                struct tokenizer *t;

                def = k < ARRAY_SIZE(pre) ? maker_def(&m, TOKENIZER_BPE, pre[k]) : maker_def(&s, TOKENIZER_SPM, "");
                t = make(&def);
                for (size_t n = 0; n < 2000; n = n * 2 + 1) {
                        char text[2048];

                        for (size_t i = 0; i < n; i++) {
                                seed = seed * 1664525 + 1013904223;
                                text[i] = seed & 1 << 30 ? "hel o"[(seed >> 20) % 5] : (char)(seed >> 22);
                        }
                        round_trip(t, text, n, 0);
                        round_trip(t, text, n, TOKENIZE_SPECIAL);
                }
                (void)tokenizer_free(t);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_spm_order),  cmocka_unit_test(test_spm_special),
                cmocka_unit_test(test_around),
                cmocka_unit_test(test_spm_bare),   cmocka_unit_test(test_bpe),
                cmocka_unit_test(test_bpe_defaults), cmocka_unit_test(test_bpe_gaps),
                cmocka_unit_test(test_strip),      cmocka_unit_test(test_roles),
                cmocka_unit_test(test_bad_tables), cmocka_unit_test(test_too_long),
                cmocka_unit_test(test_round_trip),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
