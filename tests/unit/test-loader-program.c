/* SPDX-License-Identifier: Apache-2.0 */

/* The program spark-loader, as control runs it: descriptors in, records out. Needs bin/spark-loader beside tests/. */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/image/image.h"
#include "loadlink.h"

#include "coded-fixture.h"

struct run {
        pid_t pid;
        int link;
};

/* Emulators of other processors have no filter for system calls. */
static void need_seccomp(void) {
        uint32_t action = SECCOMP_RET_ERRNO;

        if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0) {
                print_message("no seccomp here\n");
                skip();
        }
}

static const char *program_path(void) {
        static char path[4096];
        ssize_t n;
        char *slash;

        need_seccomp();
        n = readlink("/proc/self/exe", path, sizeof(path) - 64);
        assert_true(n > 0);
        path[n] = 0;
        for (int i = 0; i < 2; i++) {
                slash = strrchr(path, '/');
                assert_non_null(slash);
                *slash = 0;
        }
        (void)strcat(path, "/bin/spark-loader");
        if (access(path, X_OK) < 0) {
                print_message("%s is not built\n", path);
                skip();
        }
        return path;
}

/* Child side: link is 5, input is 9, and a descriptor 20 that the loader must close. */
static void child(const char *path, int link, int input, const char *more, const char *more2) {
        char *const argv[] = { (char *)"spark-loader", (char *)"--link", (char *)"5", (char *)"--input", (char *)"9",
                               (char *)(uintptr_t)more, (char *)(uintptr_t)more2, NULL };
        int l = fcntl(link, F_DUPFD, 50), i = fcntl(input, F_DUPFD, 50);

        (void)close_range(STDERR_FILENO + 1, 49, 0);
        if (dup2(l, 5) != 5 || dup2(i, 9) != 9 || dup2(0, 20) != 20)
                _exit(98);
        (void)execv(path, argv);
        _exit(99);
}

/* Options, NULL where there is none (more). */
static struct run start_with(int input, const char *more, const char *more2) {
        const char *path = program_path();
        struct run r;
        int s[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
        r.pid = fork();
        assert_true(r.pid >= 0);
        if (r.pid == 0)
                child(path, s[1], input, more, more2);
        (void)fd_close(s[1]);
        r.link = s[0];
        return r;
}

static struct run start(const void *data, size_t n, bool plan_only) {
        _cleanup_fd_ int input = maker_memfd(data, n);

        return start_with(input, plan_only ? "--plan-only" : NULL, NULL);
}

static int finish(struct run *r) {
        int status;

        r->link = fd_close(r->link);
        assert_int_equal(waitpid(r->pid, &status, 0), r->pid);
        assert_true(WIFEXITED(status));
        return WEXITSTATUS(status);
}

static struct loadlink_record expect_record(struct run *r, uint32_t type) {
        struct loadlink_record record = { 0 };
        int fds[LOADLINK_SEGMENTS_MAX];
        size_t n = 0;

        do
                assert_int_equal(loadlink_recv(r->link, &record, fds, &n), 1);
        while (record.type == LOADLINK_PROGRESS && type != LOADLINK_PROGRESS);
        if (record.type != type)
                fail_msg("record %u instead of %u: %s", record.type, type, record.text);
        assert_int_equal(n, 0);
        return record;
}

static void test_whole_load(void **state) {
        struct loadlink_record plan, give = { .type = LOADLINK_SEGMENTS };
        int fds[LOADLINK_SEGMENTS_MAX];
        struct image_error error = { 0 };
        struct image image = IMAGE_NULL;
        struct maker m;
        struct run r;

        maker_model(&m, &(struct maker_model){ .layers = 3, .ff = 3001 });
        r = start(m.data, m.n, false);
        plan = expect_record(&r, LOADLINK_PLAN);
        assert_int_equal(plan.n_segments, 1);
        assert_int_equal(plan.context, 128);
        assert_int_equal(plan.kv_bytes_per_token, 3 * 2 * 8 * 2 * 2);
        assert_int_equal(plan.kv_bytes_per_token_q8_0, 3 * 2 * 2 * (8 + 2)); /* a scale of two bytes for each head */
        assert_true(plan.total > 3 * 3 * 32 * 3001 * 4 && plan.n_params > 3 * 3 * 32 * 3001);
        assert_true(plan.segment_bytes[0] >= plan.total && plan.segment_bytes[0] % 4096 == 0);
        give.n_segments = plan.n_segments;
        fds[0] = fd_memfd_new("segment", plan.segment_bytes[0]);
        assert_int_equal(loadlink_send(r.link, &give, fds, 1), 0);
        (void)expect_record(&r, LOADLINK_DONE);
        assert_int_equal(finish(&r), 0);
        /* nobody maps it any more: it can be sealed, and it is an image */
        assert_int_equal(fd_memfd_seal(fds[0]), 0);
        assert_int_equal(image_open(&image, fds, 1, &error), 0);
        assert_int_equal(image.n_params, plan.n_params);
        image_close(&image);
        fds[0] = fd_close(fds[0]);
        maker_deinit(&m);
}

static void test_plan_only(void **state) {
        struct maker m;
        struct run r;

        maker_model(&m, &(struct maker_model){ 0 });
        r = start(m.data, m.n, true);
        (void)expect_record(&r, LOADLINK_PLAN);
        (void)expect_record(&r, LOADLINK_DONE);
        assert_int_equal(finish(&r), 0);
        maker_deinit(&m);
}

/* Without a file: BF16 coded is an estimate, and BF16 as it is is not. */
static void test_shape(void **state) {
        static const char *const formats[][2] = { { "bf16", NULL }, { "bf16", "--lossless" }, { "bf16_ll", NULL }, { "q8_0", "--lossless" } };
        uint64_t coded[ARRAY_SIZE(formats)];

        for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
                const char *path = program_path();
                char number[16];
                struct loadlink_record plan;
                struct run r;
                int s[2];

                assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s), 0);
                (void)snprintf(number, sizeof(number), "%d", s[1]);
                r = (struct run){ .pid = fork(), .link = s[0] };
                assert_true(r.pid >= 0);
                if (r.pid == 0) {
                        (void)execl(path, "spark-loader", "--link", number, "--shape", "llama-70b", "--format", formats[i][0],
                                    formats[i][1], NULL);
                        _exit(99);
                }
                (void)fd_close(s[1]);
                plan = expect_record(&r, LOADLINK_PLAN);
                (void)expect_record(&r, LOADLINK_DONE);
                assert_int_equal(finish(&r), 0);
                assert_int_equal(plan.estimated, i == 1 || i == 2);
                coded[i] = plan.coded.bytes;
        }
        assert_true(coded[0] == 0 && coded[3] == 0 && coded[1] == coded[2] && coded[1] < 99000000000u && coded[1] > 90000000000u);
}

