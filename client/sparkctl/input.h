/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "base/buf.h"
#include "ctl.h"

#define INPUT_MAX ((size_t)1 << 30)

/* The text of an argument: itself, or for "-" all of standard input, as it is. Appends to *out. 0 or the exit
 * status. */
int input_text(const struct ctl *ctl, const char *argument, struct buf *out);
/* The contents of a file, or for "-" of standard input. */
int input_file(const struct ctl *ctl, const char *path, struct buf *out);
