/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The cage of spark-store: as the loader's, but that it may write
 * one file, no larger than what it was sent to store.
 */

#include <stdint.h>

/* After everything was made that will be needed. 0 or -errno. */
int store_sandbox_enter(uint64_t file_bytes_max);
