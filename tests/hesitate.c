/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Makes programs hesitate. Preloaded (LD_PRELOAD), it has those that are named sleep now and then before they send, receive or wait, as a
 * busy machine does. A test that takes for done what merely was always quick, or asks at once for what comes another way than what it has
 * waited for, fails then. tests/run.py --hesitate runs tests with it (docs/testing.md). In the environment:
 *
 *   HESITATE_PROGRAMS  who does: names with commas between, as ps has them; nobody where it is not set
 *   HESITATE_CALLS     before which of the calls below; without it before each
 *   HESITATE_PERCENT   how often, 10
 *   HESITATE_MS        for how long at most, 200
 */

#undef _FORTIFY_SOURCE /* what is defined here is not to be what the headers make of it */

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/macro.h"

#define PERCENT 10u
#define MOST_MS 200u
#define MS_MAX 60000u

static struct {
        bool on; /* in this program */
        const char *calls;
        uint32_t percent, ms;
} hesitation;

/* Whether a name is in a list with commas between. */
static bool is_listed(const char *list, const char *name) {
        size_t n = strlen(name);

        for (;;) {
                if (strncmp(list, name, n) == 0 && (list[n] == ',' || list[n] == 0))
                        return true;
                list = strchr(list, ',');
                if (!list)
                        return false;
                list++;
        }
}

static uint32_t read_number(const char *name, uint32_t usual, uint32_t most) {
        const char *text = getenv(name);
        unsigned long n = text ? strtoul(text, NULL, 10) : usual;

        return (uint32_t)MIN(n, (unsigned long)most);
}

__attribute__((constructor)) static void read_environment(void) {
        const char *programs = getenv("HESITATE_PROGRAMS");

        hesitation.on = programs && is_listed(programs, program_invocation_short_name);
        hesitation.calls = getenv("HESITATE_CALLS");
        hesitation.percent = read_number("HESITATE_PERCENT", PERCENT, 100);
        hesitation.ms = read_number("HESITATE_MS", MOST_MS, MS_MAX);
}

/* errno stays as it is; where there is nothing to draw from, or the process may not sleep, nothing happens. */
static void hesitate(const char *call) {
        const int before = errno;
        uint32_t draw[2];

        if (!hesitation.on || (hesitation.calls && !is_listed(hesitation.calls, call)))
                return;
        if (getrandom(draw, sizeof(draw), GRND_NONBLOCK) == (ssize_t)sizeof(draw) && draw[0] % 100 < hesitation.percent) {
                uint32_t ms = draw[1] % (hesitation.ms + 1);

                (void)nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 }, NULL);
        }
        errno = before;
}

/* The C library's function, behind a hesitation. */
#define HESITATING(type, name, parameters, arguments)                               \
        __attribute__((visibility("default"))) type name parameters {               \
                static type(*_Atomic next) parameters;                              \
                                                                                    \
                if (!next)                                                          \
                        next = (type(*) parameters)dlsym(RTLD_NEXT, #name);         \
                hesitate(#name);                                                    \
                return next arguments;                                              \
        }

HESITATING(ssize_t, send, (int fd, const void *bytes, size_t n, int flags), (fd, bytes, n, flags))
HESITATING(ssize_t, sendmsg, (int fd, const struct msghdr *m, int flags), (fd, m, flags))
HESITATING(ssize_t, write, (int fd, const void *bytes, size_t n), (fd, bytes, n))
HESITATING(ssize_t, recv, (int fd, void *bytes, size_t n, int flags), (fd, bytes, n, flags))
HESITATING(ssize_t, recvmsg, (int fd, struct msghdr *m, int flags), (fd, m, flags))
HESITATING(ssize_t, read, (int fd, void *bytes, size_t n), (fd, bytes, n))
HESITATING(int, connect, (int fd, const struct sockaddr *address, socklen_t n), (fd, address, n))
HESITATING(int, accept4, (int fd, struct sockaddr *address, socklen_t *n, int flags), (fd, address, n, flags))
HESITATING(int, poll, (struct pollfd *fds, nfds_t n, int ms), (fds, n, ms))
HESITATING(int, epoll_wait, (int fd, struct epoll_event *events, int n, int ms), (fd, events, n, ms))
