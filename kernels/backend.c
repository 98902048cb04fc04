/* SPDX-License-Identifier: Apache-2.0 */

/* The backends of this build, best first: "auto" takes the first that is not fake. And what all of them agree on. */

#include "backend.h"

#include <string.h>

#include "base/macro.h"

static const struct backend_ops *const backends[] = {
        &backend_cpu,
        &backend_null,
};

uint64_t kv_position_bytes(enum kv_format format, uint32_t head_dim) {
        uint64_t dim = head_dim;

        switch (format) {
        case KV_F16:
                return 2 * dim * 2;
        case KV_F32:
                return 2 * dim * 4;
        case KV_Q8_0: /* a scale for each block */
                return 2 * (dim + (dim + KV_BLOCK - 1) / KV_BLOCK * 2);
        default:
                return 0;
        }
}

const struct backend_ops *backend_find(const char *name) {
        for (size_t i = 0; i < ARRAY_SIZE(backends); i++)
                if (strcmp(name, backends[i]->name) == 0 || (strcmp(name, "auto") == 0 && !backends[i]->fake))
                        return backends[i];
        return NULL;
}
