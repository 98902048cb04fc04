/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a step is expected to take.
 *
 * Tried: one average per row (a step of few rows teaches a far too high price, one of many hides the cost of reading the
 * weights); a line through the step times by least squares with fading sums is stable within ten steps.
 */

#include "base/macro.h"
#include "schedule-pace.h"

#define FADE 0.9

void schedule_pace_learn(struct schedule_pace *p, uint32_t rows, double us) {
        p->n = p->n * FADE + 1;
        p->x = p->x * FADE + rows;
        p->y = p->y * FADE + us;
        p->xx = p->xx * FADE + (double)rows * rows;
        p->xy = p->xy * FADE + rows * us;
}

/* base + per_row * rows. Where all steps were alike there is no telling the two apart: then it is all rows. */
static void line(const struct schedule_pace *p, double *base, double *per_row) {
        double spread = p->n * p->xx - p->x * p->x;

        *base = 0;
        *per_row = p->x > 0 ? p->y / p->x : 0;
        if (spread > 1e-3 * p->n * p->xx) {
                double slope = (p->n * p->xy - p->x * p->y) / spread, at_zero = (p->y - slope * p->x) / p->n;

                if (slope > 0 && at_zero > 0) {
                        *base = at_zero;
                        *per_row = slope;
                }
        }
}

double schedule_pace_predict(const struct schedule_pace *p, uint32_t rows) {
        double base, per_row;

        line(p, &base, &per_row);
        return base + per_row * rows;
}

uint32_t schedule_pace_rows(const struct schedule_pace *p, double us, uint32_t least, uint32_t most) {
        double base, per_row, rows;

        line(p, &base, &per_row);
        if (!(per_row > 0))
                return MIN(least, most);
        rows = (us - base) / per_row;
        if (!(rows > least))
                return MIN(least, most);
        return rows >= most ? most : (uint32_t)rows;
}
