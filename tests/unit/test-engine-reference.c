/* SPDX-License-Identifier: Apache-2.0 */

/* Whole models against the reference outputs of the test data: logits, greedy tokens, perplexity, company. */

#include "engine-fixture.h"

#include <math.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "daemon/engine/host.h"
#include "daemon/loader/load.h"

#define TOKENS_MAX 1024u

struct expected {
        char prompt[2048];
        uint32_t n_prompt, n_greedy, n_vocab;
        int32_t tokens[TOKENS_MAX];
        int32_t greedy[TOKENS_MAX];
        double nll;
};

static const char *testdata(void) {
        const char *path = getenv("SPARK_TESTDATA");

        return path ? path : "../shared/testdata";
}

static bool read_whole(const char *folder, const char *name, const char *suffix, struct buf *out) {
        char path[1024], part[4096];
        FILE *f;
        size_t n;

        (void)snprintf(path, sizeof(path), "%s/%s/%s%s", testdata(), folder, name, suffix);
        f = fopen(path, "re");
        if (!f)
                return false;
        while ((n = fread(part, 1, sizeof(part), f)) > 0)
                assert_int_equal(buf_append(out, part, n), 0);
        (void)fclose(f);
        return true;
}

static uint32_t read_ids(const char *json, const char *field, int32_t *ids) {
        const char *p = strstr(json, field);
        uint32_t n = 0;

        assert_non_null(p);
        p = strchr(p, '[') + 1;
        while (*p != ']' && n < TOKENS_MAX) {
                char *end;

                ids[n++] = (int32_t)strtol(p, &end, 10);
                assert_true(end > p);
                p = *end == ',' ? end + 1 : end;
        }
        return n;
}

/* The reference's JSON is flat and written by one program: looked at by hand. False where it is absent. */
static bool read_expected(const char *name, struct expected *x) {
        struct buf json = BUF_NULL(1 << 20);
        const char *p;

        if (!read_whole("reference", name, ".json", &json)) {
                buf_deinit(&json);
                return false;
        }
        x->n_prompt = read_ids(json.data, "\"prompt_tokens\"", x->tokens);
        x->n_greedy = strstr(json.data, "\"greedy_tokens\"") ? read_ids(json.data, "\"greedy_tokens\"", x->greedy) : 0;
        p = strstr(json.data, "\"n_vocab\":");
        assert_non_null(p);
        x->n_vocab = (uint32_t)strtoul(p + 10, NULL, 10);
        p = strstr(json.data, "\"prompt_nll_mean\":");
        assert_non_null(p);
        x->nll = strtod(p + 18, NULL);
        buf_deinit(&json);
        return true;
}

struct subject {
        struct host host;
        int fds[IMAGE_SEGMENTS_MAX];
        size_t n_fds;
};

static bool subject_open(struct subject *s, const char *model, const struct engine_config *engine) {
        const struct host_config config = {
                .backend = "cpu", .be = { .threads = 2, .isa = "auto" }, .engine = *engine,
        };
        struct loader_error error = { .text = "" };
        struct failure f = { .text = "" };
        char path[1024];
        int r;

        memset(s, 0, sizeof(*s));
        (void)snprintf(path, sizeof(path), "%s/models/%s.gguf", testdata(), model);
        if (access(path, R_OK) < 0)
                return false;
        assert_int_equal(loader_load_path(path, s->fds, &s->n_fds, &error), 0);
        r = host_open(&s->host, &config, s->fds, s->n_fds, &result_events, NULL, &f);
        if (r != 0)
                print_error("%s: %s\n", model, f.text);
        assert_int_equal(r, 0);
        assert_int_equal(engine_self_test(s->host.engine, &f), 0);
        return true;
}

static void subject_close(struct subject *s) {
        host_close(&s->host);
        for (size_t i = 0; i < s->n_fds; i++)
                (void)fd_close(s->fds[i]);
}

struct comparison {
        const float *reference;
        uint32_t n_vocab, n_rows;
        double error, norm;
};

static int compare_row(void *userdata, size_t pos, const float *logits) {
        struct comparison *c = userdata;
        const float *r = c->reference + pos * c->n_vocab;

        for (uint32_t i = 0; i < c->n_vocab && pos < c->n_rows; i++) {
                c->error += ((double)logits[i] - (double)r[i]) * ((double)logits[i] - (double)r[i]);
                c->norm += (double)r[i] * (double)r[i];
        }
        return 0;
}

