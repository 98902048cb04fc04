/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the service manager hears: READY, STATUS, RELOADING, STOPPING, more time while models load, and the watchdog's
 * food, given only while every engine that should move does. Embedded in the manager.
 */

#include <stdbool.h>
#include <stdint.h>

struct manager;

struct notify {
        uint64_t watchdog_us; /* 0 = nobody watches */
        uint64_t fed_us, extended_us;
        bool ready;
        char status[256];
};

void notify_init(struct notify *n);
void notify_ready(struct manager *m);
void notify_reloading(struct manager *m);
void notify_stopping(struct manager *m);
/* Once a second, and when something changed: status line, watchdog, more time. */
void notify_update(struct manager *m, uint64_t now_us);
