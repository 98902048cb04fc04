/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a load has to reckon: pure functions, no state. */

#include <stddef.h>
#include <stdint.h>

#define PLAN_KV_SMALLEST 2048u /* tokens without which a model is not worth starting (or its whole context) */

/* How much KV cache a model is promised: `configured`, or as much as its context suggests and `left` allows (half of
 * it). 0 where not even a small one fits. Pure; sizes in bytes. */
uint64_t plan_choose_kv(uint64_t configured, uint64_t bytes_per_token, uint64_t context, uint64_t left);
