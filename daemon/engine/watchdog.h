/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Watches a backend that has a device. Calls into a driver may never return, and a lost device may show nowhere but in its
 * health: either way the step thread can't end the process. So these two threads do, one for each, through `lost`; control then
 * starts another engine, and goes on with what was in flight.
 *
 * Owned by the program; the backend is borrowed. Where there is none (NULL), all calls do nothing.
 */

#include <stdint.h>

#include "base/macro.h"
#include "kernels/backend.h"

struct watchdog;

/* timeout_ms: by which a call may exceed what it was expected to take; 0 = health alone is looked at. lost(): called at
 * most once, from one of the watchdog's threads. 0 or -errno. */
int watchdog_new(struct watchdog **ret, struct backend *be, uint32_t timeout_ms, void (*lost)(const char *why));
/* Ends the threads. */
struct watchdog *watchdog_free(struct watchdog *w);
DEFINE_CLEANUP(struct watchdog *, watchdog_free)

/* Around calls of the backend, from one thread. expected_us: what rows rows are expected to take, 0 = nobody knows yet. */
void watchdog_begin(struct watchdog *w, double expected_us, uint32_t rows);
void watchdog_end(struct watchdog *w);
/* Microseconds that such calls are given beyond the timeout. Pure. */
uint64_t watchdog_patience_us(double expected_us, uint32_t rows);
