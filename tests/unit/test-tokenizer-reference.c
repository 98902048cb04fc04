/* SPDX-License-Identifier: Apache-2.0 */

/* Real vocabularies against llama.cpp's answers (and tiktoken's for o200k), where the test data is at hand. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/macro.h"
#include "daemon/engine/vocab.h"
#include "daemon/loader/load.h"
#include "daemon/text/tokenizer.h"

static const char *data_dir(void) {
        const char *dir = getenv("SPARK_TESTDATA");

        return dir ? dir : "../shared/testdata";
}

struct fixture {
        int fds[IMAGE_SEGMENTS_MAX];
        size_t n_fds;
        struct image image;
        struct tokenizer *t;
};

static void fixture_open(struct fixture *f, const char *model) {
        struct loader_error loader_error = { 0 };
        struct image_error image_error = { 0 };
        struct text_error text_error = { 0 };
        struct tokenizer_def def;
        char path[512];

        (void)snprintf(path, sizeof(path), "%s/%s", data_dir(), model);
        if (access(path, R_OK) < 0) {
                print_message("skipped: no %s\n", path);
                skip();
        }
        if (loader_load_path(path, f->fds, &f->n_fds, &loader_error))
                fail_msg("%s", loader_error.text);
        if (image_open(&f->image, f->fds, f->n_fds, &image_error))
                fail_msg("%s", image_error.text);
        assert_int_equal(vocab_to_tokenizer_def(&f->image, &def), 0);
        if (tokenizer_new(&f->t, &def, &text_error))
                fail_msg("%s", text_error.text);
}

static void fixture_close(struct fixture *f) {
        f->t = tokenizer_free(f->t);
        image_close(&f->image);
        for (size_t i = 0; i < f->n_fds; i++)
                f->fds[i] = fd_close(f->fds[i]);
}

static FILE *open_reference(const char *name) {
        char path[512];
        FILE *f;

        (void)snprintf(path, sizeof(path), "%s/reference/%s", data_dir(), name);
        f = fopen(path, "re");
        assert_non_null(f);
        return f;
}

/* "key":[1,2,3] -- null (the reference refused) is passed over. */
static void check_ids(const struct tokenizer *t, const char *line, const char *key, const char *text, size_t n,
                      unsigned flags) {
        struct token_array out = { 0 };
        const char *p = strstr(line, key);
        size_t i = 0;
        char *end;

        assert_non_null(p);
        p += strlen(key);
        if (*p++ == 'n')
                return;
        assert_int_equal(tokenizer_encode(t, text, n, flags, &out), 0);
        for (; *p != ']'; i++) {
                long id = strtol(p, &end, 10);

                assert_true(end > p);
                if (i >= out.n || out.ids[i] != id)
                        fail_msg("%.30s %s: id %zu is %d, expected %ld", line, key, i, i < out.n ? out.ids[i] : -1, id);
                p = *end == ',' ? end + 1 : end;
        }
        assert_int_equal(i, out.n);
        token_array_deinit(&out);
}

/* "key":"hex" */
static void check_text(const struct tokenizer *t, const char *line, const char *key, const char *text, size_t n,
                       unsigned flags, bool special) {
        struct buf back = BUF_NULL(1 << 20);
        struct token_array out = { 0 };
        const char *p = strstr(line, key);

        assert_non_null(p);
        p += strlen(key);
        assert_int_equal(tokenizer_encode(t, text, n, flags, &out), 0);
        assert_int_equal(tokenizer_decode(t, out.ids, out.n, special, &back), 0);
        for (size_t i = 0; i < back.len; i++, p += 2) {
                char expect[3] = { p[0], p[1], 0 };

                assert_int_equal((unsigned char)back.data[i], strtoul(expect, NULL, 16));
        }
        assert_int_equal(*p, '"');
        buf_deinit(&back);
        token_array_deinit(&out);
}

static void check_record(const struct tokenizer *t, const char *line, const char *text, size_t n) {
        const unsigned full = TOKENIZE_LENIENT | TOKENIZE_SPECIAL | TOKENIZE_BOS_EOS;

        check_ids(t, line, "\"plain\":", text, n, TOKENIZE_LENIENT);
        if (!strstr(line, "\"full\":"))
                return;
        check_ids(t, line, "\"full\":", text, n, full);
        if (tokenizer_cleans_spaces(t)) /* spark-bench does as the reference here */
                return;
        check_text(t, line, "\"detok\":\"", text, n, TOKENIZE_LENIENT, false);
        check_text(t, line, "\"detok_special\":\"", text, n, full, true);
}

/* Where a text has U+FEFF, tokens-gpt-oss-o200k.tiktoken.jsonl was made without the token "U+FEFF" that the vocabulary
 * has: tiktoken with this vocabulary's own tokens gives what we do. */
