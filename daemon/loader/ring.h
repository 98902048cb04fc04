/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Asynchronous reads of a model's files by io_uring. The ring is made before the process sandboxes itself and then restricted:
 * it can do nothing but READ from the registered files, since seccomp cannot see what is asked of a ring. Where the
 * kernel refuses rings, `ok` is false and the caller reads synchronously.
 */

#include <liburing.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ring {
        bool ok;
        unsigned n_in_flight;
        struct io_uring uring;
};

void ring_init(struct ring *r, const int *fds, unsigned n_fds, unsigned depth);
void ring_deinit(struct ring *r);
/* file: number among the fds. fresh: buf has no memory yet, which the kernel's workers take while they read, several at once; else this
 * thread would take it page by page. False when it cannot be queued: read it synchronously. buf must live until its completion was reaped. */
bool ring_read(struct ring *r, unsigned file, uint64_t offset, void *buf, unsigned n, bool fresh, uint64_t tag);
/* One completion: 1 = stored (result: bytes or -errno), 0 = none there yet (only without wait), or -errno. */
int ring_reap(struct ring *r, bool wait, uint64_t *ret_tag, int *ret_result);
