/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Small models of many architectures, with shapes that the larger test data does not have (windows shorter than the
 * prompt, heads that aren't n_embd / n_head, partial rotation, leading dense layers ...), against logits that another
 * implementation computed in double precision (tests/reference/make-arch-models.py); each in company and in pieces
 * against itself alone; and the operations of mixtures of experts by themselves.
 */

#include "engine-fixture.h"

#include <math.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "daemon/engine/host.h"
#include "daemon/loader/load.h"
#include "kernels-fixture.h"

#define VOCAB 64u
#define TOKENS 32u
#define FOLDER "tests/reference/arch"

static const char *const models[] = {
        "gemma2", "gemma3", "glm4", "glm4moe", "gpt-oss", "granite", "mistral3",
        "olmo2", "phi3", "phi3-long", "qwen3-yarn", "qwen3moe", "smollm3",
};

/* tokens() of the script. */
static void make_tokens(int32_t tokens[TOKENS]) {
        for (uint32_t i = 0; i < TOKENS; i++)
                tokens[i] = (int32_t)(1 + i * i * 7 % (VOCAB - 1));
}

struct subject {
        struct host host;
        int fds[IMAGE_SEGMENTS_MAX];
        size_t n_fds;
};

static void subject_open(struct subject *s, const char *model, const char *isa, const struct engine_config *engine) {
        const struct host_config config = { .backend = "cpu", .be = { .threads = 2, .isa = isa }, .engine = *engine };
        struct loader_error error = { .text = "" };
        struct failure f = { .text = "" };
        char path[256];

        memset(s, 0, sizeof(*s));
        (void)snprintf(path, sizeof(path), FOLDER "/%s.gguf", model);
        if (loader_load_path(path, s->fds, &s->n_fds, &error) != 0)
                fail_msg("%s: %s", path, error.text);
        if (host_open(&s->host, &config, s->fds, s->n_fds, &result_events, NULL, &f) != 0)
                fail_msg("%s: %s", path, f.text);
}

static void subject_close(struct subject *s) {
        host_close(&s->host);
        for (size_t i = 0; i < s->n_fds; i++)
                (void)fd_close(s->fds[i]);
}

static int keep_row(void *userdata, size_t pos, const float *logits) {
        memcpy((float *)userdata + pos * VOCAB, logits, VOCAB * sizeof(float));
        return 0;
}

static void run_model(const char *model, const char *isa, uint32_t max_rows, float *logits) {
        const struct engine_config config = { .kv_format = KV_F32, .max_sequences = 1, .max_rows = max_rows };
        int32_t tokens[TOKENS];
        struct subject s;
        struct failure f;

        make_tokens(tokens);
        subject_open(&s, model, isa, &config);
        assert_int_equal(s.host.model->shape.n_vocab, VOCAB);
        assert_int_equal(engine_run_logits(s.host.engine, tokens, TOKENS, keep_row, logits, &f), 0);
        subject_close(&s);
}

static void test_logits(void **state) {
        static float ours[TOKENS * VOCAB], theirs[TOKENS * VOCAB];

        for (size_t m = 0; m < ARRAY_SIZE(models); m++) {
                double error = 0, norm = 0;
                char path[256];
                FILE *file;

                (void)snprintf(path, sizeof(path), FOLDER "/%s.logits.f32", models[m]);
                file = fopen(path, "re");
                assert_non_null(file);
                assert_int_equal(fread(theirs, sizeof(float), TOKENS * VOCAB, file), TOKENS * VOCAB);
                (void)fclose(file);
                run_model(models[m], "auto", 0, ours);
                for (size_t i = 0; i < TOKENS * VOCAB; i++) {
                        error += ((double)ours[i] - (double)theirs[i]) * ((double)ours[i] - (double)theirs[i]);
                        norm += (double)theirs[i] * (double)theirs[i];
                }
                /* GELU is in half precision here, as in llama.cpp */
                if (!(error / norm < (strncmp(models[m], "gemma", 5) == 0 ? 1e-6 : 1e-10)))
                        fail_msg("%s: error %g", models[m], error / norm);
        }
}

/* Bits do not depend on how many rows a step has (promise 1), nor on the instruction set. */
static void test_pieces(void **state) {
        static float whole[TOKENS * VOCAB], pieces[TOKENS * VOCAB];
        const void *a = whole, *b = pieces;

        for (size_t m = 0; m < ARRAY_SIZE(models); m++) {
                run_model(models[m], "auto", 0, whole);
                for (uint32_t rows = 1; rows <= 7; rows += 3) {
                        run_model(models[m], rows == 4 ? "c" : "auto", rows, pieces);
                        if (memcmp(a, b, sizeof(whole)) != 0)
                                fail_msg("%s: other bits in steps of %u rows", models[m], rows);
                }
        }
}

static void make_request(struct result *r, uint64_t key, uint32_t n, uint32_t max_tokens) {
        int32_t tokens[TOKENS];
        struct failure f;

        make_tokens(tokens);
        memset(r, 0, sizeof(*r));
        assert_int_equal(request_set_sampling(&r->request, NULL, VOCAB, key, &f), 0);
        r->request.key = key;
        r->request.weight = 1;
        r->request.max_tokens = max_tokens;
        r->request.ignore_eos = true;
        r->request.sampling.temperature = 1;
        r->request.tokens = calloc(n, sizeof(int32_t));
        assert_non_null(r->request.tokens);
        for (uint32_t i = 0; i < n; i++)
                r->request.tokens[i] = tokens[(i + key) % TOKENS];
        r->request.n_tokens = n;
        atomic_store(&r->request.granted, 100000);
}

static void run_all(struct subject *s) {
        int r;

        while ((r = engine_step(s->host.engine)) > 0)
                ;
        assert_int_equal(r, 0);
}

/* Generation in company: what each stream gets alone, with odd prompts in odd chunks. */
static void test_company(void **state) {
        static const char *const some[] = { "glm4moe", "gpt-oss", "gemma3", "qwen3moe" };
        const struct engine_config one = { .max_sequences = 1 }, many = { .max_sequences = 6, .max_rows = 13 };
        static struct result alone[6], company[6];

        for (size_t m = 0; m < ARRAY_SIZE(some); m++) {
                struct subject s;

                subject_open(&s, some[m], "auto", &one);
                for (uint32_t i = 0; i < 6; i++) {
                        make_request(&alone[i], 1 + i, 2 + i * 9, 24);
                        assert_int_equal(engine_submit(s.host.engine, &alone[i].request), 0);
                        run_all(&s);
                        assert_true(alone[i].finished);
                }
                subject_close(&s);
                subject_open(&s, some[m], "auto", &many);
                for (uint32_t i = 6; i-- > 0;) {
                        make_request(&company[i], 1 + i, 2 + i * 9, 24);
                        assert_int_equal(engine_submit(s.host.engine, &company[i].request), 0);
                        assert_int_equal(engine_step(s.host.engine), 1);
                }
                run_all(&s);
                for (uint32_t i = 0; i < 6; i++) {
                        assert_same_output(&alone[i], &company[i]);
                        result_deinit(&alone[i]);
                        result_deinit(&company[i]);
                }
                subject_close(&s);
        }
}

/* --- operations --- */

static void test_route(void **state) {
        static const float logits[2][5] = { { 1, 3, 3, -2, 0 }, { -1, 0, 5, 5, 5 } };
        static const float bias[5] = { 0, -2, 0, 3, 0 };
        const struct backend_config config = { .threads = 2, .isa = "auto" };
        struct routing routing = { .n_experts = 5, .n_used = 2, .gating = GATING_SOFTMAX_CHOSEN, .scale = 1 };
        uint32_t experts[2][2];
        float weights[2][2];
        struct backend *be;

        assert_int_equal(backend_cpu.open(&config, &be), 0);
        assert_int_equal(backend_cpu.route(be, &routing, logits[0], 2, experts[0], weights[0]), 0);
        assert_true(experts[0][0] == 1 && experts[0][1] == 2 && experts[1][0] == 2 && experts[1][1] == 3);
        assert_true(weights[0][0] == 0.5f && weights[1][1] == 0.5f);
        routing.gating = GATING_SIGMOID;
        routing.bias = bias;
        routing.normalize = true;
        routing.scale = 3;
        assert_int_equal(backend_cpu.route(be, &routing, logits[0], 1, experts[0], weights[0]), 0);
        assert_true(experts[0][0] == 3 && experts[0][1] == 2); /* 0.12 + 3, 0.95 */
        assert_true(fabs((double)weights[0][0] - 3 * 0.119203 / (0.119203 + 0.952574)) < 1e-5);
        routing.gating = GATING_SOFTMAX;
        routing.normalize = false;
        routing.bias = NULL;
        routing.scale = 1;
        assert_int_equal(backend_cpu.route(be, &routing, logits[0], 1, experts[0], weights[0]), 0);
        assert_true(fabs((double)weights[0][0] - 0.456234) < 1e-5);
        routing.n_used = 6;
        assert_int_equal(backend_cpu.route(be, &routing, logits[0], 1, experts[0], weights[0]), BACKEND_E_UNSUPPORTED);
        backend_cpu.close(be);
}

static void test_row_operations(void **state) {
        const struct backend_config config = { .threads = 1, .isa = "auto" };
        float x[3 * 7], out[3 * 4], g[21], u[21];
        struct backend *be;

        assert_int_equal(backend_cpu.open(&config, &be), 0);
        for (int i = 0; i < 21; i++) {
                x[i] = (float)i;
                g[i] = (float)(i - 10);
                u[i] = (float)(9 - i);
        }
        assert_int_equal(backend_cpu.slice(be, x, 7, 2, 3, 4, out), 0);
        assert_true(out[0] == 2 && out[4] == 9 && out[11] == 19);
        assert_int_equal(backend_cpu.slice(be, x, 7, 4, 3, 4, out), BACKEND_E_UNSUPPORTED);
        assert_int_equal(backend_cpu.gate(be, ACT_SILU_CLAMPED, g, u, 3, 7, x), 0);
        for (int i = 0; i < 21; i++) {
                double a = fmin((double)g[i], 7), b = fmax(fmin((double)u[i], 7), -7);

                assert_true(fabs((double)x[i] - a / (1 + exp(-1.702 * a)) * (b + 1)) < 1e-5);
        }
        assert_int_equal(backend_cpu.add(be, u, 0.5f, 3, 7, g), 0);
        assert_true(g[0] == -10 + 4.5f && g[20] == 10 - 5.5f);
        memcpy(x, u, sizeof(x));
        assert_int_equal(backend_cpu.softcap(be, 2, 5, 3, 7, x), 0);
        for (int i = 0; i < 21; i++)
                assert_true(fabs((double)x[i] - 5 * tanh((double)u[i] * 2 / 5)) < 1e-5);
        assert_int_equal(backend_cpu.softcap(be, 2, 0, 3, 7, u), 0);
        assert_true(u[0] == 18 && u[20] == -22);
        backend_cpu.close(be);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_logits),  cmocka_unit_test(test_pieces),         cmocka_unit_test(test_company),
                cmocka_unit_test(test_route),   cmocka_unit_test(test_row_operations),
        };

        if (access(FOLDER, R_OK) < 0) {
                print_message("skipped: no " FOLDER " (run from the project's root)\n");
                return 77;
        }
        return cmocka_run_group_tests(tests, NULL, NULL);
}
