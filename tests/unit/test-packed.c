/* SPDX-License-Identifier: Apache-2.0 */

/* Images as files: written with checksums, read back the same, and whatever is wrong with one is said. */

#include <setjmp.h>
#include <stdarg.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/macro.h"
#include "daemon/image/checksum.h"
#include "daemon/image/layout.h"

#include "coded-fixture.h"
#include "hf-fixture.h"
#include "loader-fixture.h"

/* Packs what a loader was made for; on a disk, as images are. */
static int pack(struct loader *l, bool lossless, struct loader_error *error) {
        char path[] = "./test-packed-XXXXXX";
        int fd;

        l->options = (struct loader_options){ .lossless = lossless, .pack = true };
        if (loader_plan(l) != 0)
                fail_msg("%s", error->text);
        fd = mkostemp(path, O_CLOEXEC);
        assert_true(fd >= 0);
        (void)unlink(path);
        assert_int_equal(ftruncate(fd, (off_t)pack_size(&l->plan)), 0);
        if (loader_write(l, &fd, 1, NULL) != 0)
                fail_msg("%s", error->text);
        loader_deinit(l);
        return fd;
}

static int pack_made(bool lossless) {
        struct loader_error error = { 0 };
        struct loader l;
        struct maker m;
        int fd, packed;

        coded_model(&m, true);
        fd = maker_memfd(m.data, m.n);
        assert_int_equal(loader_init(&l, &fd, 1, &error), 0);
        packed = pack(&l, lossless, &error);
        (void)fd_close(fd);
        maker_deinit(&m);
        return packed;
}

static void load_made(struct loaded *l) {
        struct loader_error error = { 0 };
        struct maker m;
        int fd;

        coded_model(&m, true);
        fd = maker_memfd(m.data, m.n);
        if (loader_load(fd, l->fds, &l->n_fds, &error) != 0)
                fail_msg("%s", error.text);
        open_loaded(l);
        (void)fd_close(fd);
        maker_deinit(&m);
}

static void load_packed(struct loaded *l, int fd, bool ring) {
        struct loader_error error = { 0 };
        struct loader loader;

        *l = (struct loaded){ .n_fds = 0 };
        assert_int_equal(loader_init(&loader, &fd, 1, &error), 0);
        if (!ring)
                ring_deinit(&loader.copy.ring);
        if (loader_plan(&loader) != 0)
                fail_msg("%s", error.text);
        assert_non_null(loader.packed);
        if (hf_write_image(&loader, l->fds, &l->n_fds) != 0)
                fail_msg("%s", error.text);
        loader_deinit(&loader);
        open_loaded(l);
}

static void test_round_trip(void **state) {
        struct loaded plain = { 0 }, back;

        load_made(&plain);
        for (unsigned lossless = 0; lossless < 2; lossless++) {
                int fd = pack_made(lossless);

                for (unsigned ring = 0; ring < 2; ring++) {
                        load_packed(&back, fd, ring);
                        assert_int_equal(coded_compare(&plain.image, &back.image), lossless ? CODED_MATRICES - 1 : 0);
                        assert_memory_equal(plain.image.hparams, back.image.hparams, sizeof(*plain.image.hparams));
                        assert_string_equal(back.image.chat_template, plain.image.chat_template);
                        for (size_t i = 0; i < back.image.n_tensors; i++) {
                                const struct image_tensor *t = &back.image.tensors[i];

                                assert_true(t->checksum == image_checksum(image_data(&back.image, t), t->size));
                        }
                        loaded_close(&back);
                }
                (void)fd_close(fd);
        }
        loaded_close(&plain);
}

