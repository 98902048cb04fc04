/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/huge.h"
#include "base/macro.h"
#include "ground.h"

#define BLOCK_PAGES 8u   /* huge ones that are taken with one call */
#define FAILURES_MAX 4u  /* in a row: memory is in pieces, and looking for more of it costs more than it gives */

#define COST_MAX 2u      /* times what ordinary pages cost */
#define COST_BLOCKS 8u   /* that the average is of, about; half of them before it counts */

enum {
        NOT_TAKEN,
        BEING_TAKEN,
        TAKEN,
};

static uint64_t block_bytes(void) {
        return (uint64_t)BLOCK_PAGES * huge_bytes();
}

int ground_init(struct ground *g, void *const *maps, const uint64_t *sizes, size_t n) {
        uint64_t block = block_bytes();

        *g = (struct ground){ .maps = maps, .sizes = sizes, .off = block == 0 };
        if (pthread_mutex_init(&g->lock, NULL) != 0)
                return -ENOMEM;
        if (pthread_cond_init(&g->taken, NULL) != 0) {
                (void)pthread_mutex_destroy(&g->lock);
                return -ENOMEM;
        }
        g->ready = true;
        for (size_t i = 0; i < n && block > 0; i++) {
                if (!maps[i])
                        continue;
                g->states[i] = calloc((size_t)(sizes[i] / block) + 1, 1);
                if (!g->states[i])
                        return -ENOMEM;
        }
        return 0;
}

void ground_deinit(struct ground *g) {
        if (!g->ready)
                return;
        for (size_t i = 0; i < IMAGE_SEGMENTS_MAX; i++)
                free(g->states[i]);
        (void)pthread_cond_destroy(&g->taken);
        (void)pthread_mutex_destroy(&g->lock);
        *g = GROUND_NULL;
}

bool ground_cost_add(struct ground_cost *c, uint64_t us) {
        unsigned weight = MIN(c->n, COST_BLOCKS - 1);

        c->huge_us = (c->huge_us * weight + us) / (weight + 1);
        c->n++;
        return c->plain_us == 0 || c->n < COST_BLOCKS / 2 || c->huge_us <= COST_MAX * c->plain_us;
}

/* Whole huge pages; what is left at a segment's end is taken as it is written. With the lock held, which is let go meanwhile. */
static void take_block(struct ground *g, size_t segment, uint64_t number) {
        uint64_t at = number * block_bytes(), bytes = MIN(block_bytes(), g->sizes[segment] - at), began, took;
        bool whole = bytes == block_bytes(), plain = whole && !g->measured;
        uint8_t *state = &g->states[segment][number];
        int r = 0;

        bytes -= bytes % huge_bytes();
        g->measured = g->measured || plain;
        *state = BEING_TAKEN;
        (void)pthread_mutex_unlock(&g->lock);
        began = clock_now_us();
        if (bytes > 0)
                r = (plain ? huge_take_plain : huge_take)((char *)g->maps[segment] + at, (size_t)bytes);
        took = clock_now_us() - began;
        (void)pthread_mutex_lock(&g->lock);
        *state = TAKEN;
        if (plain)
                g->cost.plain_us = MAX(took, (uint64_t)1);
        else if (whole && r == 0)
                g->off = !ground_cost_add(&g->cost, took) || g->off;
        g->failures = r < 0 ? g->failures + 1 : 0;
        g->off = g->off || r == -EINVAL || g->failures >= FAILURES_MAX;
        (void)pthread_cond_broadcast(&g->taken);
}

void ground_take(struct ground *g, size_t segment, uint64_t offset, uint64_t bytes) {
        uint64_t first, last;

        if (!g || !g->ready || bytes == 0 || offset >= g->sizes[segment])
                return;
        (void)pthread_mutex_lock(&g->lock);
        if (!g->off && g->states[segment]) {
                bytes = MIN(bytes, g->sizes[segment] - offset);
                first = offset / block_bytes();
                last = (offset + bytes - 1) / block_bytes();
                for (uint64_t i = first; i <= last && !g->off; i++) {
                        while (g->states[segment][i] == BEING_TAKEN)
                                (void)pthread_cond_wait(&g->taken, &g->lock);
                        if (g->states[segment][i] == NOT_TAKEN)
                                take_block(g, segment, i);
                }
        }
        (void)pthread_mutex_unlock(&g->lock);
}
