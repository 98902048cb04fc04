/* SPDX-License-Identifier: Apache-2.0 */

/* Headers of safetensors files, sound, odd and hostile: whatever is wrong, the answer is a sentence. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/macro.h"
#include "daemon/loader/safetensors.h"

static const char *const names[] = { "a.safetensors", "b.safetensors" };

/* A file with this header and n_data bytes of data. */
static int make(const char *header, size_t n_header, uint64_t length, size_t n_data) {
        int fd = fd_memfd_new("safetensors", 8 + n_header + n_data);

        assert_true(fd >= 0);
        assert_int_equal(pwrite(fd, &length, 8, 0), 8);
        assert_int_equal(pwrite(fd, header, n_header, 8), n_header);
        return fd;
}

static int read_fd(struct safetensors *s, int fd, uint32_t file, struct loader_error *error) {
        struct source source = SOURCE_NULL;
        int r = source_init(&source, fd, error);

        error->text[0] = 0;
        if (!r)
                r = safetensors_read(s, names[file], file, &source, error);
        source_deinit(&source);
        return r;
}

static int read_text(struct safetensors *s, const char *header, size_t n_data, struct loader_error *error) {
        _cleanup_fd_ int fd = make(header, strlen(header), strlen(header), n_data);

        return read_fd(s, fd, 0, error);
}

static void test_sound(void **state) {
        struct safetensors s = SAFETENSORS_NULL;
        const struct safetensors_tensor *t;
        struct loader_error error;

        (void)state;
        assert_int_equal(read_text(&s,
                                   "{\"__metadata__\":{\"format\":\"pt\"},"
                                   "\"b\":{\"dtype\":\"BF16\",\"shape\":[3,5],\"data_offsets\":[4,34]},"
                                   "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                                   "\"none\":{\"dtype\":\"F8_E4M3\",\"shape\":[0,7],\"data_offsets\":[34,34]}}   ",
                                   34, &error),
                         0);
        assert_int_equal(safetensors_sort(&s, names, &error), 0);
        assert_int_equal(s.n_tensors, 3);
        t = safetensors_find(&s, "b");
        assert_non_null(t);
        assert_int_equal(t->type, SAFETENSORS_BF16);
        assert_int_equal(t->n_dims, 2);
        assert_int_equal(t->dims[1], 5);
        assert_int_equal(t->size, 30);
        t = safetensors_find(&s, "a");
        assert_int_equal(t->n_dims, 0);
        assert_int_equal(t->size, 4);
        assert_null(safetensors_find(&s, "c"));
        safetensors_deinit(&s);
}

static void test_empty(void **state) {
        struct safetensors s = SAFETENSORS_NULL;
        struct loader_error error;

        (void)state;
        assert_int_equal(read_text(&s, "{}", 0, &error), 0);
        assert_int_equal(safetensors_sort(&s, names, &error), 0);
        assert_null(safetensors_find(&s, "a"));
        safetensors_deinit(&s);
}

#define ENTRY(name, type, shape, at) "\"" name "\":{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":" at "}"

