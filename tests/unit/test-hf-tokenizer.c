/* SPDX-License-Identifier: Apache-2.0 */

/* tokenizer.json: small ones of every kind against the ids that the library "tokenizers" gives, and broken ones. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/macro.h"
#include "daemon/engine/vocab.h"
#include "daemon/loader/hf-tokenizer.h"
#include "daemon/text/tokenizer.h"

#define FOLDER "tests/reference/hf/"

struct fixture {
        char name[64];
        struct model model;
        struct image_vocab vocab;
        struct tokenizer *t;
};

static void fixture_close(struct fixture *f) {
        f->t = tokenizer_free(f->t);
        model_deinit(&f->model);
        *f = (struct fixture){ 0 };
}

static char *read_file(const char *path, size_t *ret_n) {
        FILE *f = fopen(path, "re");
        char *text;
        long size;

        assert_non_null(f);
        assert_int_equal(fseek(f, 0, SEEK_END), 0);
        size = ftell(f);
        assert_true(size > 0);
        rewind(f);
        text = malloc((size_t)size);
        assert_non_null(text);
        *ret_n = fread(text, 1, (size_t)size, f);
        (void)fclose(f);
        return text;
}

static void make_tokenizer(struct fixture *f) {
        struct text_error text_error = { 0 };
        struct image image = { .vocab = f->vocab };
        struct tokenizer_def def;

        assert_int_equal(vocab_to_tokenizer_def(&image, &def), 0);
        if (tokenizer_new(&f->t, &def, &text_error))
                fail_msg("%s: %s", f->name, text_error.text);
}

static void fixture_open(struct fixture *f, const char *name) {
        struct loader_error error = { 0 };
        char path[128];
        char *json;
        size_t n;

        fixture_close(f);
        (void)snprintf(f->name, sizeof(f->name), "%s", name);
        (void)snprintf(path, sizeof(path), FOLDER "%s.json", name);
        json = read_file(path, &n);
        if (hf_tokenizer_read(&f->model, json, n, NULL, 0, &f->vocab, &error))
                fail_msg("%s: %s", name, error.text);
        free(json);
        make_tokenizer(f);
}

static size_t read_hex(const char *hex, char *out) {
        size_t n = 0;

        for (; hex[0] != '-' && hex[0]; hex += 2) {
                char byte[3] = { hex[0], hex[1], 0 };

                out[n++] = (char)strtoul(byte, NULL, 16);
        }
        return n;
}

static void check_ids(const struct fixture *f, const char *hex, const char *expected, unsigned flags) {
        struct token_array ids = { 0 };
        struct buf got = BUF_NULL(1 << 20);
        char text[65536];
        size_t n = read_hex(hex, text);

        assert_int_equal(tokenizer_encode(f->t, text, n, flags, &ids), 0);
        for (size_t i = 0; i < ids.n; i++)
                assert_int_equal(buf_printf(&got, "%s%d", i ? "," : "", ids.ids[i]), 0);
        if (strcmp(ids.n ? got.data : "-", expected) != 0)
                fail_msg("%s, text %s: %s, expected %s", f->name, hex, ids.n ? got.data : "-", expected);
        buf_deinit(&got);
        token_array_deinit(&ids);
}

/* Where text is neither normalized nor stripped it comes back as it was. */
static void check_back(const struct fixture *f, const char *hex) {
        struct token_array ids = { 0 };
        struct buf back = BUF_NULL(1 << 20);
        char text[65536];
        size_t n = read_hex(hex, text);

        if (strncmp(f->name, "added-", 6) == 0 || f->vocab.nfc || f->vocab.prefix_missing || f->vocab.add_space_prefix || memmem(text, n, "<lr>", 4) ||
            memmem(text, n, "\xe2\x96\x81", 3))
                return;
        assert_int_equal(tokenizer_encode(f->t, text, n, TOKENIZE_SPECIAL, &ids), 0);
        assert_int_equal(tokenizer_decode(f->t, ids.ids, ids.n, true, &back), 0);
        assert_int_equal(back.len, n);
        assert_memory_equal(back.len ? back.data : "", text, n);
        buf_deinit(&back);
        token_array_deinit(&ids);
}

