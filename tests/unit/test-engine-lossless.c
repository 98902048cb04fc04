/* SPDX-License-Identifier: Apache-2.0 */

/* Whole models with plain and with losslessly coded weights: the same logits, bit by bit. */

#include "reference-fixture.h"

#include <fcntl.h>

#include "coded-fixture.h"

#define ROWS_MAX 40u

struct logits {
        uint32_t n_vocab;
        size_t n_rows;
        float *values;
};

static int keep_row(void *userdata, size_t pos, const float *logits) {
        struct logits *l = userdata;

        assert_true(pos < l->n_rows);
        memcpy(l->values + pos * l->n_vocab, logits, l->n_vocab * sizeof(float));
        return 0;
}

/* Opens what lies at this path. */
static void open_path(struct subject *s, const char *path, bool lossless, const char *isa) {
        const struct host_config config = {
                .backend = "cpu", .be = { .threads = 2, .isa = isa }, .engine = { .kv_format = KV_F32, .max_sequences = 1 },
        };
        struct loader_error error = { .text = "" };
        struct failure f = { .text = "" };

        memset(s, 0, sizeof(*s));
        if (loader_load_path_as(path, lossless, s->fds, &s->n_fds, &error) != 0)
                fail_msg("%s: %s", path, error.text);
        if (host_open(&s->host, &config, s->fds, s->n_fds, &result_events, NULL, &f) != 0)
                fail_msg("%s: %s", path, f.text);
        assert_int_equal(engine_self_test(s->host.engine, &f), 0);
}

static void run_rows(const struct subject *s, size_t n, struct logits *ret) {
        int32_t tokens[ROWS_MAX];
        struct failure f;

        ret->n_rows = n;
        ret->n_vocab = s->host.image.hparams->n_vocab;
        ret->values = calloc(n * ret->n_vocab, sizeof(float));
        assert_non_null(ret->values);
        for (size_t i = 0; i < n; i++)
                tokens[i] = (int32_t)((i * 7 + 3) % ret->n_vocab);
        assert_int_equal(engine_run_logits(s->host.engine, tokens, n, keep_row, ret, &f), 0);
}

static size_t count_coded(const struct image *image) {
        size_t n = 0;

        for (size_t i = 0; i < image->n_tensors; i++)
                n += image->tensors[i].fmt == FMT_BF16_LL;
        return n;
}

/* One row as in decoding, a few, and more than a tile. */
static void compare_path(const char *path, size_t at_least) {
        static const size_t rows[] = { 1, 3, 17, ROWS_MAX };
        static const char *const isas[] = { "auto", "c" };

        for (size_t k = 0; k < ARRAY_SIZE(isas); k++) {
                struct subject plain, coded;

                open_path(&plain, path, false, isas[k]);
                open_path(&coded, path, true, isas[k]);
                assert_true(count_coded(&coded.host.image) >= at_least);
                for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                        struct logits want, have;
                        bool any = false;

                        run_rows(&plain, rows[i], &want);
                        run_rows(&coded, rows[i], &have);
                        assert_memory_equal(want.values, have.values, rows[i] * want.n_vocab * sizeof(float));
                        for (size_t j = 0; j < rows[i] * want.n_vocab; j++)
                                any |= want.values[j] != 0 && want.values[j] == want.values[j];
                        assert_true(any); /* equal, and numbers */
                        free(want.values);
                        free(have.values);
                }
                subject_close(&plain);
                subject_close(&coded);
        }
}

static void test_made(void **state) {
        char path[64];
        struct maker m;
        int fd;

        coded_model(&m, false);
        fd = maker_memfd(m.data, m.n);
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        compare_path(path, 14);
        (void)fd_close(fd);
        maker_deinit(&m);
}

static void test_reference_models(void **state) {
        static const char *const models[] = { "rand-llama-bf16", "stories260K-bf16" };
        char path[1024];

        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                (void)snprintf(path, sizeof(path), "%s/models/%s.gguf", testdata(), models[i]);
                if (access(path, R_OK) < 0) {
                        print_message("no test data at %s\n", testdata());
                        skip();
                }
                compare_path(path, 1);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_made),
                cmocka_unit_test(test_reference_models),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
