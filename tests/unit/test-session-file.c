/* SPDX-License-Identifier: Apache-2.0 */

/* The file of a session: what is written is read back; cut or changed anywhere, it is refused whole and moved aside. */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "base/fd.h"
#include "base/log.h"
#include "daemon/control/session/session-file.h"

#define ID "00112233445566778899aabbccddeeff"
#define OTHER "ffeeddccbbaa99887766554433221100"
#define UID_ 1000u
#define TOKENS 7u

struct fixture {
        char state_dir[64];
};

static int set_up(void **state) {
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        log_init("test", LOG_LEVEL_ERROR, 0);
        (void)snprintf(f->state_dir, sizeof(f->state_dir), "/tmp/test-session-XXXXXX");
        assert_non_null(mkdtemp(f->state_dir));
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        struct fixture *f = *state;
        char command[128];

        (void)snprintf(command, sizeof(command), "rm -rf %s", f->state_dir);
        assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c): a name that mkdtemp() made */
        free(f);
        return 0;
}

static const char *path_of(const struct fixture *f, const char *name) {
        static char path[256];

        (void)snprintf(path, sizeof(path), "%s/sessions/%u%s%s", f->state_dir, UID_, *name ? "/" : "", name);
        return path;
}

static bool there_is(const struct fixture *f, const char *name) {
        return access(path_of(f, name), F_OK) == 0;
}

static struct session_head head_of(uint64_t n) {
        struct session_head h = { .id = ID, .uid = UID_, .vocabulary = 500, .parameters = 123456789012345, .n_tokens = n,
                                  .used_s = 1700000000, .model = "spark-tiny", .name = "Grüße" };

        return h;
}

static const uint32_t ids[TOKENS] = { 1, 499, 0, 77, 256, 65, 300 };

static size_t slurp(const char *path, uint8_t *out, size_t size) {
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n;

        assert_true(fd >= 0);
        n = read(fd, out, size);
        assert_true(n >= 0 && (size_t)n < size);
        return (size_t)n;
}

static void spill(const char *path, const uint8_t *data, size_t size) {
        _cleanup_fd_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, data, size), (ssize_t)size);
}

static int read_back(const struct fixture *f, struct session_fault *fault) {
        struct session_head h;
        uint32_t *got = NULL;
        int r = session_file_read(f->state_dir, UID_, ID, &h, &got, fault);

        if (r == 0)
                free(got);
        else
                assert_null(got);
        return r;
}

/* What is refused as damaged was moved aside, and is put back for the next one. */
static void expect_damaged(const struct fixture *f, const char *what) {
        struct session_fault fault = { "" };
        int r = read_back(f, &fault);

        if (r != SESSION_FILE_E_INVALID)
                fail_msg("%s gave %d", what, r);
        assert_true(fault.text[0] != 0);
        assert_false(there_is(f, ID ".session"));
        assert_true(there_is(f, ID ".session.damaged"));
        assert_int_equal(unlink(path_of(f, ID ".session.damaged")), 0);
}

static void test_crc(void **state) {
        static const uint8_t zeros[32];
        uint8_t up[32];

        for (size_t i = 0; i < sizeof(up); i++)
                up[i] = (uint8_t)i;
        assert_true(crc32c(0, "", 0) == 0);
        assert_true(crc32c(0, "123456789", 9) == 0xe3069283u);
        assert_true(crc32c(0, zeros, 32) == 0x8a9136aau); /* RFC 3720, B.4 */
        assert_true(crc32c(0, up, 32) == 0x46dd794eu);
        assert_true(crc32c(crc32c(0, "1234", 4), "56789", 5) == 0xe3069283u);
}

