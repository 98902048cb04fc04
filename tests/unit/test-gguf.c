/* SPDX-License-Identifier: Apache-2.0 */

/* The GGUF reader against files that are damaged on purpose: whatever is wrong, the answer is a sentence. */

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/image/image.h"
#include "daemon/loader/load.h"

#include "gguf-maker.h"

/* Reads header and model, without copying data; what loader_plan() does, minus ring and threads. */
static int plan_fd(int fd, struct image_plan *plan, struct loader_error *error) {
        struct source source = SOURCE_NULL;
        struct gguf g = GGUF_NULL;
        struct model m = MODEL_NULL;
        int r;

        *plan = IMAGE_PLAN_NULL;
        error->text[0] = 0;
        r = source_init(&source, fd, error);
        if (!r)
                r = gguf_read_metadata(&g, &source, error);
        if (!r)
                r = model_plan(&m, &g, plan, 1ull << 32);
        model_deinit(&m);
        gguf_deinit(&g);
        source_deinit(&source);
        return r;
}

static int plan_bytes(const void *data, size_t n, struct loader_error *error) {
        _cleanup_fd_ int fd = maker_memfd(data, n);
        struct image_plan plan;
        int r;

        r = plan_fd(fd, &plan, error);
        image_plan_deinit(&plan);
        return r;
}

static int load_bytes(const void *data, size_t n, struct loader_error *error) {
        _cleanup_fd_ int fd = maker_memfd(data, n);
        int fds[IMAGE_SEGMENTS_MAX], r;
        struct image_error image_error = { 0 };
        struct image image = IMAGE_NULL;
        size_t n_fds = 0;

        r = loader_load(fd, fds, &n_fds, error);
        if (r == 0) {
                /* whatever the loader lets through, the reader must take */
                assert_int_equal(image_open(&image, fds, n_fds, &image_error), 0);
                image_close(&image);
        }
        for (size_t i = 0; i < n_fds; i++)
                fds[i] = fd_close(fds[i]);
        return r;
}

static size_t count_fds(void) {
        size_t n = 0;

        for (int i = 0; i < 256; i++)
                n += fcntl(i, F_GETFD) >= 0;
        return n;
}

static void assert_refused(int r, const struct loader_error *error) {
        assert_true(r == LOADER_E_INVALID || r == LOADER_E_UNSUPPORTED);
        /* names the field or says where */
        assert_true(strstr(error->text, "offset") || strchr(error->text, '\''));
}

static void test_good(void **state) {
        static const struct maker_model kinds[] = { { 0 }, { .layers = 3 }, { .bpe = true }, { .no_tensors = true },
                                                    { .no_tensors = true, .arch = "whatever" } };

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                struct loader_error error = { 0 };
                struct maker m;

                maker_model(&m, &kinds[i]);
                if (load_bytes(m.data, m.n, &error) != 0)
                        fail_msg("%zu: %s", i, error.text);
                maker_deinit(&m);
        }
}

static void test_version_2(void **state) {
        struct loader_error error;
        struct maker m;

        maker_model(&m, &(struct maker_model){ 0 });
        m.data[4] = 2;
        assert_int_equal(load_bytes(m.data, m.n, &error), 0);
        m.data[4] = 1;
        assert_int_equal(plan_bytes(m.data, m.n, &error), LOADER_E_UNSUPPORTED);
        (void)memcpy(m.data + 4, "\0\0\0\3", 4);
        assert_int_equal(plan_bytes(m.data, m.n, &error), LOADER_E_UNSUPPORTED);
        assert_non_null(strstr(error.text, "big-endian"));
        m.data[0] = 'g';
        assert_int_equal(plan_bytes(m.data, m.n, &error), LOADER_E_INVALID);
        maker_deinit(&m);
}

static void test_truncated(void **state) {
        static const struct maker_model kinds[] = { { 0 }, { .bpe = true }, { .no_tensors = true } };
        size_t fds = count_fds();

        for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
                struct loader_error error;
                struct maker m;

                maker_model(&m, &kinds[k]);
                for (size_t n = 0; n < m.header; n++)
                        assert_refused(plan_bytes(m.data, n, &error), &error);
                /* within the data */
                for (size_t n = m.header; n < m.header + m.data_n; n += 251)
                        assert_refused(plan_bytes(m.data, n, &error), &error);
                maker_deinit(&m);
        }
        assert_int_equal(count_fds(), fds);
}

