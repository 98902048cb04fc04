/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Weights on their way to the emulated device: whatever their sizes, however many threads there are, and whatever is lacking or
 * fails on the way. Threads are made late on demand, so that a test knows what is still to be done; all must have been joined.
 */

#include "cuda-backend-fixture.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>

#define N_IN 1024u /* a panel of 32 rows is 128 KiB */
#define STAGE (CUDA_STAGE_BYTES + 0u)

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __real_pthread_join(pthread_t thread, void **ret);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_join(pthread_t thread, void **ret);
int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *ret);

static struct {
        unsigned cpus;
        unsigned allowed; /* threads that can be made */
        unsigned delay_ms; /* before they begin */
        unsigned together; /* they begin when there are so many */
        atomic_uint created;
        unsigned joined;
} machine;

struct start {
        void *(*fn)(void *);
        void *arg;
        unsigned delay_ms, together;
};

static void sleep_ms(unsigned ms) {
        (void)nanosleep(&(struct timespec){ .tv_nsec = (long)ms * 1000000 }, NULL);
}

static void *start_late(void *userdata) {
        struct start s = *(struct start *)userdata;

        free(userdata);
        sleep_ms(s.delay_ms);
        for (unsigned i = 0; atomic_load(&machine.created) < s.together && i < 10000; i++)
                sleep_ms(1);
        return s.fn(s.arg);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg) {
        struct start *s;
        int r;

        if (machine.created == machine.allowed)
                return EAGAIN;
        s = malloc(sizeof(*s));
        assert_non_null(s);
        *s = (struct start){ fn, arg, machine.delay_ms, machine.together };
        r = __real_pthread_create(thread, attr, start_late, s);
        assert_int_equal(r, 0);
        machine.created++;
        return 0;
}

int __wrap_pthread_join(pthread_t thread, void **ret) {
        machine.joined++;
        return __real_pthread_join(thread, ret);
}

int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *ret) {
        CPU_ZERO(ret);
        for (unsigned i = 0; i < machine.cpus; i++)
                CPU_SET(i, ret);
        return 0;
}

static int set_up(void **unused) {
        emu_reset();
        machine.cpus = 8;
        machine.allowed = 100;
        machine.delay_ms = machine.together = machine.joined = 0;
        atomic_store(&machine.created, 0);
        return 0;
}

static struct emu_counts counts(void) {
        struct emu_counts c;

        emu_get_counts(&c);
        return c;
}

static struct backend *open_device(void) {
        struct backend_error error = { .text = "" };
        struct backend *be = open_cuda("device", 0, &error);

        assert_non_null(be);
        return be;
}

/* Closes it; nothing may be left. */
static void check_close(struct backend *be) {
        struct emu_counts c;

        be->ops->close(be);
        c = counts();
        assert_int_equal(c.allocations + c.pinned + c.streams + c.events + c.graphs + c.execs, 0);
        assert_int_equal(machine.joined, machine.created);
}

/* No two places of it look alike. */
static uint8_t *pattern(size_t bytes, uint64_t seed) {
        uint8_t *p = malloc(bytes);
        uint64_t x = seed * 2654435761u + 88172645463325252u;

        assert_non_null(p);
        for (size_t i = 0; i < bytes; i += sizeof(x)) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                memcpy(p + i, &x, MIN(bytes - i, sizeof(x)));
        }
        return p;
}

static const size_t sizes[] = { 1,         3,         255,           4097,          (1u << 20) + 7, STAGE - 1,
                                STAGE,     STAGE + 1, 2 * STAGE,     3 * STAGE + 13, 64,             100000,
                                (CUDA_UPLOAD_STAGES + 1) * STAGE + 5, 17 };

