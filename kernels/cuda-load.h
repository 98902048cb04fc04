/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The CUDA backend is a shared object of its own, opened when it is wanted, so that one package serves machines with and
 * without a GPU. It exports one function, spark_backend_cuda(), which answers with the backend's operations, or with NULL and a
 * sentence where this machine has no device or driver for them, or where it was built for another BACKEND_ABI.
 */

#include "backend.h"

typedef const struct backend_ops *cuda_entry_fn(uint32_t abi, const char **ret_error);

#define CUDA_ENTRY "spark_backend_cuda"

/* library: a path; NULL looks where this program's build or installation has it. The object stays open for good: its
 * operations may be used until the process ends. NULL: *error says why. */
const struct backend_ops *cuda_load(const char *library, struct backend_error *error);
