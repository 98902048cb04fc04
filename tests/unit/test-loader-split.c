/* SPDX-License-Identifier: Apache-2.0 */

/* Models in several files: what comes out of them is what one file gives, in any order; and what they must agree on. */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>

#include <cmocka.h>

#include "base/splitname.h"
#include "daemon/loader/load.h"

#include "gguf-maker.h"
#include "loader-fixture.h"

#define PARTS 3u

/* What a part says of itself. */
struct says {
        int64_t no, count, tensors; /* -1: nothing */
        const char *arch;           /* parts but the first; NULL: nothing */
};

static const char *const matrices[] = { "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down" };

static void put_says(struct maker *m, const struct says *says) {
        if (says->no >= 0)
                maker_kv_u32(m, "split.no", (uint32_t)says->no);
        if (says->count >= 0)
                maker_kv_u32(m, "split.count", (uint32_t)says->count);
        if (says->tensors >= 0)
                maker_kv_u32(m, "split.tensors.count", (uint32_t)says->tensors);
}

static void put_matrices(struct maker *m, size_t first, size_t end) {
        static const unsigned in[] = { 32, 32, 32, 32, 32, 32, 4003 }, out[] = { 32, 16, 16, 32, 4003, 4003, 32 };

        for (size_t i = first; i < end; i++) {
                char name[64];

                (void)snprintf(name, sizeof(name), "blk.0.%s.weight", matrices[i]);
                maker_f32(m, name, in[i], out[i]);
        }
}

/* The first part has metadata and vectors, the others matrices. */
static void make_part(struct maker *m, unsigned part, const struct says *says) {
        maker_begin(m);
        if (part == 0) {
                const struct maker_model o = { .ff = 4003 };

                maker_hparams(m, &o);
                maker_vocab(m, &o);
        } else if (says->arch) {
                maker_kv_str(m, "general.architecture", says->arch, strlen(says->arch));
        }
        put_says(m, says);
        if (part == 0) {
                maker_f32(m, "token_embd.weight", 32, 9);
                maker_f32(m, "output_norm.weight", 32, 0);
                maker_f32(m, "blk.0.attn_norm.weight", 32, 0);
                maker_f32(m, "blk.0.ffn_norm.weight", 32, 0);
        } else {
                put_matrices(m, part == 1 ? 0 : 5, part == 1 ? 5 : 7);
        }
        maker_end(m);
}

#define GOOD { { 0, 3, 11, NULL }, { 1, 3, 11, NULL }, { 2, 3, 11, NULL } }

static void make_files(const struct says says[PARTS], int fds[PARTS]) {
        for (unsigned i = 0; i < PARTS; i++) {
                struct maker m;

                make_part(&m, i, &says[i]);
                fds[i] = maker_memfd(m.data, m.n);
                maker_deinit(&m);
        }
}

static void close_files(int fds[PARTS]) {
        for (unsigned i = 0; i < PARTS; i++)
                fds[i] = fd_close(fds[i]);
}

/* Every tensor of every file is in the image. */
static void compare_files(const int *fds, size_t n, const struct image *image) {
        size_t tensors = 0;

        for (size_t k = 0; k < n; k++) {
                struct loader_error error = { 0 };
                struct source source = SOURCE_NULL;
                struct gguf g = GGUF_NULL;

                assert_int_equal(source_init(&source, fds[k], &error), 0);
                assert_int_equal(gguf_read_metadata(&g, &source, &error), 0);
                assert_int_equal(gguf_read_tensors(&g), 0);
                source_stop_direct(&source);
                for (size_t i = 0; i < g.n_tensors; i++)
                        compare_tensor(fds[k], &g.tensors[i], image);
                tensors += g.n_tensors;
                gguf_deinit(&g);
                source_deinit(&source);
        }
        assert_int_equal(tensors, image->n_tensors);
}

static void test_any_order(void **state) {
        static const unsigned orders[][PARTS] = { { 0, 1, 2 }, { 2, 1, 0 }, { 1, 2, 0 } };
        const struct says says[PARTS] = GOOD;
        int made[PARTS];

        make_files(says, made);
        for (size_t i = 0; i < ARRAY_SIZE(orders); i++) {
                struct loader_error error = { 0 };
                struct loaded l = { 0 };
                int fds[PARTS];

                for (unsigned k = 0; k < PARTS; k++)
                        fds[k] = made[orders[i][k]];
                if (loader_load_files(fds, PARTS, l.fds, &l.n_fds, &error) != 0)
                        fail_msg("order %zu: %s", i, error.text);
                open_loaded(&l);
                assert_string_equal(l.image.hparams->name, "made by a test");
                compare_files(fds, PARTS, &l.image);
                loaded_close(&l);
        }
        close_files(made);
}

