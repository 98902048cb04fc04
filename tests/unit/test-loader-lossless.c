/* SPDX-License-Identifier: Apache-2.0 */

/* Weights that are coded as they are loaded: the same bits, from files of every kind, or a clear word. */

#include <setjmp.h>
#include <stdarg.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/macro.h"
#include "daemon/loader/record.h"

#include "coded-fixture.h"
#include "loader-fixture.h"

static void load_fds(struct loaded *l, const int *fds, size_t n, bool lossless, bool ring) {
        struct loader_error error = { 0 };
        struct loader loader;

        *l = (struct loaded){ .n_fds = 0 };
        assert_int_equal(loader_init(&loader, fds, n, &error), 0);
        loader.options.lossless = lossless;
        if (!ring)
                ring_deinit(&loader.copy.ring);
        if (loader_plan(&loader) != 0)
                fail_msg("%s", error.text);
        l->n_fds = loader.plan.n_segments;
        for (size_t i = 0; i < l->n_fds; i++)
                l->fds[i] = fd_memfd_new("image", loader.plan.segment_size[i]);
        if (loader_write(&loader, l->fds, l->n_fds, NULL) != 0)
                fail_msg("%s", error.text);
        loader_deinit(&loader);
        for (size_t i = 0; i < l->n_fds; i++)
                assert_int_equal(fd_memfd_seal(l->fds[i]), 0);
        open_loaded(l);
}

static void test_gguf(void **state) {
        struct loaded plain, coded;
        struct maker m;
        int fd;

        coded_model(&m, true);
        fd = maker_memfd(m.data, m.n);
        load_fds(&plain, &fd, 1, false, true);
        for (unsigned ring = 0; ring < 2; ring++) {
                load_fds(&coded, &fd, 1, true, ring);
                /* all but the noise */
                assert_int_equal(coded_compare(&plain.image, &coded.image), CODED_MATRICES - 1);
                assert_int_equal(image_find(&coded.image, "blk.0.attn_q.weight")->fmt, FMT_BF16);
                assert_int_equal(image_find(&coded.image, "token_embd.weight")->fmt, FMT_F32);
                loaded_close(&coded);
        }
        loaded_close(&plain);
        (void)fd_close(fd);
        maker_deinit(&m);
}

/* Every file, whatever its formats are: those in BF16 are coded, the others as they were. */
static void test_reference_models(void **state) {
        const char *path = test_data();
        char name[4096];
        struct dirent *e;
        size_t n_coded = 0;
        DIR *dir;

        (void)snprintf(name, sizeof(name), "%s/models", path);
        dir = opendir(name);
        assert_non_null(dir);
        while ((e = readdir(dir))) {
                struct loaded plain = { 0 }, coded = { 0 };
                struct loader_error error = { 0 };

                if (!strstr(e->d_name, ".gguf"))
                        continue;
                (void)snprintf(name, sizeof(name), "%s/models/%s", path, e->d_name);
                if (loader_load_path(name, plain.fds, &plain.n_fds, &error) != 0 ||
                    loader_load_path_as(name, true, coded.fds, &coded.n_fds, &error) != 0)
                        fail_msg("%s: %s", name, error.text);
                open_loaded(&plain);
                open_loaded(&coded);
                n_coded += coded_compare(&plain.image, &coded.image);
                loaded_close(&plain);
                loaded_close(&coded);
        }
        (void)closedir(dir);
        assert_true(n_coded > 10);
}

static int split_part(unsigned no) {
        struct maker m;
        int fd;

        maker_begin(&m);
        if (no == 0)
                coded_metadata(&m);
        maker_kv_u32(&m, "split.no", no);
        maker_kv_u32(&m, "split.count", 2);
        maker_kv_u32(&m, "split.tensors.count", CODED_VECTORS + CODED_MATRICES);
        if (no == 0)
                coded_vectors(&m);
        else
                coded_matrices(&m);
        maker_end(&m);
        (void)coded_fill(&m);
        fd = maker_memfd(m.data, m.n);
        maker_deinit(&m);
        return fd;
}

static void test_split(void **state) {
        int fds[2] = { split_part(0), split_part(1) };
        struct loaded plain, coded;

        load_fds(&plain, fds, 2, false, true);
        load_fds(&coded, fds, 2, true, true);
        assert_int_equal(coded_compare(&plain.image, &coded.image), CODED_MATRICES);
        loaded_close(&plain);
        loaded_close(&coded);
        (void)fd_close(fds[0]);
        (void)fd_close(fds[1]);
}

