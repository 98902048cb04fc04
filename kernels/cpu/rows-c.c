/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Plain C: the reference.
 */

#include "vec-c.h"

#include "rows-template.h"
