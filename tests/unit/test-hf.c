/* SPDX-License-Identifier: Apache-2.0 */

/* Directories in Hugging Face's layout: two whole ones against the reference's logits, and broken ones made of them. */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/macro.h"
#include "daemon/engine/host.h"
#include "daemon/image/image.h"
#include "hf-fixture.h"

/* The model with one file's text instead of its own (NULL: without the file). */
static int plan_with(const char *model, const char *name, const char *text, struct image_hparams *hp, struct loader_error *error) {
        struct hf_dir x;
        struct loader l;
        int r;

        hf_dir_open(&x, model, name, text, text ? strlen(text) : 0);
        error->text[0] = 0;
        r = loader_init_directory(&l, x.names, x.fds, x.n, error);
        if (!r)
                r = loader_plan(&l);
        if (!r)
                *hp = l.plan.hparams;
        loader_deinit(&l);
        hf_dir_close(&x);
        return r;
}

static void refused(const char *name, const char *text, int code, const char *says) {
        struct loader_error error;
        struct image_hparams hp;
        int r = plan_with(MODELS "llama", name, text, &hp, &error);

        if (r != code || !strstr(error.text, says))
                fail_msg("%s = '%s': %d, '%s' instead of %d, '%s'", name, text ? text : "(none)", r, error.text, code, says);
}

#define SIZES "\"vocab_size\":429,\"max_position_embeddings\":128,\"hidden_size\":32,\"num_hidden_layers\":2," \
              "\"intermediate_size\":48,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-6," \
              "\"tie_word_embeddings\":true"
#define LLAMA "\"model_type\":\"llama\"," SIZES

static void test_config(void **state) {
        struct loader_error error;
        struct image_hparams hp = { 0 };

        (void)state;
        assert_int_equal(plan_with(MODELS "llama", "config.json", "{" LLAMA "}", &hp, &error), 0);
        assert_string_equal(hp.arch, "llama");
        assert_int_equal(hp.rope_kind, IMAGE_ROPE_NEOX);
        assert_int_equal(hp.head_dim, 8);
        assert_int_equal(plan_with(MODELS "llama", "config.json",
                                   "{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":3},\"rope_theta\":5e5}", &hp,
                                   &error),
                         0);
        assert_int_equal(hp.rope_scaling, IMAGE_ROPE_SCALING_LINEAR);
        assert_true(hp.rope_scale_factor == 3.0f && hp.rope_base == 5e5f);
}

static void test_bad_config(void **state) {
        static const struct {
                const char *text;
                int code;
                const char *says;
        } cases[] = {
                { NULL, LOADER_E_INVALID, "no config.json" },
                { "", LOADER_E_INVALID, "config.json at offset 0" },
                { "{}", LOADER_E_INVALID, "'model_type' is missing" },
                { "{\"model_type\":\"mamba\"}", LOADER_E_UNSUPPORTED, "'model_type' is 'mamba'" },
                { "{\"model_type\":7}", LOADER_E_INVALID, "'model_type' is not a text" },
                { "{\"model_type\":\"llama\",\"model_type\":\"llama\"}", LOADER_E_INVALID, "twice" },
                { "{\"model_type\":\"llama\"}", LOADER_E_INVALID, "'vocab_size' is missing" },
                { "{" LLAMA ",\"head_dim\":-1}", LOADER_E_INVALID, "'head_dim' is out of range" },
                { "{" LLAMA ",\"head_dim\":1.5}", LOADER_E_INVALID, "'head_dim' is not a whole number" },
                { "{" LLAMA ",\"head_dim\":16}", LOADER_E_INVALID, "has the shape" },
                { "{" LLAMA ",\"rope_theta\":1e999}", LOADER_E_INVALID, "'rope_theta' is out of range" },
                { "{" LLAMA ",\"rope_theta\":-1}", LOADER_E_INVALID, "RoPE base" },
                { "{" LLAMA ",\"hidden_act\":\"relu\"}", LOADER_E_UNSUPPORTED, "'hidden_act'" },
                { "{" LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", LOADER_E_UNSUPPORTED,
                  "'rope_scaling.rope_type' is 'dynamic'" },
                { "{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", LOADER_E_INVALID, "'rope_scaling.factor'" },
                { "{" LLAMA ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2}}", LOADER_E_INVALID, "'rope_scaling." },
                { "{" LLAMA ",\"rope_scaling\":[]}", LOADER_E_INVALID, "'rope_scaling' is not an object" },
                { "{" LLAMA ",\"quantization_config\":{\"quant_method\":\"gptq\"}}", LOADER_E_UNSUPPORTED,
                  "'quantization_config.quant_method' is 'gptq'" },
                { "{" LLAMA ",\"quantization_config\":{\"quant_method\":\"awq\"}}", LOADER_E_UNSUPPORTED, "'awq'" },
                { "{" LLAMA ",\"quantization_config\":{}}", LOADER_E_INVALID, "'quantization_config.quant_method' is missing" },
                { "{" LLAMA ",\"num_local_experts\":4,\"num_experts_per_tok\":2}", LOADER_E_UNSUPPORTED, "ffn_" },
                { "{\"model_type\":\"qwen3\"," SIZES "}", LOADER_E_INVALID, "attn_q_norm.weight' is missing" },
                { "{" LLAMA ",\"attn_logit_softcapping\":30.0}", LOADER_E_UNSUPPORTED, "'attn_logit_softcapping'" },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                refused("config.json", cases[i].text, cases[i].code, cases[i].says);
}

