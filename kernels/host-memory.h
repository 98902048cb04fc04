/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Memory of the host that is given back to the system while it stays mapped. */

#include <stddef.h>
#include <stdint.h>

/* Of a private anonymous mapping at `data` (which mmap() gave) of `mapped` bytes, gives bytes [begin, end) back: as far as
 * whole pages of the system lie in there; behind the mapping's end nobody has anything. They read as zeros from then on, and take
 * memory again when they are written to. Returns how many bytes of memory that were there have gone. */
size_t host_memory_discard(void *data, size_t mapped, size_t begin, size_t end);
