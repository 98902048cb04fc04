/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What systemd's manager (org.freedesktop.systemd1) says about the unit that we are. Each question has a connection of its own
 * to the system bus, whatever bus our objects are on, and waits for a bounded time: a bus that does not answer is one that
 * knows nothing.
 */

#include <stdbool.h>
#include <stdint.h>

/* FileDescriptorStoreMax=. 0 or -errno. */
int unit_ask_fdstore_max(uint64_t timeout_us, uint32_t *ret);
/* Is the unit's job, of which we are a part, one that starts it again (restart, try-restart)? 1, 0 or -errno. */
int unit_ask_restarts(uint64_t timeout_us);
