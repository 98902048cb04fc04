/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Whole models on the CUDA backend, emulated, against the reference outputs of the test data: every architecture in single
 * precision, weights of other formats, greedy tokens, many streams at once.
 */

#include "reference-fixture.h"

#include "kernels/cuda/cuda.h"

static struct backend *open_cuda(void) {
        const struct backend_config config = { .placement = "auto" };
        const char *why = NULL;
        const struct backend_ops *ops = spark_backend_cuda(BACKEND_ABI, &why);
        struct backend *be = NULL;

        assert_non_null(ops);
        assert_int_equal(ops->open(&config, &be), 0);
        return be;
}

static void test_architectures(void **state) {
        static const char *const names[] = { "llama", "llama3", "mixtral", "qwen2", "qwen3", "qwen3moe", "gpt-oss",
                                             "phi3", "granite", "olmo2", "smollm3", "gemma2", "gemma3" };
        char name[64];

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                (void)snprintf(name, sizeof(name), "mini-%s-f32", names[i]);
                check_logits(name, name, open_cuda, strncmp(names[i], "gemma", 5) == 0 ? 1e-6 : 1e-9);
        }
}

/* The reference rounds activations to 8 bits before products of quantized weights. */
static void test_formats(void **state) {
        static const char *const quantized[] = { "rand-llama-q8_0",   "rand-llama-iq4_nl",      "rand-llama-iq4_xs",
                                                 "rand-llama-q2_k",   "rand-llama-q3_k_m",      "rand-llama-q4_k_m",
                                                 "rand-llama-q5_k_m", "rand-llama-q6_k",        "rand-gemma3-q4_k_m",
                                                 "rand-qwen3-q4_k_m", "rand-qwen3moe-mxfp4_moe", "rand-gpt-oss-mxfp4_moe" };

        check_logits("rand-llama-bf16", "rand-llama-bf16", open_cuda, 1e-5);
        for (size_t i = 0; i < ARRAY_SIZE(quantized); i++)
                check_logits(quantized[i], quantized[i], open_cuda, 1.5e-3);
}

static void test_greedy(void **state) {
        static const char *const models[] = { "mini-llama-f32", "mini-qwen3-f32", "mini-gpt-oss-f32" };
        const struct engine_config config = { .kv_format = KV_F32, .max_sequences = 4 };
        static struct expected x;
        static struct result r;

        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                struct subject s = { 0 };

                if (!read_expected(models[i], &x) || !subject_open(&s, models[i], &config, open_cuda))
                        skip();
                request_from(&r, 1, &x, x.n_greedy);
                assert_int_equal(engine_submit(s.host.engine, &r.request), 0);
                run(&s);
                assert_true(r.finished);
                assert_int_equal(r.n, x.n_greedy);
                assert_memory_equal(r.ids, x.greedy, r.n * sizeof(int32_t));
                result_deinit(&r);
                subject_close(&s);
        }
}

/* Streams at once, prompts in chunks, against each alone. */
static void test_company(void **state) {
        const struct engine_config one = { .max_sequences = 1 }, many = { .max_sequences = 6, .max_rows = 40 };
        static struct expected x;
        static struct result alone[6], company[6];
        struct subject s = { 0 };

        if (!read_expected("rand-llama-q8_0", &x) || !subject_open(&s, "rand-llama-q8_0", &one, open_cuda))
                skip();
        for (uint32_t i = 0; i < ARRAY_SIZE(alone); i++) {
                x.n_prompt = 3 + i * 13;
                request_from(&alone[i], 1 + i, &x, 12);
                alone[i].request.sampling.temperature = i % 2 ? 1 : 0;
                assert_int_equal(engine_submit(s.host.engine, &alone[i].request), 0);
                run(&s);
                assert_true(alone[i].finished);
        }
        subject_close(&s);
        assert_true(subject_open(&s, "rand-llama-q8_0", &many, open_cuda));
        for (uint32_t i = ARRAY_SIZE(alone); i-- > 0;) {
                x.n_prompt = 3 + i * 13;
                request_from(&company[i], 1 + i, &x, 12);
                company[i].request.sampling.temperature = i % 2 ? 1 : 0;
                assert_int_equal(engine_submit(s.host.engine, &company[i].request), 0);
                assert_int_equal(engine_step(s.host.engine), 1);
        }
        run(&s);
        for (uint32_t i = 0; i < ARRAY_SIZE(alone); i++) {
                assert_same_output(&alone[i], &company[i]);
                result_deinit(&alone[i]);
                result_deinit(&company[i]);
        }
        subject_close(&s);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_architectures),
                cmocka_unit_test(test_formats),
                cmocka_unit_test(test_greedy),
                cmocka_unit_test(test_company),
        };

        if (access(testdata(), R_OK) < 0)
                print_message("no test data at %s: skipping\n", testdata());
        return cmocka_run_group_tests(tests, NULL, NULL);
}