static void test_cases(void **state) {
        FILE *cases = fopen(FOLDER "cases.txt", "re");
        struct fixture f = { 0 };
        char *line = NULL;
        size_t cap = 0, n = 0;

        assert_non_null(cases);
        for (; getline(&line, &cap, cases) > 0; n++) {
                char *rest = line, *name = strsep(&rest, " "), *hex = strsep(&rest, " "), *ids = strsep(&rest, " ");

                if (strcmp(name, f.name) != 0)
                        fixture_open(&f, name);
                check_ids(&f, hex, ids, TOKENIZE_SPECIAL);
                check_ids(&f, hex, strsep(&rest, "\n"), TOKENIZE_SPECIAL | TOKENIZE_BOS_EOS);
                check_back(&f, hex);
        }
        assert_true(n > 400);
        free(line);
        (void)fclose(cases);
        fixture_close(&f);
}

#define BPE(vocab, merges) "\"model\":{\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]}"
#define BYTES "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define AB "\"a\":0,\"b\":1,\"ab\":2"

#define TEMPLATE(single, special) \
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"special_tokens\":{" special "}}"
#define TOKEN(name) "{\"SpecialToken\":{\"id\":\"" name "\",\"type_id\":0}}"
#define TEXT "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define IDS(name, ids) "\"" name "\":{\"id\":\"" name "\",\"ids\":[" ids "],\"tokens\":[]}"
#define AROUND(template) "{" BYTES "," template "," BPE(AB, "\"a b\"") "}"

static int read_text(const char *json, const char *config, struct image_vocab *v, struct model *m,
                     struct loader_error *error) {
        return hf_tokenizer_read(m, json, strlen(json), config, config ? strlen(config) : 0, v, error);
}

