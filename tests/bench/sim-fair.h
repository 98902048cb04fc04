/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Who was served how much while others waited: the simulator's own books, which know nothing of the scheduler's. A set
 * holds siblings (the users of a class, clients of a user). It is told who has something waiting and who was served, and
 * says by how much the service of any two of them came apart over any interval in which both had something waiting all
 * the while, and how evenly all were served while all had.
 *
 * With D(t) the difference of what two were served until t, each divided by its weight, the largest difference over any
 * t1 < t2 of an interval is max D - min D over the interval: so a pair is three numbers.
 */

#include <stdbool.h>
#include <stdint.h>

struct fair_node {
        uint64_t served;   /* units, all in all */
        uint64_t counted;  /* ... at the end of the last step */
        uint64_t together; /* ... in steps in which all of the set had something waiting */
        uint32_t waiting;  /* requests */
        uint32_t weight;
};

struct fair_pair {
        double least, most; /* of D since both have something waiting */
        double worst;       /* most - least, of any such interval */
};

struct fair_set {
        struct fair_node *nodes; /* [n] */
        struct fair_pair *pairs; /* [n * (n - 1) / 2]: of (1,0), (2,0), (2,1), (3,0) ... */
        uint32_t n, n_waiting;
        uint64_t quantum, step_max; /* units; of the bound */
        uint64_t n_together;        /* steps in which all had something waiting */
        uint64_t n_steps;
        bool changed;
};

/* The pair that came apart the furthest, by its own bound. */
struct fair_worst {
        uint32_t a, b; /* nodes */
        double difference, bound;
};

/* Nodes have weight 1 until told otherwise. 0 or -ENOMEM. */
int fair_init(struct fair_set *s, uint32_t n, uint64_t quantum, uint64_t step_max);
void fair_deinit(struct fair_set *s);

/* One more, and one less, of the node's requests is waiting. */
void fair_wait(struct fair_set *s, uint32_t node);
void fair_unwait(struct fair_set *s, uint32_t node);
/* The node is served by a step. */
static inline void fair_serve(struct fair_set *s, uint32_t node, uint64_t units) {
        s->nodes[node].served += units;
        s->changed = true;
}
/* The step ends: after the last fair_serve() of it, before anybody comes or goes. */
void fair_step(struct fair_set *s);

/* What docs/scheduling.md promises of two of them: twice the quantum, and the most that a step can serve by each one's
 * weight. */
double fair_bound(const struct fair_set *s, uint32_t a, uint32_t b);
/* False where no two of them ever had something waiting at a time. */
bool fair_worst(const struct fair_set *s, struct fair_worst *ret);
bool fair_exceeded(const struct fair_set *s);
/* Jain's index of what they were served by weight while all had something waiting: 1 = all alike, 1/n = all to one; 0
 * where that never was. */
double fair_jain(const struct fair_set *s);
/* The index of any figures (Jain, Chiu, Hawe 1984). */
double jain_index(double sum, double squares, uint64_t n);
