/* SPDX-License-Identifier: Apache-2.0 */

/* KV on disk: what was written comes back; what was cut, damaged or is another's does not. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/macro.h"
#include "daemon/engine/kvfile.h"

#define PAGES 3u
#define PAGE_TOKENS 4u
#define PAGE_BYTES 77u

static const struct kvfile_kind kind = {
        .fingerprint = "0123456789abcde", .backend = "cpu", .kv_format = 1, .page_tokens = PAGE_TOKENS,
        .page_bytes = PAGE_BYTES,
};

struct file {
        int fd;
        int32_t tokens[PAGES * PAGE_TOKENS];
        uint8_t pages[PAGES * PAGE_BYTES];
};

static void file_open(struct file *f) {
        uint64_t at = kvfile_pages_offset(&kind, PAGES);

        f->fd = memfd_create("kv", MFD_CLOEXEC);
        assert_true(f->fd >= 0);
        for (uint32_t i = 0; i < ARRAY_SIZE(f->tokens); i++)
                f->tokens[i] = (int32_t)(i * 7 + 1);
        for (uint32_t i = 0; i < sizeof(f->pages); i++)
                f->pages[i] = (uint8_t)(i * 31 + i / 77);
        assert_int_equal(kvfile_write_pages(f->fd, &kind, at, 0, 2, f->pages), 0);
        assert_int_equal(kvfile_write_pages(f->fd, &kind, at, 2, 1, f->pages + 2 * PAGE_BYTES), 0);
        assert_int_equal(kvfile_write_header(f->fd, &kind, at, PAGES, f->tokens), 0);
}

/* Pages that can be had of it; negative: refused (minus the code). */
static int usable(const struct file *f, const struct kvfile_kind *k, size_t n_tokens) {
        uint8_t page[PAGE_BYTES];
        struct kvfile_fault fault = { .text = "" };
        uint64_t at;
        uint32_t n, good;
        int r;

        r = kvfile_read_header(f->fd, k, f->tokens, n_tokens, &at, &n, &fault);
        if (r != 0) {
                assert_true(r > 0 && fault.text[0]);
                return -r;
        }
        for (good = 0; good < n; good++) {
                r = kvfile_read_pages(f->fd, k, at, good, 1, page, &fault);
                if (r != 0) {
                        assert_int_equal(r, KVFILE_E_INVALID);
                        assert_true(fault.text[0]);
                        break;
                }
                assert_memory_equal(page, f->pages + good * PAGE_BYTES, PAGE_BYTES);
        }
        return (int)good;
}

static void test_round_trip(void **state) {
        struct file f;
        uint8_t all[sizeof(f.pages)];
        struct kvfile_fault fault;

        file_open(&f);
        assert_int_equal(usable(&f, &kind, PAGES * PAGE_TOKENS), PAGES);
        assert_int_equal(usable(&f, &kind, 2 * PAGE_TOKENS + 1), 2); /* a shorter text takes what is its own */
        assert_int_equal(usable(&f, &kind, 0), 0);
        f.tokens[PAGE_TOKENS + 1]++; /* and another one what it shares */
        assert_int_equal(usable(&f, &kind, PAGES * PAGE_TOKENS), 1);
        assert_int_equal(kvfile_read_pages(f.fd, &kind, kvfile_pages_offset(&kind, PAGES), 0, PAGES, all, &fault), 0);
        assert_memory_equal(all, f.pages, sizeof(all));
        (void)fd_close(f.fd);
}

static void test_other_kinds(void **state) {
        struct kvfile_kind other[5] = { kind, kind, kind, kind, kind };
        struct file f;

        file_open(&f);
        other[0].fingerprint[3]++;
        other[1].backend[0]++;
        other[2].kv_format++;
        other[3].page_tokens *= 2;
        other[4].page_bytes++;
        for (size_t i = 0; i < ARRAY_SIZE(other); i++)
                assert_int_equal(usable(&f, &other[i], PAGES * PAGE_TOKENS), -KVFILE_E_OTHER);
        (void)fd_close(f.fd);
}

