/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Characters as Python's str sees them: white space, case, what repr() shows as itself. Text is UTF-8. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the white space character at s, or 0 where there is none. */
size_t text_space(const char *s, size_t n);
/* The length of s without white space at its end; the offset of the first character that is none. */
size_t text_rstrip(const char *s, size_t n);
size_t text_lstrip(const char *s, size_t n);

bool char_is_space(uint32_t c);
bool char_is_printable(uint32_t c);
bool char_is_alpha(uint32_t c);
bool char_is_numeric(uint32_t c);
bool char_is_decimal(uint32_t c);
bool char_is_lower(uint32_t c);
bool char_is_upper(uint32_t c);
/* Simple case mapping; characters that become several (sharp s and some ligatures) write them to out (3 at most) and
 * return how many. */
size_t char_to_upper(uint32_t c, uint32_t out[3]);
size_t char_to_title(uint32_t c, uint32_t out[3]);
size_t char_to_lower(uint32_t c, uint32_t out[3]);
