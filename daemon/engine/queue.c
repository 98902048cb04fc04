/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "queue.h"

int queue_init(struct queue *q, size_t cap) {
        *q = (struct queue){ .cap = cap, .fd = -1 };
        q->items = calloc(cap, sizeof(*q->items));
        if (!q->items)
                return -ENOMEM;
        q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (q->fd < 0) {
                int r = -errno;

                free(q->items);
                q->items = NULL;
                return r;
        }
        (void)pthread_mutex_init(&q->lock, NULL);
        (void)pthread_cond_init(&q->space, NULL);
        return 0;
}

void queue_deinit(struct queue *q) {
        if (!q->items)
                return;
        free(q->items);
        q->items = NULL;
        q->fd = fd_close(q->fd);
        (void)pthread_mutex_destroy(&q->lock);
        (void)pthread_cond_destroy(&q->space);
}

void queue_wake(struct queue *q) {
        const uint64_t one = 1;

        (void)!write(q->fd, &one, sizeof(one)); /* fails only where it is readable already */
}

static int push(struct queue *q, struct queue_item item, bool wait) {
        bool first;

        (void)pthread_mutex_lock(&q->lock);
        while (wait && q->n == q->cap && !q->closed)
                (void)pthread_cond_wait(&q->space, &q->lock);
        if (q->closed || q->n == q->cap) {
                int r = q->closed ? QUEUE_E_CLOSED : QUEUE_E_FULL;

                (void)pthread_mutex_unlock(&q->lock);
                return r;
        }
        q->items[(q->head + q->n) % q->cap] = item;
        first = q->n++ == 0;
        (void)pthread_mutex_unlock(&q->lock);
        if (first)
                queue_wake(q);
        return 0;
}

int queue_push(struct queue *q, struct queue_item item) {
        return push(q, item, false);
}

int queue_push_wait(struct queue *q, struct queue_item item) {
        return push(q, item, true);
}

bool queue_pop(struct queue *q, struct queue_item *ret) {
        bool found;

        (void)pthread_mutex_lock(&q->lock);
        found = q->n > 0;
        if (found) {
                *ret = q->items[q->head];
                q->head = (q->head + 1) % q->cap;
                if (q->n-- == q->cap)
                        (void)pthread_cond_broadcast(&q->space);
        }
        (void)pthread_mutex_unlock(&q->lock);
        return found;
}

void queue_clear(struct queue *q) {
        uint64_t count;

        (void)!read(q->fd, &count, sizeof(count));
}

void queue_wait(struct queue *q) {
        struct pollfd p = { .fd = q->fd, .events = POLLIN };

        while (poll(&p, 1, -1) < 0 && errno == EINTR)
                ;
        queue_clear(q);
}

void queue_close(struct queue *q) {
        (void)pthread_mutex_lock(&q->lock);
        q->closed = true;
        (void)pthread_cond_broadcast(&q->space);
        (void)pthread_mutex_unlock(&q->lock);
        queue_wake(q);
}

bool queue_is_closed(struct queue *q) {
        bool closed;

        (void)pthread_mutex_lock(&q->lock);
        closed = q->closed;
        (void)pthread_mutex_unlock(&q->lock);
        return closed;
}
