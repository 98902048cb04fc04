/* SPDX-License-Identifier: Apache-2.0 */

/* A backend that finds no device; one that was built for another interface would say so in the same way. */

#include "object.h"

const struct backend_ops *spark_backend_cuda(uint32_t abi, const char **ret_error) {
        *ret_error = abi == BACKEND_ABI ? "there is no device" : "the interface is another one";
        return NULL;
}
