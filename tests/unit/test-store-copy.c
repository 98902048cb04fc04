/* SPDX-License-Identifier: Apache-2.0 */

/* What comes into the store is what was read, and its digest is that of what was written; and what spark-store and control
 * say to each other. */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/macro.h"
#include "daemon/store/copy.h"

static int temporary(void) {
        char path[] = "/tmp/test-store-copy-XXXXXX";
        int fd = mkostemp(path, O_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(unlink(path), 0);
        return fd;
}

static int file_of(const uint8_t *data, size_t size) {
        int fd = temporary();

        assert_int_equal(file_write_all(fd, data, size), 0);
        return fd;
}

static int run(int input, int output, struct store_copy *ret, void (*progress)(void *, uint64_t, uint64_t), void *arg) {
        struct hasher hasher;
        int r;

        *ret = (struct store_copy){ .hasher = &hasher, .input = input, .output = output, .progress = progress, .arg = arg };
        assert_int_equal(hasher_init(&hasher), 0);
        r = store_copy_run(ret);
        hasher_deinit(&hasher);
        return r;
}

static void expect_digest(const struct store_copy *c, const uint8_t *data, size_t size) {
        uint8_t digest[SHA256_DIGEST_SIZE];
        struct sha256_ctx ctx;

        sha256_init(&ctx);
        sha256_update(&ctx, size, data);
        sha256_digest(&ctx, sizeof(digest), digest);
        assert_memory_equal(c->digest, digest, sizeof(digest));
}

static void test_sizes(void **state) {
        static const size_t sizes[] = { 1, 4095, 4096, HASHER_BLOCK - 1, HASHER_BLOCK, HASHER_BLOCK + 1,
                                        HASHER_BLOCK * (HASHER_BLOCKS + 3) + 17 };
        const size_t most = sizes[ARRAY_SIZE(sizes) - 1];
        _cleanup_free_ uint8_t *data = malloc(most), *back = malloc(most);
        struct store_copy c;

        assert_true(data && back);
        for (size_t i = 0; i < most; i++)
                data[i] = (uint8_t)(i * 31 + (i >> 12));
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                _cleanup_fd_ int in = file_of(data, sizes[i]), out = temporary();
                struct stat st;

                assert_int_equal(run(in, out, &c, NULL, NULL), 0);
                assert_true(c.method == STORELINK_COPY || c.method == STORELINK_REFLINK);
                assert_int_equal(c.size, sizes[i]);
                expect_digest(&c, data, sizes[i]);
                assert_int_equal(fstat(out, &st), 0);
                assert_int_equal(st.st_size, sizes[i]);
                assert_int_equal(pread(out, back, sizes[i], 0), sizes[i]);
                assert_memory_equal(back, data, sizes[i]);
                assert_int_equal(run(in, -1, &c, NULL, NULL), 0);
                assert_int_equal(c.method, STORELINK_HASHED);
                expect_digest(&c, data, sizes[i]);
        }
}

/* With the descriptor that control opens to verify: past the page cache. */
static void test_direct(void **state) {
        const size_t size = HASHER_BLOCK + 12345;
        _cleanup_free_ uint8_t *data = calloc(size, 1);
        _cleanup_fd_ int in = -1, direct = -1;
        struct store_copy c;
        char path[64];

        assert_non_null(data);
        data[size - 1] = 7;
        in = file_of(data, size);
        assert_int_equal(fsync(in), 0);
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", in);
        direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
        if (direct < 0)
                skip();
        assert_int_equal(run(direct, -1, &c, NULL, NULL), 0);
        expect_digest(&c, data, size);
}

static void test_refused(void **state) {
        _cleanup_fd_ int empty = temporary(), out = temporary();
        struct store_copy c;
        int pair[2];

        assert_int_equal(run(empty, out, &c, NULL, NULL), STORE_COPY_E_CHANGED);
        assert_true(c.error[0] != 0);
        assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
        assert_int_equal(run(pair[0], out, &c, NULL, NULL), STORE_COPY_E_CHANGED);
        (void)close(pair[0]);
        (void)close(pair[1]);
}

struct meddler {
        int fd;
        off_t size; /* what the file is made, once */
        unsigned calls;
};

static void meddle(void *arg, uint64_t done, uint64_t total) {
        struct meddler *m = arg;

        assert_true(done <= total);
        if (m->calls++ == 0)
                assert_int_equal(ftruncate(m->fd, m->size), 0);
}

/* It becomes shorter or longer while it is read. */
static void test_changes(void **state) {
        const off_t size = (off_t)HASHER_BLOCK * 3;
        const off_t becomes[] = { (off_t)HASHER_BLOCK, size + 100 };

        for (size_t i = 0; i < ARRAY_SIZE(becomes); i++) {
                _cleanup_fd_ int in = temporary(), out = temporary();
                struct meddler m = { .fd = in, .size = becomes[i] };
                struct store_copy c;

                assert_int_equal(ftruncate(in, size), 0);
                assert_int_equal(run(in, out, &c, meddle, &m), STORE_COPY_E_CHANGED);
                assert_true(c.error[0] != 0);
        }
}

static void test_no_room(void **state) {
        const struct rlimit small = { .rlim_cur = 1000, .rlim_max = RLIM_INFINITY };
        _cleanup_fd_ int in = temporary(), out = temporary();
        struct rlimit before;
        struct store_copy c;
        int r;

        assert_int_equal(ftruncate(in, 1 << 20), 0);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
        assert_true(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        r = run(in, out, &c, NULL, NULL);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_true(r == STORE_COPY_E_SPACE || (r == 0 && c.method == STORELINK_REFLINK));
}

/* ---- the link ---- */

static void test_records(void **state) {
        struct storelink_record sent = { .type = STORELINK_DONE, .method = STORELINK_COPY, .done = 5, .total = 5 }, got;
        int pair[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
        assert_int_equal(storelink_recv(pair[0], &got), -EAGAIN);
        memset(sent.digest, 0x5a, sizeof(sent.digest));
        assert_int_equal(storelink_send(pair[1], &sent), 0);
        assert_int_equal(storelink_recv(pair[0], &got), 1);
        assert_memory_equal(got.digest, sent.digest, sizeof(sent.digest));
        for (int i = 0; i < 6; i++) {
                struct storelink_record bad = sent;
                size_t size = sizeof(bad);

                bad.version = i == 0 ? 9 : STORELINK_VERSION;
                bad.type = i == 1 ? 0 : i == 2 ? 4 : STORELINK_DONE;
                bad.method = i == 3 ? 0 : STORELINK_COPY;
                bad.done = i == 4 ? 6 : 5;
                if (i == 5)
                        size--;
                assert_int_equal(send(pair[1], &bad, size, 0), (ssize_t)size);
                assert_int_equal(storelink_recv(pair[0], &got), -EPROTO);
        }
        memset(sent.text, 'x', sizeof(sent.text));
        assert_int_equal(storelink_send(pair[1], &sent), 0);
        assert_int_equal(storelink_recv(pair[0], &got), -EPROTO);
        (void)close(pair[1]);
        assert_int_equal(storelink_recv(pair[0], &got), 0);
        (void)close(pair[0]);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_sizes),   cmocka_unit_test(test_direct),  cmocka_unit_test(test_refused),
                cmocka_unit_test(test_changes), cmocka_unit_test(test_no_room), cmocka_unit_test(test_records),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