static void test_broken(void **state) {
        static const struct {
                const char *json;
                int code;
                const char *says;
        } cases[] = {
                { "", LOADER_E_INVALID, "tokenizer.json at offset 0" },
                { "[]", LOADER_E_INVALID, "no object" },
                { "{\"a\":", LOADER_E_INVALID, "tokenizer.json at offset" },
                { "{} x", LOADER_E_INVALID, "tokenizer.json at offset" },
                { "{}", LOADER_E_INVALID, "'model' is missing" },
                { "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", LOADER_E_UNSUPPORTED, "'model.type': Unigram" },
                { "{\"model\":{\"type\":\"WordPiece\"}}", LOADER_E_UNSUPPORTED, "WordPiece" },
                { "{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"}}", LOADER_E_UNSUPPORTED, "suffix" },
                { "{\"model\":{\"type\":\"BPE\"}}", LOADER_E_INVALID, "'model.vocab' is missing" },
                { "{" BPE(AB, "") "}", LOADER_E_UNSUPPORTED, "'pre_tokenizer'" },
                { "{" BYTES "," BPE("", "") "}", LOADER_E_INVALID, "'model.vocab'" },
                { "{" BYTES "," BPE("\"a\":0,\"b\":0", "") "}", LOADER_E_INVALID, "'model.vocab': 'b' has id 0" },
                { "{" BYTES "," BPE("\"a\":-1,\"b\":0", "") "}", LOADER_E_INVALID, "'a' is out of range" },
                { "{" BYTES "," BPE("\"a\":\"x\",\"b\":0", "") "}", LOADER_E_INVALID, "'a' is out of range" },
                { "{" BYTES "," BPE("\"a\":4000000000", "") "}", LOADER_E_INVALID, "ids up to 4000000000" },
                { "{" BYTES "," BPE("\"a\":99999999999999999999999", "") "}", LOADER_E_INVALID, "ids up to" },
                { "{" BYTES "," BPE("\"a\":1500", "") "}", LOADER_E_INVALID, "ids up to 1500" },
                { "{" BYTES ",\"model\":{\"vocab\":{" AB "}}}", LOADER_E_INVALID, "'model.merges' is missing" },
                { "{" BYTES "," BPE(AB, "\"ab\"") "}", LOADER_E_INVALID, "'model.merges[0]' is no pair" },
                { "{" BYTES "," BPE(AB, "\"a b\",\"a b c\"") "}", LOADER_E_INVALID, "'model.merges[1]' is no pair" },
                { "{" BYTES "," BPE(AB, "[\"a\"]") "}", LOADER_E_INVALID, "'model.merges[0]' is no pair" },
                { "{" BYTES "," BPE(AB, "[\"a\",7]") "}", LOADER_E_INVALID, "'model.merges[0]' is no pair" },
                { "{" BYTES "," BPE(AB, "\"a b\",\"a c\"") "}", LOADER_E_INVALID, "'model.merges[1]' joins" },
                { "{" BYTES "," BPE(AB, "\"b a\"") "}", LOADER_E_INVALID, "'model.merges[0]' joins" },
                { "{" BYTES ",\"added_tokens\":[{\"id\":3}]," BPE(AB, "") "}", LOADER_E_INVALID, "'added_tokens[0]'" },
                { "{" BYTES ",\"added_tokens\":[7]," BPE(AB, "") "}", LOADER_E_INVALID, "'added_tokens[0]'" },
                { "{" BYTES ",\"added_tokens\":[{\"id\":2,\"content\":\"x\"}]," BPE(AB, "") "}", LOADER_E_INVALID,
                  "'added_tokens': 'x' has id 2" },
                { "{\"normalizer\":{\"type\":\"Lowercase\"}," BYTES "," BPE(AB, "") "}", LOADER_E_UNSUPPORTED,
                  "'normalizer' is not supported: {\"type\":\"Lowercase\"}" },
                { "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"x+y\"},\"behavior\":\"Isolated\"}," BPE(AB, "") "}",
                  LOADER_E_UNSUPPORTED, "x+y" },
                { "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[null,1]}," BPE(AB, "") "}",
                  LOADER_E_UNSUPPORTED, "'pre_tokenizer'" },
                { "{" BYTES "," BPE(AB ",\"b\\u0000x\":3", "") "}", LOADER_E_UNSUPPORTED, "a key has \\u0000" },
                { "{" BYTES "," BPE(AB ",\"\\\\\\u0000\" \n :3", "") "}", LOADER_E_UNSUPPORTED, "a key has \\u0000" },
                { "{\"\\u0000\":3}", LOADER_E_UNSUPPORTED, "a key has \\u0000" },
                { "{" BYTES "," BPE(AB, "\"a b\\u0000\"") "}", LOADER_E_INVALID, "'model.merges[0]' joins" },
                { "{" BYTES "," BPE(AB, "\"a\\u0000 b\"") "}", LOADER_E_INVALID, "'model.merges[0]' joins" },
                { "{" BYTES "," BPE(AB, "\"\\u0000a b\"") "}", LOADER_E_INVALID, "'model.merges[0]'" },
                { "{" BYTES "," BPE(AB, "[\"a\",\"b\\u0000\"]") "}", LOADER_E_INVALID, "'model.merges[0]' joins" },
                { AROUND(TEMPLATE(TOKEN("x") "," TEXT, "")), LOADER_E_INVALID, "'post_processor' has a token without ids" },
                { AROUND(TEMPLATE(TOKEN("x") "," TEXT, IDS("x", "3"))), LOADER_E_INVALID, "'post_processor' has an id" },
                { AROUND(TEMPLATE(TOKEN("x") "," TEXT, IDS("x", "-1"))), LOADER_E_INVALID, "'post_processor' has an id" },
                { AROUND(TEMPLATE(TOKEN("x") "," TEXT, IDS("x", "1,1,1,1,1,1,1,1,1"))), LOADER_E_UNSUPPORTED, "more than 8" },
                { AROUND(TEMPLATE(TEXT "," TEXT, "")), LOADER_E_UNSUPPORTED, "'post_processor' is not supported" },
                { AROUND("\"post_processor\":{\"type\":\"RobertaProcessing\",\"sep\":[\"a\",0],\"cls\":[\"b\",1]}"),
                  LOADER_E_UNSUPPORTED, "RobertaProcessing" },
                { "{\"pre_tokenizer\":3," BPE(AB, "") "}", LOADER_E_UNSUPPORTED, "'pre_tokenizer'" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct loader_error error = { 0 };
                struct image_vocab v = { .n_tokens = 77 };
                struct model m = MODEL_NULL;
                int r = read_text(cases[i].json, NULL, &v, &m, &error);

                if (r != cases[i].code || !strstr(error.text, cases[i].says))
                        fail_msg("%s: %d, %s", cases[i].json, r, error.text);
                assert_int_equal(v.n_tokens, 77);
                model_deinit(&m);
        }
}

static void test_deep(void **state) {
        struct loader_error error = { 0 };
        struct image_vocab v = { 0 };
        struct model m = MODEL_NULL;
        char text[100001] = { 0 };

        memset(text, '[', sizeof(text) - 1);
        assert_int_equal(read_text(text, NULL, &v, &m, &error), LOADER_E_INVALID);
        assert_non_null(strstr(error.text, "tokenizer.json at offset"));
        model_deinit(&m);
}

