/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How fast something gets on, over the last seconds, from reports that come when they come. Embedded; zero-initialised it
 * has seen nothing. */

#include <stdint.h>

#define SPEED_REPORTS 40u        /* kept */
#define SPEED_WINDOW_US 3000000u /* that are looked back */
#define SPEED_LEAST_US 200000u   /* within which nothing can be said */

struct speed {
        uint64_t us[SPEED_REPORTS], done[SPEED_REPORTS];
        unsigned n, pos; /* reports; where the next one goes */
};

/* `done` of all is done. Less than before: it begins anew. */
void speed_add(struct speed *s, uint64_t now_us, uint64_t done);
/* Of it, how much per second; 0 = not known (yet). */
uint64_t speed_per_second(const struct speed *s);
/* Until total is done, at this speed; 0 = not known, or done. */
uint64_t speed_left_ms(const struct speed *s, uint64_t total);
