/* SPDX-License-Identifier: Apache-2.0 */

/* What the store writes down is read back; cut or changed anywhere, or made up, it is refused. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "store-fixture.h"

#define LIMIT STORE_MANIFEST_MAX

static void test_round_trip(void **state) {
        for (size_t n = 1; n <= 3; n++) {
                struct store_manifest m = make_manifest('a', n), back;
                struct buf text = BUF_NULL(LIMIT), again = BUF_NULL(LIMIT);
                struct store_fault fault;

                m.pinned = n == 2;
                m.pinned_by = 77;
                if (n == 3) {
                        memset(m.facts.format, 0, sizeof(m.facts.format));
                        memset(m.facts.architecture, 0, sizeof(m.facts.architecture));
                }
                assert_int_equal(store_manifest_format(&m, &text), 0);
                assert_int_equal(store_manifest_parse(m.id, text.data, text.len, &back, &fault), 0);
                assert_string_equal(back.id, m.id);
                assert_int_equal(back.n_files, n);
                assert_int_equal(back.pinned, n == 2);
                assert_memory_equal(back.files, m.files, n * sizeof(*m.files));
                assert_memory_equal(&back.facts, &m.facts, sizeof(m.facts));
                assert_int_equal(store_manifest_format(&back, &again), 0);
                assert_string_equal(again.data, text.data);
                assert_int_equal(store_manifest_bytes(&back), 4 * n);
                store_manifest_deinit(&back);
                store_manifest_deinit(&m);
                buf_deinit(&text);
                buf_deinit(&again);
        }
}

static void test_name_round_trip(void **state) {
        struct store_manifest m = make_manifest('a', 1);
        struct store_name n = make_name("llama-8b:q4_k_m", &m), back;
        struct buf text = BUF_NULL(LIMIT);
        struct store_fault fault;

        assert_int_equal(store_name_format(&n, &text), 0);
        assert_int_equal(store_name_parse(n.name, text.data, text.len, &back, &fault), 0);
        assert_memory_equal(&back, &n, sizeof(n));
        for (size_t i = 0; i < text.len; i++) {
                assert_int_not_equal(store_name_parse(n.name, text.data, i, &back, &fault), 0);
                text.data[i] ^= 1;
                assert_int_not_equal(store_name_parse(n.name, text.data, text.len, &back, &fault), 0);
                text.data[i] ^= 1;
        }
        store_manifest_deinit(&m);
        buf_deinit(&text);
}

static void test_cut_or_changed(void **state) {
        struct store_manifest m = make_manifest('a', 2), back;
        struct buf text = BUF_NULL(LIMIT);
        struct store_fault fault;

        assert_int_equal(store_manifest_format(&m, &text), 0);
        for (size_t i = 0; i < text.len; i++) {
                fault.text[0] = 0;
                assert_int_not_equal(store_manifest_parse(m.id, text.data, i, &back, &fault), 0);
                assert_true(fault.text[0] != 0);
                text.data[i] ^= 4;
                assert_int_not_equal(store_manifest_parse(m.id, text.data, text.len, &back, &fault), 0);
                text.data[i] ^= 4;
        }
        assert_int_equal(store_manifest_parse(m.id, text.data, text.len, &back, &fault), 0);
        store_manifest_deinit(&back);
        store_manifest_deinit(&m);
        buf_deinit(&text);
}

#define D "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HEAD "sparkd-model 1\nuid 1\n"
#define FILE_ "file model 4 " D " x\n"

/* A text whose checksum is right. */
static int parse_text(const char *body, struct store_fault *fault) {
        struct store_manifest m;
        char text[4096];
        int r;

        (void)snprintf(text, sizeof(text), "%send %08x\n", body, crc32c(0, (const uint8_t *)body, strlen(body)));
        r = store_manifest_parse(D, text, strlen(text), &m, fault);
        if (r == 0)
                store_manifest_deinit(&m);
        return r;
}