/* All sizes, once through one uploader. */
static void check_sizes(struct backend *base) {
        struct cuda_backend *be = cuda_of(base);
        struct cuda_memory memory[ARRAY_SIZE(sizes)];
        uint8_t *from[ARRAY_SIZE(sizes)];
        const struct emu_counts before = counts();

        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                from[i] = pattern(sizes[i], i + 1);
                assert_int_equal(cuda_memory_take(be, sizes[i], false, memory + i), 0);
                assert_int_equal(cuda_uploader_put(be, memory[i].data, from[i], sizes[i]), 0);
        }
        assert_non_null(be->uploader);
        assert_int_equal(cuda_uploader_finish(be), 0);
        assert_null(be->uploader);
        assert_int_equal(machine.joined, machine.created);
        assert_int_equal(counts().pinned + counts().streams + counts().events, before.pinned + before.streams + before.events);
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) { /* the emulated device's memory can be looked at */
                assert_memory_equal(memory[i].data, from[i], sizes[i]);
                cuda_memory_give(be, memory + i);
                free(from[i]);
        }
        assert_int_equal(cuda_uploader_finish(be), 0); /* has nothing to do */
}

static void test_sizes(void **unused) {
        static const struct {
                unsigned cpus, allowed, expected;
        } crews[] = { { 8, 100, 6 }, { 3, 100, 2 }, { 1, 100, 1 }, { 8, 3, 3 }, { 8, 0, 0 } };

        for (size_t i = 0; i < ARRAY_SIZE(crews); i++)
                for (unsigned lazy = 0; lazy < 2; lazy++) {
                        struct backend *be;

                        set_up(NULL);
                        emu_set_lazy(lazy);
                        machine.cpus = crews[i].cpus;
                        machine.allowed = crews[i].allowed;
                        machine.together = crews[i].expected; /* none is idle before */
                        be = open_device();
                        check_sizes(be);
                        assert_int_equal(machine.created, crews[i].expected);
                        check_close(be);
                }
}

/* A second model, or what is bound late: as the first. */
static void test_again(void **unused) {
        struct backend *be = open_device();

        check_sizes(be);
        check_sizes(be);
        check_close(be);
}

/* Without memory for all stages some do; without any nothing has happened. */
static void test_no_stages(void **unused) {
        uint8_t *x = pattern(STAGE, 9);

        for (unsigned n = 1; n <= CUDA_UPLOAD_STAGES; n++) {
                struct weight w = { .info = fmt_info(FMT_F32), .layout = WEIGHT_PANELS, .n_out = 32, .n_in = N_IN, .data = x };
                struct backend *be;

                set_up(NULL);
                be = open_device();
                emu_fail("cudaHostAlloc", n, cudaErrorMemoryAllocation, false);
                if (n == 1) {
                        assert_int_equal(be->ops->bind(be, &w), BACKEND_E_NO_MEMORY);
                        assert_ptr_equal(w.data, x);
                        assert_int_equal(cuda_of(be)->slab_used, 0);
                        assert_int_equal(be->ops->bind(be, &w), 0); /* it may be there the next time */
                        assert_int_equal(be->ops->settle(be), 0);
                        assert_memory_equal(w.data, x, 32 * N_IN * sizeof(float));
                } else {
                        check_sizes(be);
                }
                check_close(be);
        }
        free(x);
}

/* Weights of so many panels, of one region that goes away before its content is looked at. */
struct weights {
        struct weight w[4];
        uint8_t *map, *kept;
        size_t bytes;
};

static const uint32_t panels[] = { 1, 67, 3, 130 };

static void weights_make(struct weights *w) {
        const size_t panel = 32 * N_IN * sizeof(float);
        size_t at = 0;

        *w = (struct weights){ .bytes = 201 * panel };
        w->map = mmap(NULL, w->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_true(w->map != MAP_FAILED);
        w->kept = pattern(w->bytes, 5);
        memcpy(w->map, w->kept, w->bytes);
        for (size_t i = 0; i < ARRAY_SIZE(w->w); at += panels[i++] * panel)
                w->w[i] = (struct weight){ .info = fmt_info(FMT_F32), .layout = WEIGHT_PANELS, .n_out = 32 * panels[i],
                                           .n_in = N_IN, .data = w->map + at };
        assert_int_equal(at, w->bytes);
}

/* Returns what the first bind() that failed returned. */
static int weights_bind(struct weights *w, struct backend *be) {
        int r = 0;

        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(w->w); i++)
                r = be->ops->bind(be, w->w + i);
        return r;
}

