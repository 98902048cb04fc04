/* SPDX-License-Identifier: Apache-2.0 */

/* What the driver's management library reports of a device, and what becomes of a backend then. A stand-in is there for it. */

#include "cuda-backend-fixture.h"

#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

#include "kernels/cuda/nvml.h"
#include "objects/nvml.h"

#define XID 8
#define CLOCKS 16 /* an event that nobody asked for */
#define GPU_IS_LOST 15
#define TIMEOUT 10
#define NOT_SUPPORTED 3
#define NO_PERMISSION 4

static struct fake_nvml *fake;

/* Under the name of the real one, which is found by its name among what is open already. */
static void open_fake(void) {
        char path[1200];
        ssize_t n = readlink("/proc/self/exe", path, 1000);
        void *object;

        assert_true(n > 0);
        path[n] = 0;
        (void)strcpy(strrchr(path, '/'), "/object-nvml.so");
        object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!object)
                fail_msg("%s", dlerror());
        fake = dlsym(object, "fake_nvml");
        assert_non_null(fake);
}

static int setup(void **state) {
        if (!fake)
                open_fake();
        *fake = (struct fake_nvml){ .dry = TIMEOUT };
        return 0;
}

static int teardown(void **state) {
        return fake->users + fake->sets; /* all was given back */
}

static void report(unsigned long long type, unsigned long long data) {
        fake->events[fake->n_events++] = (struct fake_event){ type, data };
}

static void test_driver(void **unused) {
        struct cuda_nvml *n = cuda_nvml_new(NULL);
        char driver[80];

        assert_non_null(n);
        assert_true(cuda_nvml_driver(n, driver, sizeof(driver)));
        assert_string_equal(driver, "580.95.05");
        report(XID, 79);
        assert_int_equal(cuda_nvml_poll(n), 0); /* of no device */
        cuda_nvml_free(n);
        assert_false(cuda_nvml_driver(NULL, driver, sizeof(driver)));
        assert_int_equal(cuda_nvml_poll(NULL), 0);
}

static void test_events(void **unused) {
        struct cuda_nvml *n = cuda_nvml_new("0000:01:00.0");

        assert_int_equal(cuda_nvml_poll(n), 0);
        report(XID, 13); /* of some process */
        report(CLOCKS, 79);
        assert_int_equal(cuda_nvml_poll(n), 0);
        assert_int_equal(fake->n_events, 0);
        report(XID, 31);
        report(XID, 119);
        report(XID, 79);
        assert_int_equal(cuda_nvml_poll(n), 119);
        assert_int_equal(cuda_nvml_poll(n), 79);
        fake->dry = GPU_IS_LOST;
        assert_int_equal(cuda_nvml_poll(n), 79);
        cuda_nvml_free(n);
}

/* Whoever asks is not kept by a device that reports without end. */
static void test_flood(void **unused) {
        struct cuda_nvml *n = cuda_nvml_new("0000:01:00.0");

        for (unsigned i = 0; i < ARRAY_SIZE(fake->events); i++)
                report(CLOCKS, 0);
        assert_int_equal(cuda_nvml_poll(n), 0);
        assert_in_range(fake->n_waits, 1, ARRAY_SIZE(fake->events) - 1);
        cuda_nvml_free(n);
}

static void test_without_events(void **unused) {
        struct cuda_nvml *n;

        fake->no_events = true;
        n = cuda_nvml_new("0000:01:00.0");
        assert_non_null(n);
        assert_int_equal(fake->sets, 0);
        assert_int_equal(cuda_nvml_poll(n), 0);
        cuda_nvml_free(n);
        n = cuda_nvml_new("0000:02:00.0");
        assert_non_null(n);
        assert_int_equal(cuda_nvml_poll(n), 0);
        assert_int_equal(fake->n_waits, 0);
        cuda_nvml_free(n);
}

/* What it took since it was opened, and what it says now. */
static void test_power(void **unused) {
        struct backend_power p;
        struct cuda_nvml *n;

        fake->energy_mj = 5000000000000ull; /* since the driver came */
        fake->power_mw = 31500;
        fake->temperature = 61;
        n = cuda_nvml_new("0000:01:00.0");
        fake->energy_mj += 1234;
        cuda_nvml_power(n, &p);
        assert_true(p.energy_known && p.power_known && p.temperature_known && !p.throttled);
        assert_int_equal(p.energy_uj, 1234000);
        assert_int_equal(p.power_mw, 31500);
        assert_int_equal(p.temperature_c, 61);
        cuda_nvml_free(n);
        cuda_nvml_power(NULL, &p);
        assert_false(p.energy_known || p.power_known || p.temperature_known || p.throttled);
}

