/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Whole models of the test data and what the reference computed of them, for tests of the engine with one backend or another.
 * Where the data is absent tests skip.
 */

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

static inline const char *testdata(void) {
        const char *path = getenv("SPARK_TESTDATA");

        return path ? path : "../shared/testdata";
}

static inline bool read_whole(const char *folder, const char *name, const char *suffix, struct buf *out) {
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

static inline uint32_t read_ids(const char *json, const char *field, int32_t *ids) {
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
static inline bool read_expected(const char *name, struct expected *x) {
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

typedef struct backend *open_fn(void);

/* open: makes the backend; NULL: on the CPU. False where the data is absent. */
static inline bool subject_open(struct subject *s, const char *model, const struct engine_config *engine, open_fn *open) {
        const struct host_config config = {
                .backend = "cpu", .be = { .threads = 2, .isa = "auto" }, .engine = *engine,
        };
        struct loader_error error = { .text = "" };
        struct failure f = { .text = "" };
        struct backend *be;
        char path[1024];
        int r;

        memset(s, 0, sizeof(*s));
        (void)snprintf(path, sizeof(path), "%s/models/%s.gguf", testdata(), model);
        if (access(path, R_OK) < 0)
                return false;
        assert_int_equal(loader_load_path(path, s->fds, &s->n_fds, &error), 0);
        be = open ? open() : NULL;
        assert_true(be || !open);
        s->host.backend = be;
        s->host.backend_name = be ? be->ops->name : NULL;
        r = be ? host_open_model(&s->host, &config, s->fds, s->n_fds, &result_events, NULL, &f) :
                 host_open(&s->host, &config, s->fds, s->n_fds, &result_events, NULL, &f);
        if (r != 0)
                print_error("%s: %s\n", model, f.text);
        assert_int_equal(r, 0);
        assert_int_equal(engine_self_test(s->host.engine, &f), 0);
        return true;
}

static inline void subject_close(struct subject *s) {
        host_close(&s->host);
        for (size_t i = 0; i < s->n_fds; i++)
                (void)fd_close(s->fds[i]);
}

struct comparison {
        const float *reference;
        uint32_t n_vocab, n_rows;
        double error, norm;
};

static inline int compare_row(void *userdata, size_t pos, const float *logits) {
        struct comparison *c = userdata;
        const float *r = c->reference + pos * c->n_vocab;

        for (uint32_t i = 0; i < c->n_vocab && pos < c->n_rows; i++) {
                c->error += ((double)logits[i] - (double)r[i]) * ((double)logits[i] - (double)r[i]);
                c->norm += (double)r[i] * (double)r[i];
        }
        return 0;
}

static inline void check_logits(const char *model, const char *name, open_fn *open, double limit) {
        const struct engine_config config = { .kv_format = KV_F32, .max_sequences = 1 };
        static struct expected x;
        struct buf data = BUF_NULL(64 << 20);
        struct comparison c = { 0 };
        struct subject s = { 0 };
        struct failure f;

        if (!read_expected(name, &x) || !read_whole("reference", name, ".logits.f32", &data) ||
            !subject_open(&s, model, &config, open)) {
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

static inline void request_from(struct result *r, uint64_t key, const struct expected *x, uint32_t max_tokens) {
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

static inline void run(struct subject *s) {
        int r;

        while ((r = engine_step(s->host.engine)) > 0)
                ;
        assert_int_equal(r, 0);
}