static void check_logits(const char *model, const char *name, double limit) {
        const struct engine_config config = { .kv_format = KV_F32, .max_sequences = 1 };
        static struct expected x;
        struct buf data = BUF_NULL(64 << 20);
        struct comparison c = { 0 };
        struct subject s = { 0 };
        struct failure f;

        if (!read_expected(name, &x) || !read_whole("reference", name, ".logits.f32", &data) ||
            !subject_open(&s, model, &config)) {
                buf_deinit(&data);
                skip();
        }
        c.reference = (const float *)(void *)data.data;
        c.n_vocab = x.n_vocab;
        c.n_rows = (uint32_t)(data.len / sizeof(float) / x.n_vocab);
        assert_true(c.n_rows >= x.n_prompt);
        /* then what the reference went on with, but for the last token: its logits are not there */
        assert_true(x.n_prompt + x.n_greedy < TOKENS_MAX);
        memcpy(x.tokens + x.n_prompt, x.greedy, x.n_greedy * sizeof(*x.greedy));
        assert_int_equal(engine_run_logits(s.host.engine, x.tokens, c.n_rows, compare_row, &c, &f), 0);
        assert_true(c.norm > 0);
        if (!(c.error / c.norm < limit))
                fail_msg("%s: error %g", name, c.error / c.norm);
        subject_close(&s);
        buf_deinit(&data);
}

static void test_logits(void **state) {
        check_logits("mini-llama-f32", "mini-llama-f32", 1e-10);
        check_logits("mini-llama3-f32", "mini-llama3-f32", 1e-10);
        check_logits("stories260K-f32", "stories260K-f32.p1", 1e-10);
        check_logits("stories260K-f32", "stories260K-f32.p2", 1e-10);
        check_logits("stories260K-f32", "stories260K-f32.eval", 1e-10);
}

/* The reference takes gelu from a table in half precision: what is left is its error, not ours (test-architectures). */
static void test_architectures(void **state) {
        static const char *const silu[] = { "mixtral", "qwen2", "qwen3", "qwen3moe", "gpt-oss",
                                            "phi3", "granite", "olmo2", "smollm3" };
        static const char *const gelu[] = { "gemma2", "gemma3" };
        char name[64];

        for (size_t i = 0; i < ARRAY_SIZE(silu); i++) {
                (void)snprintf(name, sizeof(name), "mini-%s-f32", silu[i]);
                check_logits(name, name, 1e-10);
        }
        for (size_t i = 0; i < ARRAY_SIZE(gelu); i++) {
                (void)snprintf(name, sizeof(name), "mini-%s-f32", gelu[i]);
                check_logits(name, name, 1e-6);
        }
}

static void request_from(struct result *r, uint64_t key, const struct expected *x, uint32_t max_tokens) {
        struct failure f;

        memset(r, 0, sizeof(*r));
        assert_int_equal(request_set_sampling(&r->request, NULL, x->n_vocab, key, &f), 0);
        r->request.key = key;
        r->request.weight = 1;
        r->request.max_tokens = max_tokens;
        r->request.ignore_eos = true;
        r->request.sampling.temperature = 0;
        r->request.tokens = calloc(x->n_prompt, sizeof(int32_t));
        assert_non_null(r->request.tokens);
        memcpy(r->request.tokens, x->tokens, x->n_prompt * sizeof(int32_t));
        r->request.n_tokens = x->n_prompt;
        atomic_store(&r->request.granted, 100000);
}

static void run(struct subject *s) {
        int r;

        while ((r = engine_step(s->host.engine)) > 0)
                ;
        assert_int_equal(r, 0);
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
                if (!subject_open(&s, model, &config))
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
                { "rand-llama-bf16", "", 0.01 },        { "rand-llama-q8_0", "", 0.005 },
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
                if (!read_expected(name, &x) || !subject_open(&s, ways[i].model, &config))
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

        if (!read_expected("stories260K-q8_0.eval", &x) || !subject_open(&s, "stories260K-q8_0", &one))
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
        assert_true(subject_open(&s, "stories260K-q8_0", &many));
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
