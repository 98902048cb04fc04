/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the driver's management library reports. NULL where it is not there; everything here takes that. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend-facts.h"

struct cuda_nvml;

struct cuda_nvml *cuda_nvml_new(const char *bus_id);
struct cuda_nvml *cuda_nvml_free(struct cuda_nvml *n);
/* Writes "580.95"; false: not known. */
bool cuda_nvml_driver(struct cuda_nvml *n, char *ret, size_t size);
/* Looks for events, without waiting; any thread. The number of an Xid after which the device is of no use, or 0. */
uint64_t cuda_nvml_poll(struct cuda_nvml *n);
/* Asks the device for its power and temperature, unless somebody did so in the last second; any thread. */
void cuda_nvml_sample(struct cuda_nvml *n);
/* Locks the device's clocks to at most so many percent of the highest ones, or gives free what was locked by this (0, 100);
 * undo: or by another one of ours that is gone. The device's, so everybody's; they stay locked until they are given free:
 * cuda_nvml_free() does that. */
enum backend_clocks cuda_nvml_cap_clocks(struct cuda_nvml *n, uint32_t percent, bool undo);
/* What it said last; asks where that was long ago. */
void cuda_nvml_power(struct cuda_nvml *n, struct backend_power *ret);