static void test_bad_files(void **state) {
        (void)state;
        refused("tokenizer.json", NULL, LOADER_E_INVALID, "no tokenizer.json");
        refused("tokenizer.json", "{}", LOADER_E_INVALID, "tokenizer.json");
        refused("model-00001-of-00002.safetensors", NULL, LOADER_E_INVALID, "1 of 2 files");
        refused("model-00001-of-00002.safetensors", "abc", LOADER_E_INVALID, "too short");
        refused("model-00004-of-00004.safetensors", "abc", LOADER_E_INVALID, "another set of files");
        refused("model.safetensors", "\2\0\0\0\0\0\0\0{}", LOADER_E_INVALID, "too short"); /* ends with its first NUL */
        refused("chat_template.json", "[]", LOADER_E_INVALID, "chat_template.json");
        refused("generation_config.json", "{", LOADER_E_INVALID, "generation_config.json at offset 1");
}

static const struct engine_events no_events;

struct comparison {
        FILE *expected;
        double error, norm;
        size_t n_vocab, rows;
};

static int compare_row(void *userdata, size_t pos, const float *logits) {
        struct comparison *c = userdata;
        float x;

        (void)pos;
        for (size_t i = 0; i < c->n_vocab; i++) {
                assert_int_equal(fread(&x, sizeof(x), 1, c->expected), 1);
                c->error += ((double)logits[i] - (double)x) * ((double)logits[i] - (double)x);
                c->norm += (double)x * (double)x;
        }
        c->rows++;
        return 0;
}

static size_t read_tokens(const char *path, int32_t *ret, size_t max) {
        FILE *f = fopen(path, "re");
        size_t n = 0;

        assert_non_null(f);
        while (n < max && fscanf(f, "%d", &ret[n]) == 1) /* NOLINT(cert-err34-c) */
                n++;
        (void)fclose(f);
        return n;
}

/* transformers' logits are ours. */
static void check_logits(const char *model, double tolerance) {
        const struct host_config config = { .backend = "cpu", .be = { .threads = 1, .isa = "auto" },
                                            .engine = { .kv_format = KV_F32, .max_sequences = 1 } };
        struct loader_error error = { .text = "" };
        struct failure f = { .text = "" };
        struct comparison c = { 0 };
        int32_t tokens[256];
        char path[256];
        struct host host;
        int fds[IMAGE_SEGMENTS_MAX];
        size_t n_fds = 0, n;

        (void)snprintf(path, sizeof(path), MODELS "%s", model);
        if (loader_load_path(path, fds, &n_fds, &error) != 0)
                fail_msg("%s: %s", path, error.text);
        if (host_open(&host, &config, fds, n_fds, &no_events, NULL, &f) != 0)
                fail_msg("%s: %s", path, f.text);
        (void)snprintf(path, sizeof(path), MODELS "%s/tokens.txt", model);
        n = read_tokens(path, tokens, ARRAY_SIZE(tokens));
        (void)snprintf(path, sizeof(path), MODELS "%s/logits.f32", model);
        c.expected = fopen(path, "re");
        c.n_vocab = host.model->shape.n_vocab;
        assert_non_null(c.expected);
        assert_int_equal(engine_run_logits(host.engine, tokens, n, compare_row, &c, &f), 0);
        assert_int_equal(fgetc(c.expected), EOF);
        assert_true(n > 8 && c.rows == n && c.norm > 0);
        assert_true(c.error / c.norm < tolerance);
        (void)fclose(c.expected);
        host_close(&host);
        for (size_t i = 0; i < n_fds; i++)
                (void)fd_close(fds[i]);
}

