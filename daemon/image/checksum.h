/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Checksums of images that are files: against torn and rotten files, not against malice. XXH3, 64 bits, seed 0 (the xxHash
 * specification); what comes out as 0 counts as 1, since 0 in an image says that there is none.
 */

#include <stddef.h>
#include <stdint.h>

#include "layout.h"

uint64_t image_checksum(const void *data, size_t n);
/* Of header and sections, `tables_size` bytes at tables, as if the header's tables_checksum were 0. */
uint64_t image_checksum_tables(const void *tables, size_t tables_size);
