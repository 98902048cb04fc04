/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "base/macro.h"
#include "vocab-maker.h"

#define SPACE "\xe2\x96\x81"

static struct tokenizer *make(const struct vocab_maker *m, enum tokenizer_model model, bool space_prefix) {
        struct tokenizer_def def = maker_def(m, model, "gpt-2");
        struct text_error error = { 0 };
        struct tokenizer *t = NULL;

        def.has_add_space_prefix = true;
        def.add_space_prefix = space_prefix;
        if (tokenizer_new(&t, &def, &error))
                fail_msg("%s", error.text);
        return t;
}

/* Pushes ids one by one; pieces come out with '|' between them, the finish behind a '!'. */
static void check_stream(const struct tokenizer *t, bool special, bool raw, const int32_t *ids, size_t n,
                         const char *expect) {
        char out[4096], piece[DETOKENIZER_PIECE_MAX];
        struct detokenizer d;
        size_t len = 0;
        int r;

        detokenizer_init(&d, t, special, raw);
        for (size_t i = 0; i <= n; i++) {
                r = i < n ? detokenizer_push(&d, ids[i], piece) : detokenizer_finish(&d, piece);
                assert_true(r >= 0 && r <= (int)sizeof(piece));
                if (i == n)
                        out[len++] = '!';
                else if (i > 0)
                        out[len++] = '|';
                memcpy(out + len, piece, (size_t)r);
                len += (size_t)r;
        }
        assert_int_equal(len, strlen(expect));
        assert_memory_equal(out, expect, len);
}

#define check(t, special, raw, expect, ...)                                      \
        do {                                                                     \
                const int32_t list[] = { __VA_ARGS__ };                          \
                check_stream(t, special, raw, list, ARRAY_SIZE(list), expect);   \
        } while (0)

static void test_spm(void **state) {
        struct vocab_maker m = { 0 };
        struct tokenizer *t;
        int32_t word, user, unused;

        maker_spm_base(&m);
        word = maker_token(&m, SPACE SPACE "hi" SPACE, NORMAL, 0);
        user = maker_token(&m, SPACE "u", USER_DEFINED, 0);
        unused = maker_token(&m, "unused", UNUSED, 0);
        t = make(&m, TOKENIZER_SPM, true);
        /* the first space goes, and only the first token's */
        check(t, false, false, " hi |  hi !", word, word);
        check(t, false, false, "|  hi !", 1, word);
        check(t, true, false, "<s>|  hi |<unk>!", 1, word, 0);
        check(t, false, false, SPACE "u|!", user, unused);
        check(t, false, false, "|x!", 3 + ' ', 3 + 'x');
        (void)tokenizer_free(t);
        t = make(&m, TOKENIZER_SPM, false);
        check(t, false, false, "  hi |A!", word, 3 + 'A');
        (void)tokenizer_free(t);
}

/* Characters come whole, bytes that are none as U+FFFD, as few as Unicode recommends. */
static void test_whole_characters(void **state) {
        struct vocab_maker m = { 0 };
        struct tokenizer *t;
        int32_t end;

        maker_bpe_base(&m);
        end = maker_token(&m, "<|im_end|>", CONTROL, 0);
        t = make(&m, TOKENIZER_BPE, false);
        check(t, false, false, "a|||\xe2\x82\xac|b!", 'a', 0xe2, 0x82, 0xac, 'b');
        check(t, false, false, "|||\xf0\x9f\x98\x81!", 0xf0, 0x9f, 0x98, 0x81);
        check(t, false, true, "\xf0|\x9f!", 0xf0, 0x9f);
        check(t, false, false, "||\xef\xbf\xbd" "b!", 0xe2, 0x82, 'b');
        check(t, false, false, "|!\xef\xbf\xbd", 0xe2, 0x82);
        check(t, false, false, "\xef\xbf\xbd|\xef\xbf\xbd!", 0xff, 0x80);
        check(t, false, false, "|\xef\xbf\xbd\xef\xbf\xbd|\xef\xbf\xbd!", 0xed, 0xa0, 0x80);
        check(t, false, false, "|\xef\xbf\xbd!\xef\xbf\xbd", 0xc3, 0xc3);
        check(t, false, false, "|\xef\xbf\xbd\xef\xbf\xbd!", 0xf0, 0x80);
        /* hidden tokens give nothing, and don't break a character */
        check(t, false, false, "||\xc3\xa9!", 0xc3, end, 0xa9);
        check(t, true, false, "|\xef\xbf\xbd<|im_end|>!", 0xc3, end);
        (void)tokenizer_free(t);
}

