/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Runs the real sparkctl against a service that answers as a test's answer() does, and takes what it wrote. The program is
 * looked for where the build puts it, next to the tests' folder; without it the tests are skipped.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "fake-service.h"
#include "program-output.h"

#define BODY(name) SPARK__V1__CLIENT_FRAME__BODY_##name

struct ctl {
        struct fake fake;
        bool (*answer)(struct fake *f, const Spark__V1__ClientFrame *m); /* false: hang up */
        bool has_template;
        const char *model_state;
        atomic_uint chats, generates; /* for answer() to count */
        char dir[64], socket[100], program[4096];
};

static struct ctl ctl;

/* ---- the service ---- */

/* The only model that there is. */
__attribute__((unused)) static Spark__V1__ModelInfo ctl_model(const struct ctl *x) {
        Spark__V1__ModelInfo m = SPARK__V1__MODEL_INFO__INIT;

        m.name = (char *)"tiny \"1\"";
        m.state = (char *)x->model_state;
        m.is_default = 1;
        m.has_chat_template = x->has_template;
        m.architecture = (char *)"llama";
        m.parameters = 260000;
        m.image_bytes = 1536;
        return m;
}

static void ctl_answer_models(struct fake *f, uint64_t id) {
        Spark__V1__Done done = SPARK__V1__DONE__INIT;
        Spark__V1__ModelsResult models = SPARK__V1__MODELS_RESULT__INIT;
        Spark__V1__ModelInfo m = ctl_model(f->data), *list[] = { &m };

        models.models = list;
        models.n_models = 1;
        done.result_case = SPARK__V1__DONE__RESULT_MODELS;
        done.models = &models;
        fake_send_done_message(f, id, &done);
}

/* Answers what every verb may ask first, and leaves the rest to the test. */
static void ctl_script(struct fake *f) {
        const struct ctl *x = f->data;
        Spark__V1__ClientFrame *m;
        bool go_on = true;

        while (go_on && (m = fake_receive(f))) {
                if (m->body_case == BODY(HELLO))
                        fake_send_hello(f);
                else if (m->body_case == BODY(MODELS))
                        ctl_answer_models(f, m->id);
                else
                        go_on = x->answer(f, m);
                (void)message_free(&m->base);
        }
}

/* ---- running the program ---- */

static int ctl_group_setup(void **state) {
        struct ctl *x = &ctl;
        char *slash;
        ssize_t n;

        n = readlink("/proc/self/exe", x->program, sizeof(x->program) - 32);
        if (n < 0)
                return -1;
        x->program[n] = 0;
        for (int i = 0; i < 2 && (slash = strrchr(x->program, '/')); i++)
                *slash = 0;
        n = (ssize_t)strlen(x->program);
        (void)snprintf(x->program + n, sizeof(x->program) - (size_t)n, "/bin/sparkctl");
        (void)snprintf(x->dir, sizeof(x->dir), "/tmp/test-sparkctl-XXXXXX");
        if (!mkdtemp(x->dir))
                return -1;
        (void)snprintf(x->socket, sizeof(x->socket), "%.63s/sock", x->dir);
        return 0;
}

static int ctl_group_teardown(void **state) {
        (void)rmdir(ctl.dir);
        return 0;
}

static int ctl_setup(void **state) {
        struct ctl *x = &ctl;

        *state = x;
        x->has_template = true;
        x->model_state = "ready";
        x->chats = x->generates = 0;
        return fake_start_at(&x->fake, x->socket, ctl_script, x);
}

static int ctl_teardown(void **state) {
        struct ctl *x = *state;

        fake_stop(&x->fake);
        if (x->fake.fault[0])
                print_error("service: %s\n", x->fake.fault);
        return x->fake.fault[0] != 0;
}

#define CTL_TEST(f) cmocka_unit_test_setup_teardown(f, ctl_setup, ctl_teardown)

static void run_child(struct ctl *x, int in, int out, int err, const char **argv) {
        const char *full[32] = { x->program, "-S", x->socket };

        for (size_t i = 0; i < 28 && argv[i]; i++)
                full[i + 3] = argv[i];
        if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
                _exit(126);
        (void)unsetenv("SPARK_SOCKET");
        (void)execv(x->program, (char **)full);
        _exit(127);
}

static struct output run_full(struct ctl *x, const char *input, size_t n_input, const char *interrupt_after,
                              const char **argv) {
        struct output o = { .out = BUF_NULL(1 << 20), .err = BUF_NULL(1 << 20) };
        int out[2], err[2], in = fd_memfd_new("input", 0);
        pid_t pid;

        if (getenv("SPARK_TEST_EMULATED")) {
                print_message("skipped: an emulator cannot start programs\n");
                skip();
        }
        if (access(x->program, X_OK) < 0) {
                print_message("skipped: %s is not built\n", x->program);
                skip();
        }
        assert_int_equal(write(in, input, n_input), n_input);
        assert_int_equal(lseek(in, 0, SEEK_SET), 0);
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
        assert_int_equal(pipe2(err, O_CLOEXEC), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
                run_child(x, in, out[1], err[1], argv);
        (void)close(in);
        (void)close(out[1]);
        (void)close(err[1]);
        output_collect(pid, out[0], err[0], interrupt_after, &o);
        /* so that tests may compare strings */
        assert_int_equal(buf_reserve(&o.out, 1), 0);
        assert_int_equal(buf_reserve(&o.err, 1), 0);
        return o;
}

#define RUN(...) run_full(*state, "", 0, NULL, (const char *[]){ __VA_ARGS__, NULL })
#define RUN_INPUT(text, ...) run_full(*state, text, sizeof(text) - 1, NULL, (const char *[]){ __VA_ARGS__, NULL })
#define RUN_INTERRUPT(after, text, ...) \
        run_full(*state, text, sizeof(text) - 1, after, (const char *[]){ __VA_ARGS__, NULL })

static void expect(const struct output *o, int status, const char *out) {
        if (o->status != status || (out && strcmp(o->out.data, out) != 0))
                fail_msg("status %d, wrote '%s', and '%s'", o->status, o->out.data, o->err.data);
}
