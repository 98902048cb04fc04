/* SPDX-License-Identifier: Apache-2.0 */

#include "base/macro.h"
#include "sim-figures.h"

/* --- draws ------------------------------------------------------------------------------------------------------- */

/* The output function of SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t x) {
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
        return x ^ (x >> 31);
}

uint64_t sim_random(uint64_t seed, uint64_t client, uint64_t request, uint64_t what) {
        uint64_t x = mix(seed + 0x9E3779B97F4A7C15u);

        x = mix(x + client * 0x9E3779B97F4A7C15u);
        return mix(x + (request << 8) + what + 0x632BE59BD9B4E019u);
}

/* A normal deviate with 16 binary places: twelve uniform ones have the variance 1 together. */
static int64_t deviate(uint64_t seed, uint64_t client, uint64_t request, uint64_t what) {
        int64_t sum = -6 * 65536;

        for (uint64_t i = 0; i < 3; i++) {
                uint64_t x = sim_random(seed, client, request, what + i);

                for (int k = 0; k < 4; k++, x >>= 16)
                        sum += (int64_t)(x & 0xFFFF);
        }
        return sum;
}

/* n times two to the power of x (16 binary places), for |x| below 16: whole powers by shifting, the rest by factors of
 * 2^(1/2), 2^(1/4) ... with 30 binary places. */
static uint64_t times_power(uint32_t n, int64_t x) {
        static const uint32_t roots[16] = {
                1518500250, 1276901417, 1170923762, 1121280436, 1097253708, 1085434106, 1079572136, 1076653033,
                1075196443, 1074468888, 1074105294, 1073923544, 1073832680, 1073787251, 1073764537, 1073753181,
        };
        int64_t whole = x >> 16;
        uint64_t y = (uint64_t)n << 16;

        for (int i = 0; i < 16; i++)
                if (x & (0x8000 >> i))
                        y = y / 1024 * roots[i] >> 20;
        y = whole >= 0 ? y << whole : y >> -whole;
        return y >> 16;
}

uint32_t sim_random_length(uint64_t seed, uint64_t client, uint64_t request, uint64_t what, uint32_t median,
                           uint32_t spread, uint32_t least, uint32_t most) {
        int64_t x = deviate(seed, client, request, what) * (int64_t)spread / 256;
        uint64_t n;

        x = MIN(MAX(x, (int64_t)-15 * 65536), (int64_t)15 * 65536);
        n = times_power(median, x);
        return (uint32_t)MIN(MAX(n, (uint64_t)least), (uint64_t)most);
}

uint64_t sim_random_wait(uint64_t seed, uint64_t client, uint64_t request, uint64_t what, uint64_t mean) {
        uint64_t x = sim_random(seed, client, request, what) >> 32 | 1, log2 = 0;

        /* minus log2(x / 2^32), 16 binary places: whole ones by shifting to [2^31, 2^32), then one by one by squaring */
        for (; x < 0x80000000u; x <<= 1)
                log2 += 65536;
        log2 += 65536;
        for (uint64_t bit = 32768; bit > 0; bit >>= 1) {
                x = x * x >> 31;
                if (x >= 0x100000000u) {
                        x >>= 1;
                        log2 -= bit;
                }
        }
        return (mean * log2 >> 16) * 45426 >> 16; /* ln 2 */
}

/* --- histograms --------------------------------------------------------------------------------------------------- */

static uint32_t bucket_of(uint64_t value) {
        uint32_t power;

        if (value < 64)
                return (uint32_t)value;
        power = 63 - (uint32_t)__builtin_clzll(value) - 6;
        return MIN((power + 1) * 64 + (uint32_t)(value >> power & 63), SIM_BUCKETS - 1);
}

void sim_histogram_add(struct sim_histogram *h, uint64_t value) {
        h->counts[bucket_of(value)]++;
        h->n++;
        h->most = MAX(h->most, value);
}

void sim_histogram_merge(struct sim_histogram *h, const struct sim_histogram *more) {
        for (uint32_t i = 0; i < SIM_BUCKETS; i++)
                h->counts[i] += more->counts[i];
        h->n += more->n;
        h->most = MAX(h->most, more->most);
}

uint64_t sim_histogram_quantile(const struct sim_histogram *h, uint32_t per_mille) {
        uint64_t rank = (h->n * per_mille + 999) / 1000, sum = 0;

        for (uint32_t i = 0; i < SIM_BUCKETS && h->n > 0; i++) {
                uint64_t power = i < 128 ? 0 : i / 64 - 1;

                sum += h->counts[i];
                if (sum >= MAX(rank, 1u))
                        return MIN(((i < 64 ? i : 64 + (uint64_t)i % 64) << power) + (1ull << power) - 1, h->most);
        }
        return h->most;
}