static void test_made_up(void **state) {
        static const char *const bad[] = {
                "", "x", "sparkd-name 1\n", "sparkd-model \n", "sparkd-model 1", "sparkd-model x\n" FILE_,
                HEAD, "sparkd-model 1\n" FILE_,
                HEAD FILE_ "nonsense 1\n", HEAD FILE_ "uid\n", HEAD FILE_ "\n", HEAD FILE_ "uid 01\n",
                HEAD FILE_ "uid 4294967295\n", HEAD FILE_ "uid 99999999999999999999999\n", HEAD FILE_ "uid -1\n",
                HEAD FILE_ "pinned maybe\n", HEAD FILE_ "pinned by\n", HEAD FILE_ "pinned by x\n",
                HEAD FILE_ "context 4294967296\n", HEAD FILE_ "template 1\n", HEAD FILE_ "format a b\n",
                HEAD FILE_ "architecture \xc3\xa4\n",
                HEAD "file model 4 " D "\n", HEAD "file model 4 x x\n", HEAD "file model 0 " D " x\n",
                HEAD "file model 9223372036854775808 " D " x\n", HEAD "file Model 4 " D " x\n",
                HEAD "file model 4 " D " ../x\n", HEAD "file model 4 " D " /x\n", HEAD "file model 4 " D " a/./b\n",
                HEAD "file model 4 " D " a//b\n", HEAD "file model 4 " D " \x01\n", HEAD "file model 4 " D " \xff\n",
                HEAD FILE_ FILE_, /* its id is another one */
                HEAD "file model 4 b" D " x\n",
        };
        struct store_fault fault;

        assert_int_equal(parse_text(HEAD FILE_, &fault), 0);
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                fault.text[0] = 0;
                if (parse_text(bad[i], &fault) != STORE_MANIFEST_E_INVALID || !fault.text[0])
                        fail_msg("taken, or without a word: %s", bad[i]);
        }
        assert_int_equal(parse_text("sparkd-model 3\nwhat nobody knows\n", &fault), STORE_MANIFEST_E_VERSION);
}

static void test_many_files(void **state) {
        struct store_manifest m = make_manifest('0', STORE_FILES_MAX), back;
        struct buf text = BUF_NULL(LIMIT), more = BUF_NULL(LIMIT);
        struct store_fault fault;

        for (size_t i = 0; i < m.n_files; i++)
                make_digest("0123456789abcdef"[i % 16], m.files[i].digest);
        store_manifest_id(m.files, m.n_files, m.id);
        assert_int_equal(store_manifest_format(&m, &text), 0);
        assert_int_equal(store_manifest_parse(m.id, text.data, text.len, &back, &fault), 0);
        store_manifest_deinit(&back);
        /* and one more */
        text.data[text.len - 13] = 0;
        assert_int_equal(buf_printf(&more, "%s" FILE_, text.data), 0);
        assert_int_equal(parse_text(more.data, &fault), STORE_MANIFEST_E_INVALID);
        store_manifest_deinit(&m);
        buf_deinit(&text);
        buf_deinit(&more);
}

static void test_words(void **state) {
        char long_name[STORE_FILE_NAME_MAX + 2];

        assert_true(store_name_valid("llama-8b:q4_k_m"));
        assert_false(store_name_valid("sha256:abcd"));
        assert_false(store_name_valid(".x"));
        assert_false(store_name_valid("a/b"));
        assert_false(store_name_valid(""));
        assert_true(store_digest_valid(D));
        assert_false(store_digest_valid(D + 1));
        assert_false(store_digest_valid(D "a"));
        assert_false(store_digest_valid("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
        assert_true(store_role_valid("model"));
        assert_false(store_role_valid("a-role-too-long!"));
        assert_false(store_role_valid("sixteen-letters-"));
        memset(long_name, 'x', sizeof(long_name));
        long_name[STORE_FILE_NAME_MAX + 1] = 0;
        assert_false(store_file_name_valid(long_name));
        long_name[STORE_FILE_NAME_MAX] = 0;
        assert_true(store_file_name_valid(long_name));
        assert_true(store_file_name_valid("folder/a b.gguf"));
        assert_false(store_file_name_valid("folder/.."));
        assert_false(store_file_name_valid("folder/"));
}

/* One file goes by its own digest; of several, names, order and sizes count. */
static void test_id(void **state) {
        struct store_manifest m = make_manifest('a', 2);
        char one[STORE_DIGEST_TEXT + 1], other[STORE_DIGEST_TEXT + 1];

        store_manifest_id(m.files, 1, one);
        assert_string_equal(one, D);
        store_manifest_id(m.files, 2, one);
        assert_true(store_digest_valid(one));
        m.files[1].name[0] ^= 1;
        store_manifest_id(m.files, 2, other);
        assert_string_not_equal(one, other);
        store_manifest_deinit(&m);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_round_trip), cmocka_unit_test(test_name_round_trip),
                cmocka_unit_test(test_cut_or_changed), cmocka_unit_test(test_made_up),
                cmocka_unit_test(test_many_files), cmocka_unit_test(test_words), cmocka_unit_test(test_id),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