/* Directories, with tensors that are computed and in no file, and several segments. */
static void test_directories(void **state) {
        static const char *const models[] = { MODELS "llama", MODELS "qwen3-moe" };

        for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
                struct loader_error error = { 0 };
                struct loaded plain = { 0 }, back;
                struct loader l;
                struct hf_dir x;
                int fd;

                if (access(models[i], R_OK) < 0)
                        fail_msg("no %s", models[i]);
                if (loader_load_path(models[i], plain.fds, &plain.n_fds, &error) != 0)
                        fail_msg("%s", error.text);
                open_loaded(&plain);
                hf_dir_open(&x, models[i], NULL, NULL, 0);
                assert_int_equal(loader_init_directory(&l, x.names, x.fds, x.n, &error), 0);
                fd = pack(&l, true, &error);
                hf_dir_close(&x);
                load_packed(&back, fd, true);
                (void)coded_compare(&plain.image, &back.image);
                loaded_close(&back);
                loaded_close(&plain);
                (void)fd_close(fd);
        }
}

static void test_several_segments(void **state) {
        struct loader_error error = { 0 };
        struct loaded plain = { 0 }, back;
        struct loader l;
        struct maker m;
        int fd, packed;
        char path[] = "./test-packed-XXXXXX";

        load_made(&plain);
        coded_model(&m, true);
        fd = maker_memfd(m.data, m.n);
        assert_int_equal(loader_init(&l, &fd, 1, &error), 0);
        l.options = (struct loader_options){ .lossless = true, .pack = true };
        assert_int_equal(loader_plan(&l), 0);
        assert_int_equal(image_plan_layout(&l.plan, 200000), 0);
        assert_true(l.plan.n_segments > 5);
        packed = mkostemp(path, O_CLOEXEC);
        (void)unlink(path);
        assert_int_equal(ftruncate(packed, (off_t)pack_size(&l.plan)), 0);
        assert_int_equal(loader_write(&l, &packed, 1, NULL), 0);
        loader_deinit(&l);
        load_packed(&back, packed, true);
        assert_true(back.n_fds > 5);
        assert_int_equal(coded_compare(&plain.image, &back.image), CODED_MATRICES - 1);
        loaded_close(&back);
        loaded_close(&plain);
        (void)fd_close(packed);
        (void)fd_close(fd);
        maker_deinit(&m);
}

/* ---- damage ---- */

static int try(int fd, struct loader_error *error) {
        int fds[IMAGE_SEGMENTS_MAX];
        size_t n = 0;
        int r;

        *error = (struct loader_error){ 0 };
        r = loader_load(fd, fds, &n, error);
        for (size_t i = 0; i < n; i++)
                fds[i] = fd_close(fds[i]);
        return r;
}

static void expect_flip(int fd, uint64_t at, const char *says) {
        struct loader_error error;
        unsigned char good, bad;

        assert_int_equal(pread(fd, &good, 1, (off_t)at), 1);
        bad = good ^ 0x10;
        assert_int_equal(pwrite(fd, &bad, 1, (off_t)at), 1);
        if (try(fd, &error) <= 0 || !strstr(error.text, says))
                fail_msg("byte %llu: '%s' does not say '%s'", (unsigned long long)at, error.text, says);
        assert_int_equal(pwrite(fd, &good, 1, (off_t)at), 1);
}

/* A byte of every region. */
static void test_flips(void **state) {
        int fd = pack_made(true);
        struct loader_error error;
        struct image_header h;

        assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
        expect_flip(fd, 2, "");
        expect_flip(fd, offsetof(struct image_header, version), "version");
        expect_flip(fd, offsetof(struct image_header, n_tensors), "");
        expect_flip(fd, offsetof(struct image_header, tables_size), "");
        expect_flip(fd, offsetof(struct image_header, n_params), "checksum");
        expect_flip(fd, offsetof(struct image_header, tables_checksum), "checksum");
        expect_flip(fd, offsetof(struct image_header, segment_size) + 2, "checksum");
        for (unsigned i = 0; i < IMAGE_SECTION_N; i++)
                if (h.sections[i].size > 0)
                        expect_flip(fd, h.sections[i].offset + h.sections[i].size / 2, "checksum");
        for (uint32_t i = 0; i < h.n_tensors; i++) {
                uint64_t entry = h.sections[IMAGE_SECTION_TENSORS].offset + i * sizeof(struct image_tensor);
                struct lossless_parts parts;
                struct image_tensor t;

                assert_int_equal(pread(fd, &t, sizeof(t), (off_t)entry), sizeof(t));
                expect_flip(fd, entry + offsetof(struct image_tensor, checksum), "checksum");
                expect_flip(fd, entry + offsetof(struct image_tensor, offset), "checksum");
                expect_flip(fd, t.offset, t.name);
                expect_flip(fd, t.offset + t.size - 1, "damaged");
                if (image_tensor_parts(&t, &parts)) {
                        expect_flip(fd, t.offset + parts.index + 3, "damaged");
                        expect_flip(fd, t.offset + parts.escapes, "damaged");
                }
        }
        assert_int_equal(try(fd, &error), 0);
        (void)fd_close(fd);
}

