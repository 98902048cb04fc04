/* SPDX-License-Identifier: Apache-2.0 */

/* The emulated CUDA runtime: that work runs late, in order and where it belongs, and what tests can make go wrong. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/cuda-host/emu.h"
#include "tests/cuda-host/test-kernels.h"

#define ok(call) assert_int_equal(call, cudaSuccess)

struct fixture {
        cudaStream_t stream, other;
        uint32_t *device, *pinned;
};

#define WORDS 64u

static int setup(void **state) {
        struct fixture *f = calloc(1, sizeof *f);

        emu_reset();
        ok(cudaStreamCreateWithFlags(&f->stream, cudaStreamNonBlocking));
        ok(cudaStreamCreateWithFlags(&f->other, cudaStreamNonBlocking));
        ok(cudaMalloc((void **)&f->device, 4 * WORDS));
        ok(cudaMallocHost((void **)&f->pinned, 4 * WORDS));
        *state = f;
        return 0;
}

/* Nothing is left behind. */
static int teardown(void **state) {
        struct fixture *f = *state;
        struct emu_counts counts;

        emu_reset();
        ok(cudaStreamDestroy(f->stream));
        ok(cudaStreamDestroy(f->other));
        ok(cudaFree(f->device));
        ok(cudaFreeHost(f->pinned));
        free(f);
        emu_get_counts(&counts);
        assert_int_equal(counts.allocations + counts.allocated + counts.pinned + counts.pinned_bytes, 0);
        assert_int_equal(counts.streams + counts.events + counts.graphs + counts.execs, 0);
        return 0;
}

/* device[i] = i + value */
static cudaError_t put_index(struct fixture *f, cudaStream_t stream, uint32_t value) {
        struct test_args args = {.kernel = TEST_INDEX, .value = value, .out = f->device};

        return test_launch(stream, 2, WORDS / 2, 0, 0, &args);
}

static void test_garbage(void **state) {
        struct fixture *f = *state;

        for (uint32_t i = 0; i < WORDS; i++) {
                assert_int_equal(f->device[i], UINT32_MAX);
                assert_int_equal(f->pinned[i], UINT32_MAX);
        }
}

/* A result is there after waiting and not before; a pinned source is read when the copy runs. */
static void test_late(void **state) {
        struct fixture *f = *state;

        ok(put_index(f, f->stream, 1));
        ok(cudaMemcpyAsync(f->pinned, f->device, 4 * WORDS, cudaMemcpyDeviceToHost, f->stream));
        assert_int_equal(f->pinned[0], UINT32_MAX);
        ok(cudaStreamSynchronize(f->other));
        assert_int_equal(f->pinned[0], UINT32_MAX);
        ok(cudaStreamSynchronize(f->stream));
        for (uint32_t i = 0; i < WORDS; i++)
                assert_int_equal(f->pinned[i], i + 1);
        f->pinned[0] = 7;
        ok(cudaMemcpyAsync(f->device, f->pinned, 4, cudaMemcpyHostToDevice, f->stream));
        f->pinned[0] = 8; /* too early */
        ok(cudaStreamSynchronize(f->stream));
        assert_int_equal(f->device[0], 8);
}

static void test_at_once(void **state) {
        struct fixture *f = *state;

        emu_set_lazy(false);
        ok(put_index(f, f->stream, 1));
        ok(cudaMemcpyAsync(f->pinned, f->device, 4 * WORDS, cudaMemcpyDeviceToHost, f->stream));
        assert_int_equal(f->pinned[WORDS - 1], WORDS);
}

/* Pageable memory may be reused at once, and is there at once. */
static void test_pageable(void **state) {
        struct fixture *f = *state;
        uint32_t word = 5;

        ok(cudaMemcpyAsync(f->device, &word, 4, cudaMemcpyHostToDevice, f->stream));
        word = 6;
        assert_int_equal(f->device[0], UINT32_MAX);
        ok(cudaMemcpyAsync(&word, f->device, 4, cudaMemcpyDeviceToHost, f->stream));
        assert_int_equal(word, 5);
}

