/* SPDX-License-Identifier: Apache-2.0 */

/* Images that are read while they are written: what is said to be in place is, and nobody can change what was checked. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdbool.h>

#include <cmocka.h>

#include <errno.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "base/macro.h"

#include "coded-fixture.h"
#include "loader-fixture.h"

/* A model's image, written but not sealed. */
struct written {
        struct loader loader;
        struct loader_error error;
        struct maker m;
        int file, fds[IMAGE_SEGMENTS_MAX];
        size_t n;
        char *first; /* segment 0, to be written */
};

static void write_begin(struct written *w, bool lossless) {
        *w = (struct written){ .file = -1 };
        coded_model(&w->m, false);
        w->file = maker_memfd(w->m.data, w->m.n);
        assert_int_equal(loader_init(&w->loader, &w->file, 1, &w->error), 0);
        w->loader.options.lossless = lossless;
        if (loader_plan(&w->loader) != 0)
                fail_msg("%s", w->error.text);
        w->n = w->loader.plan.n_segments;
        for (size_t i = 0; i < w->n; i++) {
                w->fds[i] = fd_memfd_new("image", w->loader.plan.segment_size[i]);
                assert_true(w->fds[i] >= 0);
        }
        w->first = mmap(NULL, w->loader.plan.segment_size[0], PROT_READ | PROT_WRITE, MAP_SHARED, w->fds[0], 0);
        assert_true(w->first != MAP_FAILED);
}

static void write_end(struct written *w) {
        (void)munmap(w->first, w->loader.plan.segment_size[0]);
        for (size_t i = 0; i < w->n; i++)
                (void)fd_close(w->fds[i]);
        loader_deinit(&w->loader);
        (void)fd_close(w->file);
        maker_deinit(&w->m);
}

/* --- what the loader says ---------------------------------------------------------------------------------------- */

struct watch {
        struct written *w;
        char *seen; /* segment 0, tensors as they were when they were said to be there */
        size_t n;
};

static void on_progress(void *arg, uint64_t done, uint64_t total) {
        struct watch *watch = arg;
        size_t n = loader_arrived(&watch->w->loader);

        assert_true(done <= total && n >= watch->n && n <= watch->w->loader.plan.n_tensors);
        for (; watch->n < n; watch->n++) {
                const struct image_tensor *t = &watch->w->loader.plan.tensors[watch->n];

                assert_int_equal(t->segment, 0);
                (void)memcpy(watch->seen + t->offset, watch->w->first + t->offset, t->size);
        }
}

static void arrive(bool lossless) {
        struct written w;
        struct watch watch = { .w = &w };
        const struct copy_progress progress = { on_progress, &watch };

        write_begin(&w, lossless);
        watch.seen = calloc(1, w.loader.plan.segment_size[0]);
        assert_non_null(watch.seen);
        assert_int_equal(loader_arrived(&w.loader), 0);
        assert_int_equal(loader_write(&w.loader, w.fds, w.n, &progress), 0);
        on_progress(&watch, 0, 0);
        assert_int_equal(watch.n, w.loader.plan.n_tensors);
        for (size_t i = 0; i < watch.n; i++) {
                const struct image_tensor *t = &w.loader.plan.tensors[i];

                assert_memory_equal(watch.seen + t->offset, w.first + t->offset, t->size);
        }
        free(watch.seen);
        write_end(&w);
}

static void test_arrived(void **state) {
        arrive(false);
        arrive(true);
}

/* --- what a reader sees ------------------------------------------------------------------------------------------ */

struct waits {
        size_t n, last;
        int result;
};

static int on_wait(void *userdata, size_t n) {
        struct waits *w = userdata;

        w->n++;
        w->last = n;
        return w->result;
}

static void open_growing(struct written *w, struct waits *waits, struct image *image) {
        const struct image_arrival arrival = { on_wait, waits };
        struct image_error error = { .text = "" };

        assert_int_equal(loader_write(&w->loader, w->fds, w->n, NULL), 0);
        if (image_open_growing(image, w->fds, w->n, &arrival, &error) != 0)
                fail_msg("%s", error.text);
        assert_int_equal(waits->n, 0);
}

