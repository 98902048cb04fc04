/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Numbers as people read them: in logs, errors and what programs print. */

#include <stdint.h>

#define WORDS_BYTES 32

/* "17 B", "3.0 MiB", "12.34 GiB": in the largest unit of which there is one, in two digits from GiB on, so that sums can be
 * followed. Written into out, which is returned. */
const char *words_bytes(uint64_t bytes, char out[WORDS_BYTES]);

/* What a noun that n of are spoken of ends in: "" or "s". */
static inline const char *words_s(uint64_t n) {
        return n == 1 ? "" : "s";
}
