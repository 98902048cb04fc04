/* SPDX-License-Identifier: Apache-2.0 */

/* Caps on rows, threads and clocks, changed between any two steps: what they are is kept to, and of no consequence for a token. */

#include "engine-fixture.h"
#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <seccomp.h>
#include <sys/wait.h>
#include <unistd.h>

#define STREAMS 12u

static const uint32_t batches[] = { 1, 2, 3, 0, 7, 16, 40, 1000, 5 };

static void init_streams(struct result *x) {
        for (uint32_t i = 0; i < STREAMS; i++) {
                result_init(&x[i], i + 1, 5 + 13 * i, 12 + i, i);
                x[i].request.uid = i % 2;
        }
}

/* Each alone, without any cap. */
static void run_alone(struct lab *l, struct result *want) {
        init_streams(want);
        for (uint32_t i = 0; i < STREAMS; i++)
                lab_run_alone(l, &want[i]);
}

static void deinit_streams(struct result *x) {
        for (uint32_t i = 0; i < STREAMS; i++)
                result_deinit(&x[i]);
}

static void cap(struct lab *l, uint32_t threads, uint32_t clocks) {
        const struct backend_caps caps = { .threads = threads, .clocks = clocks };
        struct backend_capped capped = { 0 };

        if (!l->backend->ops->cap)
                return;
        l->backend->ops->cap(l->backend, &caps, &capped);
        assert_int_equal(capped.threads, threads == 0 || threads > 4 ? 4 : threads);
        if (clocks == 0)
                assert_int_equal(capped.clocks, BACKEND_CLOCKS_FREE);
        else
                assert_true(capped.clocks == BACKEND_CLOCKS_UCLAMP || capped.clocks == BACKEND_CLOCKS_UNSUPPORTED);
}

static void check_bits(const char *backend) {
        static struct result want[STREAMS], got[STREAMS];
        struct lab l;
        int r = 1;

        lab_open_model(&l, backend, 4);
        lab_start(&l, &(struct engine_config){ .max_rows = 64, .max_sequences = 8 });
        run_alone(&l, want);
        init_streams(got);
        for (uint32_t i = 0; i < STREAMS; i++)
                lab_submit(&l, &got[i]);
        for (uint32_t step = 0; r > 0; step++) {
                uint32_t batch = batches[step / 3 % ARRAY_SIZE(batches)];

                if (step % 3 == 0)
                        assert_int_equal(engine_cap_batch(l.engine, batch), batch == 0 || batch > 64 ? 64 : batch);
                cap(&l, step % 6, step % 4 * 20);
                r = engine_step(l.engine);
                if (batch > 0)
                        assert_in_range(lab_stats(&l).running, 0, MIN(MAX(batch / 2, 1u), 8u));
        }
        assert_int_equal(r, 0);
        for (uint32_t i = 0; i < STREAMS; i++) {
                assert_true(got[i].finished);
                assert_same_output(&got[i], &want[i]);
        }
        deinit_streams(want);
        deinit_streams(got);
        lab_close(&l);
}

static void test_bits(void **state) {
        check_bits("cpu");
}

static void test_bits_null(void **state) {
        check_bits("null");
}

/* A prompt takes as many steps as the cap says, and is not kept out by streams that decode. */
static void test_rows(void **state) {
        struct result stream, prompt;
        unsigned steps = 0;
        struct lab l;

        lab_open(&l, "null", &(struct engine_config){ .max_rows = 64, .max_sequences = 8 });
        assert_int_equal(engine_cap_batch(l.engine, 2), 2);
        result_init(&stream, 1, 2, 400, 1);
        result_init(&prompt, 2, 101, 1, 2);
        lab_submit(&l, &stream);
        while (stream.n < 3)
                assert_int_equal(engine_step(l.engine), 1);
        assert_int_equal(engine_cap_batch(l.engine, 4), 4);
        lab_submit(&l, &prompt);
        for (; !prompt.finished; steps++)
                assert_int_equal(engine_step(l.engine), 1);
        assert_in_range(steps, 34, 35); /* three of four rows; the other one decodes */
        assert_in_range(stream.n, 3 + 33, 3 + 35);
        lab_run(&l);
        result_deinit(&stream);
        result_deinit(&prompt);
        lab_close(&l);
}

