/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the driver's management library reports. NULL where it is not there; everything here takes that. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"

struct cuda_nvml;

struct cuda_nvml *cuda_nvml_new(const char *bus_id);
struct cuda_nvml *cuda_nvml_free(struct cuda_nvml *n);
/* Writes "580.95"; false: not known. */
bool cuda_nvml_driver(struct cuda_nvml *n, char *ret, size_t size);
/* Looks for events, without waiting; any thread. The number of an Xid after which the device is of no use, or 0. */
uint64_t cuda_nvml_poll(struct cuda_nvml *n);
/* Asks the device for its power and temperature, unless somebody did so in the last second; any thread. */
void cuda_nvml_sample(struct cuda_nvml *n);
/* What it said last; asks where that was long ago. */
void cuda_nvml_power(struct cuda_nvml *n, struct backend_power *ret);
