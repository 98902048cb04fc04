/* SPDX-License-Identifier: Apache-2.0 */

/* Models of the test data computed on the CPU while KV's memory comes and goes: the same tokens, bit for bit, as alone. */

#include "engine-check.h"
#include "reference-fixture.h"

#define STREAMS 8u

static uint32_t draw(uint64_t *random, uint32_t n) {
        *random = *random * 6364136223846793005u + 1442695040888963407u;
        return (uint32_t)((*random >> 33) % n);
}

static void draw_prompt(struct expected *x, uint32_t i, uint32_t n_vocab) {
        uint64_t random = i;

        x->n_vocab = n_vocab;
        x->n_prompt = 20 + i * 9;
        for (uint32_t k = 0; k < x->n_prompt; k++)
                x->tokens[k] = (int32_t)(3 + draw(&random, MIN(n_vocab, 200u) - 3));
}

/* Bounds at random, from nothing at all to everything; nothing is to be left of it where it ends. */
static void run_with_bounds(struct engine *e, uint64_t random) {
        uint64_t all = (uint64_t)e->pool.n_pages * e->page_bytes;
        bool more = true;

        while (more) {
                int r;

                if (draw(&random, 5) == 0) {
                        (void)engine_resize(e, draw(&random, 2) ? all * draw(&random, 100) / 100 : UINT64_MAX,
                                            all * draw(&random, 101) / 100);
                        engine_check(e);
                }
                r = engine_step(e);
                assert_true(r >= 0);
                if (r == 0) {
                        more = e->schedule.n_waiting > 0;
                        (void)engine_resize(e, UINT64_MAX, UINT64_MAX);
                }
        }
}

static void streams_under_bounds(const char *model, enum kv_format format) {
        const struct engine_config config = { .kv_format = format, .max_sequences = STREAMS, .max_rows = 24, .context = 256 };
        static struct result alone[STREAMS], company[STREAMS];
        static struct expected x;
        struct subject s = { 0 };

        if (!subject_open(&s, model, &config, NULL))
                skip();
        for (uint32_t i = 0; i < STREAMS; i++) {
                draw_prompt(&x, i, s.host.prep.n_vocab);
                request_from(&alone[i], 1 + i, &x, 40);
                alone[i].request.sampling.temperature = i % 2 ? 1 : 0;
                alone[i].request.sampling.logprobs = 1;
                assert_int_equal(engine_submit(s.host.engine, &alone[i].request), 0);
                run(&s);
                assert_true(alone[i].finished);
                engine_forget_all(s.host.engine);
        }
        for (uint32_t i = 0; i < STREAMS; i++) {
                draw_prompt(&x, i, s.host.prep.n_vocab);
                request_from(&company[i], 1 + i, &x, 40);
                company[i].request.sampling.temperature = i % 2 ? 1 : 0;
                company[i].request.sampling.logprobs = 1;
                assert_int_equal(engine_submit(s.host.engine, &company[i].request), 0);
        }
        run_with_bounds(s.host.engine, 77 + format);
        for (uint32_t i = 0; i < STREAMS; i++) {
                assert_same_output(&alone[i], &company[i]);
                result_deinit(&alone[i]);
                result_deinit(&company[i]);
        }
        engine_check_idle(s.host.engine);
        subject_close(&s);
}

static void test_kv_formats(void **state) {
        streams_under_bounds("stories260K-q8_0", KV_F16);
        streams_under_bounds("stories260K-q8_0", KV_F32);
        streams_under_bounds("stories260K-q8_0", KV_Q8_0);
}

static void test_architectures(void **state) {
        static const char *const models[] = { "mini-llama3-f32", "mini-qwen3-f32", "mini-gemma2-f32", "mini-mixtral-f32" };

        for (size_t i = 0; i < ARRAY_SIZE(models); i++)
                streams_under_bounds(models[i], KV_F16);
}

/* With windows and sinks: old pages are read by some layers alone. */
static void test_windows(void **state) {
        streams_under_bounds("mini-gemma3-f32", KV_F16);
        streams_under_bounds("mini-gpt-oss-f32", KV_F16);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_kv_formats),
                cmocka_unit_test(test_architectures),
                cmocka_unit_test(test_windows),
        };

        if (access(testdata(), R_OK) < 0)
                print_message("no test data at %s: skipping\n", testdata());
        return cmocka_run_group_tests(tests, NULL, NULL);
}