static void test_lengths(void **state) {
        int fd = pack_made(true);
        struct loader_error error;
        off_t size = lseek(fd, 0, SEEK_END);

        for (off_t n = 0; n < size; n += n < 9000 ? 301 : size / 11) {
                int cut = fd_memfd_new("cut", (uint64_t)n);
                _cleanup_free_ char *data = malloc((size_t)n + 1);

                read_all(fd, 0, data, (size_t)n);
                assert_int_equal(pwrite(cut, data, (size_t)n, 0), n);
                assert_true(try(cut, &error) > 0 && error.text[0]);
                (void)fd_close(cut);
        }
        assert_int_equal(ftruncate(fd, size + 4096), 0);
        assert_int_equal(try(fd, &error), LOADER_E_INVALID);
        assert_non_null(strstr(error.text, "should have"));
        (void)fd_close(fd);
}

/* The file as it is in memory, changed, with checksums of tables that are right again. */
static void expect_lie(void (*lie)(struct image_header *h, struct image_tensor *t, char *file), const char *says) {
        int fd = pack_made(true);
        size_t size = (size_t)lseek(fd, 0, SEEK_END);
        char *file = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        struct image_header *h = (void *)file;
        struct loader_error error;

        assert_ptr_not_equal(file, MAP_FAILED);
        lie(h, (void *)(file + h->sections[IMAGE_SECTION_TENSORS].offset), file);
        if (h->tables_checksum)
                h->tables_checksum = image_checksum_tables(file, h->tables_size);
        if (try(fd, &error) <= 0 || !strstr(error.text, says))
                fail_msg("'%s' does not say '%s'", error.text, says);
        (void)munmap(file, size);
        (void)fd_close(fd);
}

static struct image_tensor *first_coded(struct image_tensor *t) {
        while (t->fmt != FMT_BF16_LL)
                t++;
        return t;
}

static void lie_offset(struct image_header *h, struct image_tensor *t, char *file) {
        first_coded(t)->offset = UINT64_MAX - 4095;
}

static void lie_size(struct image_header *h, struct image_tensor *t, char *file) {
        first_coded(t)->size = 1000;
}

static void lie_sizes(struct image_header *h, struct image_tensor *t, char *file) {
        first_coded(t)->size = 1ull << 40;
}

static void lie_none(struct image_header *h, struct image_tensor *t, char *file) {
        t[3].checksum = 0;
}

static void lie_unsure(struct image_header *h, struct image_tensor *t, char *file) {
        h->tables_checksum = 0;
}

static void lie_segments(struct image_header *h, struct image_tensor *t, char *file) {
        h->n_segments = 65;
}

static void lie_pages(struct image_header *h, struct image_tensor *t, char *file) {
        h->segment_size[0] -= 1;
}

static void lie_old(struct image_header *h, struct image_tensor *t, char *file) {
        h->version = 2;
}

/* Sums that are right, of an index that leads out of the tensor. */
static void lie_index(struct image_header *h, struct image_tensor *t, char *file) {
        struct lossless_parts parts;
        uint64_t entry;

        t = first_coded(t);
        assert_true(image_tensor_parts(t, &parts));
        (void)memcpy(&entry, file + t->offset + parts.index + 8, 8);
        entry = (entry & ~LOSSLESS_OFFSET_MASK) | (t->size - parts.escapes - LOSSLESS_SLACK + 64);
        (void)memcpy(file + t->offset + parts.index + 8, &entry, 8);
        t->checksum = image_checksum(file + t->offset, t->size);
}