static bool has_byte_order_mark(const char *text, size_t n) {
        return memmem(text, n, "\xef\xbb\xbf", 3) != NULL;
}

static void check_model(const char *model, const char *reference, bool tiktoken) {
        struct fixture f = { 0 };
        FILE *inputs, *lines;
        char *line = NULL;
        size_t cap = 0, n_records = 0;
        uint32_t n;

        fixture_open(&f, model);
        inputs = open_reference("token-inputs.bin");
        lines = open_reference(reference);
        for (; fread(&n, sizeof(n), 1, inputs) == 1; n_records++) {
                char text[65536];

                n = le32toh(n);
                assert_true(n <= sizeof(text));
                assert_int_equal(fread(text, 1, n, inputs), n);
                assert_true(getline(&line, &cap, lines) > 0);
                if (!tiktoken || !has_byte_order_mark(text, n))
                        check_record(f.t, line, text, n);
        }
        assert_true(n_records > 900);
        free(line);
        (void)fclose(inputs);
        (void)fclose(lines);
        fixture_close(&f);
}

#define TEST(name, model, reference, tiktoken)                 \
        static void test_##name(void **state) {                \
                check_model(model, reference, tiktoken);       \
        }

TEST(llama_spm, "vocab/llama-spm.gguf", "tokens-llama-spm.jsonl", false)
TEST(phi3, "vocab/phi-3.gguf", "tokens-phi-3.jsonl", false)
TEST(mistral, "vocab/mistral-v3.gguf", "tokens-mistral-v3.jsonl", false)
TEST(stories, "models/stories260K-f32.gguf", "tokens-stories260K.jsonl", false)
/* Vocabularies of more than 100,000 tokens, built under an emulator, would take minutes and show nothing new. */
#define LARGE_TEST(name, model, reference, tiktoken)           \
        static void test_##name(void **state) {                \
                if (getenv("SPARK_TEST_EMULATED"))             \
                        skip();                                \
                check_model(model, reference, tiktoken);       \
        }

TEST(gpt2, "vocab/gpt-2.gguf", "tokens-gpt-2.jsonl", false)
LARGE_TEST(llama_bpe, "vocab/llama-bpe.gguf", "tokens-llama-bpe.jsonl", false)
LARGE_TEST(qwen2, "vocab/qwen2.gguf", "tokens-qwen2.jsonl", false)
LARGE_TEST(qwen35, "vocab/qwen35.gguf", "tokens-qwen35.jsonl", false)
LARGE_TEST(deepseek, "vocab/deepseek-llm.gguf", "tokens-deepseek-llm.jsonl", false)
LARGE_TEST(gemma4, "vocab/gemma-4.gguf", "tokens-gemma-4.jsonl", false)
LARGE_TEST(o200k, "vocab/gpt-oss-o200k.gguf", "tokens-gpt-oss-o200k.tiktoken.jsonl", true)

/* A mebibyte of one thing, back to the same bytes: what a prompt of that kind may cost. */
static void test_large(void **state) {
        static const char *const models[] = { "vocab/llama-spm.gguf", "vocab/gpt-2.gguf" };
        const size_t size = getenv("SPARK_TEST_EMULATED") ? 1 << 16 : 1 << 20;
        _cleanup_free_ char *text = malloc(size);

        assert_non_null(text);
        for (size_t k = 0; k < ARRAY_SIZE(models); k++) {
                struct fixture f = { 0 };

                fixture_open(&f, models[k]);
                for (int kind = 0; kind < 3; kind++) {
                        struct buf back = BUF_NULL(2 * size);
                        struct token_array out = { 0 };

                        for (size_t i = 0; i < size; i++)
                                text[i] = kind == 0 ? 'a' : kind == 1 ? "\xf0\x9f\x98\x81"[i % 4]
                                                                      : (char)(i * 2654435761u >> 13);
                        assert_int_equal(tokenizer_encode(f.t, text, size, 0, &out), 0);
                        assert_int_equal(tokenizer_decode(f.t, out.ids, out.n, false, &back), 0);
                        assert_int_equal(back.len, size);
                        assert_memory_equal(back.data, text, size);
                        token_array_deinit(&out);
                        buf_deinit(&back);
                }
                fixture_close(&f);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_llama_spm), cmocka_unit_test(test_phi3),     cmocka_unit_test(test_mistral),
                cmocka_unit_test(test_stories),   cmocka_unit_test(test_llama_bpe), cmocka_unit_test(test_gpt2),
                cmocka_unit_test(test_qwen2),     cmocka_unit_test(test_qwen35),   cmocka_unit_test(test_deepseek),
                cmocka_unit_test(test_gemma4),    cmocka_unit_test(test_o200k),    cmocka_unit_test(test_large),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