static void weights_unmap(struct weights *w) {
        assert_int_equal(munmap(w->map, w->bytes), 0);
}

static void weights_check(const struct weights *w, struct backend *be, size_t n) {
        const size_t panel = 32 * N_IN * sizeof(float);
        uint8_t *x = malloc(w->bytes);
        size_t at = 0;

        assert_non_null(x);
        for (size_t i = 0; i < n; at += panels[i++] * panel) {
                assert_int_equal(be->ops->download(be, x, w->w[i].data, panels[i] * panel), 0);
                assert_memory_equal(x, w->kept + at, panels[i] * panel);
        }
        free(x);
}

/* bind() waits for stages only; settle() for all. Vectors may be copied in between. */
static void test_settle(void **unused) {
        struct backend *be = open_device();
        float vector[64], back[64];
        struct weights w;
        void *dev;

        for (unsigned i = 0; i < ARRAY_SIZE(vector); i++)
                vector[i] = (float)i;
        weights_make(&w);
        machine.delay_ms = 50;
        assert_int_equal(be->ops->bind(be, w.w), 0);
        assert_int_equal(be->ops->alloc(be, sizeof(vector), &dev), 0);
        assert_int_equal(be->ops->upload(be, dev, vector, sizeof(vector)), 0);
        assert_non_null(cuda_of(be)->uploader);
        assert_int_equal(machine.joined, 0);
        machine.delay_ms = 0;
        for (size_t i = 1; i < ARRAY_SIZE(w.w); i++)
                assert_int_equal(be->ops->bind(be, w.w + i), 0);
        assert_non_null(cuda_of(be)->uploader);
        assert_int_equal(be->ops->settle(be), 0);
        assert_int_equal(machine.joined, machine.created);
        weights_unmap(&w);
        weights_check(&w, be, ARRAY_SIZE(w.w));
        assert_int_equal(be->ops->download(be, back, dev, sizeof(back)), 0);
        assert_memory_equal(back, vector, sizeof(vector));
        be->ops->release(be, dev);
        free(w.kept);
        check_close(be);
}

/* Rows of the matrix, by a step that follows bind() at once. */
static void test_step_at_once(void **unused) {
        const int32_t token[] = { 0, 32 * 67 - 1, 1000 };
        const uint32_t zero[] = { 0, 0, 0 };
        const struct batch batch = { .n_rows = 3, .token = token, .pos = zero, .seq = zero };
        struct weight w = { .info = fmt_info(FMT_F32), .layout = WEIGHT_PANELS, .n_out = 32 * 67, .n_in = N_IN };
        size_t n = (size_t)w.n_out * N_IN;
        float *rows = malloc(n * sizeof(float)), *out = malloc(3 * N_IN * sizeof(float));
        struct backend *be = open_device();
        void *data = NULL, *dev;

        assert_true(rows && out && posix_memalign(&data, 64, n * sizeof(float)) == 0);
        for (size_t i = 0; i < n; i++)
                rows[i] = (float)(i % 8191);
        weight_pack(w.info, w.n_out, N_IN, 0, w.n_out, rows, data);
        w.data = data;
        assert_int_equal(be->ops->alloc(be, 3 * N_IN * sizeof(float), &dev), 0);
        machine.delay_ms = 50;
        assert_int_equal(be->ops->bind(be, &w), 0);
        assert_int_equal(be->ops->begin(be, &batch, NULL), 0);
        assert_int_equal(be->ops->embed(be, &w, &batch, 1, dev), 0);
        assert_non_null(cuda_of(be)->uploader);
        assert_int_equal(be->ops->end(be), 0);
        assert_null(cuda_of(be)->uploader);
        free(data);
        assert_int_equal(be->ops->download(be, out, dev, 3 * N_IN * sizeof(float)), 0);
        for (unsigned i = 0; i < 3; i++)
                assert_memory_equal(out + i * N_IN, rows + (size_t)token[i] * N_IN, N_IN * sizeof(float));
        be->ops->release(be, dev);
        free(rows);
        free(out);
        check_close(be);
}