/* Those that are too many wait at once, with all that they have computed, and go on when the cap is gone. */
static void test_slots(void **state) {
        static struct result x[8];
        struct engine_stats stats;
        uint64_t used;
        struct lab l;

        lab_open(&l, "null", &(struct engine_config){ .max_rows = 64, .max_sequences = 8 });
        for (uint32_t i = 0; i < 8; i++) {
                result_init(&x[i], i + 1, 40, 50, i);
                lab_submit(&l, &x[i]);
        }
        while (x[7].n < 2)
                assert_int_equal(engine_step(l.engine), 1);
        used = lab_stats(&l).kv_used_bytes;
        (void)engine_cap_batch(l.engine, 6);
        stats = lab_stats(&l);
        assert_int_equal(stats.running, 3);
        assert_int_equal(stats.queued, 5);
        assert_int_equal(stats.kv_used_bytes, used);
        assert_int_equal(engine_step(l.engine), 1);
        assert_int_equal(lab_stats(&l).running, 3);
        (void)engine_cap_batch(l.engine, 0);
        assert_int_equal(engine_step(l.engine), 1);
        assert_int_equal(lab_stats(&l).running, 8);
        lab_run(&l);
        for (uint32_t i = 0; i < 8; i++) {
                assert_true(x[i].finished);
                result_deinit(&x[i]);
        }
        lab_close(&l);
}

/* In a child whose kernel answers a clamp with this: 0, or an error. */
static enum backend_clocks clocks_where(uint32_t answer) {
        const struct backend_caps caps = { .clocks = 60 };
        scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
        struct backend_capped capped;
        struct lab l;

        if (!ctx || seccomp_rule_add(ctx, SCMP_ACT_ERRNO(answer), SCMP_SYS(sched_setattr), 0) != 0 || seccomp_load(ctx) != 0)
                return 77;
        seccomp_release(ctx);
        lab_open_model(&l, "cpu", 2);
        l.backend->ops->cap(l.backend, &caps, &capped);
        lab_close_model(&l);
        return capped.clocks;
}

static void test_verdicts(void **state) {
        static const struct {
                int answer;
                enum backend_clocks want;
        } cases[] = {
                { 0, BACKEND_CLOCKS_UCLAMP },           { EPERM, BACKEND_CLOCKS_FORBIDDEN },  { EACCES, BACKEND_CLOCKS_FORBIDDEN },
                { ENOSYS, BACKEND_CLOCKS_UNSUPPORTED }, { EINVAL, BACKEND_CLOCKS_UNSUPPORTED },
                { EOPNOTSUPP, BACKEND_CLOCKS_UNSUPPORTED },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                int status;
                pid_t pid = fork();

                assert_true(pid >= 0);
                if (pid == 0)
                        _exit((int)clocks_where((uint32_t)cases[i].answer));
                assert_int_equal(waitpid(pid, &status, 0), pid);
                assert_true(WIFEXITED(status));
                if (WEXITSTATUS(status) == 77)
                        skip(); /* no seccomp here */
                assert_int_equal(WEXITSTATUS(status), cases[i].want);
        }
}

/* The kernel takes it, or says that it does not know of it: nothing else, without any privilege. */
static void test_clocks(void **state) {
        int r = cpu_cap_clocks(50);

        assert_true(r == 0 || r == -EOPNOTSUPP || r == -EINVAL || r == -ENOSYS || r == -E2BIG);
        assert_int_equal(cpu_cap_clocks(100), r);
        print_message("uclamp: %s\n", r == 0 ? "there" : strerror(-r));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_bits),  cmocka_unit_test(test_bits_null), cmocka_unit_test(test_rows),
                cmocka_unit_test(test_slots), cmocka_unit_test(test_clocks),
                cmocka_unit_test(test_verdicts),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
