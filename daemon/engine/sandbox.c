/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/landlock.h"
#include "base/log.h"
#include "base/macro.h"
#include "daemon/cage/cage.h"
#include "sandbox.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* What a process needs that computes in memory, has threads and talks over a socket it already holds. */
static const int allowed[] = {
        SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(recvmsg), SCMP_SYS(sendmsg),
        SCMP_SYS(recvfrom), SCMP_SYS(sendto), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(close), SCMP_SYS(shutdown),
        SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(lseek),
        SCMP_SYS(eventfd2),
        SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(mincore), SCMP_SYS(brk),
        SCMP_SYS(futex), SCMP_SYS(futex_waitv), SCMP_SYS(set_robust_list), SCMP_SYS(get_robust_list), SCMP_SYS(rseq),
        SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(membarrier),
        SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack),
        SCMP_SYS(restart_syscall), SCMP_SYS(getpid), SCMP_SYS(gettid),
        SCMP_SYS(clock_gettime), SCMP_SYS(clock_getres), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep),
        SCMP_SYS(gettimeofday), SCMP_SYS(getrandom), SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity),
        SCMP_SYS(sched_setaffinity), SCMP_SYS(getcpu), SCMP_SYS(getrusage),
};

/* What a driver for GPUs does beyond that, from whatever thread: commands are ioctls, each mapping of device memory opens the
 * device again, threads are named through /proc, memory is bound to nodes. Which files may be opened is Landlock's part. */
static const int allowed_device[] = {
        SCMP_SYS(ioctl), SCMP_SYS(openat), SCMP_SYS(open), SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2),
        SCMP_SYS(stat), SCMP_SYS(lstat), SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(getdents64), SCMP_SYS(fstatfs),
        SCMP_SYS(memfd_create), SCMP_SYS(ftruncate), SCMP_SYS(fallocate), SCMP_SYS(dup), SCMP_SYS(dup3), SCMP_SYS(pipe2),
        SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(select),
        SCMP_SYS(pselect6), SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime), SCMP_SYS(timerfd_gettime),
        SCMP_SYS(mlock), SCMP_SYS(mlock2), SCMP_SYS(munlock), SCMP_SYS(msync), SCMP_SYS(mbind),
        SCMP_SYS(get_mempolicy), SCMP_SYS(set_mempolicy), SCMP_SYS(sched_getparam), SCMP_SYS(sched_setparam),
        SCMP_SYS(sched_getscheduler), SCMP_SYS(sched_setscheduler), SCMP_SYS(sched_getattr), SCMP_SYS(sched_setattr),
        SCMP_SYS(sched_get_priority_max), SCMP_SYS(sched_get_priority_min), SCMP_SYS(getpriority), SCMP_SYS(sysinfo),
        SCMP_SYS(uname), SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(getppid),
        SCMP_SYS(getrlimit), SCMP_SYS(times), SCMP_SYS(set_tid_address),
};

#define READ_FILE LANDLOCK_ACCESS_FS_READ_FILE
#define READ_TREE (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define WRITE_FILE LANDLOCK_ACCESS_FS_WRITE_FILE
#ifdef LANDLOCK_ACCESS_FS_IOCTL_DEV
#define IOCTL_DEV LANDLOCK_ACCESS_FS_IOCTL_DEV
#else
#define IOCTL_DEV (1ull << 15)
#endif

/* Files of a device's driver that it opens after its start, too; those that are not there are left out. */
static const struct device_file {
        const char *path;
        uint64_t rights;
} device_files[] = {
        { "/dev/nvidiactl", READ_FILE | WRITE_FILE | IOCTL_DEV },
        { "/dev/nvidia-uvm", READ_FILE | WRITE_FILE | IOCTL_DEV },
        { "/dev/nvidia-uvm-tools", READ_FILE | WRITE_FILE | IOCTL_DEV },
        { "/dev/nvidia-caps", READ_TREE | WRITE_FILE | IOCTL_DEV },
        { "/proc/self/task", READ_TREE | WRITE_FILE }, /* a thread's name: comm */
        { "/proc/self", READ_TREE },
        { "/proc/driver", READ_TREE },
        { "/proc/devices", READ_FILE },
        { "/proc/meminfo", READ_FILE },
        { "/proc/cpuinfo", READ_FILE },
        { "/proc/sys/vm", READ_TREE },
        { "/sys/bus/pci", READ_TREE },
        { "/sys/devices", READ_TREE },
        { "/sys/module", READ_TREE },
};

