/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a program wrote until its end, and how it ended. */

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/macro.h"

struct output {
        int status; /* 1000 and more: the signal that it died of */
        struct buf out, err;
};

static void output_free(struct output *o) {
        buf_deinit(&o->out);
        buf_deinit(&o->err);
}
#define _cleanup_output_ _cleanup_(output_free)

static void output_take(int fd, struct buf *b, bool *open) {
        char piece[4096];
        ssize_t n = read(fd, piece, sizeof(piece));

        if (n > 0)
                assert_int_equal(buf_append(b, piece, (size_t)n), 0);
        else
                *open = false;
}

/* Waits for the child, taking its output; `interrupt_after` (may be NULL) is a text on standard output that makes us
 * send SIGINT. */
static void output_collect(pid_t pid, int out, int err, const char *interrupt_after, struct output *o) {
        bool out_open = true, err_open = true;
        int status;

        while (out_open || err_open) {
                struct pollfd fds[] = { { .fd = out_open ? out : -1, .events = POLLIN },
                                        { .fd = err_open ? err : -1, .events = POLLIN } };

                if (poll(fds, 2, 20000) <= 0) {
                        (void)kill(pid, SIGKILL);
                        break;
                }
                if (fds[0].revents)
                        output_take(out, &o->out, &out_open);
                if (fds[1].revents)
                        output_take(err, &o->err, &err_open);
                if (interrupt_after && o->out.data && strstr(o->out.data, interrupt_after)) {
                        (void)kill(pid, SIGINT);
                        interrupt_after = NULL;
                }
        }
        (void)close(out);
        (void)close(err);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        o->status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}