/* The values that the fields are set to, for a field that holds `good`. */
static uint64_t hostile(unsigned i, unsigned width) {
        const uint64_t max = width == 4 ? UINT32_MAX : 65536;
        const uint64_t values[] = { 0, 1, max, max + 1, 1ull << 63, UINT64_MAX };

        return width == 4 && values[i] > UINT32_MAX ? values[i] >> 32 : values[i];
}
#define HOSTILE_N 6u

/* In memory and in the file that holds the same bytes. */
static void spoil(struct maker *m, int fd, const struct maker_field *f, uint64_t v) {
        (void)memcpy(m->data + f->offset, &v, f->width);
        assert_int_equal(pwrite(fd, &v, f->width, (off_t)f->offset), f->width);
}

/* Clean refusal, or a file that is whole after all: then it must load and open. */
static void check_spoiled(const struct maker *m, int fd) {
        struct loader_error error;
        struct image_plan plan;
        int r;

        r = plan_fd(fd, &plan, &error);
        image_plan_deinit(&plan);
        if (r == 0)
                assert_int_equal(load_bytes(m->data, m->n, &error), 0);
        else
                assert_refused(r, &error);
}

static void test_fields_single(void **state) {
        size_t fds = count_fds();
        struct maker m;
        int fd;

        maker_model(&m, &(struct maker_model){ .bpe = true });
        fd = maker_memfd(m.data, m.n);
        assert_true(m.n_fields > 100);
        for (size_t i = 0; i < m.n_fields; i++) {
                uint64_t good = 0;

                (void)memcpy(&good, m.data + m.fields[i].offset, m.fields[i].width);
                for (unsigned v = 0; v < HOSTILE_N; v++) {
                        spoil(&m, fd, &m.fields[i], hostile(v, m.fields[i].width));
                        check_spoiled(&m, fd);
                }
                spoil(&m, fd, &m.fields[i], good - 1);
                check_spoiled(&m, fd);
                spoil(&m, fd, &m.fields[i], good + 1);
                check_spoiled(&m, fd);
                spoil(&m, fd, &m.fields[i], good);
        }
        fd = fd_close(fd);
        maker_deinit(&m);
        assert_int_equal(count_fds(), fds);
}

/* The first two fields of every kind, each with each. */
static size_t choose_fields(const struct maker *m, struct maker_field *ret, size_t max) {
        size_t n = 0;

        for (size_t i = 0; i < m->n_fields && n < max; i++) {
                unsigned before = 0;

                for (size_t k = 0; k < n; k++)
                        before += strcmp(ret[k].what, m->fields[i].what) == 0;
                if (before < 2)
                        ret[n++] = m->fields[i];
        }
        return n;
}

static void test_fields_in_pairs(void **state) {
        struct maker_field f[64];
        uint64_t good[64] = { 0 };
        struct maker m;
        size_t n;
        int fd;

        maker_model(&m, &(struct maker_model){ .bpe = true });
        fd = maker_memfd(m.data, m.n);
        n = choose_fields(&m, f, ARRAY_SIZE(f));
        assert_true(n >= 20);
        for (size_t i = 0; i < n; i++)
                (void)memcpy(&good[i], m.data + f[i].offset, f[i].width);
        for (size_t i = 0; i < n; i++)
                for (size_t k = i + 1; k < n; k++) {
                        for (unsigned v = 0; v < HOSTILE_N * HOSTILE_N; v++) {
                                spoil(&m, fd, &f[i], hostile(v / HOSTILE_N, f[i].width));
                                spoil(&m, fd, &f[k], hostile(v % HOSTILE_N, f[k].width));
                                check_spoiled(&m, fd);
                        }
                        spoil(&m, fd, &f[i], good[i]);
                        spoil(&m, fd, &f[k], good[k]);
                }
        fd = fd_close(fd);
        maker_deinit(&m);
}

