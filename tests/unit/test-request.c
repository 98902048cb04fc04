/* SPDX-License-Identifier: Apache-2.0 */

/* Sampling out of the protocol: every field's range, each refusal names its field. */

#include <setjmp.h>
#include <stdarg.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/engine/request.h"

#define VOCAB 100u

static int set(const Spark__V1__Sampling *s, struct request *r, struct failure *f) {
        memset(r, 0, sizeof(*r));
        memset(f, 0, sizeof(*f));
        return request_set_sampling(r, s, VOCAB, 77, f);
}

static void expect_ok(const Spark__V1__Sampling *s) {
        struct request r;
        struct failure f;

        if (set(s, &r, &f) != 0)
                fail_msg("refused: %s", f.text);
        request_deinit(&r);
}

static void expect_refusal(const Spark__V1__Sampling *s, const char *field) {
        struct request r;
        struct failure f;

        assert_int_equal(set(s, &r, &f), REQUEST_E_FAILED);
        assert_int_equal(f.code, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT);
        if (!strstr(f.text, field))
                fail_msg("'%s' does not name %s", f.text, field);
        request_deinit(&r);
}

static void test_defaults(void **state) {
        struct request r;
        struct failure f;

        assert_int_equal(set(NULL, &r, &f), 0);
        assert_true(r.sampling.temperature == 0.8f && r.sampling.top_p == 0.95f && r.sampling.min_p == 0.05f);
        assert_int_equal(r.sampling.top_k, 40);
        assert_int_equal(r.sampling.penalty_window, 64);
        assert_true(r.sampling.repetition_penalty == 1);
        assert_int_equal(r.sampling.seed, 77);
        assert_int_equal(r.max_tokens, REQUEST_ENDLESS);
        assert_false(r.ignore_eos);
        request_deinit(&r);
}

static void test_ranges(void **state) {
        static const struct {
                const char *name;
                size_t offset;
                float good[3], bad[4];
        } fields[] = {
                { "temperature", offsetof(Spark__V1__Sampling, temperature), { 0, 100, 1e-38f }, { -0.1f, 100.1f, 1e30f, -INFINITY } },
                { "top_p", offsetof(Spark__V1__Sampling, top_p), { 1, 1e-30f, 0.5f }, { 0, -1, 1.01f, INFINITY } },
                { "min_p", offsetof(Spark__V1__Sampling, min_p), { 0, 1, 0.5f }, { -0.01f, 1.01f, INFINITY, -INFINITY } },
                { "repetition_penalty", offsetof(Spark__V1__Sampling, repetition_penalty), { FLT_MIN, 1, 100 }, { 0, -1, 101, INFINITY } },
                { "presence_penalty", offsetof(Spark__V1__Sampling, presence_penalty), { -100, 0, 100 }, { -101, 101, INFINITY, -INFINITY } },
                { "frequency_penalty", offsetof(Spark__V1__Sampling, frequency_penalty), { -100, 0, 100 }, { -101, 101, INFINITY, -INFINITY } },
        };

        for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
                Spark__V1__Sampling s = SPARK__V1__SAMPLING__INIT;
                float *v = (float *)(void *)((char *)&s + fields[i].offset);

                for (size_t k = 0; k < ARRAY_SIZE(fields[i].good); k++) {
                        *v = fields[i].good[k];
                        expect_ok(&s);
                }
                for (size_t k = 0; k < ARRAY_SIZE(fields[i].bad); k++) {
                        *v = fields[i].bad[k];
                        expect_refusal(&s, fields[i].name);
                }
                *v = NAN;
                expect_refusal(&s, fields[i].name);
        }
}

static void test_counts(void **state) {
        Spark__V1__Sampling s = SPARK__V1__SAMPLING__INIT;

        s.penalty_window = 4096;
        s.logprobs = 21;
        s.top_k = UINT32_MAX;
        expect_ok(&s);
        s.penalty_window = 4097;
        expect_refusal(&s, "penalty_window");
        s.penalty_window = 0;
        s.logprobs = 22;
        expect_refusal(&s, "logprobs");
        s.logprobs = 0;
        s.has_max_tokens = true;
        expect_refusal(&s, "max_tokens");
        s.max_tokens = UINT32_MAX;
        expect_ok(&s);
}

