/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawn.h"
#include "store-private.h"

#define OOM_SCORE "500" /* rather the worker than anybody else */
#define LAST_READS 64
#define FLAGS_MAX 4u

void store_worker_stop(struct store_worker *w) {
        if (!w->running)
                return;
        w->running = false;
        w->link_source = sd_event_source_disable_unref(w->link_source);
        w->exit_source = sd_event_source_disable_unref(w->exit_source);
        w->pidfd = spawn_abandon(w->event, w->pidfd);
        w->link = fd_close(w->link);
}

static int on_link(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        struct store_worker *w = userdata;

        w->active_us = manager_now_us();
        if (!w->on_link(w))
                w->link_source = sd_event_source_disable_unref(w->link_source);
        return 0;
}

static int on_exit_of_worker(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        struct store_worker *w = userdata;
        siginfo_t info;

        if (spawn_reap(w->pidfd, &info) == 0)
                return 0;
        for (int i = 0; i < LAST_READS && w->link_source && w->on_link(w); i++) /* what it said last */
                ;
        w->link_source = sd_event_source_disable_unref(w->link_source);
        w->exit_source = sd_event_source_disable_unref(w->exit_source);
        w->pidfd = fd_close(w->pidfd);
        w->link = fd_close(w->link);
        w->running = false;
        w->on_exit(w, &info);
        return 0;
}

static int spawn(struct store_worker *w, int far, const char *program, const struct store_input *inputs, size_t n_inputs,
                 const char *const *flags, size_t n_flags) {
        char values[STORE_FILES_MAX + 1][MODELDIR_NAME_MAX + 12];
        char *argv[2 * (STORE_FILES_MAX + 1) + 2 + FLAGS_MAX];
        int all[STORE_FILES_MAX + 1];
        const struct spawn s = { .program = program, .argv = argv, .fds = all, .n_fds = n_inputs + 1,
                                 .oom_score_adj = OOM_SCORE };
        size_t n = 0;
        pid_t pid;

        argv[n++] = (char *)program;
        for (size_t i = 0; i <= n_inputs; i++) {
                all[i] = i == 0 ? far : inputs[i - 1].fd;
                spawn_argument(i, i == 0 ? NULL : inputs[i - 1].name, values[i], sizeof(values[i]));
                argv[n++] = (char *)(i == 0 ? "--link" : inputs[i - 1].flag);
                argv[n++] = values[i];
        }
        for (size_t i = 0; i < n_flags; i++)
                argv[n++] = (char *)flags[i];
        argv[n] = NULL;
        return spawn_process(&s, &pid, &w->pidfd);
}

int store_worker_start(struct store_worker *w, sd_event *event, const char *program,
                       const struct store_input *inputs, size_t n_inputs, const char *const *flags,
                       size_t n_flags) {
        _cleanup_fd_ int far = -1;
        int pair[2], r;

        if (n_inputs > STORE_FILES_MAX || n_flags > FLAGS_MAX)
                return -E2BIG;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        far = pair[1];
        w->event = event;
        w->link = pair[0];
        w->pidfd = -1;
        w->running = true;
        w->active_us = manager_now_us();
        r = fd_set_nonblock(w->link, 1);
        if (r >= 0)
                r = spawn(w, far, program, inputs, n_inputs, flags, n_flags);
        if (r >= 0)
                r = sd_event_add_io(event, &w->link_source, w->link, EPOLLIN, on_link, w);
        if (r >= 0)
                r = sd_event_add_io(event, &w->exit_source, w->pidfd, EPOLLIN, on_exit_of_worker, w);
        if (r < 0)
                store_worker_stop(w);
        return r < 0 ? r : 0;
}
