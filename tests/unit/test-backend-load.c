/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The CUDA backend's shared object as those see it who want to compute: where it is looked for, and the sentence for whatever
 * is wrong with it. Objects of tests/unit/objects stand in for it.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/macro.h"
#include "kernels/backend.h"
#include "kernels/cuda-load.h"

static char folder[1024]; /* where this program and the objects are */
static char program[1100];

static void find_folder(void) {
        ssize_t n = readlink("/proc/self/exe", folder, sizeof(folder) - 1);

        if (n <= 0)
                abort();
        folder[n] = 0;
        (void)snprintf(program, sizeof(program), "%s", folder);
        *strrchr(folder, '/') = 0;
}

/* The path of an object, good until the next call. */
static const char *object(const char *name) {
        static char path[1200];

        (void)snprintf(path, sizeof(path), "%s/object-%s.so", folder, name);
        return path;
}

static void expect_sentence(const char *library, const char *sentence) {
        struct backend_error error = { .text = "" };

        assert_null(cuda_load(library, &error));
        if (!strstr(error.text, sentence))
                fail_msg("'%s' is not in '%s'", sentence, error.text);
}

static void test_missing(void **unused) {
        expect_sentence("/nowhere/libspark-cuda.so", "there is no /nowhere/libspark-cuda.so");
        expect_sentence("/dev/null/libspark-cuda.so", "there is no /dev/null/libspark-cuda.so");
        expect_sentence("", "there is no ");
}

static void test_not_an_object(void **unused) {
        expect_sentence("/dev/null", "/dev/null");
        expect_sentence("/", "/");
}

static void test_without_entry(void **unused) {
        expect_sentence(object("other"), "it has no spark_backend_cuda()");
        expect_sentence(object("other"), "it has no spark_backend_cuda()"); /* closed, and opened again */
}

static void test_refusals(void **unused) {
        expect_sentence(object("refuses"), "there is no device");
        expect_sentence(object("silent"), "it does not say why");
        expect_sentence(object("old"), "it belongs to another release");
}

static void test_works(void **unused) {
        struct backend_error error = { .text = "" };
        const struct backend_ops *ops = cuda_load(object("works"), &error);

        assert_non_null(ops);
        assert_string_equal(ops->name, "cuda");
        assert_ptr_equal(cuda_load(object("works"), &error), ops);
        assert_string_equal(error.text, "");
}

static void test_auto_falls_back(void **unused) {
        struct backend_config config = { .threads = 1, .library = object("refuses") };
        struct backend_error error;
        struct backend *be = NULL;

        assert_ptr_equal(backend_choose("auto", &config, &error), &backend_cpu);
        assert_string_equal(error.text, "the cuda backend is not used: there is no device");
        assert_ptr_equal(backend_choose("auto", &config, NULL), &backend_cpu);
        assert_int_equal(backend_open("auto", &config, &be, &error), 0);
        assert_string_equal(error.text, "the cuda backend is not used: there is no device");
        assert_ptr_equal(be->ops, &backend_cpu);
        be->ops->close(be);
}

static void test_auto_takes_it(void **unused) {
        const struct backend_config config = { .library = object("works") };
        struct backend_error error;
        struct backend *be = NULL;

        assert_string_equal(backend_choose("auto", &config, &error)->name, "cuda");
        assert_string_equal(error.text, "");
        assert_int_equal(backend_open("auto", &config, &be, &error), 0);
        assert_string_equal(be->ops->name, "cuda");
        assert_string_equal(error.text, "");
}

static void test_names(void **unused) {
        struct backend_config config = { .threads = 1, .library = object("refuses") };
        struct backend_error error;
        struct backend *be = NULL;

        assert_null(backend_choose("cuda", &config, &error));
        assert_string_equal(error.text, "the cuda backend cannot be used: there is no device");
        assert_int_equal(backend_open("cuda", &config, &be, &error), BACKEND_E_MISSING);
        assert_string_equal(error.text, "the cuda backend cannot be used: there is no device");
        assert_int_equal(backend_open("abacus", &config, &be, &error), BACKEND_E_MISSING);
        assert_string_equal(error.text, "there is no backend 'abacus'");
        assert_int_equal(backend_open("", &config, &be, &error), BACKEND_E_MISSING);
        assert_null(be);
        /* who asks for another one hears nothing of it */
        assert_ptr_equal(backend_choose("cpu", &config, &error), &backend_cpu);
        assert_string_equal(error.text, "");
        assert_ptr_equal(backend_choose("null", &config, &error), &backend_null);
        assert_string_equal(error.text, "");
}

