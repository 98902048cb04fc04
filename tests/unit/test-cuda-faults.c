/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The CUDA backend when things go wrong on the emulated device: no device, memory that is not there at any of the places where
 * some is asked for, errors that stay, kernels that never end, pointers that go while graphs have them.
 */

#include "cuda-backend-fixture.h"

#include <errno.h>

static const struct traits plain = { .name = "plain", .fmt = FMT_Q8_0, .kv = KV_F16 };
static const struct traits experts = { .name = "experts", .fmt = FMT_Q8_0, .kv = KV_F16, .experts = true, .window = true };

static float logits[2][SUBJECT_TOKENS * SUBJECT_VOCAB];

static struct emu_counts counts(void) {
        struct emu_counts c;

        emu_get_counts(&c);
        return c;
}

static void check_nothing_left(void) {
        const struct emu_counts c = counts();

        assert_int_equal(c.allocations + c.pinned, 0);
        assert_int_equal(c.streams + c.events + c.graphs + c.execs, 0);
}

static void test_no_device(void **unused) {
        struct emu_device_config d;
        struct backend_error error = { .text = "" };
        const char *why = NULL;

        assert_null(spark_backend_cuda(BACKEND_ABI + 1, &why));
        assert_non_null(strstr(why, "another version"));
        emu_get_device(&d);
        d.count = 0;
        emu_set_device(&d);
        assert_null(spark_backend_cuda(BACKEND_ABI, &why));
        assert_non_null(strstr(why, "no NVIDIA GPU"));
        d.count = 1;
        d.sm = 75;
        emu_set_device(&d);
        assert_null(spark_backend_cuda(BACKEND_ABI, &why));
        assert_non_null(strstr(why, "7.5"));
        d.sm = 90;
        d.integrated = d.pageable = false;
        emu_set_device(&d);
        assert_null(open_cuda("unified", 0, &error));
        assert_non_null(strstr(error.text, "unified"));
        assert_null(open_cuda("elsewhere", 0, &error));
        assert_non_null(strstr(error.text, "auto"));
        emu_fail("cudaGetDeviceCount", 1, cudaErrorInsufficientDriver, false);
        d.driver = 12080;
        emu_set_device(&d);
        assert_null(spark_backend_cuda(BACKEND_ABI, &why));
        assert_non_null(strstr(why, "12.8"));
        assert_non_null(strstr(why, "13.0"));
        check_nothing_left();
        emu_reset();
}

static void test_facts(void **unused) {
        struct emu_device_config d;
        struct backend_error error = { .text = "" };
        struct backend_facts facts;
        struct backend *be = open_cuda("auto", 0, &error);
        struct subject s;
        uint64_t bytes;
        int32_t got[2] = { 1, 2 }, back[2] = { 0, 0 };
        void *dev;

        assert_non_null(strstr(be->ops->describe(be), "sm_121, unified memory"));
        be->ops->facts(be, &facts);
        assert_string_equal(facts.placement, "unified");
        bytes = facts.device_bytes;
        assert_int_equal(be->ops->alloc(be, 1000, &dev), 0);
        be->ops->facts(be, &facts);
        assert_in_range(facts.device_bytes, bytes + 1000, bytes + 2000);
        assert_int_equal(be->ops->upload(be, dev, got, sizeof(got)), 0);
        assert_int_equal(be->ops->download(be, back, dev, sizeof(back)), 0);
        assert_memory_equal(got, back, sizeof(got));
        be->ops->release(be, dev);
        assert_int_equal(be->ops->health(be), 0);
        be->ops->close(be);
        emu_get_device(&d);
        d.pageable = false; /* registered memory instead, where that can be */
        emu_set_device(&d);
        emu_fail("cudaHostRegister", 1, cudaErrorNotSupported, false);
        assert_null(open_cuda("unified", 0, &error));
        assert_non_null(strstr(error.text, "unified"));
        emu_fail("cudaHostRegister", 1, cudaErrorNotSupported, false);
        be = open_cuda("auto", 0, &error);
        be->ops->facts(be, &facts);
        assert_string_equal(facts.placement, "device");
        be->ops->close(be);
        subject_make(&s, &plain, open_cuda("unified", 0, &error), 8);
        assert_int_equal(subject_step(&s, 0, 4, 0, logits[0]), 0);
        assert_true(counts().pinned > 3);
        subject_free(&s);
        check_nothing_left();
        emu_reset();
}

/* From opening to the second step. *ret_failed: where it was, if it was not the last of these. */
static int try_all(const struct traits *t, bool *ret_stepped) {
        struct backend_error error = { .text = "" };
        struct backend *be = open_cuda("device", 0, &error);
        struct subject s;
        int r;

        *ret_stepped = false;
        if (!be)
                return BACKEND_E_NO_MEMORY;
        r = subject_try(&s, t, be, SUBJECT_TOKENS);
        if (r == 0) {
                r = subject_step(&s, 0, 8, 0, logits[0]);
                /* What was lacking may be there the next time. */
                if (r == -ENOMEM) {
                        assert_int_equal(subject_step(&s, 0, 8, 0, logits[0]), 0);
                        *ret_stepped = true;
                }
        }
        subject_free(&s);
        return r;
}

