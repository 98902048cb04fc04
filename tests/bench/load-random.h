/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Chance that can be repeated: everything random in a load run (lengths, words, arrivals, which requests are cancelled)
 * is drawn from streams that are named by a seed and numbers, so that the same command asks for the same things in
 * whatever order the answers come. The generator is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
 * generators", OOPSLA 2014).
 */

#include <stdbool.h>
#include <stdint.h>

struct load_range {
        uint32_t low, high; /* both included */
};

struct load_random {
        uint64_t state;
};

/* The stream named by these numbers; different names give unrelated streams. */
void load_random_init(struct load_random *r, uint64_t seed, uint64_t a, uint64_t b, uint64_t c);
uint64_t load_random_next(struct load_random *r);
/* Uniform below `n` (n > 0). */
uint32_t load_random_below(struct load_random *r, uint32_t n);
uint32_t load_random_in(struct load_random *r, struct load_range range);
/* Exponentially distributed with this mean. */
double load_random_exponential(struct load_random *r, double mean);

/* Arrivals of an open loop: a Poisson process of `rate` requests per second, which come `burst` at a time (so bursts
 * arrive rate / burst times per second). */
struct load_arrivals {
        struct load_random random;
        double gap_us; /* mean, between bursts */
        double at_us;  /* of the current burst */
        uint32_t burst;
        uint32_t left; /* of the current burst */
};

void load_arrivals_init(struct load_arrivals *a, const struct load_random *random, double rate, uint32_t burst);
/* When the next request arrives, in microseconds since the start; never decreases. */
double load_arrivals_next(struct load_arrivals *a);