static void test_bias(void **state) {
        static Spark__V1__LogitBias bias[REQUEST_BIAS_MAX + 1], *list[REQUEST_BIAS_MAX + 1];
        Spark__V1__Sampling s = SPARK__V1__SAMPLING__INIT;
        struct request r;
        struct failure f;

        for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
                spark__v1__logit_bias__init(&bias[i]);
                bias[i].has_token = true;
                bias[i].token = (uint32_t)(i % VOCAB);
                list[i] = &bias[i];
        }
        s.logit_bias = list;
        s.n_logit_bias = REQUEST_BIAS_MAX;
        bias[3].bias = -INFINITY;
        assert_int_equal(set(&s, &r, &f), 0);
        assert_int_equal(r.sampling.n_bias, REQUEST_BIAS_MAX);
        assert_ptr_equal(r.sampling.bias, r.bias);
        assert_true(r.bias[3].bias == -INFINITY);
        request_deinit(&r);
        bias[7].bias = NAN;
        expect_refusal(&s, "logit_bias[7].bias");
        bias[7].bias = INFINITY;
        expect_refusal(&s, "logit_bias[7].bias");
        bias[7].bias = 0;
        bias[9].token = VOCAB;
        expect_refusal(&s, "logit_bias[9].token");
        bias[9].has_token = false;
        bias[9].token = 0;
        expect_refusal(&s, "logit_bias[9].token");
        s.n_logit_bias++;
        expect_refusal(&s, "logit_bias");
}

static void test_stop(void **state) {
        char longest[STOP_BYTES_MAX + 2] = { 0 };
        char *list[STOP_STRINGS_MAX + 1];
        Spark__V1__Sampling s = SPARK__V1__SAMPLING__INIT;
        struct request r;
        struct failure f;

        memset(longest, 'x', STOP_BYTES_MAX);
        for (size_t i = 0; i < ARRAY_SIZE(list); i++)
                list[i] = longest;
        list[1] = (char *)"b";
        s.stop = list;
        s.n_stop = STOP_STRINGS_MAX;
        assert_int_equal(set(&s, &r, &f), 0);
        assert_int_equal(r.n_stop, STOP_STRINGS_MAX);
        assert_int_equal(r.stop[0].size, STOP_BYTES_MAX);
        assert_int_equal(r.stop[1].size, 1);
        assert_memory_equal(r.stop[1].text, "b", 1);
        request_deinit(&r);
        list[2] = (char *)"";
        expect_refusal(&s, "stop[2]");
        list[2] = longest;
        longest[STOP_BYTES_MAX] = 'x';
        expect_refusal(&s, "stop[0]");
        longest[STOP_BYTES_MAX] = 0;
        s.n_stop++;
        expect_refusal(&s, "stop");
}

static void test_tokens(void **state) {
        const uint32_t ids[] = { 0, 99, 100, UINT32_MAX };
        int32_t *tokens = NULL;
        struct failure f;

        assert_int_equal(request_copy_tokens(ids, 2, VOCAB, "prompt_tokens", &tokens, &f), 0);
        assert_int_equal(tokens[1], 99);
        free(tokens);
        tokens = NULL;
        assert_int_equal(request_copy_tokens(ids, 3, VOCAB, "prompt_tokens", &tokens, &f), REQUEST_E_FAILED);
        assert_non_null(strstr(f.text, "prompt_tokens[2]"));
        assert_int_equal(request_copy_tokens(ids + 3, 1, VOCAB, "tokens", &tokens, &f), REQUEST_E_FAILED);
        assert_null(tokens);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_defaults), cmocka_unit_test(test_ranges), cmocka_unit_test(test_counts),
                cmocka_unit_test(test_bias),     cmocka_unit_test(test_stop),   cmocka_unit_test(test_tokens),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