/* Uploading weights does with fewer stages than it wants: not each lack is the end of the load. */
static void check_no_memory(const char *function, const struct traits *t) {
        unsigned in_step = 0, n = 1, done = 0;
        bool stepped;
        int r;

        do {
                emu_reset();
                emu_fail(function, n++, cudaErrorMemoryAllocation, false);
                r = try_all(t, &stepped);
                if (r > 3 || (r < 0 && !stepped))
                        print_error("%s %u: %d\n", function, n - 1, r);
                assert_true(r == 0 || r == BACKEND_E_NO_MEMORY || r == MODEL_E_NO_MEMORY || (r == -ENOMEM && stepped));
                in_step += stepped;
                done = r == 0 ? done + 1 : 0;
                check_nothing_left();
        } while (done <= CUDA_UPLOAD_STAGES && n < 200);
        assert_int_equal(r, 0);
        assert_true(in_step > 0);
        emu_reset();
}

static void test_no_memory(void **unused) {
        check_no_memory("cudaMalloc", &plain);
        check_no_memory("cudaMalloc", &experts);
        check_no_memory("cudaHostAlloc", &plain);
}

/* No graph: the same bits, kernel by kernel; where memory was lacking, one is made when it is there. */
static void test_no_graphs(void **unused) {
        static const struct {
                const char *where;
                cudaError_t error;
        } faults[] = { { "cudaGraphInstantiate", cudaErrorMemoryAllocation },
                       { "cudaGraphInstantiate", cudaErrorNotSupported },
                       { "cudaGraphLaunch", cudaErrorMemoryAllocation } };
        struct backend_error error = { .text = "" };
        struct subject s;

        subject_make(&s, &plain, open_cuda("auto", 0, &error), SUBJECT_TOKENS);
        assert_int_equal(subject_step(&s, 0, 8, 0, logits[0]), 0);
        subject_free(&s);
        for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
                subject_make(&s, &plain, open_cuda("auto", 0, &error), SUBJECT_TOKENS);
                emu_fail(faults[i].where, 1, faults[i].error, false);
                assert_int_equal(subject_step(&s, 0, 8, 0, logits[1]), 0);
                assert_int_equal(subject_step(&s, 0, 8, 0, logits[1]), 0);
                assert_memory_equal(logits[0], logits[1], 8 * SUBJECT_VOCAB * sizeof(float));
                assert_int_equal(cuda_of(s.be)->runner.graph_steps, 0);
                assert_int_equal(subject_step(&s, 0, 8, 0, logits[1]), 0);
                assert_int_equal(subject_step(&s, 0, 8, 0, logits[1]), 0);
                assert_int_equal(cuda_of(s.be)->runner.graph_steps, faults[i].error == cudaErrorMemoryAllocation);
                subject_free(&s);
                check_nothing_left();
        }
        emu_reset();
}

/* A kernel that finds no memory to be taken to the device: the step fails, the next one is as ever. */
static void test_no_memory_for_kernels(void **unused) {
        struct backend_error error = { .text = "" };
        struct subject s;

        subject_make(&s, &plain, open_cuda("auto", 0, &error), SUBJECT_TOKENS);
        assert_int_equal(subject_step(&s, 0, 8, 0, logits[0]), 0);
        subject_free(&s);
        for (unsigned n = 1; n < 12; n++) {
                subject_make(&s, &plain, open_cuda("auto", 0, &error), SUBJECT_TOKENS);
                emu_fail("cudaLaunchKernelEx", n, cudaErrorMemoryAllocation, false);
                assert_int_equal(subject_step(&s, 0, 8, 0, logits[1]), -ENOMEM);
                assert_int_equal(subject_step(&s, 0, 8, 0, logits[1]), 0);
                assert_memory_equal(logits[0], logits[1], 8 * SUBJECT_VOCAB * sizeof(float));
                subject_free(&s);
                check_nothing_left();
        }
}

static void check_lost(struct subject *s, int r) {
        void *dev = NULL;

        assert_int_equal(subject_step(s, 8, 1, 0, logits[0]), r);
        assert_int_equal(s->be->ops->alloc(s->be, 16, &dev), r);
        assert_int_equal(s->be->ops->kv_copy(s->be, s->kv, 0, 1), r);
        assert_int_equal(s->be->ops->kv_export(s->be, s->kv, 0, logits[0]), r);
        assert_int_equal(s->be->ops->health(s->be), r);
}

