/* SPDX-License-Identifier: Apache-2.0 */

/* Whose turn it is: who comes next, who makes way for whom, who is the first to be parked; and what they are charged. */

#include "schedule-private.h"

#define SUSPENDED_MAX 64u /* of those that are suspended, so many are looked at */

/* --- who comes next, who makes way -------------------------------------------------------------------------------- */

/* The nodes from the class down to the request. */
static void path_of(struct schedule_request *r, struct schedule_node *path[SCHEDULE_LEVELS]) {
        struct schedule_node *n = &r->node;

        for (int level = SCHEDULE_REQUEST; level >= SCHEDULE_CLASS; level--) {
                path[level] = n;
                n = &n->parent->node;
        }
}

/* The bias puts a higher class ahead by a quantum; from half of that on a lower one makes way at once. A lower one that is
 * behind gets one slot, and another one for each quarter of a quantum. (Tried first: as many as it asks for. Then it had all
 * slots for one step, all of them had to make way again in the next, and so to and fro.) */
static bool must_make_way(const struct schedule *s, const struct schedule_node *runs, const struct schedule_node *waits,
                          enum schedule_level level) {
        uint64_t quantum = s->config.quantum[level] * SCHEDULE_SCALE, gap;

        if (level == SCHEDULE_REQUEST)
                return runs->v > quantum;
        if (runs == waits || runs->v < waits->v)
                return false;
        gap = runs->v - waits->v;
        if (level == SCHEDULE_CLASS)
                return runs->bias > waits->bias ? gap >= quantum / 2 : gap > waits->n_running * (quantum / 4);
        return gap > quantum || (waits->fresh && runs->n_running > 1);
}

/* For whom it has to make way at this level, NULL = for nobody. Who is first in line, or, among classes, any: one that is first
 * may have all the slots that it is behind by, and a higher one stand after it. */
static struct schedule_node *made_way_for(const struct schedule *s, const struct schedule_node *runs,
                                          enum schedule_level level) {
        const struct heap *waiting = &runs->parent->waiting;
        size_t n = level == SCHEDULE_CLASS ? waiting->n : MIN(waiting->n, (size_t)1);
        struct schedule_node *first = NULL;

        for (size_t i = 0; i < n; i++) {
                struct schedule_node *waits = waiting_of(waiting->nodes[i]);

                if (must_make_way(s, runs, waits, level) && (!first || waits->v < first->v))
                        first = waits;
        }
        return first;
}

/* From a level on downwards; being asked at all is up to those above. */
static bool is_ahead(const struct schedule *s, struct schedule_node *path[SCHEDULE_LEVELS], int level) {
        for (; level <= SCHEDULE_REQUEST; level++)
                if (made_way_for(s, path[level], (enum schedule_level)level))
                        return true;
        return false;
}

bool schedule_is_ahead(const struct schedule *s, struct schedule_request *r) {
        struct schedule_node *path[SCHEDULE_LEVELS];

        path_of(r, path);
        return is_ahead(s, path, SCHEDULE_USER);
}

/* What made way without being ahead, and isn't by now: it would have its slot still. NULL where there is none below n. */
static struct schedule_request *first_suspended(const struct schedule *s, const struct schedule_node *n,
                                                enum schedule_level level) {
        unsigned looked_at = 0;

        for (struct list *pos = s->suspended.next; pos != &s->suspended && looked_at < SUSPENDED_MAX; pos = pos->next) {
                struct schedule_request *r = LIST_ENTRY(pos, struct schedule_request, suspended);
                struct schedule_node *path[SCHEDULE_LEVELS];

                path_of(r, path);
                if (path[level] == n && !r->user->blocked && !is_ahead(s, path, (int)level + 1))
                        return r;
                looked_at++;
        }
        return NULL;
}

/* The next one below a node that has something waiting. */
static struct schedule_request *first_waiting(const struct schedule *s, struct schedule_node *n, enum schedule_level level) {
        struct schedule_request *suspended = first_suspended(s, n, level);

        if (suspended)
                return suspended;
        for (; level < SCHEDULE_REQUEST; level++)
                n = waiting_of(heap_top(&group_of(n)->waiting));
        return CONTAINER_OF(n, struct schedule_request, node);
}

struct schedule_request *schedule_next(const struct schedule *s) {
        struct schedule_node *n = waiting_of(heap_top(&s->root->waiting));

        return n ? first_waiting(s, n, SCHEDULE_CLASS) : NULL;
}

