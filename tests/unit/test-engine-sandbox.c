/* SPDX-License-Identifier: Apache-2.0 */

/* An engine's cages hold, and a device's leaves its driver what it needs: a child enters one and reports, through its exit
 * status, the first thing that is not as it should be. */

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/macro.h"
#include "cage-fixture.h"
#include "daemon/engine/sandbox.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static bool has_landlock(void) {
        return syscall(SYS_landlock_create_ruleset, NULL, 0, 1u) >= 1;
}

static int in_child(int (*fn)(void)) {
        if (SANITIZED) {
                print_message("skipped: no cage in this build\n");
                skip();
        }
        return cage_run(fn);
}

static bool enter(enum sandbox_profile profile) {
        return sandbox_lower() == 0 && sandbox_enter(profile) == 0;
}


static long vfork_raw(void) {
#ifdef SYS_vfork
        return syscall(SYS_vfork);
#else
        errno = EPERM;
        return -1;
#endif
}

/* What no engine may do. */
static int try_forbidden(void) {
        const struct sockaddr_un bus = { .sun_family = AF_UNIX, .sun_path = "/run/dbus/system_bus_socket" };
        int n = 60, r = cage_try_forbidden();

        if (r)
                return r;
        FORBID(open("/bin/true", O_RDONLY));
        FORBID(vfork_raw());
        FORBID(fcntl(0, F_SETSIG, SIGKILL));
        FORBID(prctl(PR_SET_PTRACER, getppid()));
        FORBID(connect(0, (const struct sockaddr *)&bus, sizeof(bus)));
        FORBID(syscall(SYS_bind, 0, (const struct sockaddr *)&bus, sizeof(bus)));
        FORBID(mount("none", "/tmp", "tmpfs", 0, NULL));
        FORBID(mkdir("/tmp/does-not-exist", 0700));
        FORBID(syscall(SYS_bpf, 0, NULL, 0));
        FORBID(syscall(SYS_perf_event_open, NULL, 0, 0, 0, 0));
        /* what was closed to others is so still, and without a core */
        if (prctl(PR_GET_DUMPABLE) != 0 || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
                return n;
        return 0;
}

/* As the CPU backend does it; of another thread, or process, by nobody. */
static long clamp(pid_t pid) {
        const struct {
                uint32_t size, policy;
                uint64_t flags;
                uint32_t rest[10];
        } attributes = { .size = 56, .flags = 0x58, .rest = { [9] = 512 } };

        return syscall(SYS_sched_setattr, pid, &attributes, 0);
}

static int forbidden_in_memory(void) {
        int n = 80, r;

        if (!enter(SANDBOX_MEMORY))
                return 200;
        r = try_forbidden();
        if (r != 0)
                return r;
        FORBID(ioctl(0, 0x5401, NULL)); /* a device's alone */
        FORBID(clamp(getppid()));
        FORBID(clamp((pid_t)syscall(SYS_gettid)));
        FORBID(memfd_create("x", 0));
        FORBID(open("/proc/self/task/self/comm", O_RDONLY));
        FORBID(open("/proc/meminfo", O_RDONLY));
        return 0;
}

static void *no_work(void *arg) {
        return arg;
}

/* With threads and limits of its own, what the C library does for them. */
static int allowed_in_memory(void) {
        pthread_t thread;
        int n = 1;

        if (!enter(SANDBOX_MEMORY))
                return 200;
        ALLOW(pthread_create(&thread, NULL, no_work, NULL) ? -1 : 0);
        ALLOW(pthread_join(thread, NULL) ? -1 : 0);
        ALLOW(fcntl(0, F_GETFL));
        ALLOW(fcntl(0, F_DUPFD_CLOEXEC, 10));
        ALLOW(prctl(PR_SET_NAME, "worker"));
        ALLOW(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 0));
        ALLOW(clamp(0) < 0 && cage_refused(-1) ? -1 : 0); /* a kernel may not know of it */
        return 0;
}

static int forbidden_with_device(void) {
        int n = 80, r;

        if (!has_landlock()) {
                (void)fprintf(stderr, "no Landlock in this kernel: files are not tried\n");
                return 0;
        }
        if (!enter(SANDBOX_DEVICE))
                return 200;
        r = try_forbidden();
        if (r != 0)
                return r;
        FORBID(open("/dev/null", O_RDWR));
        FORBID(open("/proc/1/status", O_RDONLY));
        FORBID(open("/proc/self/status", O_WRONLY));
        FORBID(open("/proc/meminfo", O_WRONLY));
        FORBID(open("/dev", O_RDONLY | O_DIRECTORY));
        return 0;
}

