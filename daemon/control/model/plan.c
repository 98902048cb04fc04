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

static uint64_t sum_of(uint64_t a, uint64_t b) {
        uint64_t sum;

        return checked_add(a, b, &sum) ? sum : UINT64_MAX;
}

static uint64_t product_of(uint64_t a, uint64_t b) {
        uint64_t product;

        return checked_mul(a, b, &product) ? product : UINT64_MAX;
}

static int64_t difference_of(uint64_t a, uint64_t b) {
        uint64_t d = a > b ? a - b : b - a;

        if (d > INT64_MAX)
                return a > b ? INT64_MAX : INT64_MIN;
        return a > b ? (int64_t)d : -(int64_t)d;
}

static uint64_t whole_pages(uint64_t tokens) {
        return tokens - tokens % PLAN_PAGE_TOKENS;
}

/* The KV cache that is wanted, and whether it fits into what weights and engine leave. */
static bool choose_kv(const struct plan_question *q, uint64_t context, uint64_t left, uint64_t *ret) {
        if (q->kv_per_token == 0 || context == 0) { /* nothing to remember */
                *ret = 0;
                return true;
        }
        if (q->asked) {
                *ret = product_of(q->asked, q->kv_per_token);
                return *ret <= left;
        }
        *ret = plan_choose_kv(q->kv_configured, q->kv_per_token, context, left);
        if (*ret)
                return true;
        *ret = q->kv_configured ? q->kv_configured : product_of(MIN(context, (uint64_t)PLAN_KV_SMALLEST), q->kv_per_token);
        return false;
}

void plan_reckon(const struct plan_question *q, struct plan *ret) {
        uint64_t fixed = sum_of(q->image, q->engine), taken = sum_of(q->floor, q->promised), left;
        uint64_t context = q->context ? MIN(q->context, q->trained) : q->trained;

        *ret = (struct plan){
                .image = q->image,
                .engine = q->engine,
                .kv_per_1000 = product_of(q->kv_per_token, 1000),
                .available = q->available,
                .floor = q->floor,
                .promised = q->promised,
                .context_wanted = context,
                .room = q->available > taken ? q->available - taken : 0,
        };
        left = ret->room > fixed ? ret->room - fixed : 0;
        ret->fits = choose_kv(q, context, left, &ret->kv) && fixed <= ret->room;
        ret->need = sum_of(fixed, ret->kv);
        ret->left = difference_of(ret->room, ret->need);
        if (q->kv_per_token == 0)
                return;
        ret->kv_tokens = ret->kv / q->kv_per_token;
        ret->context = MIN(ret->kv_tokens, context);
        ret->context_max = MIN(whole_pages(left / q->kv_per_token), q->trained);
}

void plan_show(const struct plan *plan, struct weights_view *weights, Spark__V1__LoadResult *ret) {
        ret->image_bytes = plan->image;
        ret->kv_bytes = plan->kv;
        ret->engine_bytes = plan->engine;
        ret->available_bytes = plan->available;
        ret->floor_bytes = plan->floor;
        ret->promised_bytes = plan->promised;
        ret->kv_bytes_per_1000_tokens = plan->kv_per_1000;
        ret->kv_tokens = plan->kv_tokens;
        ret->context = (uint32_t)MIN(plan->context, (uint64_t)UINT32_MAX);
        ret->context_max = (uint32_t)MIN(plan->context_max, (uint64_t)UINT32_MAX);
        ret->left_bytes = plan->left;
        ret->fits = plan->fits;
        ret->parameters = plan->parameters;
        ret->architecture = (char *)plan->architecture;
        ret->format = (char *)plan->format;
        ret->weights = weights_show(&plan->weights, weights);
        ret->memory_bytes = plan->machine;
}
