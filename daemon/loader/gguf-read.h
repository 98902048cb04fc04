/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the two halves of the GGUF reader share: taking bytes at the current position. 0, LOADER_E_*, or -ENOMEM. */

#include "gguf.h"

int gguf_take(struct gguf *g, void *ret, size_t n, const char *what);
/* Length and bytes of a string; stores where the bytes are and leaves the position after them. */
int gguf_take_string(struct gguf *g, const char *what, uint64_t *ret_at, uint64_t *ret_n);
/* Keys and tensor names are printable ASCII; anything else is damage or mischief (a NUL would hide the rest). */
bool gguf_plain_name(const char *s, uint64_t n);