/* Negative where a is further behind than b: it comes first. */
static int compare(struct schedule_request *a, struct schedule_request *b) {
        struct schedule_node *pa[SCHEDULE_LEVELS], *pb[SCHEDULE_LEVELS];

        path_of(a, pa);
        path_of(b, pb);
        for (int level = SCHEDULE_CLASS; level <= SCHEDULE_REQUEST; level++) {
                if (pa[level] == pb[level])
                        continue;
                if (level != SCHEDULE_REQUEST && pa[level]->v != pb[level]->v)
                        return pa[level]->v < pb[level]->v ? -1 : 1;
                return pa[level]->waiting.tie < pb[level]->waiting.tie ? -1 : 1;
        }
        return 0;
}

/* Of all that have to make way: at the highest level, by the widest gap, and below that the one that is furthest ahead. */
bool schedule_swap(const struct schedule *s, struct schedule_request **ret_victim, struct schedule_request **ret_next) {
        int best_level = SCHEDULE_LEVELS;
        uint64_t best_gap = 0;

        for (uint32_t i = 0; i < s->n_running; i++) {
                struct schedule_node *path[SCHEDULE_LEVELS];

                path_of(s->running[i], path);
                for (int level = SCHEDULE_CLASS; level <= MIN(best_level, SCHEDULE_REQUEST); level++) {
                        struct schedule_node *waits = made_way_for(s, path[level], (enum schedule_level)level);
                        uint64_t gap;

                        if (!waits)
                                continue;
                        gap = path[level]->v - (level == SCHEDULE_REQUEST ? 0 : waits->v);
                        if (level == best_level &&
                            (gap < best_gap || (gap == best_gap && compare(s->running[i], *ret_victim) < 0)))
                                break;
                        best_level = level;
                        best_gap = gap;
                        *ret_victim = s->running[i];
                        *ret_next = first_waiting(s, waits, (enum schedule_level)level);
                        break;
                }
        }
        return best_level < SCHEDULE_LEVELS;
}

struct schedule_request *schedule_worst(const struct schedule *s, const struct schedule_user *user) {
        struct schedule_request *worst = NULL;

        for (uint32_t i = 0; i < s->n_running; i++)
                if ((!user || s->running[i]->user == user) && (!worst || compare(s->running[i], worst) > 0))
                        worst = s->running[i];
        return worst;
}

/* By insertion: what ran in the last step mostly stands in order already. */
void schedule_sort(struct schedule *s) {
        for (uint32_t i = 1; i < s->n_running; i++) {
                struct schedule_request *r = s->running[i];
                uint32_t k = i;

                for (; k > 0 && compare(r, s->running[k - 1]) < 0; k--) {
                        s->running[k] = s->running[k - 1];
                        s->running[k]->slot = k;
                }
                s->running[k] = r;
                r->slot = k;
        }
}

/* --- service ------------------------------------------------------------------------------------------------------ */

uint64_t schedule_step_max(const struct schedule *s) {
        return (uint64_t)s->config.max_rows * SCHEDULE_PREFILL_COST +
               (uint64_t)s->config.max_running * (SCHEDULE_DECODE_COST - SCHEDULE_PREFILL_COST);
}

double schedule_service(const struct schedule_node *node) {
        return (double)(node->v - node->bias) / SCHEDULE_SCALE;
}

const struct schedule_node *schedule_parent(const struct schedule_node *node) {
        return node->parent ? &node->parent->node : NULL;
}

void schedule_charge(struct schedule *s, struct schedule_request *r, uint32_t rows) {
        uint64_t cost = (uint64_t)rows * (r->decoding ? SCHEDULE_DECODE_COST : SCHEDULE_PREFILL_COST) * SCHEDULE_SCALE;

        if (rows == 0)
                return;
        for (struct schedule_node *n = &r->node; n->parent; n = &n->parent->node) {
                struct schedule_group *parent = n->parent;

                /* A request's turn is counted in what it generates: prompts are read one after another. */
                if (n == &r->node) {
                        n->v += r->decoding ? cost : 0;
                        continue;
                }
                n->v += (cost + n->rest) / n->weight;
                n->rest = (uint32_t)((cost + n->rest) % n->weight);
                parent->frontier = MAX(parent->frontier, n->v - n->bias);
                if (heap_has(&n->waiting))
                        heap_update(&parent->waiting, &n->waiting, n->v);
        }
}