/* Dimensions whose product wraps to something small, with every pair of them. */
static void test_dimension_products(void **state) {
        static const uint64_t dims[][4] = {
                { 1ull << 32, 1ull << 32, 1, 1 },      { 1ull << 63, 2, 1, 1 },   { 32, (1ull << 59) + 1, 1, 1 },
                { 1ull << 31, 1ull << 31, 4, 1 },      { 32, 1ull << 57, 1, 1 },  { UINT64_MAX, UINT64_MAX, 1, 1 },
                { 32, 9, UINT64_MAX, UINT64_MAX },     { 1ull << 62, 1, 1, 1 },   { 32, 0, 1, 1 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(dims); i++)
                for (uint32_t n = 1; n <= 4; n++) {
                        struct loader_error error;
                        struct maker m;

                        maker_begin(&m);
                        maker_hparams(&m, &(struct maker_model){ 0 });
                        maker_vocab(&m, &(struct maker_model){ 0 });
                        maker_tensor(&m, "token_embd.weight", i % 2 ? 8 : 0, n, dims[i], 64, 0);
                        maker_end(&m);
                        assert_refused(plan_bytes(m.data, m.n, &error), &error);
                        maker_deinit(&m);
                }
}

struct tensor_case {
        const char *name;
        uint32_t type, n_dims;
        uint64_t dims[4];
        uint64_t offset;
        int code;
        const char *says;
};

static void test_tensor_infos(void **state) {
        static const struct tensor_case cases[] = {
                { "x", 0, 1, { 32 }, 0, LOADER_E_INVALID, "overlaps" },
                { "x", 0, 1, { 32 }, 1200, LOADER_E_INVALID, "not aligned" },
                { "x", 0, 1, { 32 }, 1ull << 40, LOADER_E_INVALID, "do not lie in the file" },
                { "x", 0, 1, { 32 }, UINT64_MAX - 31, LOADER_E_INVALID, "do not lie in the file" },
                { "x", 0, 0, { 0 }, 2048, LOADER_E_INVALID, "number of dimensions" },
                { "x", 0, 5, { 1, 1, 1, 1 }, 2048, LOADER_E_INVALID, "number of dimensions" },
                { "x", 0, 2, { 0, 4 }, 2048, LOADER_E_INVALID, "dimension 0 is 0" },
                { "x", 0, 2, { 4, 0 }, 2048, LOADER_E_INVALID, "dimension 1 is 0" },
                { "x", 4, 1, { 32 }, 2048, LOADER_E_INVALID, "its type is none" },
                { "x", 77, 1, { 32 }, 2048, LOADER_E_INVALID, "its type is none" },
                { "x", 16, 1, { 256 }, 2048, LOADER_E_UNSUPPORTED, "unsupported type IQ2_XXS (16)" },
                { "x", 35, 1, { 256 }, 2048, LOADER_E_UNSUPPORTED, "tensor 'x' at offset " },
                { "x", 1000, 1, { 128 }, 2048, LOADER_E_INVALID, "its type is none" },
                { "x", 10, 1, { 128 }, 2048, LOADER_E_INVALID, "multiple" },
                { "x", 40, 1, { 32 }, 2048, LOADER_E_INVALID, "multiple" },
                { "x", 8, 1, { 33 }, 2048, LOADER_E_INVALID, "multiple" },
                { "token_embd.weight", 0, 1, { 32 }, 2048, LOADER_E_INVALID, "same name" },
                { "blk.9.attn_q.weight", 0, 2, { 32, 32 }, 2048, LOADER_E_UNSUPPORTED, "blk.9.attn_q.weight" },
                { "x\001y", 0, 1, { 32 }, 2048, LOADER_E_INVALID, "plain" },
                { "", 0, 1, { 32 }, 2048, LOADER_E_INVALID, "plain" },
                { "0123456789012345678901234567890123456789012345678901234567890123", 0, 1, { 32 }, 2048, LOADER_E_INVALID,
                  "too long" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const struct tensor_case *c = &cases[i];
                struct loader_error error;
                struct maker m;

                maker_begin(&m);
                maker_hparams(&m, &(struct maker_model){ 0 });
                maker_vocab(&m, &(struct maker_model){ 0 });
                maker_f32(&m, "token_embd.weight", 32, 9);
                m.data_n = 2048;
                maker_tensor(&m, c->name, c->type, c->n_dims, c->dims, 4096, c->offset);
                maker_end(&m);
                assert_int_equal(plan_bytes(m.data, m.n, &error), c->code);
                if (!strstr(error.text, c->says))
                        fail_msg("case %zu: '%s' does not say '%s'", i, error.text, c->says);
                assert_non_null(strstr(error.text, "offset"));
                maker_deinit(&m);
        }
}

static int plan_with(void (*more)(struct maker *m), struct loader_error *error) {
        struct maker m;
        int r;

        maker_begin(&m);
        maker_hparams(&m, &(struct maker_model){ 0 });
        maker_vocab(&m, &(struct maker_model){ 0 });
        more(&m);
        maker_end(&m);
        r = plan_bytes(m.data, m.n, error);
        maker_deinit(&m);
        return r;
}

static void add_duplicate(struct maker *m) {
        maker_kv_u32(m, "llama.block_count", 1);
}

static void add_nested(struct maker *m) {
        maker_kv_array(m, "nested", 9, 1);
        maker_u32(m, 4, NULL);
        maker_u64(m, 0, NULL);
}

static void add_nul_key(struct maker *m) {
        maker_bytes(m, "a\0b", 3, NULL);
        maker_u32(m, 4, NULL);
        maker_u32(m, 1, NULL);
        m->n_kvs++;
}

static void add_nul_pre(struct maker *m) {
        maker_kv_str(m, "tokenizer.ggml.pre", "de\0fault", 8);
}

static void add_bad_bool(struct maker *m) {
        maker_kv_bool(m, "tokenizer.ggml.add_eos_token", 2);
}

static void add_bad_bools(struct maker *m) {
        maker_kv_array(m, "some.flags", 7, 3);
        maker_put(m, "\0\1\2", 3);
}

static void add_wrong_type(struct maker *m) {
        maker_kv_u32(m, "tokenizer.ggml.pre", 1);
}

static void add_shards(struct maker *m) {
        maker_kv_u32(m, "split.count", 3);
}

static void add_nothing_bad(struct maker *m) {
        static const uint32_t sizes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
        char key[16];

        for (uint32_t t = 0; t < ARRAY_SIZE(sizes); t++)
                if (sizes[t]) {
                        (void)snprintf(key, sizeof(key), "one.%u", t);
                        maker_key(m, key, t);
                        maker_put(m, "\1\0\0\0\0\0\0\0", sizes[t]);
                        (void)snprintf(key, sizeof(key), "none.%u", t);
                        maker_kv_array(m, key, t, 0);
                }
}

static void test_metadata(void **state) {
        static const struct {
                void (*more)(struct maker *m);
                int code;
                const char *says;
        } cases[] = {
                { add_nothing_bad, 0, "" },
                { add_duplicate, LOADER_E_INVALID, "'llama.block_count' is there twice" },
                { add_nested, LOADER_E_INVALID, "arrays of arrays" },
                { add_nul_key, LOADER_E_INVALID, "a\\x00b" },
                { add_nul_pre, LOADER_E_INVALID, "NUL" },
                { add_bad_bool, LOADER_E_INVALID, "neither true nor false" },
                { add_bad_bools, LOADER_E_INVALID, "neither true nor false" },
                { add_wrong_type, LOADER_E_INVALID, "of type uint32 instead of string" },
                { add_shards, LOADER_E_INVALID, "split.count" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct loader_error error;

                assert_int_equal(plan_with(cases[i].more, &error), cases[i].code);
                if (!strstr(error.text, cases[i].says))
                        fail_msg("case %zu: '%s' does not say '%s'", i, error.text, cases[i].says);
        }
}

/* Every byte of the header set to a few values: no crash, no hang, and what is taken can be opened. */
static void test_every_byte(void **state) {
        static const unsigned char values[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };
        struct maker m;

        maker_model(&m, &(struct maker_model){ 0 });
        for (size_t i = 0; i < m.header; i++) {
                unsigned char good = m.data[i];

                for (size_t v = 0; v < ARRAY_SIZE(values); v++) {
                        struct loader_error error;
                        int r;

                        m.data[i] = values[v];
                        r = plan_bytes(m.data, m.n, &error);
                        assert_true(r >= 0);
                        if (r > 0)
                                assert_true(error.text[0] != 0);
                }
                m.data[i] = good;
        }
        maker_deinit(&m);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_good),
                cmocka_unit_test(test_version_2),
                cmocka_unit_test(test_truncated),
                cmocka_unit_test(test_fields_single),
                cmocka_unit_test(test_fields_in_pairs),
                cmocka_unit_test(test_dimension_products),
                cmocka_unit_test(test_tensor_infos),
                cmocka_unit_test(test_metadata),
                cmocka_unit_test(test_every_byte),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
