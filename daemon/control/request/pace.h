/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How often the manager's tick comes: once a second while anything goes on, and less often when nothing has for a while, so
 * that an idle service hardly wakes the processor. Whoever begins something that counts in seconds says so. Embedded in the
 * manager; zero-initialised it is awake.
 */

#include <stdbool.h>
#include <stdint.h>

struct manager;

#define PACE_US 1000000u
#define PACE_IDLE_US (2u * 1000000u) /* not more: memory is looked at with the tick where the kernel can't tell of pressure */
#define PACE_QUIET 10u /* ticks without anything, so that figures over the last seconds have come to rest */

struct pace {
        unsigned quiet; /* ticks since something went on */
        bool idle;
};

/* With every tick: how long until the next one. */
uint64_t pace_next_us(struct manager *m);
/* Something begins. Cheap where the pace is quick. */
void pace_wake(struct manager *m);
