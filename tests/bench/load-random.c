/* SPDX-License-Identifier: Apache-2.0 */

#include <math.h>

#include "load-random.h"

uint64_t load_random_next(struct load_random *r) {
        uint64_t z = r->state += 0x9e3779b97f4a7c15u;

        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
}

void load_random_init(struct load_random *r, uint64_t seed, uint64_t a, uint64_t b, uint64_t c) {
        const uint64_t name[] = { a, b, c };

        r->state = seed;
        for (unsigned i = 0; i < 3; i++)
                r->state = load_random_next(r) ^ name[i];
        r->state = load_random_next(r);
}

uint32_t load_random_below(struct load_random *r, uint32_t n) {
        return (uint32_t)((load_random_next(r) >> 32) * n >> 32);
}

uint32_t load_random_in(struct load_random *r, struct load_range range) {
        uint32_t span = range.high - range.low + 1;

        return span == 0 ? (uint32_t)load_random_next(r) : range.low + load_random_below(r, span);
}

double load_random_exponential(struct load_random *r, double mean) {
        /* 53 bits in (0, 1]: the logarithm is finite */
        double u = ((double)(load_random_next(r) >> 11) + 1) / 0x1p53;

        return -log(u) * mean;
}

void load_arrivals_init(struct load_arrivals *a, const struct load_random *random, double rate, uint32_t burst) {
        *a = (struct load_arrivals){ .random = *random, .gap_us = 1e6 * burst / rate, .burst = burst };
}

double load_arrivals_next(struct load_arrivals *a) {
        if (a->left == 0) {
                a->at_us += load_random_exponential(&a->random, a->gap_us);
                a->left = a->burst;
        }
        a->left--;
        return a->at_us;
}
