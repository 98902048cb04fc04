/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Plain C: the reference, one query at a time.
 */

#include "vec-c.h"

#include "attn-template.h"