/* download() waits by itself. */
static void test_download_at_once(void **unused) {
        struct backend *be = open_device();
        struct weights w;

        weights_make(&w);
        machine.delay_ms = 20;
        assert_int_equal(weights_bind(&w, be), 0);
        assert_non_null(cuda_of(be)->uploader);
        weights_check(&w, be, ARRAY_SIZE(w.w));
        weights_unmap(&w);
        free(w.kept);
        check_close(be);
}

/* What was bound before is there. */
static void test_no_device_memory(void **unused) {
        struct backend *be = open_device();
        struct emu_device_config d;
        struct backend_facts before, after;
        struct weights w;

        weights_make(&w);
        emu_get_device(&d);
        d.memory = counts().allocated + (44u << 20); /* a slab of 32 MiB and 8.4 MiB of its own, not 16 MiB */
        emu_set_device(&d);
        be->ops->facts(be, &before);
        assert_int_equal(weights_bind(&w, be), BACKEND_E_NO_MEMORY);
        assert_ptr_equal(w.w[3].data, w.map + (size_t)71 * 32 * N_IN * sizeof(float));
        be->ops->facts(be, &after);
        assert_int_equal(after.device_bytes - before.device_bytes, (32u << 20) + 67u * 32 * N_IN * sizeof(float));
        assert_int_equal(be->ops->settle(be), 0);
        weights_unmap(&w);
        weights_check(&w, be, 3);
        free(w.kept);
        check_close(be);
}

/* Wherever an error comes, the device is lost for good, and once settle() has said so nobody reads the weights any more. */
static void test_sticky(void **unused) {
        static const char *const where[] = { "cudaMemcpyAsync", "cudaEventRecord", "cudaEventQuery", "cudaStreamCreateWithFlags" };

        for (size_t i = 0; i < ARRAY_SIZE(where); i++)
                for (unsigned n = 1; n < 8; n += 3) {
                        struct backend *be;
                        struct weights w;
                        void *dev;
                        int r;

                        set_up(NULL);
                        be = open_device();
                        weights_make(&w);
                        machine.delay_ms = 5;
                        emu_fail(where[i], i == 3 ? 1 : n, cudaErrorIllegalAddress, true);
                        r = weights_bind(&w, be);
                        assert_true(r == 0 || r == -EIO);
                        assert_int_equal(be->ops->settle(be), -EIO);
                        assert_int_equal(machine.joined, machine.created);
                        weights_unmap(&w);
                        assert_int_equal(be->ops->bind(be, w.w), -EIO);
                        assert_int_equal(be->ops->settle(be), -EIO);
                        assert_int_equal(be->ops->alloc(be, 16, &dev), -EIO);
                        free(w.kept);
                        check_close(be);
                }
}

/* With pieces that nobody has begun to copy, with transfers under way, and with both. */
static void test_close_pending(void **unused) {
        for (unsigned ms = 0; ms < 40; ms += 13)
                for (unsigned n = 1; n <= ARRAY_SIZE(panels); n++) {
                        struct backend *be;
                        struct weights w;

                        set_up(NULL);
                        be = open_device();
                        weights_make(&w);
                        machine.delay_ms = ms;
                        for (size_t i = 0; i < n; i++)
                                assert_int_equal(be->ops->bind(be, w.w + i), 0);
                        assert_non_null(cuda_of(be)->uploader);
                        check_close(be);
                        weights_unmap(&w);
                        free(w.kept);
                }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup(test_sizes, set_up),
                cmocka_unit_test_setup(test_again, set_up),
                cmocka_unit_test_setup(test_no_stages, set_up),
                cmocka_unit_test_setup(test_settle, set_up),
                cmocka_unit_test_setup(test_step_at_once, set_up),
                cmocka_unit_test_setup(test_download_at_once, set_up),
                cmocka_unit_test_setup(test_no_device_memory, set_up),
                cmocka_unit_test_setup(test_sticky, set_up),
                cmocka_unit_test_setup(test_close_pending, set_up),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
