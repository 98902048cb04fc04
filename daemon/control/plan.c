/* SPDX-License-Identifier: Apache-2.0 */

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

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

/* The number at p of exactly five digits; false for anything else. */
static bool five_digits(const char *p, unsigned *ret) {
        unsigned v = 0;

        for (int i = 0; i < 5; i++) {
                if (p[i] < '0' || p[i] > '9')
                        return false;
                v = v * 10 + (unsigned)(p[i] - '0');
        }
        *ret = v;
        return true;
}

unsigned plan_split_name(const char *path, unsigned part, char *ret, size_t size) {
        static const char tail[] = "-00001-of-00003.gguf";
        size_t n = strlen(path), k = sizeof(tail) - 1;
        unsigned first, total;
        const char *p;

        if (n < k || n >= size)
                return 0;
        p = path + n - k;
        if (p[0] != '-' || !five_digits(p + 1, &first) || strncmp(p + 6, "-of-", 4) != 0 ||
            !five_digits(p + 10, &total) || strcmp(p + 15, ".gguf") != 0 || first != 1 || total < 2)
                return 0;
        (void)snprintf(ret, size, "%.*s-%05u-of-%05u.gguf", (int)(n - k), path, part % 100000u, total);
        return total;
}
