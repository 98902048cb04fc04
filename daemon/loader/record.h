/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the loader says of a plan. */

#include "daemon/image/plan.h"
#include "daemon/image/scratch.h"
#include "loadlink.h"

/* total: bytes of tensor data to read. step: the engine's; what is 0 gets its default. */
void record_plan(const struct image_plan *plan, uint64_t total, const struct image_step *step,
                 struct loadlink_record *ret);
