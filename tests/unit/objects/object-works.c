/* SPDX-License-Identifier: Apache-2.0 */

/* A backend that opens, except with so many threads: with 1 it says why not, with 2 it has no memory, with 3 it is lost. */

#include "object.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>

static struct backend only;

static int works_open(const struct backend_config *config, struct backend **ret) {
        switch (config->threads) {
        case 1:
                (void)snprintf(config->error->text, sizeof(config->error->text), "one thread is too few");
                return BACKEND_E_UNSUPPORTED;
        case 2:
                return BACKEND_E_NO_MEMORY;
        case 3:
                return -EIO;
        default:
                *ret = &only;
                return 0;
        }
}

static struct backend *works_close(struct backend *be) {
        return NULL;
}

static const struct backend_ops ops = { .name = "cuda", .open = works_open, .close = works_close };

const struct backend_ops *spark_backend_cuda(uint32_t abi, const char **ret_error) {
        only.ops = &ops;
        if (abi == BACKEND_ABI)
                return &ops;
        *ret_error = "the interface is another one";
        return NULL;
}
