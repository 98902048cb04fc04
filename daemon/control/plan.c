/* SPDX-License-Identifier: Apache-2.0 */

#include "base/checked.h"
#include "base/macro.h"
#include "plan.h"

#define KV_CONTEXTS 4u          /* whole contexts that a KV cache should hold by default, */
#define KV_TOKENS_MIN 32768u    /* or so many tokens where contexts are short, */
#define KV_CONTEXTS_MAX 64u     /* which need not be more than every sequence of a step can use */

uint64_t plan_choose_kv(uint64_t configured, uint64_t bytes_per_token, uint64_t context, uint64_t left) {
        uint64_t tokens, want, smallest;

        if (context == 0 || bytes_per_token == 0)
                return 0;
        if (configured)
                return configured <= left ? configured : 0;
        if (!checked_mul(context, KV_CONTEXTS, &tokens))
                return 0;
        if (tokens < KV_TOKENS_MIN)
                tokens = MIN((uint64_t)KV_TOKENS_MIN, context * KV_CONTEXTS_MAX);
        if (!checked_mul(tokens, bytes_per_token, &want) ||
            !checked_mul(MIN(context, (uint64_t)PLAN_KV_SMALLEST), bytes_per_token, &smallest))
                return 0;
        if (want > left / 2)
                want = left / 2;
        if (want < smallest)
                want = smallest;
        return want <= left ? want : 0;
}
