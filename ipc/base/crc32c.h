/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* CRC-32C (Castagnoli), as in RFC 3720: finds damage, not malice. */

#include <stddef.h>
#include <stdint.h>

/* Goes on from `crc`, which is 0 at the beginning: crc32c(crc32c(0, a), b) is that of a and b in a row. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);
