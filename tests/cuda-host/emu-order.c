/* SPDX-License-Identifier: Apache-2.0 */

/* In which order threads and blocks run. */

#include "emu-private.h"

static struct {
        enum emu_order order;
        uint64_t state;
} order;

void emu_set_order(enum emu_order wanted, uint64_t seed) {
        order.order = wanted;
        order.state = seed;
}

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t order_random(void) {
        uint64_t z = order.state += UINT64_C(0x9e3779b97f4a7c15);

        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        return z ^ z >> 31;
}

void emu_order_fill(uint32_t *ret, uint32_t n) {
        for (uint32_t i = 0; i < n; i++)
                ret[i] = order.order == EMU_ORDER_DESCENDING ? n - 1 - i : i;
        if (order.order != EMU_ORDER_SHUFFLED)
                return;
        for (uint32_t i = n; i > 1; i--) {
                uint32_t j = (uint32_t)(order_random() % i), t = ret[i - 1];

                ret[i - 1] = ret[j];
                ret[j] = t;
        }
}
