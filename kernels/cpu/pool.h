/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The worker pool of the CPU backend. A job is a number of items; whoever is free takes the next one, the calling
 * thread among them, so a worker that the kernel has put aside delays nobody but for the item it holds. Which thread
 * computes an item never shows in the result.
 *
 * Between pool_busy() and pool_idle() workers wait for the next job awake for a short while, as jobs of a step follow
 * each other within microseconds. Otherwise they sleep: an idle pool uses no CPU.
 *
 * Fewer than all threads may be told to take part; the others sleep meanwhile, whatever jobs come.
 */

#include <stdint.h>

struct pool;

/* fn(context, item, worker): worker is below the number of threads and not shared at the same time. */
typedef void (*pool_fn)(void *context, uint32_t item, unsigned worker);

/* n_threads includes the calling one. Negative errno where threads can't be made. */
int pool_new(unsigned n_threads, struct pool **ret);
/* Ends the workers; NULL is fine. Returns NULL. */
struct pool *pool_free(struct pool *pool);

/* As many as were made, taking part or not: `worker` is below it. */
unsigned pool_threads(const struct pool *pool);
/* Between two jobs: so many take part from now on, the calling one among them; at least 1, and at most all. Returns how many. */
unsigned pool_limit(struct pool *pool, unsigned n_threads);
/* Between two jobs: fn(value) is run by the calling thread now, and by each other one before it computes anything again. Returns
 * what it returned here. */
int pool_each_thread(struct pool *pool, int (*fn)(unsigned value), unsigned value);
/* Runs all items and returns when they are done. */
void pool_run(struct pool *pool, uint32_t n_items, pool_fn fn, void *context);

void pool_busy(struct pool *pool);
void pool_idle(struct pool *pool);
