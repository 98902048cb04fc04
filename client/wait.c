/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Waiting for the end of a request. A waiting thread polls the connection like an event loop would, and an eventfd of
 * its own: whoever processes the last event of the request writes to that, so that it does not matter which thread it
 * is.
 */

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "internal.h"

static int waiter_poll(struct spark *s, const struct waiter *w, int64_t deadline) {
        struct pollfd fds[] = { { .fd = w->event_fd, .events = POLLIN }, { .fd = s->epoll_fd, .events = POLLIN } };
        int64_t left = deadline < 0 ? -1 : MAX(deadline - clock_now_ms(), (int64_t)0);
        int r;

        r = poll(fds, ARRAY_SIZE(fds), (int)left);
        if (r < 0)
                return -errno;
        if (r == 0)
                return -ETIMEDOUT;
        if (fds[0].revents)
                return 0;
        r = connection_process(s, deadline);
        /* a failed connection has told all waiters */
        return r == -ENOTCONN || r > 0 ? 0 : r;
}

/* Processes until the waiter was told. Called and left with the lock held. */
static int waiter_run(struct spark *s, struct waiter *w, int timeout_ms) {
        int64_t deadline = timeout_ms < 0 ? -1 : clock_now_ms() + timeout_ms;
        int r = 0;

        w->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (w->event_fd < 0)
                return -errno;
        list_append(&s->waiters, &w->link);
        while (!w->done && r == 0) {
                pthread_mutex_unlock(&s->lock);
                r = waiter_poll(s, w, deadline);
                pthread_mutex_lock(&s->lock);
        }
        list_remove(&w->link);
        w->event_fd = fd_close(w->event_fd);
        return w->done ? 0 : r;
}

static bool is_dispatcher(const struct spark *s) {
        return s->dispatching && pthread_equal(s->dispatcher, pthread_self());
}

int spark_wait_hello(struct spark *s, int timeout_ms) {
        _cleanup_(spark_unrefp) _unused_ struct spark *keep = spark_ref(s);
        struct waiter w = { .id = 0, .event_fd = -1 };
        int r = 0;

        pthread_mutex_lock(&s->lock);
        if (is_dispatcher(s))
                r = -EDEADLK;
        else if (!s->server_software && !s->failed)
                r = waiter_run(s, &w, timeout_ms);
        if (r == 0 && s->failed)
                r = s->failed_code == SPARK_DISCONNECTED ? -ENOTCONN : s->failed_code;
        pthread_mutex_unlock(&s->lock);
        return r;
}

/* Hands out an ended request without a callback. */
static int result_take(struct request *q, struct spark_result **ret) {
        int code = q->reply->error.code, r = 0;

        if (ret)
                r = result_new(ret, q);
        if (r == 0)
                (void)request_free(q);
        return r < 0 ? r : code;
}

int spark_wait(struct spark *s, uint64_t id, int timeout_ms, struct spark_result **ret) {
        _cleanup_(spark_unrefp) _unused_ struct spark *keep = spark_ref(s);
        struct waiter w = { .id = id, .event_fd = -1 };
        struct request *q;
        int r;

        pthread_mutex_lock(&s->lock);
        q = connection_find(s, id);
        if (is_dispatcher(s))
                r = -EDEADLK;
        else if (!q || q->forgotten || id == 0)
                r = -ENOENT;
        else
                r = q->ended ? 0 : waiter_run(s, &w, timeout_ms);
        if (r == 0) {
                r = w.code;
                q = connection_find(s, id);
                if (q && q->ended)
                        r = result_take(q, ret);
        }
        pthread_mutex_unlock(&s->lock);
        return r;
}