/* A device that is there but does not start is nothing to pass over, whoever chose it. */
static void test_open_fails(void **unused) {
        static const char *const names[] = { "cuda", "auto" };
        struct backend_config config = { .library = object("works") };
        struct backend_error error;
        struct backend *be = NULL;

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                config.threads = 1;
                assert_int_equal(backend_open(names[i], &config, &be, &error), BACKEND_E_UNSUPPORTED);
                assert_string_equal(error.text, "the cuda backend does not start: one thread is too few");
                config.threads = 2;
                assert_int_equal(backend_open(names[i], &config, &be, &error), BACKEND_E_NO_MEMORY);
                assert_string_equal(error.text, "the cuda backend does not start: no memory");
                config.threads = 3;
                assert_true(backend_open(names[i], &config, &be, &error) < 0);
                assert_non_null(strstr(error.text, "the cuda backend does not start: "));
                assert_null(be);
        }
        config = (struct backend_config){ .isa = "abacus" };
        assert_int_equal(backend_open("cpu", &config, &be, &error), BACKEND_E_UNSUPPORTED);
        assert_string_equal(error.text, "the cpu backend does not start: it cannot do what its configuration asks for");
}

/* --- where it is looked for --- */

static void shell(const char *fmt, ...) {
        char command[8192];
        va_list ap;
        int n;

        va_start(ap, fmt);
        n = vsnprintf(command, sizeof(command), fmt, ap);
        va_end(ap);
        assert_true(n > 0 && (size_t)n < sizeof(command));
        assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c): fixed words and our own paths */
}

/* What a copy of this program, installed at `at` below a folder of its own, says of the object at `lib` there. */
static void expect_found(const char *at, const char *lib, const char *answer) {
        char root[] = "/tmp/spark-load-XXXXXX", line[512] = "", command[1024];
        FILE *f;

        assert_non_null(mkdtemp(root));
        shell("mkdir -p %s/%s %s/%s && cp %s %s/%s/program", root, at, root, lib, program, root, at);
        shell("cp %s %s/%s/libspark-cuda.so", object("works"), root, lib);
        (void)snprintf(command, sizeof(command), "%s/%s/program --find", root, at);
        f = popen(command, "r"); /* NOLINT(cert-env33-c) */
        assert_non_null(f);
        assert_non_null(fgets(line, sizeof(line), f));
        assert_int_equal(pclose(f), 0);
        line[strcspn(line, "\n")] = 0;
        if (!strstr(line, answer))
                fail_msg("%s, %s: '%s' and not '%s'", at, lib, line, answer);
        shell("rm -r %s", root);
}

static void test_find(void **unused) {
        if (getenv("SPARK_TEST_EMULATED")) {
                print_message("skipped: an emulated program does not start others\n");
                skip();
        }
        expect_found("build/bin", "build/lib", "found cuda");
        expect_found("usr/bin", "usr/lib/sparkd", "found cuda");
        expect_found("usr/libexec/sparkd", "usr/lib/sparkd", "found cuda");
}

static int find(void) {
        struct backend_error error = { .text = "" };
        const struct backend_ops *ops = cuda_load(NULL, &error);

        (void)printf("%s %s\n", ops ? "found" : "not found:", ops ? ops->name : error.text);
        return 0;
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_missing),
                cmocka_unit_test(test_not_an_object),
                cmocka_unit_test(test_without_entry),
                cmocka_unit_test(test_refusals),
                cmocka_unit_test(test_works),
                cmocka_unit_test(test_auto_falls_back),
                cmocka_unit_test(test_auto_takes_it),
                cmocka_unit_test(test_names),
                cmocka_unit_test(test_open_fails),
                cmocka_unit_test(test_find),
        };

        if (argc == 2 && strcmp(argv[1], "--find") == 0)
                return find();
        find_folder();
        return cmocka_run_group_tests(tests, NULL, NULL);
}
