/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Connecting. A service that is restarted goes on with the connections that it knew; one that it had accepted and not looked at,
 * or that nobody accepted, it can't. So until the greeting has come nothing but ours is sent: when the connection ends before
 * that, nothing can have been done for it, and it is made anew, for a while. What comes later is never tried again behind the
 * caller's back.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/utf8.h"
#include "internal.h"
#include "message.h"

#define PROTOCOL_VERSION 1u
#define SOFTWARE_MAX 128u
#define TRY_MS 3000
#define REST_MS 50

static struct spark *spark_alloc(void) {
        struct spark *s = calloc(1, sizeof(*s));
        pthread_condattr_t attr;

        if (!s)
                return NULL;
        atomic_init(&s->refs, 1);
        s->channel.fd = s->epoll_fd = s->failed_fd = -1;
        s->next_id = 1;
        s->text = BUF_NULL(CHANNEL_FRAME_MAX);
        list_init(&s->waiters);
        for (size_t i = 0; i < CLIENT_BUCKETS; i++)
                list_init(&s->buckets[i]);
        (void)pthread_mutex_init(&s->lock, NULL);
        (void)pthread_condattr_init(&attr);
        (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        (void)pthread_cond_init(&s->dispatch_ended, &attr);
        (void)pthread_condattr_destroy(&attr);
        return s;
}

static int epoll_add(struct spark *s, int fd) {
        struct epoll_event e = { .events = EPOLLIN };

        return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

static int epoll_init(struct spark *s, int fd) {
        int r;

        s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        s->failed_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (s->epoll_fd < 0 || s->failed_fd < 0)
                return -errno;
        r = epoll_add(s, fd);
        if (r == 0)
                r = epoll_add(s, s->failed_fd);
        s->epoll_events = EPOLLIN;
        return r;
}

static int queue_hello(struct channel *c, const char *software) {
        Spark__V1__ClientFrame frame = SPARK__V1__CLIENT_FRAME__INIT;
        Spark__V1__Hello hello = SPARK__V1__HELLO__INIT;
        char *features[] = { (char *)"prefill-progress" };

        hello.protocol_version = PROTOCOL_VERSION;
        hello.features = features;
        hello.n_features = ARRAY_SIZE(features);
        if (software)
                hello.software = (char *)software;
        frame.body_case = SPARK__V1__CLIENT_FRAME__BODY_HELLO;
        frame.hello = &hello;
        return message_queue(c, &frame.base);
}

int spark_connect_fd(struct spark **ret, int fd, const char *software) {
        const struct channel_limits limits = { .frame_max = CHANNEL_FRAME_MAX, .out_frames = 1u << 20,
                                               .out_bytes = CLIENT_OUT_BYTES_MAX, .in_fds = 0 };
        _cleanup_(spark_unrefp) struct spark *s = NULL;
        int r;

        if (software && (strlen(software) > SOFTWARE_MAX || !utf8_valid(software, strlen(software), NULL)))
                return -EINVAL;
        s = spark_alloc();
        if (!s)
                return -ENOMEM;
        r = epoll_init(s, fd);
        if (r < 0)
                return r;
        r = channel_init(&s->channel, fd, &limits);
        if (r == 0)
                r = queue_hello(&s->channel, software);
        if (r < 0) {
                s->channel.fd = -1; /* stays the caller's */
                return r;
        }
        connection_flush(s);
        *ret = steal_ptr(&s);
        return 0;
}

/* A socket that is connected, or -errno. */
static int connect_once(const struct sockaddr_un *addr) {
        _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0 || connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
                return -errno;
        return fd_steal(&fd);
}

/* Nobody listens for the moment, or too many wait. */
static bool is_passing(int r) {
        return r == -ECONNREFUSED || r == -EAGAIN;
}

static int connect_patiently(const struct sockaddr_un *addr, int64_t until_ms) {
        const struct timespec rest = { .tv_nsec = REST_MS * 1000000l };
        int fd = connect_once(addr);

        while (is_passing(fd) && clock_now_ms() < until_ms) {
                (void)nanosleep(&rest, NULL);
                fd = connect_once(addr);
        }
        return fd;
}

/* The connection had ended before it could be sent. */
static void drop_hello(struct spark *s) {
        struct channel unsent = s->channel;

        s->channel = (struct channel){ .fd = unsent.fd, .limits = unsent.limits };
        unsent.fd = -1;
        channel_deinit(&unsent);
        s->output_dead = false;
}

int spark_connect(struct spark **ret, const char *path, const char *software) {
        struct connect_state c = { .addr = { .sun_family = AF_UNIX }, .timer_fd = -1, .until_ms = clock_now_ms() + TRY_MS };
        _cleanup_fd_ int fd = -1;
        size_t n;
        int r;

        if (!path)
                path = SPARK_SOCKET_DEFAULT;
        n = strlen(path);
        if (n == 0)
                return -EINVAL;
        if (n >= sizeof(c.addr.sun_path))
                return -ENAMETOOLONG;
        memcpy(c.addr.sun_path, path, n + 1);
        fd = connect_patiently(&c.addr, c.until_ms);
        if (fd < 0)
                return fd;
        r = spark_connect_fd(ret, fd, software);
        if (r < 0)
                return r;
        (void)fd_steal(&fd);
        if ((*ret)->output_dead)
                drop_hello(*ret);
        c.software = software ? strdup(software) : NULL;
        (*ret)->connect = malloc(sizeof(c));
        if ((*ret)->connect)
                *(*ret)->connect = c;
        else
                free(c.software); /* the first try is the only one, then */
        return 0;
}

/* ---- until the greeting ---- */

void connect_deinit(struct spark *s) {
        if (!s->connect)
                return;
        (void)fd_close(s->connect->timer_fd);
        free(s->connect->software);
        free(s->connect);
        s->connect = NULL;
}

void connect_end(struct spark *s) {
        connect_deinit(s);
}

/* Makes the timer go off in a while. */
static int wait_a_while(struct spark *s) {
        const struct itimerspec when = { .it_value = { .tv_nsec = REST_MS * 1000000l } };
        struct connect_state *c = s->connect;
        int r = 0;

        if (c->timer_fd < 0) {
                c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
                r = c->timer_fd < 0 ? -errno : epoll_add(s, c->timer_fd);
        }
        if (r == 0 && timerfd_settime(c->timer_fd, 0, &when, NULL) < 0)
                r = -errno;
        return r;
}

/* Puts a new socket in the place of the one that ended, with the greeting in front of what waits to be sent. */
static int take_socket(struct spark *s, int fd) {
        struct channel next = { .fd = fd, .limits = s->channel.limits };
        int r = queue_hello(&next, s->connect->software);

        if (r == 0)
                r = channel_flush(&next);
        if (r == CHANNEL_E_EOF) { /* that was quick: nobody has seen it */
                channel_deinit(&next);
                return wait_a_while(s);
        }
        r = r == 1 ? epoll_add(s, fd) : r < 0 ? r : -EAGAIN;
        if (r == 0)
                r = channel_take_output(&next, &s->channel);
        if (r < 0) {
                channel_deinit(&next);
                return r;
        }
        channel_deinit(&s->channel);
        s->channel = next;
        s->epoll_events = EPOLLIN;
        s->connect->down = false;
        return 0;
}

static int try_again(struct spark *s) {
        int fd = connect_once(&s->connect->addr);

        if (fd >= 0)
                return take_socket(s, fd);
        return is_passing(fd) || fd == -ENOENT ? wait_a_while(s) : fd;
}

bool connect_again(struct spark *s) {
        struct connect_state *c = s->connect;

        if (!c || clock_now_ms() >= c->until_ms)
                return false;
        if (!c->down) {
                (void)epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, s->channel.fd, NULL);
                c->down = true;
        }
        return try_again(s) == 0;
}

int connect_turn(struct spark *s) {
        uint64_t n;

        if (!s->connect || !s->connect->down)
                return 1;
        if (read(s->connect->timer_fd, &n, sizeof(n)) != (ssize_t)sizeof(n))
                return 0;
        return connect_again(s) ? 0 : CHANNEL_E_EOF;
}
