/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Spaces as SentencePiece writes them: U+2581. */

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

#define SPM_SPACE "\xe2\x96\x81"
#define SPM_SPACE_SIZE 3u

/* Appends text to *out with its spaces written so, after one more where `prefix` says so. 0 or -ENOMEM. */
int metaspace_escape(const char *text, size_t n, bool prefix, struct buf *out);
/* Where the word at s ends: before the first space that follows something else. */
size_t metaspace_word_length(const char *s, size_t n);
static inline bool metaspace_is_inside(const char *text, size_t n) {
        return metaspace_word_length(text, n) < n;
}
