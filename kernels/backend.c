/* SPDX-License-Identifier: Apache-2.0 */

/* The backends of this build, best first: "auto" takes the first that is not fake. */

#include "backend.h"

#include <string.h>

#include "base/macro.h"

static const struct backend_ops *const backends[] = {
        &backend_cpu,
        &backend_null,
};

const struct backend_ops *backend_find(const char *name) {
        for (size_t i = 0; i < ARRAY_SIZE(backends); i++)
                if (strcmp(name, backends[i]->name) == 0 || (strcmp(name, "auto") == 0 && !backends[i]->fake))
                        return backends[i];
        return NULL;
}
