/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "lease.h"
#include "model-file.h"

/* What is passed on to the command. */
static const int forwarded[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGALRM };

/* "blender" of "/usr/bin/blender". */
static const char *base_name(const char *path) {
        const char *slash = strrchr(path, '/');

        return slash ? slash + 1 : path;
}

int lease_take_command(struct lease_run *l, const char *verb, int *argc, char **argv) {
        (void)snprintf(l->who, sizeof(l->who), "sparkctl %s", verb);
        for (int i = 1; i < *argc; i++) {
                if (strcmp(argv[i], "--") != 0)
                        continue;
                if (!argv[i + 1]) /* a script whose variable is empty would wait for ever */
                        return ctl_fail_usage(l->ctl, verb, "A command is missing behind '--'; without '--' it is held until Ctrl-C.");
                *argc = i;
                l->command = &argv[i + 1];
                (void)format_safe(base_name(l->command[0]), l->who, sizeof(l->who));
                return -1;
        }
        return -1;
}

static void fill_signals(sigset_t *set) {
        (void)sigemptyset(set);
        (void)sigaddset(set, SIGCHLD);
        for (size_t i = 0; i < ARRAY_SIZE(forwarded); i++)
                (void)sigaddset(set, forwarded[i]);
}

int lease_begin(struct lease_run *l) {
        sigset_t set;

        l->pid = -1;
        l->status = -1;
        fill_signals(&set);
        l->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (l->signal_fd < 0 || sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return ctl_fail(l->ctl, EXIT_OTHER, "INTERNAL", NULL, "Signals can't be watched: %s.", strerror(errno));
        return 0;
}

static void run_command(char **command) {
        sigset_t set;
        int e;

        fill_signals(&set);
        (void)sigprocmask(SIG_UNBLOCK, &set, NULL);
        (void)execvp(command[0], command);
        e = errno;
        (void)fprintf(stderr, "sparkctl: '%s' can't be run: %s.\n", command[0], strerror(e));
        _exit(e == ENOENT ? 127 : 126);
}

static int start_command(struct lease_run *l) {
        (void)fflush(stdout);
        l->pid = fork();
        if (l->pid == 0)
                run_command(l->command);
        if (l->pid < 0)
                return ctl_fail(l->ctl, EXIT_OTHER, "INTERNAL", NULL, "The command can't be started: %s.", strerror(errno));
        return 0;
}

int lease_event(struct spark *s, const struct spark_event *event, void *userdata) {
        struct lease_run *l = userdata;

        if (event->type != SPARK_EVENT_PROGRESS)
                return call_event(s, event, &l->call);
        if (strcmp(event->progress->stage, l->stage) != 0) {
                byte_bar_show(l->ctl, event->progress);
                return 0;
        }
        ctl_progress_clear(l->ctl);
        if (l->held) /* a model that was away is back */
                return 0;
        l->held = true;
        ctl_agent_end(l->ctl); /* the terminal is the command's */
        l->progress = *event->progress;
        l->on_held(l);
        if (l->command)
                l->status = start_command(l) ?: -1;
        l->over = l->status >= 0;
        return 0;
}

static void reap(struct lease_run *l) {
        int status;

        if (l->pid < 0 || waitpid(l->pid, &status, WNOHANG) != l->pid)
                return;
        l->pid = -1;
        l->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        l->over = true;
}

/* One of the terminal's has reached the command already. */
static void take_signal(struct lease_run *l, const struct signalfd_siginfo *info) {
        if (info->ssi_signo == SIGCHLD)
                reap(l);
        else if (l->pid >= 0 && info->ssi_code != SI_KERNEL)
                (void)kill(l->pid, (int)info->ssi_signo);
        else if (l->pid < 0 && info->ssi_signo != SIGWINCH && info->ssi_signo != SIGALRM) {
                l->status = l->held && !l->command ? EXIT_DONE : EXIT_INTERRUPTED;
                l->over = true;
        }
}

static int turn(struct lease_run *l) {
        struct pollfd fds[] = { { .fd = l->call.ended ? -1 : spark_fd(l->ctl->spark), .events = POLLIN },
                                { .fd = l->signal_fd, .events = POLLIN } };
        struct signalfd_siginfo info;
        int r;

        if (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
                return ctl_fail(l->ctl, EXIT_OTHER, "INTERNAL", NULL, "Waiting failed: %s.", strerror(errno));
        while (!l->over && read(l->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
                take_signal(l, &info);
        if (l->over || l->call.ended)
                return 0;
        r = spark_process(l->ctl->spark);
        return r < 0 && !l->call.ended ? call_fail_start(l->ctl, r) : 0;
}

/* The lease is gone before its time. A command goes on without it. */
static int lost(struct lease_run *l) {
        int status = call_report(&l->call);

        if (l->pid < 0)
                return status;
        if (!l->ctl->json)
                (void)fprintf(stderr, "          The command goes on.\n");
        return 0;
}

int lease_wait(struct lease_run *l, int r) {
        bool told = false;

        r = r < 0 ? call_fail_start(l->ctl, r) : 0;
        while (r == 0 && !l->over) {
                r = turn(l);
                if (r == 0 && l->call.ended && !told && !l->over) {
                        told = true;
                        r = lost(l);
                }
        }
        ctl_progress_clear(l->ctl);
        l->signal_fd = fd_close(l->signal_fd);
        return r != 0 ? r : l->status;
}
