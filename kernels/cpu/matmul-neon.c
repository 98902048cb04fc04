/* SPDX-License-Identifier: Apache-2.0 */

#include "vec-neon.h"

#include "matmul-template.h"
