/* SPDX-License-Identifier: Apache-2.0 */

/* Whole models against the reference outputs of the test data: logits, greedy tokens, perplexity, company. */

#include "reference-fixture.h"

static void test_logits(void **state) {
        check_logits("mini-llama-f32", "mini-llama-f32", NULL, 1e-10);
        check_logits("mini-llama3-f32", "mini-llama3-f32", NULL, 1e-10);
        check_logits("stories260K-f32", "stories260K-f32.p1", NULL, 1e-10);
        check_logits("stories260K-f32", "stories260K-f32.p2", NULL, 1e-10);
        check_logits("stories260K-f32", "stories260K-f32.eval", NULL, 1e-10);
}

/* With gelu in half precision a last bit of single precision can become one of half precision: see docs/architectures.md. */
static void test_architectures(void **state) {
        static const char *const silu[] = { "mixtral", "qwen2", "qwen3", "qwen3moe", "gpt-oss",
                                            "phi3", "granite", "olmo2", "smollm3" };
        static const char *const gelu[] = { "gemma2", "gemma3" };
        char name[64];

        for (size_t i = 0; i < ARRAY_SIZE(silu); i++) {
                (void)snprintf(name, sizeof(name), "mini-%s-f32", silu[i]);
                check_logits(name, name, NULL, 1e-10);
        }
        for (size_t i = 0; i < ARRAY_SIZE(gelu); i++) {
                (void)snprintf(name, sizeof(name), "mini-%s-f32", gelu[i]);
                check_logits(name, name, NULL, 1e-7);
        }
}

static void test_greedy(void **state) {
        static const char *const formats[] = { "f32", "f16", "bf16", "q8_0" }, *const prompts[] = { "p1", "p2" };
        const struct engine_config config = { .max_sequences = 4 };
        static struct expected x;
        static struct result r;

        for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
                char model[64], name[80];
                struct subject s = { 0 };

                (void)snprintf(model, sizeof(model), "stories260K-%s", formats[i]);
                if (!subject_open(&s, model, &config, NULL))
                        skip();
                for (size_t k = 0; k < ARRAY_SIZE(prompts); k++) {
                        (void)snprintf(name, sizeof(name), "%s.%s", model, prompts[k]);
                        assert_true(read_expected(name, &x));
                        request_from(&r, 1, &x, x.n_greedy);
                        assert_int_equal(engine_submit(s.host.engine, &r.request), 0);
                        run(&s);
                        assert_true(r.finished);
                        assert_int_equal(r.n, x.n_greedy);
                        assert_memory_equal(r.ids, x.greedy, x.n_greedy * sizeof(int32_t));
                        result_deinit(&r);
                }
                subject_close(&s);
        }
}

static void test_perplexity(void **state) {
        static const struct {
                const char *model, *text;
                double tolerance;
        } ways[] = {
                { "stories260K-f32", ".eval", 0.001 },  { "stories260K-f16", ".eval", 0.001 },
                { "stories260K-bf16", ".eval", 0.001 }, { "stories260K-q8_0", ".eval", 0.005 },
                { "stories260K-q4_0", ".eval", 0.005 }, { "stories260K-q4_1", ".eval", 0.005 },
                { "stories260K-q5_0", ".eval", 0.005 }, { "stories260K-q5_1", ".eval", 0.005 },
                { "rand-llama-bf16", "", 0.001 },       { "rand-llama-q8_0", "", 0.005 },
                { "rand-llama-iq4_nl", "", 0.001 },     { "rand-llama-iq4_xs", "", 0.001 },
                { "rand-llama-q2_k", "", 0.005 },       { "rand-llama-q3_k_m", "", 0.01 },
                { "rand-llama-q4_k_m", "", 0.001 },     { "rand-llama-q4_k_s", "", 0.001 },
                { "rand-llama-q5_k_m", "", 0.005 },     { "rand-llama-q6_k", "", 0.001 },
                { "rand-llama3-q4_k_m", "", 0.001 },    { "rand-gemma3-q4_k_m", "", 0.01 },
                { "rand-qwen3-q4_k_m", "", 0.001 },     { "rand-qwen3moe-mxfp4_moe", "", 0.001 },
                { "rand-gpt-oss-mxfp4_moe", "", 0.01 },
        };
        const struct engine_config config = { .kv_format = KV_F32, .max_sequences = 2 };
        static struct expected x;
        static struct result r;

        for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
                char name[80];
                struct subject s = { 0 };

                (void)snprintf(name, sizeof(name), "%s%s", ways[i].model, ways[i].text);
                if (!read_expected(name, &x) || !subject_open(&s, ways[i].model, &config, NULL))
                        skip();
                request_from(&r, 1, &x, 0);
                r.request.kind = REQUEST_SCORE;
                memmove(r.request.tokens, r.request.tokens + 1, --r.request.n_tokens * sizeof(int32_t));
                assert_int_equal(engine_submit(s.host.engine, &r.request), 0);
                run(&s);
                assert_true(r.finished);
                assert_int_equal(r.done.scored, x.n_prompt - 1);
                if (!(fabs(exp(r.done.nll - x.nll) - 1) < ways[i].tolerance))
                        fail_msg("%s: %.4f instead of %.4f a token\n", name, r.done.nll, x.nll);
                result_deinit(&r);
                subject_close(&s);
        }
}

/* 16 streams at once, prompts in chunks, against each alone. */
static void test_company(void **state) {
        const struct engine_config one = { .max_sequences = 1 }, many = { .max_sequences = 16, .max_rows = 40 };
        static struct expected x;
        static struct result alone[16], company[16];
        struct subject s = { 0 };

        if (!read_expected("stories260K-q8_0.eval", &x) || !subject_open(&s, "stories260K-q8_0", &one, NULL))
                skip();
        for (uint32_t i = 0; i < 16; i++) {
                x.n_prompt = 3 + i * 11;
                request_from(&alone[i], 1 + i, &x, 30);
                alone[i].request.sampling.temperature = i % 2 ? 1 : 0;
                assert_int_equal(engine_submit(s.host.engine, &alone[i].request), 0);
                run(&s);
                assert_true(alone[i].finished);
        }
        subject_close(&s);
        assert_true(subject_open(&s, "stories260K-q8_0", &many, NULL));
        for (uint32_t i = 16; i-- > 0;) {
                x.n_prompt = 3 + i * 11;
                request_from(&company[i], 1 + i, &x, 30);
                company[i].request.sampling.temperature = i % 2 ? 1 : 0;
                assert_int_equal(engine_submit(s.host.engine, &company[i].request), 0);
                assert_int_equal(engine_step(s.host.engine), 1);
        }
        run(&s);
        for (uint32_t i = 0; i < 16; i++) {
                assert_same_output(&alone[i], &company[i]);
                result_deinit(&alone[i]);
                result_deinit(&company[i]);
        }
        subject_close(&s);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_logits),
                cmocka_unit_test(test_architectures),
                cmocka_unit_test(test_greedy),
                cmocka_unit_test(test_perplexity),
                cmocka_unit_test(test_company),
        };

        if (access(testdata(), R_OK) < 0)
                print_message("no test data at %s: skipping\n", testdata());
        return cmocka_run_group_tests(tests, NULL, NULL);
}