/* Every length short of the whole: refused, or the pages before the cut. */
static void test_truncated(void **state) {
        uint64_t pages = kvfile_pages_offset(&kind, PAGES), size = pages + PAGES * (PAGE_BYTES + 8);
        struct file f;

        file_open(&f);
        for (uint64_t n = size; n-- > 0;) {
                int r;

                assert_int_equal(ftruncate(f.fd, (off_t)n), 0);
                r = usable(&f, &kind, PAGES * PAGE_TOKENS);
                if (n < KVFILE_HEADER + sizeof(f.tokens))
                        assert_int_equal(r, -KVFILE_E_INVALID);
                else
                        assert_int_equal(r, n < pages ? 0 : (int)((n - pages) / (PAGE_BYTES + 8)));
        }
        (void)fd_close(f.fd);
}

/* Every bit of header, tokens and pages: never a wrong page, never more than there is. */
static void test_damaged(void **state) {
        uint64_t pages = kvfile_pages_offset(&kind, PAGES), size = pages + PAGES * (PAGE_BYTES + 8);
        struct file f;

        file_open(&f);
        for (uint64_t at = 0; at < size; at++) {
                uint8_t byte, wrong;
                int r;

                if (at >= KVFILE_HEADER + sizeof(f.tokens) && at < pages)
                        continue; /* the gap holds nothing */
                assert_int_equal(pread(f.fd, &byte, 1, (off_t)at), 1);
                for (unsigned bit = 0; bit < 8; bit++) {
                        wrong = byte ^ (uint8_t)(1u << bit);
                        assert_int_equal(pwrite(f.fd, &wrong, 1, (off_t)at), 1);
                        r = usable(&f, &kind, PAGES * PAGE_TOKENS);
                        if (at < pages)
                                assert_true(r == -KVFILE_E_INVALID || r == -KVFILE_E_OTHER);
                        else
                                assert_int_equal(r, (int)((at - pages) / (PAGE_BYTES + 8)));
                }
                assert_int_equal(pwrite(f.fd, &byte, 1, (off_t)at), 1);
        }
        assert_int_equal(usable(&f, &kind, PAGES * PAGE_TOKENS), PAGES);
        (void)fd_close(f.fd);
}

/* Counts and offsets that would make a reader run away. */
static void test_extremes(void **state) {
        static const uint64_t values[] = { 0, 1, UINT32_MAX, 1ull << 31, 1ull << 32, 1ull << 63, UINT64_MAX, UINT64_MAX - 4095 };
        static const struct { unsigned at, size; } fields[] = { { 12, 4 }, { 52, 4 }, { 56, 8 }, { 64, 4 }, { 72, 8 } };
        struct file f;

        file_open(&f);
        for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
                for (size_t k = 0; k < ARRAY_SIZE(fields); k++)
                        for (size_t v = 0; v < ARRAY_SIZE(values) * ARRAY_SIZE(values); v++) {
                                uint8_t saved[KVFILE_HEADER];
                                uint64_t a = values[v % ARRAY_SIZE(values)], b = values[v / ARRAY_SIZE(values)];

                                assert_int_equal(pread(f.fd, saved, sizeof(saved), 0), sizeof(saved));
                                assert_int_equal(pwrite(f.fd, &a, fields[i].size, fields[i].at), fields[i].size);
                                assert_int_equal(pwrite(f.fd, &b, fields[k].size, fields[k].at), fields[k].size);
                                assert_true(usable(&f, &kind, PAGES * PAGE_TOKENS) < 0);
                                assert_int_equal(pwrite(f.fd, saved, sizeof(saved), 0), sizeof(saved));
                        }
        (void)fd_close(f.fd);
}

/* A header alone that says it has very many pages: nothing is taken for them. */
static void test_more_than_there_is(void **state) {
        const uint32_t n = KVFILE_PAGES_MAX;
        const uint64_t at = kvfile_pages_offset(&kind, n);
        struct kvfile_fault fault = { .text = "" };
        uint64_t offset;
        uint32_t pages;
        struct file f;

        file_open(&f);
        assert_int_equal(pwrite(f.fd, &n, sizeof(n), 64), sizeof(n));
        assert_int_equal(pwrite(f.fd, &at, sizeof(at), 72), sizeof(at));
        assert_int_equal(kvfile_read_header(f.fd, &kind, f.tokens, PAGES * PAGE_TOKENS, &offset, &pages, &fault),
                         KVFILE_E_INVALID);
        assert_string_equal(fault.text, "the file ends in its tokens");
        (void)fd_close(f.fd);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_round_trip), cmocka_unit_test(test_other_kinds), cmocka_unit_test(test_truncated),
                cmocka_unit_test(test_damaged),    cmocka_unit_test(test_extremes),
                cmocka_unit_test(test_more_than_there_is),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