static void test_await(void **state) {
        for (unsigned lossless = 0; lossless < 2; lossless++) {
                struct waits waits = { .n = 0 };
                struct image_error error;
                struct written w;
                struct image image;
                size_t n;

                write_begin(&w, lossless);
                open_growing(&w, &waits, &image);
                for (size_t i = 0; i < image.n_tensors; i++) {
                        bool coded = image.tensors[i].fmt == FMT_BF16_LL;

                        n = waits.n;
                        assert_int_equal(image_await(&image, &image.tensors[i], &error), 0);
                        assert_int_equal(waits.n, n + 1);
                        assert_true(waits.last == (coded ? IMAGE_ALL : i + 1));
                        if (coded)
                                break; /* that was all */
                }
                assert_int_equal(image_settle(&image, &error), 0);
                n = waits.n;
                assert_int_equal(image_await(&image, &image.tensors[0], &error), 0);
                assert_int_equal(image_settle(&image, &error), 0);
                assert_int_equal(waits.n, n);
                image_close(&image);
                write_end(&w);
        }
}

static void test_wait_ends(void **state) {
        struct waits waits = { .n = 0 };
        struct image_error error;
        struct written w;
        struct image image;

        write_begin(&w, true);
        open_growing(&w, &waits, &image);
        waits.result = -EPIPE;
        assert_int_equal(image_await(&image, &image.tensors[0], &error), -EPIPE);
        assert_int_equal(image_settle(&image, &error), -EPIPE);
        image_close(&image);
        write_end(&w);
}

/* Whoever writes the image changes its tables when they have been read. */
static void test_changed_tables(void **state) {
        struct waits waits = { .n = 0 };
        struct image_error error;
        struct written w;
        struct image image;
        uint64_t size;

        write_begin(&w, false);
        open_growing(&w, &waits, &image);
        size = image.tensors[3].size;
        for (size_t at = 0; at < w.loader.plan.tables_size; at++) {
                w.first[at] ^= 1;
                assert_int_equal(image_settle(&image, &error), IMAGE_E_INVALID);
                assert_non_null(strstr(error.text, "changed"));
                assert_true(image.tensors[3].size == size); /* the copy is as it was */
                w.first[at] ^= 1;
        }
        assert_int_equal(image_settle(&image, &error), 0);
        image_close(&image);
        write_end(&w);
}

/* An index that leads out of its tensor is seen when the image is whole, and not before anything waits for that. */
static void test_changed_index(void **state) {
        struct waits waits = { .n = 0 };
        struct lossless_parts parts;
        const struct image_tensor *t;
        struct image_error error;
        struct written w;
        struct image image;

        write_begin(&w, true);
        open_growing(&w, &waits, &image);
        t = image_find(&image, "blk.1.ffn_down.weight");
        assert_true(t && image_tensor_parts(t, &parts));
        (void)memset(w.first + t->offset + parts.index, 0xff, sizeof(uint64_t));
        assert_int_equal(image_await(&image, t, &error), IMAGE_E_INVALID);
        assert_true(waits.last == IMAGE_ALL);
        assert_non_null(strstr(error.text, "blk.1.ffn_down.weight"));
        image_close(&image);
        write_end(&w);
}

/* Tables that are not there yet are no image. */
static void test_too_early(void **state) {
        struct waits waits = { .n = 0 };
        const struct image_arrival arrival = { on_wait, &waits };
        struct image_error error;
        struct written w;
        struct image image;

        write_begin(&w, false);
        assert_int_equal(image_open_growing(&image, w.fds, w.n, &arrival, &error), IMAGE_E_INVALID);
        write_end(&w);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_arrived),        cmocka_unit_test(test_await),         cmocka_unit_test(test_wait_ends),
                cmocka_unit_test(test_changed_tables), cmocka_unit_test(test_changed_index), cmocka_unit_test(test_too_early),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
