/* SPDX-License-Identifier: Apache-2.0 */

/*
 * fork() and exec, not posix_spawn(): the child needs close_range(), rlimits and PR_SET_PDEATHSIG. Control is small, so a
 * fork is cheap; there may be other threads (the disk's), so between fork and exec only async-signal-safe calls are made,
 * on what was prepared before. Only the loop's thread spawns: a child would die with any other one.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawn.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

extern char **environ;

/* Ours alone: what systemd told us is not for our children. */
static const char *const private_env[] = { "NOTIFY_SOCKET=",  "LISTEN_PID=",   "LISTEN_FDS=",      "LISTEN_FDNAMES=",
                                           "WATCHDOG_USEC=",  "WATCHDOG_PID=", "FDSTORE=",         "CREDENTIALS_DIRECTORY=",
                                           "INVOCATION_ID=",  NULL };

static char *path_if_executable(const char *folder, const char *sub, const char *program) {
        char *path = NULL;

        if (asprintf(&path, "%s%s/%s", folder, sub, program) < 0)
                return NULL;
        if (access(path, X_OK) < 0) {
                free(path);
                return NULL;
        }
        return path;
}

char *spawn_find(const char *program) {
        static const char *const fixed[] = { "/usr/libexec/sparkd", "/usr/local/libexec/sparkd", "/usr/lib/sparkd" };
        char self[PATH_MAX];
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        char *path = NULL;

        if (n > 0) {
                char *slash;

                self[n] = 0;
                slash = strrchr(self, '/');
                if (slash)
                        *slash = 0;
                path = path_if_executable(self, "", program);
                if (!path)
                        path = path_if_executable(self, "/../libexec/sparkd", program);
        }
        for (size_t i = 0; !path && i < ARRAY_SIZE(fixed); i++)
                path = path_if_executable(fixed[i], "", program);
        return path;
}

static char **environment_new(void) {
        size_t n = 0, k = 0;
        char **env;

        while (environ[n])
                n++;
        env = calloc(n + 1, sizeof(*env));
        if (!env)
                return NULL;
        for (size_t i = 0; i < n; i++) {
                size_t p = 0;

                while (private_env[p] && strncmp(environ[i], private_env[p], strlen(private_env[p])) != 0)
                        p++;
                if (!private_env[p])
                        env[k++] = environ[i];
        }
        return env;
}

static void child_write_oom_score(const char *adj) {
        int fd;

        if (!adj)
                return;
        fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return;
        if (write(fd, adj, strlen(adj)) < 0) /* it is a wish */
                (void)0;
        (void)close(fd);
}

/* Moves fds[i] to SPAWN_FIRST_FD + i: first all of them out of the way, then down. */
static int child_place_fds(const int *fds, size_t n) {
        int high[SPAWN_FDS_MAX], base = SPAWN_FIRST_FD + (int)n;

        for (size_t i = 0; i < n; i++) {
                high[i] = fcntl(fds[i], F_DUPFD, base);
                if (high[i] < 0)
                        return -1;
        }
        for (size_t i = 0; i < n; i++)
                if (dup2(high[i], SPAWN_FIRST_FD + (int)i) < 0)
                        return -1;
        return (int)syscall(SYS_close_range, (unsigned)base, ~0u, 0u);
}

static void child_reset_signals(void) {
        struct sigaction sa = { .sa_handler = SIG_DFL };
        sigset_t none;

        for (int sig = 1; sig < NSIG; sig++)
                (void)sigaction(sig, &sa, NULL);
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static __attribute__((noreturn)) void child_run(const struct spawn *s, const char *path, char **env, pid_t parent) {
        static const struct rlimit no_core = { 0, 0 };
        int null_fd;

        child_reset_signals();
        (void)setsid(); /* Ctrl-C at a terminal reaches control, which ends its children in order */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
                _exit(127);
        (void)setrlimit(RLIMIT_CORE, &no_core);
        child_write_oom_score(s->oom_score_adj);
        null_fd = open("/dev/null", O_RDWR);
        if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 || dup2(null_fd, STDOUT_FILENO) < 0)
                _exit(127);
        if (child_place_fds(s->fds, s->n_fds) < 0)
                _exit(127);
        (void)execve(path, s->argv, env);
        _exit(127);
}

void spawn_argument(size_t i, const char *name, char *out, size_t size) {
        (void)snprintf(out, size, "%s%s%d", name ? name : "", name ? "=" : "", SPAWN_FIRST_FD + (int)i);
}

int spawn_process(const struct spawn *s, pid_t *ret_pid, int *ret_pidfd) {
        _cleanup_free_ char *path = spawn_find(s->program);
        _cleanup_free_ char **env = environment_new();
        pid_t self = getpid(), pid;
        int pidfd;

        if (!path)
                return -ENOENT;
        if (!env)
                return -ENOMEM;
        if (s->n_fds > SPAWN_FDS_MAX)
                return -E2BIG;
        pid = fork();
        if (pid < 0)
                return -errno;
        if (pid == 0)
                child_run(s, path, env, self);
        pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (pidfd < 0) {
                int saved = errno;

                (void)kill(pid, SIGKILL);
                (void)waitpid(pid, NULL, 0);
                return -saved;
        }
        *ret_pid = pid;
        *ret_pidfd = pidfd;
        return 0;
}

void spawn_kill(int pidfd, int sig) {
        if (pidfd >= 0)
                (void)syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0);
}

int spawn_reap(int pidfd, siginfo_t *ret) {
        *ret = (siginfo_t){ 0 };
        if (waitid((idtype_t)P_PIDFD, (id_t)pidfd, ret, WEXITED | WNOHANG) < 0)
                return -errno;
        return ret->si_pid != 0;
}

void spawn_describe_exit(const siginfo_t *info, char *out, size_t size) {
        if (info->si_code == CLD_EXITED)
                (void)snprintf(out, size, "exit status %d", info->si_status);
        else
                (void)snprintf(out, size, "signal %d (%s)", info->si_status, strsignal(info->si_status));
}

static int on_orphan_exit(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        siginfo_t info;

        /* the loop holds the last reference and so, with it, the pidfd */
        if (spawn_reap(fd, &info) != 0)
                (void)sd_event_source_set_floating(source, 0);
        return 0;
}

int spawn_abandon(sd_event *event, int pidfd) {
        sd_event_source *source = NULL;
        siginfo_t info;

        if (pidfd < 0)
                return -1;
        spawn_kill(pidfd, SIGKILL);
        if (spawn_reap(pidfd, &info) == 0 &&
            sd_event_add_io(event, &source, pidfd, EPOLLIN, on_orphan_exit, NULL) >= 0 &&
            sd_event_source_set_io_fd_own(source, 1) >= 0) {
                (void)sd_event_source_set_floating(source, 1);
                (void)sd_event_source_unref(source);
                return -1;
        }
        (void)sd_event_source_unref(source);
        return fd_close(pidfd);
}
