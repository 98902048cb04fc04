/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Model files on the command line, and the bar that shows how far their bytes have got. */

#include "ctl.h"

#define MODEL_NAME_BYTES 64 /* longer names are cut; the service has its own limit */

/* Draws it: "load [#####     ] 52 %  3.1 GiB/s  4.2 s left". */
void byte_bar_show(struct ctl *ctl, const struct spark_progress *p);

bool model_file_is_directory(const char *path);
/* A name for the model in a file or directory; NULL where it gives none. */
const char *model_file_name(const char *path, char out[MODEL_NAME_BYTES + 1]);
/* For a name that the service may not know: "A file is named with a '/': ./NAME" where there is a file or folder of this name, else
 * NULL. */
const char *model_file_hint(const char *what, char *out, size_t size);
/* Opens a model's file. 0 or the exit status, reported. */
int model_file_open(const struct ctl *ctl, const char *path, int *ret_fd);