#define GPUS_MAX 64u /* /dev/nvidia0 and on */

int sandbox_lower(void) {
        return prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 ? -errno : cage_lower();
}

static int allow_device(int ruleset, uint64_t handled) {
        char path[32];
        int r = 0;

        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(device_files); i++)
                r = landlock_allow_path(ruleset, device_files[i].path, device_files[i].rights & handled);
        for (unsigned i = 0; r == 0 && i < GPUS_MAX; i++) {
                (void)snprintf(path, sizeof(path), "/dev/nvidia%u", i);
                r = landlock_allow_path(ruleset, path, (READ_FILE | WRITE_FILE | IOCTL_DEV) & handled);
        }
        return r;
}

/* A ruleset that handles everything this kernel knows and allows nothing, or a device's files. */
static int deny_files(enum sandbox_profile profile) {
        _cleanup_fd_ int fd = -1;
        uint64_t files;
        int r = landlock_ruleset_new(&fd, &files);

        if (r == 0)
                log_info("no Landlock in this kernel");
        if (r <= 0)
                return r;
        r = profile == SANDBOX_DEVICE ? allow_device(fd, files) : 0;
        return r < 0 ? r : landlock_enter(fd);
}

/* Of fcntl what concerns the descriptor: an owner of one (F_SETOWN, F_SETSIG) can be sent any signal. */
static const int allowed_fcntl[] = {
        F_GETFL, F_SETFL, F_GETFD, F_SETFD, F_DUPFD, F_DUPFD_CLOEXEC, F_GET_SEALS, F_ADD_SEALS, F_GETLK, F_SETLK, F_SETLKW,
};

static const int allowed_prctl[] = { PR_SET_NAME, PR_GET_NAME, PR_GET_DUMPABLE, PR_SET_VMA, PR_GET_NO_NEW_PRIVS };

/* Calls that are harmless with certain arguments only: threads, but no processes; limits of our own. */
static void allow_narrow(struct cage *c, enum sandbox_profile profile) {
        const scmp_datum_t self = (scmp_datum_t)getpid();

        cage_allow_own(c);
        cage_allow_with(c, SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
        cage_refuse(c, SCMP_SYS(clone3), ENOSYS); /* its flags are in memory: the C library takes clone() then */
        /* a thread's own: how much of a core it needs at most; better than it is takes a privilege */
        cage_allow_with(c, SCMP_SYS(sched_setattr), SCMP_A0(SCMP_CMP_EQ, 0));
        for (size_t i = 0; i < ARRAY_SIZE(allowed_fcntl); i++)
                cage_allow_with(c, SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)allowed_fcntl[i]));
        for (size_t i = 0; i < ARRAY_SIZE(allowed_prctl); i++)
                cage_allow_with(c, SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)allowed_prctl[i]));
        if (profile == SANDBOX_DEVICE) {
                cage_allow_with(c, SCMP_SYS(prlimit64), SCMP_A0(SCMP_CMP_EQ, 0));
                cage_allow_with(c, SCMP_SYS(prlimit64), SCMP_A0(SCMP_CMP_EQ, self));
        }
}

static int filter_calls(enum sandbox_profile profile) {
        struct cage cage;

        cage_init(&cage);
        cage_allow(&cage, allowed, ARRAY_SIZE(allowed));
        if (profile == SANDBOX_DEVICE)
                cage_allow(&cage, allowed_device, ARRAY_SIZE(allowed_device));
        allow_narrow(&cage, profile);
        return cage_enter(&cage); /* threads that are there already, too */
}

int sandbox_enter(enum sandbox_profile profile) {
        int r;

        if (SANITIZED)
                return 0; /* a sanitizer reads /proc when it reports */
        r = deny_files(profile);
        return r < 0 ? r : filter_calls(profile);
}
