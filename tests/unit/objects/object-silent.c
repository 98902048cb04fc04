/* SPDX-License-Identifier: Apache-2.0 */

/* A backend that refuses and does not say why. */

#include "object.h"

const struct backend_ops *spark_backend_cuda(uint32_t abi, const char **ret_error) {
        return NULL;
}