static void test_logits(void **state) {
        (void)state;
        check_logits("llama", 1e-10);
        /* BF16: activations are rounded here and there, and the last bit of a sum can decide which way: 3e-8 each time */
        check_logits("qwen3-moe", 1e-7);
}

/* The llama with LongRoPE, hosted for texts of this length: what its KV on disk is marked with. */
static void mark_of(uint32_t context, const char *scaling, uint8_t ret[IMAGE_FINGERPRINT_BYTES]) {
        const struct host_config config = { .backend = "cpu", .be = { .threads = 1, .isa = "auto" },
                                            .engine = { .kv_format = KV_F32, .max_sequences = 1, .context = context } };
        struct loader_error error = { .text = "" };
        struct failure f = { .text = "" };
        int fds[IMAGE_SEGMENTS_MAX];
        struct hf_dir x;
        struct loader l;
        struct host host;
        char text[1024];
        size_t n_fds = 0;

        (void)snprintf(text, sizeof(text), "{" LLAMA "%s}", scaling);
        hf_dir_open(&x, MODELS "llama", "config.json", text, strlen(text));
        assert_int_equal(loader_init_directory(&l, x.names, x.fds, x.n, &error), 0);
        assert_int_equal(loader_plan(&l), 0);
        assert_int_equal(hf_write_image(&l, fds, &n_fds), 0);
        loader_deinit(&l);
        hf_dir_close(&x);
        assert_int_equal(host_open(&host, &config, fds, n_fds, &no_events, NULL, &f), 0);
        (void)memcpy(ret, host.kv_kind.fingerprint, IMAGE_FINGERPRINT_BYTES);
        host_close(&host);
        for (size_t i = 0; i < n_fds; i++)
                (void)fd_close(fds[i]);
}

/* Keys that were turned by one set of LongRoPE's factors are of no use with the other. */
static void test_long_factors(void **state) {
        static const char *const scaling = ",\"original_max_position_embeddings\":64,\"rope_scaling\":{\"type\":\"longrope\","
                                           "\"short_factor\":[1,1,1,1],\"long_factor\":[1,2,3,4]}";
        uint8_t small[IMAGE_FINGERPRINT_BYTES], edge[IMAGE_FINGERPRINT_BYTES], large[IMAGE_FINGERPRINT_BYTES],
                larger[IMAGE_FINGERPRINT_BYTES];

        (void)state;
        mark_of(32, scaling, small);
        mark_of(64, scaling, edge);
        mark_of(96, scaling, large);
        mark_of(128, scaling, larger);
        assert_memory_equal(small, edge, sizeof(small));
        assert_memory_not_equal(edge, large, sizeof(small));
        assert_memory_equal(large, larger, sizeof(small));
        mark_of(32, "", small);
        mark_of(128, "", larger);
        assert_memory_equal(small, larger, sizeof(small));
}

static void test_names(void **state) {
        unsigned n = 0, count = 0;

        (void)state;
        assert_true(modeldir_shard("model-00002-of-00013.safetensors", &n, &count));
        assert_int_equal(n, 2);
        assert_int_equal(count, 13);
        assert_false(modeldir_shard("model-00000-of-00013.safetensors", &n, &count));
        assert_false(modeldir_shard("model-00014-of-00013.safetensors", &n, &count));
        assert_false(modeldir_shard("model-2-of-3.safetensors", &n, &count));
        assert_false(modeldir_shard("model-00002-of-00013.safetensors.part", &n, &count));
        assert_false(modeldir_shard("model-", &n, &count));
        assert_true(modeldir_knows("config.json"));
        assert_false(modeldir_knows("modeling_llama.py"));
        assert_false(modeldir_knows("../config.json"));
        assert_false(modeldir_knows(""));
}

static void test_paths(void **state) {
        int fds[IMAGE_SEGMENTS_MAX];
        struct loader_error error;
        size_t n = 0;

        (void)state;
        assert_int_equal(loader_load_path("tests/unit", fds, &n, &error), LOADER_E_IO);
        assert_non_null(strstr(error.text, "without files of a model"));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_config), cmocka_unit_test(test_bad_config), cmocka_unit_test(test_bad_files),
                cmocka_unit_test(test_names),  cmocka_unit_test(test_paths),  cmocka_unit_test(test_logits),
                cmocka_unit_test(test_long_factors),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
