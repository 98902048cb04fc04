/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>
#include <xxhash.h>

#include "checksum.h"

uint64_t image_checksum(const void *data, size_t n) {
        uint64_t sum = XXH3_64bits(data, n);

        return sum ? sum : 1;
}

uint64_t image_checksum_tables(const void *tables, size_t tables_size) {
        struct image_header header;
        uint64_t parts[2];

        (void)memcpy(&header, tables, sizeof(header));
        header.tables_checksum = 0;
        parts[0] = XXH3_64bits(&header, sizeof(header));
        parts[1] = XXH3_64bits((const char *)tables + sizeof(header), tables_size - sizeof(header));
        return image_checksum(parts, sizeof(parts));
}
