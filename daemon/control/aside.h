/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Closing that takes long: with the last descriptor of an image its memory is freed, page by page, which is half a second for 4 GB
 * on an idle machine and several on a busy one. The loop serves nobody meanwhile, so a thread of its own does that, and ends.
 */

#include <stddef.h>

/* Closes all of them, soon; each is -1 from here on (and may have been). Without memory for a thread: on the spot. */
void aside_close(int *fds, size_t n);
