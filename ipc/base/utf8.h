/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* UTF-8 as of RFC 3629: no surrogates, nothing above U+10FFFF, no overlong forms. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes one character at s (n >= 1 bytes there). Returns its length 1-4 and stores it, or 0 where the bytes are no
 * character or one that is cut off by n. */
size_t utf8_decode(const char *s, size_t n, uint32_t *ret_char);
/* Writes 1-4 bytes. c must be a valid scalar value. */
size_t utf8_encode(uint32_t c, char out[4]);
/* True when valid throughout; else stores the offset of the first bad byte (ret_bad may be NULL). */
bool utf8_valid(const char *s, size_t n, size_t *ret_bad);
/* Puts '?' in the place of every byte of a string that is of no whole character, as where a text was cut. */
void utf8_mend(char *s);
/* Length of the longest prefix that does not end within a character which further bytes could still complete. */
size_t utf8_complete(const char *s, size_t n);