static void test_sticky(void **unused) {
        static const char *const where[] = { "kernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaEventQuery" };
        struct backend_error error = { .text = "" };
        struct subject s;

        for (size_t i = 0; i < ARRAY_SIZE(where); i++) {
                subject_make(&s, &plain, open_cuda("auto", 0, &error), SUBJECT_TOKENS);
                assert_int_equal(subject_step(&s, 0, 8, 0, logits[0]), 0);
                assert_int_equal(subject_step(&s, 0, 8, 0, logits[0]), 0); /* there is a graph */
                emu_fail(where[i], 1, cudaErrorIllegalAddress, true);
                assert_int_equal(subject_step(&s, 0, 8, 0, logits[0]), -EIO);
                check_lost(&s, -EIO);
                subject_free(&s);
                check_nothing_left();
                emu_reset();
        }
}

/* Closing waits for nothing, and so leaves the device's memory, and what is registered, to the process's end. */
static void check_hang(unsigned steps) {
        struct backend_error error = { .text = "" };
        struct subject s;

        subject_make(&s, &plain, open_cuda("auto", 60, &error), SUBJECT_TOKENS);
        for (unsigned i = 0; i < steps; i++)
                assert_int_equal(subject_step(&s, 0, 8, 0, logits[0]), 0);
        emu_hang(3);
        assert_int_equal(subject_step(&s, 0, 8, 0, logits[0]), -ETIMEDOUT);
        check_lost(&s, -ETIMEDOUT);
        subject_free(&s);
        emu_unhang();
        emu_reset();
}

static void test_hang(void **unused) {
        struct emu_device_config d;

        check_hang(0);
        check_hang(4); /* in a graph, whose time is known */
        emu_get_device(&d);
        d.pageable = false;
        emu_set_device(&d);
        check_hang(1);
}

/* A released buffer's address may come back with other things in it. */
static void test_release(void **unused) {
        struct backend_error error = { .text = "" };
        const struct kv_config config = { .n_layers = 2, .n_kv_heads = 2, .head_dim = 32, .n_pages = SUBJECT_PAGES,
                                          .page_tokens = SUBJECT_PAGE, .format = KV_F16 };
        struct subject s;

        subject_make(&s, &plain, open_cuda("auto", 0, &error), SUBJECT_TOKENS);
        assert_int_equal(subject_step(&s, 0, 8, 0, logits[0]), 0);
        assert_int_equal(subject_step(&s, 0, 8, 0, logits[0]), 0);
        assert_int_equal(cuda_of(s.be)->runner.graph_steps, 1);
        s.f = forward_free(s.f);
        assert_int_equal(cuda_of(s.be)->runner.n_graphs, 0);
        s.kv = s.be->ops->kv_free(s.be, s.kv);
        assert_int_equal(s.be->ops->kv_new(s.be, &config, &s.kv), 0);
        assert_int_equal(forward_new(&s.f, s.m, s.kv, 16, 16), 0);
        assert_int_equal(subject_step(&s, 0, 8, 0, logits[1]), 0);
        assert_memory_equal(logits[0], logits[1], 8 * SUBJECT_VOCAB * sizeof(float));
        subject_free(&s);
}

/* Pages go out and come back, and are copied, bit for bit; numbers beyond the cache are refused. */
static void test_pages(void **unused) {
        struct backend_error error = { .text = "" };
        struct subject s;
        uint8_t *page, *other;
        size_t bytes;

        subject_make(&s, &plain, open_cuda("auto", 0, &error), SUBJECT_TOKENS);
        bytes = s.be->ops->kv_page_bytes(s.be, s.kv);
        page = malloc(bytes);
        other = malloc(bytes);
        assert_true(page && other);
        assert_int_equal(subject_step(&s, 0, 20, 0, logits[0]), 0);
        assert_int_equal(subject_step(&s, 20, 1, 0, logits[0]), 0);
        assert_int_equal(s.be->ops->kv_export(s.be, s.kv, 1, page), 0);
        assert_int_equal(s.be->ops->kv_copy(s.be, s.kv, 0, 8), 0);
        assert_int_equal(s.be->ops->kv_import(s.be, s.kv, 9, page), 0);
        assert_int_equal(s.be->ops->kv_export(s.be, s.kv, 9, other), 0);
        assert_memory_equal(page, other, bytes);
        assert_int_equal(s.be->ops->kv_copy(s.be, s.kv, 0, SUBJECT_PAGES), BACKEND_E_UNSUPPORTED);
        assert_int_equal(s.be->ops->kv_export(s.be, s.kv, SUBJECT_PAGES, page), BACKEND_E_UNSUPPORTED);
        assert_int_equal(s.be->ops->kv_import(s.be, s.kv, SUBJECT_PAGES, page), BACKEND_E_UNSUPPORTED);
        free(page);
        free(other);
        subject_free(&s);
        check_nothing_left();
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_no_device), cmocka_unit_test(test_facts),     cmocka_unit_test(test_no_memory),
                cmocka_unit_test(test_no_graphs), cmocka_unit_test(test_sticky),    cmocka_unit_test(test_release),
                cmocka_unit_test(test_pages),     cmocka_unit_test(test_no_memory_for_kernels),
                cmocka_unit_test(test_hang), /* last: it leaves something behind */
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
