/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How the files of a model in several parts are called. */

#include <stddef.h>

/* "model-00001-of-00003.gguf" -> 3, and the name of part `part` in ret (size bytes); 0 for any other name. */
unsigned splitname_part(const char *path, unsigned part, char *ret, size_t size);
