/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Somebody has to ask for the password. In a graphical session that is the desktop's agent; on a terminal it is polkit's own,
 * pkttyagent, which takes part as long as it runs. It speaks for its parent, which is this process, and says that it is ready by
 * closing the descriptor that it was given. With --fallback it leaves the asking to an agent that the session has already.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "ctl.h"

#define READY_MS 5000

/* In the child. */
static _Noreturn void run(int notify_fd, pid_t parent) {
        char number[16];
        sigset_t none;

        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent)
                _exit(1);
        (void)fcntl(notify_fd, F_SETFD, 0);
        (void)snprintf(number, sizeof(number), "%d", notify_fd);
        (void)execlp("pkttyagent", "pkttyagent", "--notify-fd", number, "--fallback", (char *)NULL);
        _exit(127);
}

void ctl_agent_begin(struct ctl *ctl) {
        _cleanup_fd_ int ours = -1, theirs = -1;
        pid_t parent = getpid();
        struct pollfd pfd;
        int fds[2];

        /* root is not asked for, and where nobody can type there is nobody to ask */
        if (ctl->agent_pid || geteuid() == 0 || !ctl->tty_in || pipe2(fds, O_CLOEXEC) < 0)
                return;
        ours = fds[0];
        theirs = fds[1];
        (void)fflush(stdout);
        ctl->agent_pid = fork();
        if (ctl->agent_pid == 0)
                run(theirs, parent);
        if (ctl->agent_pid < 0) {
                ctl->agent_pid = 0;
                return;
        }
        theirs = fd_close(theirs);
        pfd = (struct pollfd){ .fd = ours, .events = POLLIN };
        while (poll(&pfd, 1, READY_MS) < 0 && errno == EINTR)
                ;
}

void ctl_agent_end(struct ctl *ctl) {
        if (!ctl->agent_pid)
                return;
        (void)kill(ctl->agent_pid, SIGTERM);
        (void)kill(ctl->agent_pid, SIGCONT);
        while (waitpid(ctl->agent_pid, NULL, 0) < 0 && errno == EINTR)
                ;
        ctl->agent_pid = 0;
}