static void test_byte_level_oddities(void **state) {
        struct vocab_maker m = { 0 };
        struct tokenizer *t;
        int32_t foreign, user, byte;

        maker_bpe_base(&m);
        foreign = maker_token(&m, "\xc4\xa0\xe6\xbc\xa2", NORMAL, 0); /* Ġ and a character that is no byte */
        user = maker_token(&m, "\xc4\xa0u", USER_DEFINED, 0);
        byte = maker_token(&m, "<0x41>", BYTE, 0);
        t = make(&m, TOKENIZER_BPE, false);
        check(t, false, false, " \xe6\xbc\xa2|\xc4\xa0u|!", foreign, user, byte);
        (void)tokenizer_free(t);
}

static void test_ids(void **state) {
        struct buf out = BUF_NULL(5);
        struct vocab_maker m = { 0 };
        char piece[DETOKENIZER_PIECE_MAX];
        struct detokenizer d;
        struct tokenizer *t;

        maker_bpe_base(&m);
        t = make(&m, TOKENIZER_BPE, false);
        detokenizer_init(&d, t, false, false);
        assert_int_equal(detokenizer_push(&d, -1, piece), -TOKENIZER_E_ID);
        assert_int_equal(detokenizer_push(&d, 256, piece), -TOKENIZER_E_ID);
        assert_int_equal(detokenizer_push(&d, INT32_MIN, piece), -TOKENIZER_E_ID);
        assert_int_equal(detokenizer_push(&d, 255, piece), 3);

        assert_int_equal(tokenizer_decode(t, (const int32_t[]){ 'a', 0xff, 'b' }, 3, false, &out), 0);
        assert_string_equal(out.data, "a\xff" "b");
        assert_int_equal(tokenizer_decode(t, (const int32_t[]){ 'x', 999 }, 2, false, &out), TOKENIZER_E_ID);
        assert_int_equal(tokenizer_decode(t, (const int32_t[]){ 'x', 'y', 'z' }, 3, false, &out), TOKENIZER_E_LIMIT);
        assert_string_equal(out.data, "a\xff" "b");
        assert_int_equal(out.len, 3);
        buf_deinit(&out);
        (void)tokenizer_free(t);
}

/* The longest piece: three held bytes that come to nothing, then as much as a token may give. */
static void test_longest(void **state) {
        static char text[DETOKENIZER_PIECE_MAX], piece[DETOKENIZER_PIECE_MAX];
        struct vocab_maker m = { 0 };
        struct detokenizer d;
        struct tokenizer *t;
        int32_t id;

        maker_spm_base(&m);
        memset(text, 0xff, sizeof(text));
        id = maker_token_n(&m, text, (DETOKENIZER_PIECE_MAX - 9) / 3, NORMAL, 0);
        t = make(&m, TOKENIZER_SPM, false);
        detokenizer_init(&d, t, false, false);
        for (const unsigned char *p = (const unsigned char *)"\xf0\x9f\x98"; *p; p++)
                assert_int_equal(detokenizer_push(&d, 3 + *p, piece), 0);
        assert_int_equal(detokenizer_push(&d, id, piece), 3 + (DETOKENIZER_PIECE_MAX - 9) / 3 * 3);
        (void)tokenizer_free(t);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_spm),
                cmocka_unit_test(test_whole_characters),
                cmocka_unit_test(test_byte_level_oddities),
                cmocka_unit_test(test_ids),
                cmocka_unit_test(test_longest),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
