/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What joins the engine's threads: a bounded ring of small items, any number of threads at its end, one at its head.
 * Its eventfd becomes readable when something arrives, so that a reader can sleep in poll() with nothing running.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
        QUEUE_E_FULL = 1,
        QUEUE_E_CLOSED = 2,
};

struct queue_item {
        uint32_t type;
        void *ptr;
        uint64_t value;
};

struct queue {
        pthread_mutex_t lock;
        pthread_cond_t space;
        struct queue_item *items;
        size_t cap, head, n;
        bool closed;
        int fd; /* eventfd, non-blocking */
};

int queue_init(struct queue *q, size_t cap); /* 0 or -errno */
void queue_deinit(struct queue *q);
/* 0, QUEUE_E_FULL or QUEUE_E_CLOSED. */
int queue_push(struct queue *q, struct queue_item item);
/* Waits for space. 0 or QUEUE_E_CLOSED. */
int queue_push_wait(struct queue *q, struct queue_item item);
/* False when there is nothing. */
bool queue_pop(struct queue *q, struct queue_item *ret);
/* Makes the reader look up without an item. */
void queue_wake(struct queue *q);
/* Sleeps until something arrives or queue_wake() was called since the last sleep. */
void queue_wait(struct queue *q);
/* The reader's poll() said that fd is readable: makes it unreadable again. Then pop until nothing is left. */
void queue_clear(struct queue *q);
/* No more pushing; whoever waits for space gives up. */
void queue_close(struct queue *q);
bool queue_is_closed(struct queue *q);
