/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Loads of some segments of an image, where the others are there from a load before: what comes out is what was there, bit
 * for bit, whatever the model is made of; and a model that is another one by now is told by its checksum.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/macro.h"
#include "daemon/loader/segments.h"

#include "coded-fixture.h"
#include "hf-fixture.h"
#include "loader-fixture.h"

#define SEGMENT_BYTES 100000u
#define SPLIT_NAME "stories260K"
#define SPLIT_PARTS 3u

/* A model's files, however they are given. */
struct files {
        struct hf_dir dir; /* n > 0: these */
        int fds[SOURCES_MAX];
        size_t n;
        uint64_t segment_bytes; /* 0 = SEGMENT_BYTES */
};

/* What stands in memory of a load. */
struct written {
        struct image_plan plan; /* sizes only */
        uint64_t checksum;
        int fds[IMAGE_SEGMENTS_MAX]; /* -1: was not asked for */
};

static void start(struct loader *l, const struct files *f, struct loader_error *error) {
        if (f->dir.n > 0)
                assert_int_equal(loader_init_directory(l, f->dir.names, f->dir.fds, f->dir.n, error), 0);
        else
                assert_int_equal(loader_init(l, f->fds, f->n, error), 0);
}

/* 0, or what went wrong. */
static int write_some(const struct files *f, bool lossless, uint64_t segments, struct written *ret, struct loader_error *error) {
        int fds[IMAGE_SEGMENTS_MAX], r;
        struct loader l;
        size_t n = 0;

        start(&l, f, error);
        l.options = (struct loader_options){ .lossless = lossless, .segments = segments,
                                               .segment_bytes = f->segment_bytes ? f->segment_bytes : SEGMENT_BYTES };
        r = loader_plan(&l);
        if (r == 0)
                r = loader_checksum(&l, &ret->checksum);
        ret->plan.n_segments = l.plan.n_segments;
        memcpy(ret->plan.segment_size, l.plan.segment_size, sizeof(l.plan.segment_size));
        for (size_t i = 0; i < IMAGE_SEGMENTS_MAX; i++)
                ret->fds[i] = -1;
        for (size_t i = 0; i < l.plan.n_segments && r == 0; i++)
                if (segments == 0 || segments_has(segments, i))
                        fds[n++] = ret->fds[i] = fd_memfd_new("image", l.plan.segment_size[i]);
        if (r == 0)
                r = loader_write(&l, fds, n, NULL);
        loader_deinit(&l);
        return r;
}

static void written_close(struct written *w) {
        for (size_t i = 0; i < IMAGE_SEGMENTS_MAX; i++)
                w->fds[i] = fd_close(w->fds[i]);
}

static void assert_same_bytes(int a, int b, uint64_t size) {
        void *x = mmap(NULL, size, PROT_READ, MAP_SHARED, a, 0), *y = mmap(NULL, size, PROT_READ, MAP_SHARED, b, 0);

        assert_true(x != MAP_FAILED && y != MAP_FAILED);
        assert_true(memcmp(x, y, size) == 0);
        (void)munmap(x, size);
        (void)munmap(y, size);
}

/* Whole, then with every set of segments of some dozen: the same plan, the same bytes. */
static void check_sets(const struct files *f, bool lossless) {
        struct loader_error error = { .text = "" };
        struct written whole, some;
        uint64_t random = 7, all;

        if (write_some(f, lossless, 0, &whole, &error) != 0)
                fail_msg("%s", error.text);
        assert_in_range(whole.plan.n_segments, 2, IMAGE_SEGMENTS_MAX - 1);
        all = ((uint64_t)1 << whole.plan.n_segments) - 1;
        for (unsigned round = 0; round < 14; round++) {
                uint64_t set;

                random = random * 6364136223846793005u + 1442695040888963407u;
                set = round == 0 ? 1 : round == 1 ? all & ~1ull : round == 2 ? all : random >> 20 & all;
                if (set == 0)
                        continue;
                if (write_some(f, lossless, set, &some, &error) != 0)
                        fail_msg("%s", error.text);
                assert_true(some.checksum == whole.checksum);
                assert_int_equal(some.plan.n_segments, whole.plan.n_segments);
                for (size_t i = 0; i < whole.plan.n_segments; i++) {
                        assert_int_equal(some.plan.segment_size[i], whole.plan.segment_size[i]);
                        if (segments_has(set, i))
                                assert_same_bytes(some.fds[i], whole.fds[i], whole.plan.segment_size[i]);
                }
                written_close(&some);
        }
        written_close(&whole);
}

static struct files made(struct maker *m, bool noise) {
        coded_model(m, noise);
        return (struct files){ .fds = { maker_memfd(m->data, m->n) }, .n = 1 };
}