/* A file on a disk; nothing of it stays. */
static int disk_file(uint64_t size) {
        char path[] = "./test-loader-program-XXXXXX";
        int fd = mkostemp(path, O_CLOEXEC);

        assert_true(fd >= 0);
        (void)unlink(path);
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        return fd;
}

/* The plan is exact: packing, and loading what was packed, take what it says. All of it within the sandbox. */
static void test_lossless_and_pack(void **state) {
        struct loadlink_record plan, exact, give = { .type = LOADLINK_SEGMENTS, .n_segments = 1 };
        struct image_error error = { 0 };
        struct image image = IMAGE_NULL;
        struct maker m;
        struct run r;
        int input, packed, segment;

        coded_model(&m, true);
        input = maker_memfd(m.data, m.n);
        r = start_with(input, "--lossless", "--plan-only");
        exact = expect_record(&r, LOADLINK_PLAN);
        (void)expect_record(&r, LOADLINK_DONE);
        assert_int_equal(finish(&r), 0);
        assert_true(exact.coded.params > exact.n_params / 10 * 9 && exact.coded.bytes < exact.coded.params * 13 / 8);
        assert_true(!exact.packed && !exact.estimated);

        r = start_with(input, "--lossless", "--pack");
        plan = expect_record(&r, LOADLINK_PLAN);
        assert_memory_equal(plan.segment_bytes, exact.segment_bytes, sizeof(plan.segment_bytes));
        assert_memory_equal(plan.kinds, exact.kinds, sizeof(plan.kinds));
        packed = disk_file(plan.segment_bytes[0]);
        assert_int_equal(loadlink_send(r.link, &give, &packed, 1), 0);
        (void)expect_record(&r, LOADLINK_DONE);
        assert_int_equal(finish(&r), 0);

        r = start_with(packed, NULL, NULL);
        plan = expect_record(&r, LOADLINK_PLAN);
        assert_true(plan.packed && plan.coded.bytes == exact.coded.bytes && plan.n_params == exact.n_params);
        assert_int_equal(plan.total, exact.segment_bytes[0]);
        segment = fd_memfd_new("segment", plan.segment_bytes[0]);
        assert_int_equal(loadlink_send(r.link, &give, &segment, 1), 0);
        (void)expect_record(&r, LOADLINK_DONE);
        assert_int_equal(finish(&r), 0);
        assert_int_equal(image_open(&image, &segment, 1, &error), 0);
        image_close(&image);
        (void)fd_close(segment);
        (void)fd_close(packed);
        (void)fd_close(input);
        maker_deinit(&m);
}