static void test_disagreements(void **state) {
        static const struct {
                struct says says[PARTS];
                const char *text;
        } cases[] = {
                { { { 0, 3, 11, NULL }, { 1, 3, 11, NULL }, { -1, 3, 11, NULL } }, "part 3: 'split.no' is missing" },
                { { { 0, 3, 11, NULL }, { 1, -1, 11, NULL }, { 2, 3, 11, NULL } }, "part 2: 'split.count' is missing" },
                { { { 0, 3, -1, NULL }, { 1, 3, 11, NULL }, { 2, 3, 11, NULL } }, "part 1: 'split.tensors.count' is missing" },
                { { { 0, 3, 11, NULL }, { 1, 4, 11, NULL }, { 2, 3, 11, NULL } }, "part 2: 'split.count' at offset" },
                { { { 0, 3, 11, NULL }, { 1, 3, 11, NULL }, { 3, 3, 11, NULL } }, "part 3: 'split.no' at offset" },
                { { { 0, 3, 11, NULL }, { 0, 3, 11, NULL }, { 2, 3, 11, NULL } }, "number 1 is missing" },
                { { { 0, 3, 11, NULL }, { 1, 3, 11, NULL }, { 1, 3, 11, NULL } }, "number 2 is missing" },
                { { { 0, 3, 11, NULL }, { 2, 3, 11, NULL }, { 2, 3, 11, NULL } }, "number 1 is missing" },
                { { { 0, 3, 11, NULL }, { 1, 3, 12, NULL }, { 2, 3, 11, NULL } }, "part 2: 'split.tensors.count' at offset" },
                { { { 0, 3, 12, NULL }, { 1, 3, 12, NULL }, { 2, 3, 12, NULL } }, "together have 11 tensors" },
                { { { 0, 3, 11, NULL }, { 1, 3, 11, "llama" }, { 2, 3, 11, "qwen2" } }, "part 3: 'general.architecture'" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                int fds[PARTS], out[IMAGE_SEGMENTS_MAX], r;
                struct loader_error error = { 0 };
                size_t n_out = 0;

                make_files(cases[i].says, fds);
                r = loader_load_files(fds, PARTS, out, &n_out, &error);
                if (r != LOADER_E_INVALID || !strstr(error.text, cases[i].text))
                        fail_msg("case %zu: %d '%s' does not say '%s'", i, r, error.text, cases[i].text);
                close_files(fds);
        }
}

/* One part alone, one that is given twice, and one of a model that has other tensors of the same names. */
static void test_wrong_sets(void **state) {
        const struct says says[PARTS] = GOOD;
        struct loader_error error = { 0 };
        int fds[PARTS], out[IMAGE_SEGMENTS_MAX];
        struct maker m;
        size_t n_out = 0;

        make_files(says, fds);
        assert_int_equal(loader_load(fds[0], out, &n_out, &error), LOADER_E_INVALID);
        assert_non_null(strstr(error.text, "one of 3 parts"));
        assert_int_equal(loader_load_files(fds, 2, out, &n_out, &error), LOADER_E_INVALID);
        assert_non_null(strstr(error.text, "2 files were given"));
        assert_int_equal(loader_load_files((const int[]){ fds[0], fds[1], fds[1] }, 3, out, &n_out, &error), LOADER_E_INVALID);
        assert_non_null(strstr(error.text, "part 3: 'split.no'"));

        make_part(&m, 1, &(struct says){ 2, 3, 14, NULL });
        fds[2] = fd_close(fds[2]);
        fds[2] = maker_memfd(m.data, m.n);
        maker_deinit(&m);
        for (unsigned i = 0; i < 2; i++) {
                fds[i] = fd_close(fds[i]);
                make_part(&m, i, &(struct says){ (int)i, 3, 14, NULL });
                fds[i] = maker_memfd(m.data, m.n);
                maker_deinit(&m);
        }
        assert_int_equal(loader_load_files(fds, PARTS, out, &n_out, &error), LOADER_E_INVALID);
        assert_non_null(strstr(error.text, "same name"));
        assert_int_equal(loader_load_files(fds, 0, out, &n_out, &error), -EINVAL);
        assert_int_equal(n_out, 0);
        close_files(fds);
}

/* A file that ends early is named, whether its header or its data is what is missing. */
static void test_short_part(void **state) {
        const struct says says[PARTS] = GOOD;
        struct loader_error error = { 0 };
        struct loader loader;
        int fds[PARTS], segment;

        make_files(says, fds);
        assert_int_equal(loader_init(&loader, fds, PARTS, &error), 0);
        assert_int_equal(loader_plan(&loader), 0);
        assert_int_equal(ftruncate(fds[1], 8192), 0);
        segment = fd_memfd_new("image", loader.plan.segment_size[0]);
        assert_int_equal(loader_write(&loader, &segment, 1, NULL), LOADER_E_IO);
        assert_ptr_equal(strstr(error.text, "part 2: the file ended"), error.text);
        loader_deinit(&loader);
        segment = fd_close(segment);
        assert_int_equal(ftruncate(fds[2], 40), 0);
        assert_int_equal(loader_init(&loader, fds, PARTS, &error), 0);
        assert_int_equal(loader_plan(&loader), LOADER_E_INVALID);
        loader_deinit(&loader);
        close_files(fds);
}

/* Files that others made: by the first one's path, with the same result as the model in one file. */
static void test_given(void **state) {
        const char *data = getenv("SPARK_TESTDATA") ?: "../shared/testdata";
        char path[4096], name[4096];
        struct loader_error error = { 0 };
        struct loaded l = { 0 };
        int fds[PARTS];

        (void)snprintf(path, sizeof(path), "%s/models/split/stories260K-00001-of-00003.gguf", data);
        if (access(path, R_OK) < 0) {
                print_message("no %s\n", path);
                skip();
        }
        if (loader_load_path(path, l.fds, &l.n_fds, &error) != 0)
                fail_msg("%s", error.text);
        open_loaded(&l);
        for (unsigned i = 0; i < PARTS; i++) {
                assert_int_equal(splitname_part(path, i + 1, name, sizeof(name)), PARTS);
                fds[i] = open(name, O_RDONLY | O_CLOEXEC);
                assert_true(fds[i] >= 0);
        }
        compare_files(fds, PARTS, &l.image);
        close_files(fds);
        loaded_close(&l);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_any_order),  cmocka_unit_test(test_disagreements), cmocka_unit_test(test_wrong_sets),
                cmocka_unit_test(test_short_part), cmocka_unit_test(test_given),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