static void test_file(void **state) {
        struct maker m;
        struct files f = made(&m, true);

        check_sets(&f, false);
        check_sets(&f, true); /* all of it is surveyed, and coded the same way */
        (void)fd_close(f.fds[0]);
        maker_deinit(&m);
}

static uint64_t a_tenth(const struct files *f) {
        struct loader_error error;
        struct loader l;
        uint64_t size;

        start(&l, f, &error);
        assert_int_equal(loader_plan(&l), 0);
        size = l.plan.data_size / 10;
        loader_deinit(&l);
        return size;
}

/* Several files, experts that are stacked, tensors that are in no file. */
static void test_directories(void **state) {
        static const char *const models[] = { "llama", "qwen3-moe" };

        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                struct files f = { .n = 0 };
                char path[128];

                (void)snprintf(path, sizeof(path), MODELS "%s", models[i]);
                hf_dir_open(&f.dir, path, NULL, NULL, 0);
                f.segment_bytes = a_tenth(&f);
                check_sets(&f, false);
                check_sets(&f, true);
                hf_dir_close(&f.dir);
        }
}

static void test_split(void **state) {
        struct files f = { .n = 0 };
        char path[1024];

        for (unsigned i = 1; i <= SPLIT_PARTS; i++) {
                (void)snprintf(path, sizeof(path), "%s/models/split/" SPLIT_NAME "-%05u-of-%05u.gguf", test_data(), i,
                               SPLIT_PARTS);
                f.fds[f.n] = open(path, O_RDONLY | O_CLOEXEC);
                if (f.fds[f.n] < 0)
                        fail_msg("no %s", path);
                f.n++;
        }
        check_sets(&f, false);
        for (size_t i = 0; i < f.n; i++)
                (void)fd_close(f.fds[i]);
}

static int pack_made(bool lossless, struct image_plan *ret) {
        char path[] = "./test-segments-XXXXXX";
        struct loader_error error = { .text = "" };
        struct loader l;
        struct maker m;
        struct files f = made(&m, true);
        int packed = mkostemp(path, O_CLOEXEC);

        assert_true(packed >= 0);
        (void)unlink(path);
        start(&l, &f, &error);
        l.options = (struct loader_options){ .lossless = lossless, .pack = true, .segment_bytes = SEGMENT_BYTES };
        assert_int_equal(loader_plan(&l), 0);
        assert_int_equal(ftruncate(packed, (off_t)pack_size(&l.plan)), 0);
        assert_int_equal(loader_write(&l, &packed, 1, NULL), 0);
        ret->n_segments = l.plan.n_segments;
        memcpy(ret->segment_size, l.plan.segment_size, sizeof(l.plan.segment_size));
        loader_deinit(&l);
        (void)fd_close(f.fds[0]);
        maker_deinit(&m);
        return packed;
}

/* Only the ranges of these segments are read: damage elsewhere is not seen, damage there is. */
static void test_packed(void **state) {
        for (unsigned lossless = 0; lossless < 2; lossless++) {
                struct loader_error error = { .text = "" };
                struct image_plan plan = IMAGE_PLAN_NULL;
                struct files f = { .fds = { pack_made(lossless, &plan) }, .n = 1 };
                struct written w;
                uint64_t at;

                check_sets(&f, false);
                assert_true(plan.n_segments > 3);
                at = plan.segment_size[0] + plan.segment_size[1] + 100;
                assert_int_equal(pwrite(f.fds[0], "\xa5\x5a\x33\x99", 4, (off_t)at), 4);
                assert_int_equal(write_some(&f, false, 1u << 1 | 1u << 3, &w, &error), 0);
                written_close(&w);
                assert_int_equal(write_some(&f, false, 1u << 2, &w, &error), LOADER_E_INVALID);
                assert_non_null(strstr(error.text, "checksum"));
                written_close(&w);
                (void)fd_close(f.fds[0]);
        }
}

/* What the tables say is in the checksum, and so are sizes that hang on the weights. */
static void test_another_model(void **state) {
        struct loader_error error = { .text = "" };
        struct written a, b;
        struct maker m, n;
        struct files f = made(&m, true), g = made(&n, false);

        assert_int_equal(write_some(&f, true, 1, &a, &error), 0);
        assert_int_equal(write_some(&g, true, 1, &b, &error), 0);
        assert_true(a.checksum != b.checksum);
        written_close(&b);
        assert_int_equal(write_some(&f, false, 1, &b, &error), 0);
        assert_true(a.checksum != b.checksum); /* laid out in another way */
        written_close(&b);
        written_close(&a);
        (void)fd_close(f.fds[0]);
        (void)fd_close(g.fds[0]);
        maker_deinit(&m);
        maker_deinit(&n);
}