static void test_round_trip(void **state) {
        struct fixture *f = *state;
        struct session_head h = head_of(TOKENS), got;
        struct session_fault fault;
        uint8_t want[SESSION_FILE_HEADER], head[SESSION_FILE_HEADER];
        uint32_t *back = NULL;
        struct stat st;

        assert_int_equal(session_file_read(f->state_dir, UID_, ID, &got, &back, &fault), -ENOENT);
        assert_int_equal(session_file_write(f->state_dir, &h, ids), 0);
        assert_int_equal(session_file_read(f->state_dir, UID_, ID, &got, &back, &fault), 0);
        session_head_pack(&h, want);
        session_head_pack(&got, head);
        assert_memory_equal(head, want, sizeof(want));
        assert_memory_equal(back, ids, sizeof(ids));
        free(back);
        assert_int_equal(stat(path_of(f, ID ".session"), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        assert_int_equal(st.st_size, session_file_size(TOKENS));
        assert_int_equal(stat(path_of(f, ""), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0700);
        assert_false(there_is(f, ID ".session.tmp"));
        h.n_tokens = 0; /* over the older one, and without a text */
        assert_int_equal(session_file_write(f->state_dir, &h, NULL), 0);
        assert_int_equal(read_back(f, &fault), 0);
        assert_int_equal(session_files_remove(f->state_dir, UID_, ID), 0);
        assert_false(there_is(f, ID ".session"));
        assert_int_equal(session_files_remove(f->state_dir, UID_, ID), 0);
        assert_int_equal(session_files_remove(f->state_dir, 77, ID), 0);
}

/* More than one piece. */
static void test_long(void **state) {
        struct fixture *f = *state;
        const size_t n = 3 * 4096 + 5;
        struct session_head h = head_of(n), got;
        struct session_fault fault;
        uint32_t *text = calloc(n, sizeof(*text)), *back = NULL;

        assert_non_null(text);
        h.vocabulary = 0;
        for (size_t i = 0; i < n; i++)
                text[i] = (uint32_t)(i * 2654435761u) & INT32_MAX;
        assert_int_equal(session_file_write(f->state_dir, &h, text), 0);
        assert_int_equal(session_file_read(f->state_dir, UID_, ID, &got, &back, &fault), 0);
        assert_memory_equal(back, text, n * sizeof(*text));
        free(back);
        free(text);
}

static void test_truncated_anywhere(void **state) {
        struct fixture *f = *state;
        struct session_head h = head_of(TOKENS);
        struct session_fault fault;
        uint8_t data[512];
        size_t size;
        char what[64];

        assert_int_equal(session_file_write(f->state_dir, &h, ids), 0);
        size = slurp(path_of(f, ID ".session"), data, sizeof(data));
        assert_int_equal(size, session_file_size(TOKENS));
        for (size_t n = 0; n < size; n++) {
                spill(path_of(f, ID ".session"), data, n);
                (void)snprintf(what, sizeof(what), "cut to %zu bytes", n);
                expect_damaged(f, what);
        }
        data[size] = 0;
        spill(path_of(f, ID ".session"), data, size + 1);
        expect_damaged(f, "a byte too many");
        spill(path_of(f, ID ".session"), data, size);
        assert_int_equal(read_back(f, &fault), 0);
}

static void test_flipped_anywhere(void **state) {
        struct fixture *f = *state;
        struct session_head h = head_of(TOKENS);
        struct session_fault fault;
        uint8_t data[512];
        size_t size;
        char what[64];

        assert_int_equal(session_file_write(f->state_dir, &h, ids), 0);
        size = slurp(path_of(f, ID ".session"), data, sizeof(data));
        for (size_t i = 0; i < size; i++)
                for (unsigned bit = 0; bit < 8; bit++) {
                        bool version = i >= 8 && i < 12;

                        data[i] ^= (uint8_t)(1u << bit);
                        spill(path_of(f, ID ".session"), data, size);
                        (void)snprintf(what, sizeof(what), "bit %u of byte %zu", bit, i);
                        if (version) { /* perhaps of a later one: it stays where it is */
                                assert_int_equal(read_back(f, &fault), SESSION_FILE_E_VERSION);
                                assert_true(there_is(f, ID ".session"));
                        } else {
                                expect_damaged(f, what);
                        }
                        data[i] ^= (uint8_t)(1u << bit);
                }
}

static void put32(uint8_t *p, uint32_t v) {
        for (int i = 0; i < 4; i++)
                p[i] = (uint8_t)(v >> (8 * i));
}

/* Fields that are wrong under checksums that are right. */
static void test_hostile_fields(void **state) {
        static const struct {
                size_t at;
                uint8_t bytes[8];
                size_t n;
                const char *field;
        } cases[] = {
                { 12, { 255, 0, 0, 0 }, 4, "header size" },
                { 16, { 0xaa }, 1, "id" },
                { 32, { 1, 0, 0, 0 }, 4, "uid" },
                { 36, { 10, 0, 0, 0 }, 4, "tokens[1]" },
                { 48, { 8, 0, 0, 0, 0, 0, 0, 0 }, 8, "size" },
                { 48, { 6, 0, 0, 0, 0, 0, 0, 0 }, 8, "size" },
                { 48, { 0, 0, 0, 0, 0, 0, 0, 0x80 }, 8, "tokens" },
                { 48, { 0, 0, 0, 0, 0, 0, 0, 0x40 }, 8, "tokens" },
                { 48, { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff }, 8, "tokens" },
                { 64, { '.' }, 1, "model" },
                { 64, { '/' }, 1, "model" },
                { 64, { 0 }, 1, "model" },
                { 135, { 'x' }, 1, "model" },
                { 136, { 0xff }, 1, "name" },
                { 136, { '\n' }, 1, "name" },
                { 207, { 'x' }, 1, "name" },
                { 208, { 1 }, 1, "the rest" },
                { 251, { 1 }, 1, "the rest" },
                { 256, { 0, 0, 0, 0x80 }, 4, "tokens[0]" },
                { 280, { 0xf4, 1, 0, 0 }, 4, "tokens[6]" },
        };
        struct fixture *f = *state;
        struct session_head h = head_of(TOKENS);
        uint8_t good[512], data[512];
        size_t size;

        assert_int_equal(session_file_write(f->state_dir, &h, ids), 0);
        size = slurp(path_of(f, ID ".session"), good, sizeof(good));
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct session_fault fault = { "" };

                memcpy(data, good, size);
                memcpy(data + cases[i].at, cases[i].bytes, cases[i].n);
                put32(data + 252, crc32c(0, data, 252));
                put32(data + size - 4, crc32c(0, data, size - 4));
                spill(path_of(f, ID ".session"), data, size);
                assert_int_equal(read_back(f, &fault), SESSION_FILE_E_INVALID);
                if (strncmp(fault.text, cases[i].field, strlen(cases[i].field)) != 0)
                        fail_msg("case %zu: '%s', not '%s'", i, fault.text, cases[i].field);
                assert_false(there_is(f, ID ".session"));
        }
}

/* Things of another kind under the name of a session. */
static void test_no_files(void **state) {
        struct fixture *f = *state;
        struct session_head h = head_of(TOKENS);
        struct session_fault fault;
        char other[256];

        assert_int_equal(session_file_write(f->state_dir, &h, ids), 0);
        (void)snprintf(other, sizeof(other), "%s", path_of(f, "elsewhere"));
        assert_int_equal(rename(path_of(f, ID ".session"), other), 0);
        assert_int_equal(symlink(other, path_of(f, ID ".session")), 0);
        expect_damaged(f, "a symbolic link");
        assert_int_equal(mkfifo(path_of(f, ID ".session"), 0600), 0);
        expect_damaged(f, "a fifo");
        assert_int_equal(mkdir(path_of(f, ID ".session"), 0700), 0);
        assert_int_equal(read_back(f, &fault), SESSION_FILE_E_INVALID);
        assert_int_equal(session_file_write(f->state_dir, &h, ids), 0); /* and nothing is in the way of a new one */
        assert_int_equal(read_back(f, &fault), 0);
}

static void test_names(void **state) {
        char name[SESSION_NAME_MAX + 2];

        assert_true(session_id_valid(ID));
        assert_false(session_id_valid(""));
        assert_false(session_id_valid("0011"));
        assert_false(session_id_valid(ID "0"));
        assert_false(session_id_valid("00112233445566778899AABBCCDDEEFF"));
        assert_false(session_id_valid("../../../../../../../../etc/shad"));
        assert_true(session_name_valid(""));
        assert_false(session_name_valid("a\tb"));
        memset(name, 'x', sizeof(name));
        name[SESSION_NAME_MAX] = 0;
        assert_true(session_name_valid(name));
        name[SESSION_NAME_MAX] = 'x';
        name[SESSION_NAME_MAX + 1] = 0;
        assert_false(session_name_valid(name));
}

static void test_scan(void **state) {
        struct fixture *f = *state;
        struct session_head h = head_of(TOKENS);
        struct session_scan scan;
        uint8_t data[512];
        uint64_t room;
        char path[256];
        size_t size;
        int fd;

        assert_int_equal(session_files_scan("/nowhere/at/all", &scan), 0);
        assert_int_equal(scan.n, 0);
        assert_int_equal(session_files_scan(f->state_dir, &scan), 0); /* no folder yet */
        assert_int_equal(scan.n, 0);
        assert_int_equal(session_file_write(f->state_dir, &h, ids), 0);
        (void)snprintf(h.id, sizeof(h.id), "%s", OTHER);
        h.uid = 0;
        assert_int_equal(session_file_write(f->state_dir, &h, ids), 0);
        size = slurp(path_of(f, ID ".session"), data, sizeof(data));
        spill(path_of(f, ID ".kv"), data, 100);
        spill(path_of(f, OTHER ".kv"), data, 100); /* its session is another user's */
        spill(path_of(f, ID ".session.tmp"), data, 100);
        fd = session_kv_create(f->state_dir, UID_, ID, &room);
        assert_true(fd >= 0);
        (void)fd_close(fd);
        spill(path_of(f, OTHER ".session"), data, size); /* a copy under another name */
        spill(path_of(f, "0000000000000000000000000000000a.session"), data, size - 1);
        spill(path_of(f, "0000000000000000000000000000000b.session"), data, 12);
        data[8] = 9; /* a later version */
        spill(path_of(f, "0000000000000000000000000000000c.session"), data, size);
        spill(path_of(f, "notes"), data, 5);
        (void)snprintf(path, sizeof(path), "%s/sessions/root", f->state_dir);
        assert_int_equal(mkdir(path, 0700), 0);

        assert_int_equal(session_files_scan(f->state_dir, &scan), 0);
        assert_int_equal(scan.n, 2);
        for (size_t i = 0; i < 2; i++) {
                const struct session_found *s = &scan.found[i];
                bool first = strcmp(s->head.id, ID) == 0;

                assert_int_equal(s->head.uid, first ? UID_ : 0);
                assert_string_equal(s->head.id, first ? ID : OTHER);
                assert_string_equal(s->head.model, "spark-tiny");
                assert_int_equal(s->head.n_tokens, TOKENS);
                assert_int_equal(s->file_bytes, size);
                assert_int_equal(s->kv_bytes, first ? 100 : 0);
                assert_int_equal(s->kv_newer, first);
        }
        session_scan_deinit(&scan);
        assert_false(there_is(f, ID ".session.tmp"));
        assert_false(there_is(f, ID ".kv.tmp"));
        assert_true(there_is(f, ID ".kv"));
        assert_true(there_is(f, OTHER ".session.damaged"));
        assert_true(there_is(f, "0000000000000000000000000000000a.session.damaged"));
        assert_true(there_is(f, "0000000000000000000000000000000b.session.damaged"));
        assert_true(there_is(f, "0000000000000000000000000000000c.session"));
        assert_true(there_is(f, "notes"));
        assert_int_equal(session_files_scan(f->state_dir, &scan), 0); /* the same again */
        assert_int_equal(scan.n, 2);
        session_scan_deinit(&scan);
        assert_false(there_is(f, OTHER ".kv")); /* nobody's any more */
}

static void test_kv(void **state) {
        struct fixture *f = *state;
        uint64_t room = 0, bytes = 0;
        struct stat st;
        int fd;

        assert_int_equal(session_kv_open(f->state_dir, UID_, ID), -ENOENT);
        fd = session_kv_create(f->state_dir, UID_, ID, &room);
        assert_true(fd >= 0);
        assert_true(room > 0);
        assert_int_equal(write(fd, "KV", 2), 2);
        assert_int_equal(session_kv_open(f->state_dir, UID_, ID), -ENOENT); /* not before it is whole */
        assert_int_equal(session_kv_settle(f->state_dir, UID_, ID, fd, &bytes), 0);
        assert_int_equal(bytes, 2);
        (void)fd_close(fd);
        assert_int_equal(stat(path_of(f, ID ".kv"), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        fd = session_kv_open(f->state_dir, UID_, ID);
        assert_true(fd >= 0);
        (void)fd_close(fd);
        fd = session_kv_create(f->state_dir, UID_, ID, &room);
        assert_true(fd >= 0);
        (void)fd_close(fd);
        assert_int_equal(session_kv_remove(f->state_dir, UID_, ID, true), 0);
        assert_true(there_is(f, ID ".kv"));
        assert_int_equal(session_kv_remove(f->state_dir, UID_, ID, false), 0);
        assert_int_equal(session_kv_remove(f->state_dir, UID_, ID, false), 0);
        assert_int_equal(session_kv_remove(f->state_dir, 77, ID, false), 0);
        assert_false(there_is(f, ID ".kv"));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_crc),
                cmocka_unit_test_setup_teardown(test_round_trip, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_long, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_truncated_anywhere, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_flipped_anywhere, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_hostile_fields, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_no_files, set_up, tear_down),
                cmocka_unit_test(test_names),
                cmocka_unit_test_setup_teardown(test_scan, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_kv, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