static void test_copies(void **state) {
        struct fixture *f = *state;
        uint32_t host[8] = {1, 2, 3, 4, 5, 6, 7, 8};

        ok(cudaMemset(f->device, 0, 4 * WORDS));
        ok(cudaMemcpy2D(f->device, 16, host, 8, 8, 4, cudaMemcpyHostToDevice));
        for (uint32_t i = 0; i < 16; i++)
                assert_int_equal(f->device[i], i % 4 < 2 ? host[i / 4 * 2 + i % 4] : 0);
        ok(cudaMemsetAsync(f->device + 1, 0x11, 4, f->stream));
        ok(cudaStreamSynchronize(f->stream));
        assert_int_equal(f->device[1], 0x11111111);
        assert_int_equal(cudaMemcpy(f->device, host, 4 * WORDS + 1, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
        assert_int_equal(cudaMemset(f->device + WORDS - 1, 0, 5), cudaErrorInvalidValue);
        assert_int_equal(cudaMemcpy(f->device, host, 4, (enum cudaMemcpyKind)9), cudaErrorInvalidMemcpyDirection);
}

/* Where the device does not read pageable memory, copies must know what is whose. */
static void test_discrete(void **state) {
        struct fixture *f = *state;
        struct emu_device_config device;
        uint32_t host = 1;

        emu_get_device(&device);
        device.pageable = device.integrated = false;
        emu_set_device(&device);
        assert_int_equal(cudaMemcpy(&host, f->device, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
        assert_int_equal(cudaMemset(&host, 0, 4), cudaErrorInvalidValue);
        ok(cudaHostRegister(&host, 4, cudaHostRegisterDefault));
        ok(cudaMemset(&host, 0, 4));
        ok(cudaDeviceSynchronize());
        assert_int_equal(host, 0);
        ok(cudaHostUnregister(&host));
}

static void test_events(void **state) {
        struct fixture *f = *state;
        cudaEvent_t begin, end;
        float ms = -1.0f;

        ok(cudaEventCreate(&begin));
        ok(cudaEventCreate(&end));
        ok(cudaEventQuery(end)); /* never recorded */
        ok(cudaEventRecord(begin, f->stream));
        ok(put_index(f, f->stream, 3));
        ok(cudaEventRecord(end, f->stream));
        assert_int_equal(cudaEventElapsedTime(&ms, begin, end), cudaErrorNotReady);
        /* What waits for an event has it done first. */
        ok(cudaStreamWaitEvent(f->other, end, 0));
        ok(cudaMemcpyAsync(f->pinned, f->device, 4, cudaMemcpyDeviceToHost, f->other));
        ok(cudaStreamSynchronize(f->other));
        assert_int_equal(f->pinned[0], 3);
        ok(cudaEventQuery(end));
        ok(cudaEventElapsedTime(&ms, begin, end));
        assert_true(ms >= 0.0f);
        ok(put_index(f, f->stream, 4));
        ok(cudaEventRecord(end, f->stream));
        assert_int_equal(cudaEventQuery(end), cudaErrorNotReady);
        ok(cudaEventQuery(end));
        assert_int_equal(f->device[0], 4);
        ok(cudaEventSynchronize(end));
        ok(cudaEventDestroy(begin));
        ok(cudaEventDestroy(end));
}

static void test_legacy(void **state) {
        struct fixture *f = *state;
        cudaStream_t blocking;

        ok(cudaStreamCreate(&blocking));
        ok(put_index(f, blocking, 1));
        ok(put_index(f, NULL, 2));
        ok(put_index(f, blocking, 3));
        ok(cudaStreamSynchronize(blocking));
        assert_int_equal(f->device[0], 3);
        ok(put_index(f, blocking, 4));
        ok(cudaMemcpy(f->pinned, f->device, 4, cudaMemcpyDeviceToHost));
        assert_int_equal(f->pinned[0], 4);
        ok(cudaStreamDestroy(blocking));
}

static cudaGraph_t capture(struct fixture *f, uint32_t value) {
        cudaGraph_t graph = NULL;

        ok(cudaStreamBeginCapture(f->stream, cudaStreamCaptureModeThreadLocal));
        ok(cudaMemcpyAsync(f->device, f->pinned, 4, cudaMemcpyHostToDevice, f->stream));
        ok(put_index(f, f->stream, value));
        ok(cudaMemcpyAsync(f->pinned + 1, f->device + 1, 4, cudaMemcpyDeviceToHost, f->stream));
        ok(cudaStreamEndCapture(f->stream, &graph));
        return graph;
}

static void test_graph(void **state) {
        struct fixture *f = *state;
        cudaGraphExecUpdateResultInfo info;
        cudaGraph_t graph, next;
        cudaGraphExec_t exec;
        struct emu_counts counts;
        size_t n;

        graph = capture(f, 10);
        ok(cudaStreamSynchronize(f->stream));
        assert_int_equal(f->pinned[1], UINT32_MAX); /* only written down */
        ok(cudaGraphGetNodes(graph, NULL, &n));
        assert_int_equal(n, 3);
        ok(cudaGraphInstantiate(&exec, graph, 0));
        ok(cudaGraphDestroy(graph));
        for (uint32_t i = 0; i < 3; i++) {
                f->pinned[1] = 0;
                ok(cudaGraphLaunch(exec, f->stream));
                assert_int_equal(f->pinned[1], 0);
                ok(cudaStreamSynchronize(f->stream));
                assert_int_equal(f->pinned[1], 11);
        }
        next = capture(f, 20);
        ok(cudaGraphExecUpdate(exec, next, &info));
        ok(cudaGraphDestroy(next));
        ok(cudaGraphLaunch(exec, f->stream));
        ok(cudaGraphExecDestroy(exec)); /* what is under way still runs */
        ok(cudaStreamSynchronize(f->stream));
        assert_int_equal(f->pinned[1], 21);
        emu_get_counts(&counts);
        assert_int_equal(counts.graph_launches, 4);
        assert_int_equal(counts.kernels, 4);
        assert_int_equal(counts.launches, 0);
}

static void test_capture_broken(void **state) {
        enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
        struct fixture *f = *state;
        cudaGraph_t graph;
        void *p;

        ok(cudaStreamBeginCapture(f->stream, cudaStreamCaptureModeGlobal));
        assert_int_equal(cudaStreamSynchronize(f->stream), cudaErrorStreamCaptureUnsupported);
        assert_int_equal(cudaStreamEndCapture(f->stream, &graph), cudaErrorStreamCaptureInvalidated);
        assert_null(graph);
        ok(cudaStreamBeginCapture(f->stream, cudaStreamCaptureModeGlobal));
        assert_int_equal(cudaMalloc(&p, 16), cudaErrorStreamCaptureUnsupported);
        assert_int_equal(cudaStreamEndCapture(f->stream, &graph), cudaErrorStreamCaptureInvalidated);
        ok(cudaThreadExchangeStreamCaptureMode(&mode));
        ok(cudaStreamBeginCapture(f->stream, cudaStreamCaptureModeGlobal));
        ok(cudaMalloc(&p, 16));
        ok(cudaThreadExchangeStreamCaptureMode(&mode));
        ok(cudaStreamEndCapture(f->stream, &graph));
        ok(cudaGraphDestroy(graph));
        ok(cudaFree(p));
        assert_int_equal(cudaStreamBeginCapture(NULL, cudaStreamCaptureModeGlobal), cudaErrorStreamCaptureUnsupported);
        assert_int_equal(cudaStreamEndCapture(f->stream, &graph), cudaErrorInvalidValue);
}

/* What is not put on a stream a graph would not repeat, or waits for what has not been started. */
static void test_capture_forbids(void **state) {
        struct fixture *f = *state;
        cudaGraph_t graph;
        cudaEvent_t event;
        void *page = aligned_alloc(65536, 65536);

        assert_non_null(page);
        ok(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
        for (unsigned i = 0; i < 3; i++) {
                cudaError_t error;

                ok(cudaStreamBeginCapture(f->stream, cudaStreamCaptureModeThreadLocal));
                error = i == 0 ? cudaEventQuery(event) :
                        i == 1 ? cudaEventSynchronize(event) : cudaHostRegister(page, 65536, cudaHostRegisterMapped);
                assert_int_equal(error, cudaErrorStreamCaptureUnsupported);
                assert_int_equal(cudaStreamEndCapture(f->stream, &graph), cudaErrorStreamCaptureInvalidated);
        }
        ok(cudaEventQuery(event));
        ok(cudaEventDestroy(event));
        free(page);
}

/* Pages are registered, each once, and such as can't be written to as what they are. */
static void test_register(void **state) {
        struct emu_device_config d;
        size_t size = (size_t)sysconf(_SC_PAGESIZE);
        char *p = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        assert_true(p != MAP_FAILED);
        emu_get_device(&d);
        d.pageable = false;
        emu_set_device(&d);
        p[0] = 5;
        ok(cudaHostRegister(p, 16, cudaHostRegisterMapped));
        assert_int_equal(p[0], 5);
        assert_int_equal(cudaHostRegister(p + 32, 16, cudaHostRegisterMapped), cudaErrorHostMemoryAlreadyRegistered);
        assert_int_equal(cudaHostRegister(p + size - 1, 2, cudaHostRegisterMapped), cudaErrorHostMemoryAlreadyRegistered);
        ok(cudaHostRegister(p + size, 16, cudaHostRegisterMapped));
        ok(cudaHostUnregister(p + size));
        ok(cudaHostUnregister(p));
        assert_int_equal(mprotect(p, size, PROT_READ), 0);
        assert_int_equal(cudaHostRegister(p, size, cudaHostRegisterMapped), cudaErrorInvalidValue);
        ok(cudaHostRegister(p, size, cudaHostRegisterMapped | cudaHostRegisterReadOnly));
        ok(cudaHostUnregister(p));
        (void)munmap(p, 2 * size);
}

static void test_failures(void **state) {
        struct fixture *f = *state;
        void *p;

        emu_fail("cudaMalloc", 2, cudaErrorMemoryAllocation, false);
        ok(cudaMalloc(&p, 16));
        ok(cudaFree(p));
        assert_int_equal(cudaMalloc(&p, 16), cudaErrorMemoryAllocation);
        assert_int_equal(cudaPeekAtLastError(), cudaErrorMemoryAllocation);
        assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
        ok(cudaGetLastError());
        emu_fail("launch", 1, cudaErrorLaunchOutOfResources, false);
        assert_int_equal(put_index(f, f->stream, 1), cudaErrorLaunchOutOfResources);
        ok(put_index(f, f->stream, 1));
        ok(cudaStreamSynchronize(f->stream));
}

/* A kernel that fails says so at the next occasion, and from then on all does. */
static void test_sticky(void **state) {
        struct fixture *f = *state;
        cudaEvent_t event;
        void *p;

        ok(cudaEventCreate(&event));
        emu_fail("kernel", 2, cudaErrorIllegalAddress, true);
        ok(put_index(f, f->stream, 1));
        ok(put_index(f, f->stream, 2));
        ok(cudaEventRecord(event, f->stream));
        assert_int_equal(cudaEventQuery(event), cudaErrorIllegalAddress);
        assert_int_equal(cudaEventQuery(event), cudaErrorIllegalAddress);
        assert_int_equal(cudaMalloc(&p, 16), cudaErrorIllegalAddress);
        assert_int_equal(cudaGetLastError(), cudaErrorIllegalAddress);
        assert_int_equal(cudaGetLastError(), cudaErrorIllegalAddress);
        assert_int_equal(f->device[0], 1);
        emu_reset();
        ok(cudaEventDestroy(event));
}

static void test_hang(void **state) {
        struct fixture *f = *state;
        cudaEvent_t event;

        ok(cudaEventCreate(&event));
        emu_hang(2);
        ok(put_index(f, f->stream, 1));
        ok(put_index(f, f->stream, 2));
        ok(cudaEventRecord(event, f->stream));
        for (int i = 0; i < 100; i++)
                assert_int_equal(cudaEventQuery(event), cudaErrorNotReady);
        assert_int_equal(f->device[0], 1);
        ok(cudaStreamSynchronize(f->other)); /* others go on */
        emu_unhang();
        ok(cudaEventSynchronize(event));
        assert_int_equal(f->device[0], 2);
        ok(cudaEventDestroy(event));
}

static void test_device(void **state) {
        struct emu_device_config device;
        struct cudaDeviceProp prop;
        size_t free_bytes, total;
        void *p;
        int v;

        emu_get_device(&device);
        device.sm = 90;
        device.memory = 1 << 20;
        device.driver = 12040;
        emu_set_device(&device);
        ok(cudaDeviceGetAttribute(&v, cudaDevAttrComputeCapabilityMajor, 0));
        assert_int_equal(v, 9);
        ok(cudaDeviceGetAttribute(&v, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
        assert_int_equal(v, 232448);
        ok(cudaGetDeviceProperties(&prop, 0));
        assert_int_equal(prop.major * 10 + prop.minor, 90);
        ok(cudaDriverGetVersion(&v));
        assert_int_equal(v, 12040);
        assert_int_equal(cudaMalloc(&p, 1 << 20), cudaErrorMemoryAllocation); /* the fixture has some of it */
        ok(cudaMemGetInfo(&free_bytes, &total));
        assert_int_equal(total, 1 << 20);
        ok(cudaMalloc(&p, free_bytes));
        ok(cudaFree(p));
        device.count = 0;
        emu_set_device(&device);
        assert_int_equal(cudaGetDeviceCount(&v), cudaErrorNoDevice);
        assert_int_equal(cudaSetDevice(0), cudaErrorNoDevice);
}

static void test_configure(void **state) {
        struct fixture *f = *state;
        struct emu_device_config device;

        assert_true(emu_configure("sm=89,sms=7,unified=0,memory=0x100000,driver=12000,order=shuffled:3"));
        emu_get_device(&device);
        assert_int_equal(device.sm, 89);
        assert_int_equal(device.sms, 7);
        assert_false(device.integrated || device.pageable);
        assert_int_equal(device.memory, 1 << 20);
        assert_int_equal(device.driver, 12000);
        assert_true(emu_configure("fail=launch:2:719"));
        ok(put_index(f, f->stream, 1));
        assert_int_equal(put_index(f, f->stream, 1), cudaErrorLaunchFailure);
        assert_false(emu_configure("sm=x"));
        assert_false(emu_configure("nothing=1"));
        assert_false(emu_configure("sm"));
        assert_false(emu_configure("fail=launch"));
        assert_false(emu_configure("order=sideways"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_garbage), TEST(test_late), TEST(test_at_once), TEST(test_pageable), TEST(test_copies),
                TEST(test_discrete), TEST(test_events), TEST(test_legacy), TEST(test_graph), TEST(test_capture_broken),
                TEST(test_capture_forbids), TEST(test_register), TEST(test_failures), TEST(test_sticky), TEST(test_hang),
                TEST(test_device), TEST(test_configure),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