static void test_refusals(void **state) {
        struct loader_error error = { .text = "" };
        int fds[2], r;
        struct written w;
        struct loader l;
        struct maker m;
        struct files f = made(&m, true);

        assert_int_equal(write_some(&f, false, 1ull << 63, &w, &error), LOADER_E_INVALID);
        assert_non_null(strstr(error.text, "another one now"));
        for (unsigned i = 0; i < 3; i++) { /* one too many, one too few, another size */
                start(&l, &f, &error);
                l.options = (struct loader_options){ .segments = 1u << 1, .segment_bytes = SEGMENT_BYTES };
                assert_int_equal(loader_plan(&l), 0);
                fds[0] = fd_memfd_new("image", l.plan.segment_size[i == 2 ? 0 : 1] + (i == 2) * 4096);
                fds[1] = fd_memfd_new("image", l.plan.segment_size[2]);
                r = loader_write(&l, fds, i == 0 ? 2 : i == 1 ? 0 : 1, NULL);
                assert_int_equal(r, -EINVAL);
                (void)fd_close(fds[0]);
                (void)fd_close(fds[1]);
                loader_deinit(&l);
        }
        (void)fd_close(f.fds[0]);
        maker_deinit(&m);
}

/* A file that ends in the middle of what is wanted. */
static void test_truncated(void **state) {
        struct loader_error error = { .text = "" };
        struct written w;
        struct maker m;
        struct files f = made(&m, true);
        int fd = maker_memfd(m.data, m.n - 5000);

        (void)fd_close(f.fds[0]);
        f.fds[0] = fd;
        assert_true(write_some(&f, false, 1u << 1, &w, &error) > 0);
        assert_true(error.text[0] != 0);
        written_close(&w);
        (void)fd_close(fd);
        maker_deinit(&m);
}

/* Rows that become parts of two tensors, of which one may be elsewhere. */
static void test_twins(void **state) {
        struct image_tensor tensors[3] = { { .segment = 0 }, { .segment = 1 }, { .segment = 2 } };
        const struct image_plan plan = { .tensors = tensors, .n_tensors = 3, .n_segments = 3 };
        static const int first, second;
        const struct copy_piece all[] = {
                { .tensor = 0, .arg = &first, .has_twin = true, .twin = 1, .twin_arg = &second, .size = 5 },
                { .tensor = 2, .arg = &first, .size = 7 },
        };
        struct copy_piece p[2];

        memcpy(p, all, sizeof(all));
        assert_int_equal(segments_choose(p, 2, &plan, 7), 2);
        assert_memory_equal(p, all, sizeof(all));
        assert_int_equal(segments_choose(p, 2, &plan, 1), 1);
        assert_true(p[0].tensor == 0 && p[0].arg == &first && !p[0].has_twin);
        memcpy(p, all, sizeof(all));
        assert_int_equal(segments_choose(p, 2, &plan, 2), 1);
        assert_true(p[0].tensor == 1 && p[0].arg == &second && !p[0].has_twin);
        memcpy(p, all, sizeof(all));
        assert_int_equal(segments_choose(p, 2, &plan, 4), 1);
        assert_true(p[0].tensor == 2 && p[0].size == 7);
        assert_int_equal(segments_choose(p, 1, &plan, 2), 0);
}

/* Large images get segments of which a part can be given back; small ones stay whole. */
static void test_layout(void **state) {
        static const struct {
                uint64_t tensor, n;
                size_t least, most;
        } cases[] = { { 1u << 20, 200, 1, 1 }, { 1u << 20, 300, 2, 2 }, { 32u << 20, 128, 15, 17 }, { 64u << 20, 2000, 24, 60 } };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct image_plan plan = IMAGE_PLAN_NULL;

                plan.vocab.pre = "";
                for (uint64_t k = 0; k < cases[i].n; k++) {
                        const uint64_t dims[4] = { 1024, cases[i].tensor / 4096, 1, 1 };
                        char name[32];

                        (void)snprintf(name, sizeof(name), "t%04u", (unsigned)k);
                        assert_int_equal(image_plan_add_tensor(&plan, name, FMT_F32, WEIGHT_PANELS, 2, dims), 0);
                }
                assert_int_equal(image_plan_layout(&plan, 4ull << 30), 0);
                assert_in_range(plan.n_segments, cases[i].least, cases[i].most);
                image_plan_deinit(&plan);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_file),     cmocka_unit_test(test_directories),   cmocka_unit_test(test_split),
                cmocka_unit_test(test_packed),   cmocka_unit_test(test_another_model), cmocka_unit_test(test_refusals),
                cmocka_unit_test(test_truncated), cmocka_unit_test(test_twins),      cmocka_unit_test(test_layout),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
