/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Shared objects that stand in for the CUDA backend's when test-backend-load opens them. */

#include "kernels/backend.h"

__attribute__((visibility("default"))) const struct backend_ops *spark_backend_cuda(uint32_t abi, const char **ret_error);
