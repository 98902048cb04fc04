/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a load has to reckon: pure functions, no state. Sums that do not fit a number count as the largest one. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "spark.pb-c.h"
#include "weights.h"

#define PLAN_KV_SMALLEST 2048u /* tokens without which a model is not worth starting (or its whole context) */
#define PLAN_PAGE_TOKENS 32u   /* contexts end on pages of the KV cache */

/* What is known before a load. Bytes, and tokens. */
struct plan_question {
        uint64_t image;
        uint64_t engine;        /* activations, logits */
        uint64_t kv_per_token;  /* UINT64_MAX where the model's numbers make no sense */
        uint64_t kv_configured; /* 0 = to be chosen */
        uint64_t trained;       /* the model's context */
        uint64_t context;       /* that it may use of it, 0 = all */
        uint64_t asked;         /* the KV cache shall hold just so many tokens, 0 = it is chosen */
        uint64_t available;
        uint64_t floor;         /* kept free of that */
        uint64_t promised;      /* to others, of that, too */
};

struct plan {
        uint64_t image, engine, kv;
        uint64_t need;          /* all three */
        uint64_t kv_per_1000;   /* bytes of 1,000 tokens */
        uint64_t kv_tokens;     /* that the KV cache holds */
        uint64_t context;       /* the longest that one sequence can get with it */
        uint64_t context_max;   /* and with all the memory that there is */
        uint64_t context_wanted; /* with as much memory as one likes */
        uint64_t available, floor, promised;
        uint64_t room;          /* available, less floor and promised */
        int64_t left;           /* room, less need: free above the floor afterwards; negative: missing */
        bool fits;
        /* what it is a plan for; plan_reckon() leaves these empty */
        uint64_t parameters;
        char architecture[64], format[32];
        struct weights weights;
        uint64_t machine;       /* bytes of memory of the machine that was asked about, 0 = this one */
};

/* How much KV cache a model is promised: `configured`, or as much as its context suggests and `left` allows (half of
 * it). 0 where not even a small one fits. Pure; sizes in bytes. */
uint64_t plan_choose_kv(uint64_t configured, uint64_t bytes_per_token, uint64_t context, uint64_t left);
/* Where it does not fit, kv is the smallest cache that would do. */
void plan_reckon(const struct plan_question *q, struct plan *ret);
/* Shows the plan in an answer, which borrows its strings, and *weights; what else is there stays as it is. */
void plan_show(const struct plan *plan, struct weights_view *weights, Spark__V1__LoadResult *ret);
