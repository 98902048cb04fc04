/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Starts our other programs: found beside our own executable (a build folder) or in libexec, given exactly the
 * descriptors named and no others, no core dumps, killed when we die.
 */

#include <signal.h>
#include <stddef.h>
#include <sys/types.h>

#include <systemd/sd-event.h>

#define SPAWN_FDS_MAX 80u
#define SPAWN_FIRST_FD 3 /* fds[i] is SPAWN_FIRST_FD + i in the child */

struct spawn {
        const char *program;      /* "spark-engine" */
        char *const *argv;        /* argv[0] included, NULL at the end */
        const int *fds;           /* borrowed */
        size_t n_fds;
        const char *oom_score_adj; /* NULL = as we are */
};

/* Where a program of ours lies: a path (the caller frees it), NULL where nowhere. */
char *spawn_find(const char *program);
/* How descriptor i of those handed over stands on a command line: its number there, behind "NAME=" where there is a name. */
void spawn_argument(size_t i, const char *name, char *out, size_t size);
/* 0 or -errno (-ENOENT: the program is nowhere). A program that cannot be executed exits with 127. */
int spawn_process(const struct spawn *s, pid_t *ret_pid, int *ret_pidfd);
/* Sends a signal through a pidfd; -1 is ignored. */
void spawn_kill(int pidfd, int sig);
/* Takes the exit status of a process that has ended. 1 = *ret is set, 0 = it runs still, or -errno. */
int spawn_reap(int pidfd, siginfo_t *ret);
/* Kills a process that nobody cares about any more and reaps it when it is gone, however long that takes. Takes the pidfd
 * over; returns -1. */
int spawn_abandon(sd_event *event, int pidfd);
/* "exit status 1" or "signal 9 (Killed)" */
void spawn_describe_exit(const siginfo_t *info, char *out, size_t size);