struct seen {
        uint64_t last, total;
};

static void see(void *arg, uint64_t done, uint64_t total) {
        struct seen *s = arg;

        assert_true(done >= s->last && done <= total);
        *s = (struct seen){ done, total };
}

/* What the plan says is what it takes, and the survey says how far it is. */
static void test_plan(void **state) {
        struct loader_error error = { 0 };
        struct seen seen = { 0 };
        const struct copy_progress survey = { see, &seen };
        const struct image_step step = { 0 };
        struct loadlink_record record, plain;
        struct loader l;
        struct maker m;
        uint64_t bytes = 0, params = 0;
        int fd;

        coded_model(&m, true);
        fd = maker_memfd(m.data, m.n);
        assert_int_equal(loader_init(&l, &fd, 1, &error), 0);
        assert_int_equal(loader_plan(&l), 0);
        record_plan(&l.plan, loader_total(&l), &step, &plain);
        loader_deinit(&l);
        assert_int_equal(plain.coded.params, 0);
        assert_string_equal(plain.format, "BF16");

        assert_int_equal(loader_init(&l, &fd, 1, &error), 0);
        l.options = (struct loader_options){ .lossless = true, .survey = &survey };
        assert_int_equal(loader_plan(&l), 0);
        record_plan(&l.plan, loader_total(&l), &step, &record);
        assert_true(seen.total > 0 && seen.last == seen.total && seen.total <= loader_total(&l));
        assert_string_equal(record.format, "BF16_LL");
        assert_int_equal(record.n_params, plain.n_params);
        assert_int_equal(record.total, plain.total);
        for (unsigned i = 0; i < LOADLINK_KINDS; i++) {
                assert_int_equal(record.kinds[i].params, plain.kinds[i].params);
                bytes += record.kinds[i].bytes;
                params += record.kinds[i].params;
        }
        assert_int_equal(params, record.n_params);
        assert_int_equal(bytes, l.plan.data_size);
        /* q, k, v and output of a layer, less the noise */
        assert_int_equal(record.kinds[LOADLINK_KIND_ATTENTION].params, 2 * (2 * 128 * 128 + 2 * 128 * 64));
        assert_int_equal(record.kinds[LOADLINK_KIND_FEED_FORWARD].params, 2 * 3 * CODED_EMBD * CODED_FF);
        assert_int_equal(record.kinds[LOADLINK_KIND_EMBEDDING].params, 9 * CODED_EMBD);
        assert_int_equal(record.coded.params, record.kinds[LOADLINK_KIND_ATTENTION].params + 2 * 3 * CODED_EMBD * CODED_FF - 128 * 128);
        assert_true((double)record.coded.bytes * 8 < 12.5 * (double)record.coded.params); /* small ones have slack */
        loader_deinit(&l);
        (void)fd_close(fd);
        maker_deinit(&m);
}

/* One exponent of the last tensor, between the two passes. */
static void test_changing_file(void **state) {
        for (unsigned ring = 0; ring < 2; ring++) {
                struct loader_error error = { 0 };
                const uint16_t odd[16] = { 0x7f00, 0x7f00, 0x7f00 };
                struct loader l;
                struct maker m;
                int fd, segment;

                coded_model(&m, true);
                fd = maker_memfd(m.data, m.n);
                assert_int_equal(loader_init(&l, &fd, 1, &error), 0);
                l.options.lossless = true;
                if (!ring)
                        ring_deinit(&l.copy.ring);
                assert_int_equal(loader_plan(&l), 0);
                assert_int_equal(pwrite(fd, odd, sizeof(odd), (off_t)(m.n - 2000)), sizeof(odd));
                segment = fd_memfd_new("image", l.plan.segment_size[0]);
                assert_int_equal(loader_write(&l, &segment, 1, NULL), LOADER_E_IO);
                if (!strstr(error.text, "has changed") || !strstr(error.text, "blk.1.ffn_down.weight"))
                        fail_msg("'%s'", error.text);
                loader_deinit(&l);
                segment = fd_close(segment);
                fd = fd_close(fd);
                maker_deinit(&m);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_gguf), cmocka_unit_test(test_reference_models), cmocka_unit_test(test_split),
                cmocka_unit_test(test_plan), cmocka_unit_test(test_changing_file),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
