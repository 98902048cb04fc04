/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>

#include "base/macro.h"
#include "sim-fair.h"

int fair_init(struct fair_set *s, uint32_t n, uint64_t quantum, uint64_t step_max) {
        *s = (struct fair_set){ .n = n, .quantum = quantum, .step_max = step_max };
        s->nodes = calloc(n + 1, sizeof(*s->nodes));
        s->pairs = calloc((size_t)n * n / 2 + 1, sizeof(*s->pairs));
        if (!s->nodes || !s->pairs) {
                fair_deinit(s);
                return -ENOMEM;
        }
        for (uint32_t i = 0; i < n; i++)
                s->nodes[i].weight = 1;
        return 0;
}

void fair_deinit(struct fair_set *s) {
        free(s->nodes);
        free(s->pairs);
        *s = (struct fair_set){ 0 };
}

/* For a > b. */
static struct fair_pair *pair_of(const struct fair_set *s, uint32_t a, uint32_t b) {
        return &s->pairs[(size_t)a * (a - 1) / 2 + b];
}

static double share_of(const struct fair_set *s, uint32_t i) {
        return (double)s->nodes[i].served / s->nodes[i].weight;
}

/* An interval begins with every other one that has something waiting. */
void fair_wait(struct fair_set *s, uint32_t node) {
        if (s->nodes[node].waiting++ > 0)
                return;
        s->n_waiting++;
        for (uint32_t i = 0; i < s->n; i++) {
                uint32_t a = MAX(i, node), b = MIN(i, node);
                struct fair_pair *p;

                if (i == node || s->nodes[i].waiting == 0)
                        continue;
                p = pair_of(s, a, b);
                p->least = p->most = share_of(s, a) - share_of(s, b);
        }
}

void fair_unwait(struct fair_set *s, uint32_t node) {
        if (--s->nodes[node].waiting == 0)
                s->n_waiting--;
}

void fair_step(struct fair_set *s) {
        bool together = s->n_waiting == s->n && s->n > 1;

        s->n_steps++;
        s->n_together += together;
        if (!s->changed)
                return;
        s->changed = false;
        for (uint32_t a = 1; a < s->n && s->n_waiting > 1; a++) {
                if (s->nodes[a].waiting == 0)
                        continue;
                for (uint32_t b = 0; b < a; b++) {
                        struct fair_pair *p = pair_of(s, a, b);
                        double d;

                        if (s->nodes[b].waiting == 0)
                                continue;
                        d = share_of(s, a) - share_of(s, b);
                        p->least = MIN(p->least, d);
                        p->most = MAX(p->most, d);
                        p->worst = MAX(p->worst, p->most - p->least);
                }
        }
        for (uint32_t i = 0; i < s->n; i++) {
                if (together)
                        s->nodes[i].together += s->nodes[i].served - s->nodes[i].counted;
                s->nodes[i].counted = s->nodes[i].served;
        }
}

double fair_bound(const struct fair_set *s, uint32_t a, uint32_t b) {
        double step = (double)s->step_max;

        return 2 * (double)s->quantum + step / s->nodes[a].weight + step / s->nodes[b].weight;
}

bool fair_worst(const struct fair_set *s, struct fair_worst *ret) {
        bool found = false;

        for (uint32_t a = 1; a < s->n; a++) {
                for (uint32_t b = 0; b < a; b++) {
                        double difference = pair_of(s, a, b)->worst, bound = fair_bound(s, a, b);

                        if (difference <= 0 || (found && difference / bound <= ret->difference / ret->bound))
                                continue;
                        *ret = (struct fair_worst){ .a = a, .b = b, .difference = difference, .bound = bound };
                        found = true;
                }
        }
        return found;
}

bool fair_exceeded(const struct fair_set *s) {
        struct fair_worst worst;

        return fair_worst(s, &worst) && worst.difference > worst.bound;
}

double jain_index(double sum, double squares, uint64_t n) {
        return squares > 0 ? sum * sum / (squares * (double)n) : 0;
}

double fair_jain(const struct fair_set *s) {
        double sum = 0, squares = 0;

        for (uint32_t i = 0; i < s->n; i++) {
                double x = (double)s->nodes[i].together / s->nodes[i].weight;

                sum += x;
                squares += x * x;
        }
        return jain_index(sum, squares, s->n);
}