static void test_throttled(void **unused) {
        static const struct {
                unsigned long long reasons;
                bool throttled;
        } cases[] = { { 0, false },    { 0x1, false },  { 0x2, false },  { 0x4, true },  { 0x8, true },
                      { 0x10, false }, { 0x20, true },  { 0x40, true },  { 0x80, true }, { 0x101, false } };
        struct backend_power p;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct cuda_nvml *n = cuda_nvml_new("0000:01:00.0");

                fake->reasons = cases[i].reasons;
                cuda_nvml_power(n, &p);
                assert_int_equal(p.throttled, cases[i].throttled);
                cuda_nvml_free(n);
        }
}

/* A device that knows nothing of it, one that is not found, and one whose counter was set back. */
static void test_power_unknown(void **unused) {
        static const char *const buses[] = { "0000:01:00.0", "0000:02:00.0" };
        struct backend_power p;
        struct cuda_nvml *n;

        fake->reasons = 0x8;
        for (size_t i = 0; i < ARRAY_SIZE(buses); i++) {
                fake->power_result = i == 0 ? NOT_SUPPORTED : 0;
                n = cuda_nvml_new(buses[i]);
                cuda_nvml_power(n, &p);
                assert_false(p.energy_known || p.power_known || p.temperature_known || p.throttled);
                cuda_nvml_free(n);
        }
        fake->energy_mj = 1000;
        n = cuda_nvml_new("0000:01:00.0");
        fake->energy_mj = 999;
        cuda_nvml_power(n, &p);
        assert_false(p.energy_known);
        assert_true(p.power_known);
        cuda_nvml_free(n);
}

/* Through the backend: health() asks, and who wants to know takes that. */
static void test_power_of_a_backend(void **unused) {
        struct backend_error error = { .text = "" };
        struct backend *be = open_cuda("auto", 0, &error);
        struct backend_power p;
        unsigned asked;

        assert_non_null(be);
        fake->energy_mj = 7;
        assert_int_equal(be->ops->health(be), 0);
        asked = fake->n_asked;
        fake->energy_mj = 9; /* a moment later */
        be->ops->power(be, &p);
        assert_int_equal(fake->n_asked, asked);
        assert_int_equal(p.energy_uj, 7000);
        assert_int_equal(be->ops->health(be), 0);
        assert_int_equal(fake->n_asked, asked);
        be->ops->close(be);
        emu_reset();
}

static void test_clocks(void **unused) {
        struct cuda_nvml *n;

        fake->highest_mhz = 2418;
        n = cuda_nvml_new("0000:01:00.0");
        assert_int_equal(cuda_nvml_cap_clocks(n, 0, false), BACKEND_CLOCKS_FREE);
        assert_int_equal(fake->n_locks + fake->n_unlocks, 0); /* somebody else's lock is left alone */
        assert_int_equal(cuda_nvml_cap_clocks(n, 60, false), BACKEND_CLOCKS_NVML);
        assert_int_equal(fake->locked_max, 1450);
        assert_int_equal(fake->locked_min, 0);
        assert_int_equal(cuda_nvml_cap_clocks(n, 50, false), BACKEND_CLOCKS_NVML);
        assert_int_equal(fake->locked_max, 1209);
        assert_int_equal(cuda_nvml_cap_clocks(n, 100, false), BACKEND_CLOCKS_FREE);
        assert_int_equal(fake->locked_max, 0);
        assert_int_equal(fake->n_unlocks, 1);
        assert_int_equal(cuda_nvml_cap_clocks(n, 1, false), BACKEND_CLOCKS_NVML);
        cuda_nvml_free(n); /* the device keeps a lock over its process */
        assert_int_equal(fake->locked_max, 0);
        assert_int_equal(fake->n_unlocks, 2);
}

