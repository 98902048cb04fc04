/* SPDX-License-Identifier: Apache-2.0 */

#include "vec-c.h"

#include "attn-template.h"