/* Ids that the library gives for the same files. */
static void test_around(void **state) {
        static const struct {
                const char *json;
                const char *config;
                const char *ids; /* of "aba" */
        } cases[] = {
                { AROUND(TEMPLATE(TOKEN("x") "," TOKEN("y") "," TEXT "," TOKEN("y") "," TOKEN("x"), IDS("x", "0") "," IDS("y", "1"))),
                  NULL, "0,1,2,0,1,0" },
                { AROUND(TEMPLATE(TOKEN("x") "," TEXT, IDS("x", "1,0,1"))), NULL, "1,0,1,2,0" },
                { AROUND(TEMPLATE(TEXT "," TOKEN("x"), IDS("x", "0,0,1,1,0,0,1,1"))), NULL, "2,0,0,0,1,1,0,0,1,1" },
                { AROUND(TEMPLATE(TOKEN("x") "," TEXT, IDS("x", "1"))), NULL, "1,2,0" },
                { AROUND(TEMPLATE(TEXT, "")), NULL, "2,0" },
                { AROUND("\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}]}"), NULL, "2,0" },
                { AROUND(TEMPLATE(TOKEN("x") "," TEXT, IDS("x", "1,0"))), "{\"add_bos_token\":true}", "1,0,2,0" },
                { AROUND(TEMPLATE(TOKEN("x") "," TEXT, IDS("x", "1,0"))), "{\"add_bos_token\":false}", "2,0" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct loader_error error = { 0 };
                struct fixture f = { .name = "around" };

                if (read_text(cases[i].json, cases[i].config, &f.vocab, &f.model, &error))
                        fail_msg("%s: %s", cases[i].json, error.text);
                make_tokenizer(&f);
                check_ids(&f, "616261", cases[i].ids, TOKENIZE_BOS_EOS);
                check_ids(&f, "616261", "2,0", 0);
                fixture_close(&f);
        }
}

/* NULs where they may be: in values, and an added token's content. What looks like one in a key is none. */
static void test_nul(void **state) {
        static const char json[] = "{\"v\":\"\\u0000\",\"\\\\u0000\":0,\"added_tokens\":[{\"id\":3,\"content\":\"a\\u0000b\",\"special\":true}],"
                                   BYTES "," BPE(AB, "\"a b\"") "}";
        static const char config[] = "{\"bos_token\":\"a\\u0000b\",\"eos_token\":\"b\\u0000\",\"pad_token\":\"b\"}";
        struct loader_error error = { 0 };
        struct fixture f = { .name = "nul" };

        if (read_text(json, config, &f.vocab, &f.model, &error))
                fail_msg("%s", error.text);
        assert_true(f.vocab.bos == 3 && f.vocab.eos == -1 && f.vocab.pad == 1);
        make_tokenizer(&f);
        check_ids(&f, "6162610062", "2,3", TOKENIZE_SPECIAL);
        fixture_close(&f);
}

static void test_config(void **state) {
        static const char json[] = "{\"added_tokens\":[{\"id\":4,\"content\":\"<s>\",\"special\":true}]," BYTES "," BPE(AB, "[\"a\",\"b\"]") "}";
        static const char config[] = "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"b\",\"add_bos_token\":true,\"pad_token\":null}";
        struct loader_error error = { 0 };
        struct fixture f = { .name = "config" };
        struct token_array ids = { 0 };

        assert_int_equal(read_text(json, config, &f.vocab, &f.model, &error), 0);
        assert_int_equal(f.vocab.n_tokens, 5); /* 3 is a hole */
        assert_int_equal(f.vocab.types[3], 5);
        assert_int_equal(f.vocab.bos, 4);
        assert_int_equal(f.vocab.eos, 1);
        assert_int_equal(f.vocab.pad, -1);
        assert_true(f.vocab.add_bos && f.vocab.has_add_bos && !f.vocab.add_eos);
        assert_int_equal(hf_tokenizer_pad(&f.model, &f.vocab, 4, &error), LOADER_E_INVALID);
        assert_int_equal(hf_tokenizer_pad(&f.model, &f.vocab, 8, &error), 0);
        assert_int_equal(f.vocab.n_tokens, 8);
        make_tokenizer(&f);
        assert_int_equal(tokenizer_encode(f.t, "ab<s>", 5, TOKENIZE_BOS_EOS | TOKENIZE_SPECIAL, &ids), 0);
        assert_int_equal(ids.n, 3);
        assert_int_equal(ids.ids[0], 4);
        assert_int_equal(ids.ids[1], 2);
        assert_int_equal(ids.ids[2], 4);
        token_array_deinit(&ids);
        fixture_close(&f);
        assert_int_equal(read_text(json, "{", &f.vocab, &f.model, &error), LOADER_E_INVALID);
        assert_non_null(strstr(error.text, "tokenizer_config.json at offset"));
        model_deinit(&f.model);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_cases),
                cmocka_unit_test(test_broken),
                cmocka_unit_test(test_deep),
                cmocka_unit_test(test_around),
                cmocka_unit_test(test_nul),
                cmocka_unit_test(test_config),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
