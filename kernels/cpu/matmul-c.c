/* SPDX-License-Identifier: Apache-2.0 */

#include "vec-c.h"

#include "matmul-template.h"
