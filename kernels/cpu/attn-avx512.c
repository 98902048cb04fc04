/* SPDX-License-Identifier: Apache-2.0 */

#include "vec-avx512.h"

#include "attn-template.h"