static void test_lies(void **state) {
        expect_lie(lie_offset, "offset");
        expect_lie(lie_size, "bytes instead of");
        expect_lie(lie_sizes, "bytes instead of");
        expect_lie(lie_none, "has no checksum");
        expect_lie(lie_unsure, "have no checksum");
        expect_lie(lie_segments, "65 segments");
        expect_lie(lie_pages, "cannot have");
        expect_lie(lie_old, "pack it again");
        expect_lie(lie_index, "leads out of it");
}

/* An engine maps what somebody else wrote: image_open() looks at indexes itself. */
static void test_open_checks_indexes(void **state) {
        struct image image = IMAGE_NULL;
        struct image_error error = { 0 };
        int fd = pack_made(true);
        struct image_header h;
        struct image_tensor t = { 0 };
        struct lossless_parts parts;
        uint64_t all = UINT64_MAX;

        assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
        assert_int_equal(image_open(&image, &fd, 1, &error), 0); /* one segment: the file is one */
        image_close(&image);
        for (uint32_t i = 0; t.fmt != FMT_BF16_LL; i++)
                read_all(fd, h.sections[IMAGE_SECTION_TENSORS].offset + i * sizeof(t), &t, sizeof(t));
        assert_true(image_tensor_parts(&t, &parts));
        assert_int_equal(pwrite(fd, &all, 8, (off_t)(t.offset + parts.index)), 8);
        assert_int_equal(image_open(&image, &fd, 1, &error), IMAGE_E_INVALID);
        assert_non_null(strstr(error.text, "leads out of it"));
        (void)fd_close(fd);
}

/* ---- what is refused ---- */

static void test_again(void **state) {
        const struct loader_options options[] = { { .pack = true }, { .lossless = true }, { .pack = true, .lossless = true } };
        int plain = pack_made(false), coded = pack_made(true);

        for (size_t i = 0; i < 2 * ARRAY_SIZE(options); i++) {
                const struct loader_options *o = &options[i / 2];
                struct loader_error error = { 0 };
                struct loader l;
                int r;

                assert_int_equal(loader_init(&l, i % 2 ? &coded : &plain, 1, &error), 0);
                l.options = *o;
                r = loader_plan(&l);
                /* what is coded may be asked for coded */
                assert_int_equal(r, i % 2 && !o->pack ? 0 : LOADER_E_UNSUPPORTED);
                assert_true(r == 0 || strstr(error.text, "packed already"));
                loader_deinit(&l);
        }
        (void)fd_close(plain);
        (void)fd_close(coded);
}

/* Not the file that was planned. */
static void test_wrong_files(void **state) {
        struct loader_error error = { 0 };
        struct loader l;
        struct maker m;
        int fd, out;

        coded_model(&m, true);
        fd = maker_memfd(m.data, m.n);
        assert_int_equal(loader_init(&l, &fd, 1, &error), 0);
        l.options.pack = true;
        assert_int_equal(loader_plan(&l), 0);
        out = fd_memfd_new("out", pack_size(&l.plan) - 1);
        assert_int_equal(loader_write(&l, &out, 1, NULL), -EINVAL);
        assert_int_equal(loader_write(&l, &out, 0, NULL), -EINVAL);
        assert_int_equal(ftruncate(out, (off_t)pack_size(&l.plan)), 0);
        assert_int_equal(ftruncate(fd, (off_t)(m.n / 2)), 0);
        assert_int_equal(loader_write(&l, &out, 1, NULL), LOADER_E_IO);
        loader_deinit(&l);
        assert_int_equal(try(out, &error), LOADER_E_INVALID); /* without a header it is no image */
        (void)fd_close(out);
        (void)fd_close(fd);
        maker_deinit(&m);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_round_trip), cmocka_unit_test(test_directories), cmocka_unit_test(test_several_segments),
                cmocka_unit_test(test_flips),      cmocka_unit_test(test_lengths),     cmocka_unit_test(test_lies),
                cmocka_unit_test(test_open_checks_indexes), cmocka_unit_test(test_again), cmocka_unit_test(test_wrong_files),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
