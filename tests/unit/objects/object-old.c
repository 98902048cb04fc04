/* SPDX-License-Identifier: Apache-2.0 */

/* A backend of another release: its interface had an operation less. */

#include "object.h"

#define OLD_ABI (BACKEND_ABI - (uint32_t)sizeof(void (*)(void)))

const struct backend_ops *spark_backend_cuda(uint32_t abi, const char **ret_error) {
        static const struct backend_ops ops = { .name = "cuda" };

        if (abi == OLD_ABI)
                return &ops;
        *ret_error = "it belongs to another release";
        return NULL;
}