static int name_thread(void) {
        char path[64];
        int fd, r;

        (void)snprintf(path, sizeof(path), "/proc/self/task/%ld/comm", (long)syscall(SYS_gettid));
        fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0)
                return -1;
        r = write(fd, "cuda-worker", 11) == 11 ? 0 : -1;
        return close(fd) < 0 ? -1 : r;
}

/* As the service's user: whoever leaves no core owns little of its own /proc. */
static bool become_nobody(void) {
        return geteuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0);
}

/* What a driver does at any time. */
static int allowed_with_device(void) {
        struct itimerspec soon = { .it_value.tv_nsec = 1000 };
        unsigned char vec[1];
        cpu_set_t cpus;
        pthread_t thread;
        int fd, n = 1;
        void *p;

        if (!become_nobody())
                return 201;
        if (!enter(SANDBOX_DEVICE))
                return 200;
        ALLOW(fd = memfd_create("x", MFD_CLOEXEC));
        ALLOW(ftruncate(fd, 4096));
        p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        ALLOW(p == MAP_FAILED ? -1 : 0);
        ALLOW(mlock(p, 4096) < 0 && errno != ENOMEM ? -1 : 0);
        ALLOW(eventfd(0, EFD_CLOEXEC));
        ALLOW(fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
        ALLOW(timerfd_settime(fd, 0, &soon, NULL));
        ALLOW(ioctl(fd, 0x5421 /* FIONBIO */, &(int){ 1 }));
        ALLOW(name_thread());
        ALLOW(open("/proc/self/maps", O_RDONLY));
        ALLOW(open("/proc/meminfo", O_RDONLY));
        ALLOW(sched_yield());
        CPU_ZERO(&cpus);
        ALLOW(sched_getaffinity(0, sizeof(cpus), &cpus));
        ALLOW(sched_setaffinity(0, sizeof(cpus), &cpus));
        ALLOW(mincore((void *)((uintptr_t)p & ~(uintptr_t)4095), 4096, vec));
        ALLOW(madvise(p, 4096, MADV_DONTFORK));
        ALLOW(prctl(PR_SET_NAME, "cuda-worker"));
        ALLOW(mremap(p, 4096, 4096, 0) == MAP_FAILED ? -1 : 0);
        ALLOW(clock_nanosleep(CLOCK_MONOTONIC, 0, &soon.it_value, NULL) ? -1 : 0);
        ALLOW(syscall(SYS_membarrier, 0 /* MEMBARRIER_CMD_QUERY */, 0, 0));
        ALLOW(pthread_create(&thread, NULL, no_work, NULL) ? -1 : 0);
        ALLOW(pthread_join(thread, NULL) ? -1 : 0);
        return 0;
}

/* The driver's threads are there before: calls are filtered there, too. */
static int pipe_fds[2];

static void *thread_main(void *arg) {
        char c;

        if (read(pipe_fds[0], &c, 1) != 1)
                return (void *)1;
        if (!cage_refused(socket(AF_UNIX, SOCK_STREAM, 0)) || !cage_refused(unlink("/tmp/does-not-exist")))
                return (void *)2;
        return name_thread() == 0 ? NULL : (void *)3;
}

static int try_thread(void) {
        pthread_t thread;
        void *result;

        if (pipe(pipe_fds) < 0 || pthread_create(&thread, NULL, thread_main, NULL) != 0)
                return 201;
        if (!enter(SANDBOX_DEVICE))
                return 200;
        if (write(pipe_fds[1], "x", 1) != 1 || pthread_join(thread, &result) != 0)
                return 202;
        return (int)(intptr_t)result;
}

static void test_memory(void **state) {
        assert_int_equal(in_child(forbidden_in_memory), 0);
}

static void test_memory_allows(void **state) {
        assert_int_equal(in_child(allowed_in_memory), 0);
}

static void test_device_forbids(void **state) {
        assert_int_equal(in_child(forbidden_with_device), 0);
}

static void test_device_allows(void **state) {
        assert_int_equal(in_child(allowed_with_device), 0);
}

static void test_threads_before(void **state) {
        assert_int_equal(in_child(try_thread), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_memory),
                cmocka_unit_test(test_memory_allows),
                cmocka_unit_test(test_device_forbids),
                cmocka_unit_test(test_device_allows),
                cmocka_unit_test(test_threads_before),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