/* One that was killed gave nothing free: the next one does, when it is told so. */
static void test_clocks_left_over(void **unused) {
        struct cuda_nvml *n;

        fake->highest_mhz = 2000;
        fake->locked_max = 700;
        n = cuda_nvml_new("0000:01:00.0");
        assert_int_equal(cuda_nvml_cap_clocks(n, 0, true), BACKEND_CLOCKS_FREE);
        assert_int_equal(fake->locked_max, 0);
        fake->clocks_result = NO_PERMISSION; /* nothing of ours, then */
        assert_int_equal(cuda_nvml_cap_clocks(n, 0, true), BACKEND_CLOCKS_FREE);
        cuda_nvml_free(n);
        assert_int_equal(fake->n_unlocks, 2);
}

static void test_clocks_refused(void **unused) {
        struct cuda_nvml *n;

        fake->highest_mhz = 2000;
        fake->clocks_result = NO_PERMISSION;
        n = cuda_nvml_new("0000:01:00.0");
        assert_int_equal(cuda_nvml_cap_clocks(n, 60, false), BACKEND_CLOCKS_FORBIDDEN);
        fake->clocks_result = NOT_SUPPORTED;
        assert_int_equal(cuda_nvml_cap_clocks(n, 60, false), BACKEND_CLOCKS_UNSUPPORTED);
        fake->clocks_result = 0;
        fake->highest_mhz = 0; /* it does not say */
        assert_int_equal(cuda_nvml_cap_clocks(n, 60, false), BACKEND_CLOCKS_UNSUPPORTED);
        fake->highest_mhz = 2000;
        assert_int_equal(cuda_nvml_cap_clocks(n, 60, false), BACKEND_CLOCKS_NVML);
        fake->clocks_result = NO_PERMISSION; /* root no more: what is in force is not called free */
        assert_int_equal(cuda_nvml_cap_clocks(n, 0, false), BACKEND_CLOCKS_FORBIDDEN);
        cuda_nvml_free(n);
        n = cuda_nvml_new("0000:02:00.0"); /* not found */
        assert_int_equal(cuda_nvml_cap_clocks(n, 60, false), BACKEND_CLOCKS_UNSUPPORTED);
        cuda_nvml_free(n);
        assert_int_equal(cuda_nvml_cap_clocks(NULL, 60, false), BACKEND_CLOCKS_UNSUPPORTED);
        assert_int_equal(cuda_nvml_cap_clocks(NULL, 0, true), BACKEND_CLOCKS_FREE);
}

static void test_clocks_of_a_backend(void **unused) {
        const struct backend_caps caps = { .threads = 2, .clocks = 75 };
        struct backend_error error = { .text = "" };
        struct backend *be = open_cuda("auto", 0, &error);
        struct backend_capped capped;

        assert_non_null(be);
        fake->highest_mhz = 2000;
        be->ops->cap(be, &caps, &capped);
        assert_int_equal(capped.clocks, BACKEND_CLOCKS_NVML);
        assert_int_equal(capped.threads, 0);
        assert_int_equal(fake->locked_max, 1500);
        be->ops->close(be);
        assert_int_equal(fake->locked_max, 0);
        emu_reset();
}

/* Memory of a device that is gone is left alone: whoever gave it back would wait. */
static void test_lost(void **unused) {
        struct backend_error error = { .text = "" };
        struct backend *be = open_cuda("auto", 0, &error);
        struct emu_counts counts;
        void *dev = NULL;

        assert_non_null(be);
        assert_int_equal(be->ops->alloc(be, 1000, &dev), 0);
        report(XID, 31);
        assert_int_equal(be->ops->health(be), 0);
        report(XID, 79);
        assert_int_equal(be->ops->health(be), -ENODEV);
        assert_int_equal(be->ops->health(be), -ENODEV);
        assert_int_equal(be->ops->alloc(be, 1000, &dev), -ENODEV);
        be->ops->close(be);
        emu_get_counts(&counts);
        assert_int_equal(counts.allocations, 1);
        free(dev); /* the emulated device's is the host's: for LeakSanitizer */
        emu_reset();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_driver), TEST(test_events), TEST(test_flood), TEST(test_without_events), TEST(test_lost),
                TEST(test_power), TEST(test_throttled), TEST(test_power_unknown), TEST(test_power_of_a_backend),
                TEST(test_clocks), TEST(test_clocks_left_over), TEST(test_clocks_refused), TEST(test_clocks_of_a_backend),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