static void test_hostile(void **state) {
        static const struct {
                const char *header;
                size_t n_data;
                int code;
                const char *says;
        } cases[] = {
                { "", 0, LOADER_E_INVALID, "offset 0" },
                { "[]", 0, LOADER_E_INVALID, "not an object" },
                { "{", 0, LOADER_E_INVALID, "offset 1" },
                { "{} {}", 0, LOADER_E_INVALID, "more text" },
                { "{\"a\":1}", 0, LOADER_E_INVALID, "not an object" },
                { "{\"\":{}}", 0, LOADER_E_INVALID, "name" },
                { "{\"a b\":{}}", 0, LOADER_E_INVALID, "name" },
                { "{\"a\\u0000\":{}}", 0, LOADER_E_INVALID, "" },
                { "{\"a\":{}}", 0, LOADER_E_INVALID, "'dtype'" },
                { "{" ENTRY("a", "F9", "[1]", "[0,4]") "}", 4, LOADER_E_UNSUPPORTED, "'a' at offset 9" },
                { "{" ENTRY("a", "F32", "4", "[0,4]") "}", 4, LOADER_E_INVALID, "'shape'" },
                { "{" ENTRY("a", "F32", "[-1]", "[0,4]") "}", 4, LOADER_E_INVALID, "'shape'" },
                { "{" ENTRY("a", "F32", "[1.0]", "[0,4]") "}", 4, LOADER_E_INVALID, "'shape'" },
                { "{" ENTRY("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, LOADER_E_UNSUPPORTED, "dimensions" },
                { "{" ENTRY("a", "F32", "[4294967296,4294967296]", "[0,0]") "}", 0, LOADER_E_INVALID, "'shape'" },
                { "{" ENTRY("a", "F32", "[99999999999999999999]", "[0,4]") "}", 4, LOADER_E_INVALID, "'shape'" },
                { "{" ENTRY("a", "F32", "[2]", "[0,4]") "}", 4, LOADER_E_INVALID, "do not agree" },
                { "{" ENTRY("a", "F32", "[1]", "[0,4]") "}", 3, LOADER_E_INVALID, "behind the end" },
                { "{" ENTRY("a", "F32", "[1]", "[4,0]") "}", 4, LOADER_E_INVALID, "'data_offsets'" },
                { "{" ENTRY("a", "F32", "[1]", "[0,4,8]") "}", 8, LOADER_E_INVALID, "'data_offsets'" },
                { "{" ENTRY("a", "F32", "[1]", "[0]") "}", 4, LOADER_E_INVALID, "'data_offsets'" },
                { "{" ENTRY("a", "F32", "[1]", "[-4,0]") "}", 4, LOADER_E_INVALID, "'data_offsets'" },
                { "{" ENTRY("a", "F32", "[1]", "[4,8]") "}", 8, LOADER_E_INVALID, "gap" },
                { "{" ENTRY("a", "F32", "[1]", "[0,4]") "}", 5, LOADER_E_INVALID, "the file at" },
                { "{" ENTRY("a", "F32", "[2]", "[0,8]") "," ENTRY("b", "F32", "[2]", "[4,12]") "}", 12, LOADER_E_INVALID,
                  "'b' at offset 62: its data overlaps" },
                { "{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("a", "F32", "[1]", "[4,8]") "}", 8, LOADER_E_INVALID,
                  "twice" },
                { "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, LOADER_E_INVALID,
                  "twice" },
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct safetensors s = SAFETENSORS_NULL;
                struct loader_error error;
                int r = read_text(&s, cases[i].header, cases[i].n_data, &error);

                if (r != cases[i].code || !strstr(error.text, cases[i].says))
                        fail_msg("'%s': %d, '%s'", cases[i].header, r, error.text);
                assert_non_null(strstr(error.text, "a.safetensors"));
                safetensors_deinit(&s);
        }
}

static void test_header_length(void **state) {
        static const uint64_t lengths[] = { 3, 1000, SAFETENSORS_HEADER_MAX + 1, UINT64_MAX, UINT64_MAX - 7, 1ull << 63 };
        struct loader_error error;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
                _cleanup_fd_ int fd = make("{}", 2, lengths[i], 0);
                struct safetensors s = SAFETENSORS_NULL;

                assert_int_equal(read_fd(&s, fd, 0, &error), LOADER_E_INVALID);
                assert_non_null(strstr(error.text, "offset 0"));
                safetensors_deinit(&s);
        }
        for (uint64_t n = 0; n < 8; n++) {
                _cleanup_fd_ int fd = fd_memfd_new("short", n);
                struct safetensors s = SAFETENSORS_NULL;

                assert_int_equal(read_fd(&s, fd, 0, &error), LOADER_E_INVALID);
                assert_non_null(strstr(error.text, "too short"));
                safetensors_deinit(&s);
        }
}

/* Depth is bounded before anything recurses. */
static void test_depth(void **state) {
        char header[4096];
        struct safetensors s = SAFETENSORS_NULL;
        struct loader_error error;

        (void)state;
        (void)memset(header, '[', sizeof(header) - 1);
        (void)memcpy(header, "{\"a\":", 5);
        header[sizeof(header) - 1] = 0;
        assert_int_equal(read_text(&s, header, 0, &error), LOADER_E_INVALID);
        assert_non_null(strstr(error.text, "nesting"));
        safetensors_deinit(&s);
}

static void test_two_files(void **state) {
        static const char *const second[] = { "{" ENTRY("b", "U8", "[3]", "[0,3]") "}", "{" ENTRY("a", "U8", "[3]", "[0,3]") "}" };
        struct loader_error error;

        (void)state;
        for (size_t i = 0; i < 2; i++) {
                _cleanup_fd_ int fd = make(second[i], strlen(second[i]), strlen(second[i]), 3);
                struct safetensors s = SAFETENSORS_NULL;

                assert_int_equal(read_text(&s, "{" ENTRY("a", "F16", "[1,1]", "[0,2]") "}", 2, &error), 0);
                assert_int_equal(read_fd(&s, fd, 1, &error), 0);
                assert_int_equal(safetensors_sort(&s, names, &error), i == 0 ? 0 : LOADER_E_INVALID);
                if (i == 0)
                        assert_int_equal(safetensors_find(&s, "b")->file, 1);
                else
                        assert_non_null(strstr(error.text, "tensor 'a' is in both"));
                safetensors_deinit(&s);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_sound),         cmocka_unit_test(test_empty), cmocka_unit_test(test_hostile),
                cmocka_unit_test(test_header_length), cmocka_unit_test(test_depth), cmocka_unit_test(test_two_files),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