/* Damage is the file's fault, and named; what is packed is not packed again. */
static void test_bad_packed(void **state) {
        struct loadlink_record plan, record, give = { .type = LOADLINK_SEGMENTS, .n_segments = 1 };
        struct maker m;
        struct run r;
        int input, packed, segment;

        coded_model(&m, true);
        input = maker_memfd(m.data, m.n);
        r = start_with(input, "--pack", NULL);
        plan = expect_record(&r, LOADLINK_PLAN);
        packed = disk_file(plan.segment_bytes[0]);
        assert_int_equal(loadlink_send(r.link, &give, &packed, 1), 0);
        (void)expect_record(&r, LOADLINK_DONE);
        assert_int_equal(finish(&r), 0);

        r = start_with(packed, "--pack", NULL);
        record = expect_record(&r, LOADLINK_ERROR);
        assert_int_equal(record.code, LOADLINK_CODE_UNSUPPORTED);
        assert_int_equal(finish(&r), 1);

        assert_int_equal(pwrite(packed, "x", 1, (off_t)(plan.segment_bytes[0] / 2)), 1);
        r = start_with(packed, NULL, NULL);
        plan = expect_record(&r, LOADLINK_PLAN);
        segment = fd_memfd_new("segment", plan.segment_bytes[0]);
        assert_int_equal(loadlink_send(r.link, &give, &segment, 1), 0);
        record = expect_record(&r, LOADLINK_ERROR);
        assert_int_equal(record.code, LOADLINK_CODE_MODEL_INVALID);
        assert_non_null(strstr(record.text, "is damaged"));
        assert_int_equal(finish(&r), 1);
        (void)fd_close(segment);
        (void)fd_close(packed);
        (void)fd_close(input);
        maker_deinit(&m);
}

static void test_bad_files(void **state) {
        struct loadlink_record record;
        struct maker m;
        struct run r;

        maker_model(&m, &(struct maker_model){ 0 });
        r = start(m.data, 100, false);
        record = expect_record(&r, LOADLINK_ERROR);
        assert_int_equal(record.code, LOADLINK_CODE_MODEL_INVALID);
        assert_non_null(strstr(record.text, "offset"));
        assert_int_equal(finish(&r), 1);
        maker_deinit(&m);

        maker_model(&m, &(struct maker_model){ .arch = "mamba" });
        r = start(m.data, m.n, false);
        record = expect_record(&r, LOADLINK_ERROR);
        assert_int_equal(record.code, LOADLINK_CODE_UNSUPPORTED);
        assert_non_null(strstr(record.text, "mamba"));
        assert_int_equal(finish(&r), 1);
        maker_deinit(&m);
}

/* Control says no (closes), or gives something else than planned. */
static void test_refused_plan(void **state) {
        struct loadlink_record give = { .type = LOADLINK_SEGMENTS, .n_segments = 1 }, record;
        struct maker m;
        struct run r;
        int fd;

        maker_model(&m, &(struct maker_model){ 0 });
        r = start(m.data, m.n, false);
        (void)expect_record(&r, LOADLINK_PLAN);
        assert_int_equal(finish(&r), 1);

        r = start(m.data, m.n, false);
        (void)expect_record(&r, LOADLINK_PLAN);
        fd = fd_memfd_new("small", 4096);
        assert_int_equal(loadlink_send(r.link, &give, &fd, 1), 0);
        record = expect_record(&r, LOADLINK_ERROR);
        assert_int_equal(record.code, LOADLINK_CODE_INTERNAL);
        assert_int_equal(finish(&r), 1);
        fd = fd_close(fd);
        maker_deinit(&m);
}

static int run_with(const char *const *args) {
        const char *path = program_path();
        int status, null = open("/dev/null", O_RDWR | O_CLOEXEC);
        pid_t pid;

        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                (void)dup2(null, STDERR_FILENO);
                (void)execv(path, (char *const *)(uintptr_t)args);
                _exit(99);
        }
        (void)fd_close(null);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_usage(void **state) {
        static const char *const wrong[][8] = {
                { "spark-loader", NULL },
                { "spark-loader", "--link", "5", NULL },
                { "spark-loader", "--link", "x", "--input", "9", NULL },
                { "spark-loader", "--link", "5", "--input", "5", NULL },
                { "spark-loader", "--link", "-1", "--input", "9", NULL },
                { "spark-loader", "--link", "105", "--input", "109", NULL },
                { "spark-loader", "--link", "5", "--input", "9", "more", NULL },
                { "spark-loader", "--link", "5", "--file", "config.json", NULL },
                { "spark-loader", "--link", "5", "--file", "passwd=9", NULL },
                { "spark-loader", "--link", "5", "--input", "9", "--file", "config.json=10", NULL },
                { "spark-loader", "--nonsense", NULL },
                { "spark-loader", "--link", "5", "--lossless", NULL },
                { "spark-loader", "--link", "5", "--input", "9", "--pack=1", NULL },
                { "spark-loader", "--link", "5", "--split", "9", NULL }, /* what it would be split from is missing */
                { "spark-loader", "--link", "105", "--input", "109", "--split", NULL },
        };

        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
                assert_int_equal(run_with(wrong[i]), 64);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_whole_load),   cmocka_unit_test(test_plan_only), cmocka_unit_test(test_bad_files),
                cmocka_unit_test(test_refused_plan), cmocka_unit_test(test_usage),
                cmocka_unit_test(test_lossless_and_pack), cmocka_unit_test(test_bad_packed), cmocka_unit_test(test_shape),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
