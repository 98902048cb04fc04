/* SPDX-License-Identifier: Apache-2.0 */

#include "vec-avx2.h"

#include "rows-template.h"
