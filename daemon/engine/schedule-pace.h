/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a step takes, learned from steps: about base + rows * per_row microseconds (least squares over what was lately). A zeroed
 * one has learned nothing. */

#include <stdint.h>

struct schedule_pace {
        double n, x, y, xx, xy; /* sums that fade */
};

void schedule_pace_learn(struct schedule_pace *p, uint32_t rows, double us);
/* Microseconds that so many rows will take; 0 while nothing is known. */
double schedule_pace_predict(const struct schedule_pace *p, uint32_t rows);
/* Rows that fit in so many microseconds, at most `most`; `least` while nothing is known and where fewer would fit. */
uint32_t schedule_pace_rows(const struct schedule_pace *p, double us, uint32_t least, uint32_t most);
