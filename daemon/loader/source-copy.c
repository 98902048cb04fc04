/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"

#include "source-copy.h"

#define BOUNCE_BYTES ((uint64_t)4 << 20)

int source_copy(struct source *s, uint64_t offset, void *buf, uint64_t n, struct loader_error *error) {
        _cleanup_free_ char *bounce = NULL;
        char *dst = buf;

        if (n == 0)
                return 0;
        bounce = aligned_alloc(SOURCE_ALIGN, MIN(BOUNCE_BYTES, (n / SOURCE_ALIGN + 2) * SOURCE_ALIGN));
        if (!bounce)
                return -ENOMEM;
        while (n > 0) {
                uint64_t skip = offset % SOURCE_ALIGN, part = MIN(n, BOUNCE_BYTES - skip);
                size_t need = (size_t)(skip + part), len = (need + SOURCE_ALIGN - 1) / SOURCE_ALIGN * SOURCE_ALIGN;
                int r = source_read(s, offset - skip, bounce, len, need, error);

                if (r)
                        return r;
                (void)memcpy(dst, bounce + skip, part);
                offset += part;
                dst += part;
                n -= part;
        }
        return 0;
}
