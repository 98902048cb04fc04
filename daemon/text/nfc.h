/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Unicode's normalization form C (UAX #15), which some tokenizers bring text to first. */

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

/* Text that form C leaves as it is, seen at a glance. */
bool nfc_is_ascii(const char *text, size_t n);
/* Appends text in form C to *out, in time linear in its length; bytes that are no UTF-8 stay as they are. 0 or -ENOMEM. */
int nfc_normalize(const char *text, size_t n, struct buf *out);
