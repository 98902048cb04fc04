/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The tree. A group holds those children that have something waiting in a heap by v. A group without requests stays for as
 * long as its v tells something (it was served more than those that wait now); it is taken up again by its id, or freed
 * when the others have caught up.
 *
 * Where a child begins to wait, its v is lifted to that of the least waiting sibling, and where none waits to the
 * highest v of all: until then all had what they wanted, and who wanted more of it owes nothing for that. (Tried first:
 * lifting when it becomes active, waiting or running. Then who had filled free slots was in debt to those with few
 * requests, without a bound.)
 *
 * Requests of a client stand in line, each for a turn of a quantum. (Tried first: fair queueing among them, too. A new one
 * then starts at the v of one that was never served, and comes before one that had to make way for another user: as long as
 * new ones kept coming, that one never went on.)
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "schedule-private.h"

#define LINGERING_MAX 1024u /* children of a group that want nothing and are remembered */
#define BUCKETS_MIN 64u
#define LATE (1ull << 63)   /* in a tie: it got a slot since it had nothing */

static void node_init(struct schedule_node *n, struct schedule_group *parent, uint32_t weight, uint64_t tie) {
        *n = (struct schedule_node){ .waiting = HEAP_NODE_NULL, .parent = parent, .weight = weight };
        n->waiting.tie = tie;
}

/* --- tables ------------------------------------------------------------------------------------------------------ */

static size_t hash_of(const void *parent, uint64_t id, size_t buckets) {
        uint64_t h = (id + (uintptr_t)parent / 64) * 0x9E3779B97F4A7C15u;

        return (size_t)(h >> 32) & (buckets - 1);
}

static struct schedule_group **group_slot(const struct schedule *s, const struct schedule_group *parent, uint64_t id) {
        struct schedule_group **at = &s->groups[hash_of(parent, id, s->group_buckets)];

        while (*at && ((*at)->node.parent != parent || (*at)->id != id))
                at = &(*at)->next;
        return at;
}

static void rehash_groups(struct schedule *s) {
        size_t n = s->group_buckets * 2;
        struct schedule_group **buckets;

        if (s->n_groups < s->group_buckets)
                return;
        buckets = calloc(n, sizeof(struct schedule_group *));
        if (!buckets)
                return; /* longer chains, no more */
        for (size_t i = 0; i < s->group_buckets; i++) {
                for (struct schedule_group *g = s->groups[i], *next; g; g = next) {
                        struct schedule_group **at = &buckets[hash_of(g->node.parent, g->id, n)];

                        next = g->next;
                        g->next = *at;
                        *at = g;
                }
        }
        free(s->groups);
        s->groups = buckets;
        s->group_buckets = n;
}

static struct schedule_user **user_slot(const struct schedule *s, uint32_t uid) {
        struct schedule_user **at = &s->users[hash_of(NULL, uid, s->user_buckets)];

        while (*at && (*at)->uid != uid)
                at = &(*at)->next;
        return at;
}

struct schedule_user *schedule_find_user(const struct schedule *s, uint32_t uid) {
        return *user_slot(s, uid);
}

static struct schedule_user *user_get(struct schedule *s, uint32_t uid) {
        struct schedule_user **at = user_slot(s, uid), *user = *at;

        if (user)
                return user;
        user = calloc(1, sizeof(*user));
        if (!user)
                return NULL;
        user->uid = uid;
        s->n_users++;
        *at = user;
        return user;
}

static void user_check(struct schedule *s, struct schedule_user *user) {
        struct schedule_user **at;

        if (user->n_running + user->n_waiting + user->n_idle > 0)
                return;
        for (int i = 0; i < SCHEDULE_CLASSES; i++)
                if (user->groups[i])
                        return;
        at = user_slot(s, user->uid);
        *at = user->next;
        free(user);
        s->n_users--;
}

/* --- groups ------------------------------------------------------------------------------------------------------ */

static int reserve_child(struct schedule_group *parent) {
        size_t n = parent->n_children + 1;
        int r;

        r = heap_reserve(&parent->waiting, n);
        return r < 0 ? r : heap_reserve(&parent->lingering, n);
}

static struct schedule_group *group_new(struct schedule *s, struct schedule_group *parent, uint64_t id, uint32_t weight,
                                        struct schedule_user *user) {
        struct schedule_group *g;

        if (parent && reserve_child(parent) < 0)
                return NULL;
        g = calloc(1, sizeof(*g));
        if (!g)
                return NULL;
        node_init(&g->node, parent, weight, ++s->arrivals);
        g->id = id;
        g->user = user;
        if (parent) {
                g->level = parent->level + 1;
                g->next = s->groups[hash_of(parent, id, s->group_buckets)];
                s->groups[hash_of(parent, id, s->group_buckets)] = g;
                parent->n_children++;
                s->n_groups++;
                rehash_groups(s);
        }
        return g;
}

/* Frees a group without requests, and what lingers below it; with its last group goes the user. */
static void group_free(struct schedule *s, struct schedule_group *g) {
        struct schedule_group *parent = g->node.parent, **at;
        struct heap_node *n;

        while ((n = heap_top(&g->lingering))) {
                heap_remove(&g->lingering, n);
                group_free(s, group_of(waiting_of(n)));
        }
        if (parent) {
                at = group_slot(s, parent, g->id);
                *at = g->next;
                parent->n_children--;
                s->n_groups--;
                if (parent->level == SCHEDULE_USER) {
                        g->user->groups[parent->id] = NULL;
                        user_check(s, g->user);
                }
        }
        heap_deinit(&g->waiting);
        heap_deinit(&g->lingering);
        free(g);
}

/* Where a child that begins to wait starts, its bias left aside: a hair before those that run where none waits. (Not before
 * one that waits: whoever comes and goes would come before it again and again.) */
static uint64_t floor_of(const struct schedule_group *g) {
        const struct schedule_node *least = waiting_of(heap_top(&g->waiting));

        return least ? least->v - least->bias : g->frontier - (g->frontier > 0);
}

/* Forgets children without requests whose v tells nothing any more (or too many of them). */
static void reap(struct schedule *s, struct schedule_group *g) {
        struct heap_node *n;

        while ((n = heap_top(&g->lingering)) && (n->key <= floor_of(g) + 1 || g->lingering.n > LINGERING_MAX)) {
                heap_remove(&g->lingering, n);
                group_free(s, group_of(waiting_of(n)));
        }
}

static bool may_start(const struct schedule_node *n) {
        const struct schedule_group *parent = n->parent;

        return parent->level != SCHEDULE_USER || !group_of((struct schedule_node *)n)->user->blocked;
}

/* Its place among those that wait. Who had nothing until it came is before others at the same v; requests of a client stand
 * in line. */
static void stand_in_line(struct schedule_node *n, bool came) {
        struct schedule_group *parent = n->parent;

        if (parent->level == SCHEDULE_REQUEST) {
                heap_insert(&parent->waiting, &n->waiting, 0);
                return;
        }
        n->fresh = came && n->n_running == 0;
        n->waiting.tie = n->fresh ? n->waiting.tie & ~LATE : n->waiting.tie | LATE;
        n->v = MAX(n->v, floor_of(parent) + n->bias);
        heap_insert(&parent->waiting, &n->waiting, n->v);
}

/* came: something has come or woken, in contrast to what ran or was held. */
static void add_waiting(struct schedule_node *n, bool came) {
        struct schedule_group *parent = n->parent;

        while (parent && !heap_has(&n->waiting) && may_start(n)) {
                stand_in_line(n, came);
                n = &parent->node;
                parent = n->parent;
        }
}

static void remove_waiting(struct schedule_node *n) {
        struct schedule_group *parent = n->parent;

        while (parent && heap_has(&n->waiting)) {
                heap_remove(&parent->waiting, &n->waiting);
                if (parent->waiting.n > 0)
                        return;
                n = &parent->node;
                parent = n->parent;
        }
}

/* A connection that was never seen takes over how far one that has nothing now is ahead, the furthest: else who takes a new
 * one for each request would owe nothing ever, and come before those that keep theirs. */
static void take_over(struct schedule *s, struct schedule_group *client) {
        const struct heap *gone = &client->node.parent->lingering;
        struct schedule_node *most = NULL;

        for (size_t i = gone->n / 2; i < gone->n; i++) { /* the furthest is one without children in the heap */
                struct schedule_node *n = waiting_of(gone->nodes[i]);

                most = most && most->v >= n->v ? most : n;
        }
        if (!most)
                return;
        client->node.v = most->v;
        heap_remove(&client->node.parent->lingering, &most->waiting);
        group_free(s, group_of(most));
}

static void count_requests(struct schedule_group *g, int by) {
        for (; g; g = g->node.parent)
                g->n_requests += (size_t)by;
}

/* Groups that hold requests do not linger. */
static void take_up(struct schedule_group *g) {
        for (struct schedule_group *parent; (parent = g->node.parent); g = parent)
                if (g->n_requests == 0 && heap_has(&g->node.waiting))
                        heap_remove(&parent->lingering, &g->node.waiting);
}

/* A request has gone: what follows from it all the way up. */
static void settle(struct schedule *s, struct schedule_group *g) {
        for (struct schedule_group *parent; (parent = g->node.parent); g = parent) {
                if (g->n_requests == 0 && parent->level != SCHEDULE_CLASS && !heap_has(&g->node.waiting))
                        heap_insert(&parent->lingering, &g->node.waiting, g->node.v);
                reap(s, g);
        }
}

static void count_running(struct schedule_node *n, int by) {
        n->n_running += (uint32_t)by;
        for (struct schedule_group *g = n->parent; g; g = g->node.parent)
                g->node.n_running += (uint32_t)by;
}

/* They had a turn: of those at the same v they are the last ones now. */
static void step_back(struct schedule *s, struct schedule_group *g) {
        for (struct schedule_group *parent; (parent = g->node.parent); g = parent) {
                struct schedule_node *n = &g->node;
                bool waits = heap_has(&n->waiting);

                n->fresh = false;
                if (waits)
                        heap_remove(&parent->waiting, &n->waiting);
                n->waiting.tie = ++s->arrivals | LATE;
                if (waits)
                        heap_insert(&parent->waiting, &n->waiting, n->v);
        }
}

/* --- users' limits ----------------------------------------------------------------------------------------------- */

static void user_update(struct schedule_user *user) {
        bool blocked = user->held || (user->running_limit > 0 && user->n_running >= user->running_limit);

        if (blocked == user->blocked)
                return;
        user->blocked = blocked;
        for (int i = 0; i < SCHEDULE_CLASSES; i++) {
                struct schedule_group *g = user->groups[i];

                if (!g || g->n_requests == 0)
                        continue;
                if (blocked)
                        remove_waiting(&g->node);
                else if (g->waiting.n > 0)
                        add_waiting(&g->node, false);
        }
}

void schedule_hold(struct schedule *s, struct schedule_user *user, bool hold) {
        user->held = hold;
        user_update(user);
}

/* --- birth and death --------------------------------------------------------------------------------------------- */

int schedule_init(struct schedule *s, const struct schedule_config *config) {
        static const uint32_t weights[SCHEDULE_CLASSES] = { 2, 16, 64 };
        static const uint64_t quanta[SCHEDULE_LEVELS] = { 1024, 16384, 16384, 8192 };
        struct schedule_config *c = &s->config;

        *s = (struct schedule){ .config = *config, .user_buckets = BUCKETS_MIN, .group_buckets = BUCKETS_MIN };
        list_init(&s->suspended);
        c->max_running = MAX(c->max_running, 1u);
        c->max_rows = MAX(c->max_rows, c->max_running);
        s->slots = c->max_running;
        for (int i = 0; i < SCHEDULE_CLASSES; i++)
                if (c->class_weight[i] == 0)
                        c->class_weight[i] = weights[i];
        for (int i = 0; i < SCHEDULE_LEVELS; i++)
                if (c->quantum[i] == 0)
                        c->quantum[i] = quanta[i];
        s->users = calloc(s->user_buckets, sizeof(struct schedule_user *));
        s->groups = calloc(s->group_buckets, sizeof(struct schedule_group *));
        s->running = calloc(c->max_running, sizeof(struct schedule_request *));
        s->root = s->users && s->groups && s->running ? group_new(s, NULL, 0, 1, NULL) : NULL;
        for (uint64_t i = 0; s->root && i < SCHEDULE_CLASSES; i++) {
                struct schedule_group *class = group_new(s, s->root, i, c->class_weight[i], NULL);

                if (!class) {
                        schedule_deinit(s);
                        return -ENOMEM;
                }
                class->node.bias = class->node.v = (SCHEDULE_INTERACTIVE - i) * c->quantum[SCHEDULE_CLASS] * SCHEDULE_SCALE;
        }
        if (!s->root)
                schedule_deinit(s);
        return s->root ? 0 : -ENOMEM;
}

/* Every request has been removed. */
void schedule_deinit(struct schedule *s) {
        for (uint64_t i = 0; s->root && i < SCHEDULE_CLASSES; i++) {
                struct schedule_group *class = *group_slot(s, s->root, i);

                if (!class)
                        continue;
                heap_remove(&s->root->lingering, &class->node.waiting);
                group_free(s, class);
        }
        if (s->root)
                group_free(s, s->root);
        for (size_t i = 0; s->users && i < s->user_buckets; i++)
                while (s->users[i]) {
                        struct schedule_user *user = s->users[i];

                        s->users[i] = user->next;
                        free(user);
                }
        free(s->users);
        free(s->groups);
        free(s->running);
        *s = (struct schedule){ 0 };
}

/* The client's group, made where it isn't there. */
static struct schedule_group *place_for(struct schedule *s, const struct schedule_who *who, struct schedule_user *user) {
        struct schedule_group *class = *group_slot(s, s->root, who->class), *g = user->groups[who->class], *client;
        uint32_t weight = MIN(MAX(who->weight, 1u), SCHEDULE_WEIGHT_MAX);

        if (!g)
                g = user->groups[who->class] = group_new(s, class, who->uid, weight, user);
        if (!g)
                return NULL;
        g->node.weight = weight;
        client = *group_slot(s, g, who->client);
        if (!client) {
                client = group_new(s, g, who->client, 1, user);
                if (client)
                        take_over(s, client);
        }
        if (!client || reserve_child(client) < 0) {
                settle(s, client ? client : g);
                return NULL;
        }
        return client;
}

int schedule_add(struct schedule *s, struct schedule_request *r, const struct schedule_who *who) {
        struct schedule_user *user = user_get(s, who->uid);
        struct schedule_group *client;

        if (!user)
                return -ENOMEM;
        client = place_for(s, who, user);
        if (!client) {
                user_check(s, user);
                return -ENOMEM;
        }
        user->running_limit = who->running_limit;
        user_update(user);
        *r = (struct schedule_request){ .user = user, .state = SCHEDULE_WAITING, .class = who->class };
        list_init(&r->suspended);
        node_init(&r->node, client, 1, ++s->arrivals);
        client->n_children++;
        take_up(client);
        count_requests(client, 1);
        add_waiting(&r->node, true);
        user->n_waiting++;
        s->n_waiting++;
        return 0;
}

static void leave_slot(struct schedule *s, struct schedule_request *r) {
        struct schedule_request *last = s->running[--s->n_running];

        s->running[r->slot] = last;
        last->slot = r->slot;
        r->user->n_running--;
        count_running(&r->node, -1);
        user_update(r->user);
}

static void leave_state(struct schedule *s, struct schedule_request *r) {
        switch (r->state) {
        case SCHEDULE_WAITING:
                list_remove(&r->suspended);
                remove_waiting(&r->node);
                r->user->n_waiting--;
                s->n_waiting--;
                break;
        case SCHEDULE_RUNNING:
                leave_slot(s, r);
                break;
        case SCHEDULE_IDLE:
                r->user->n_idle--;
                s->n_idle--;
                break;
        case SCHEDULE_NEW:
                break;
        }
}

/* Whose turn is over goes to the end of its client's line. */
static void enter_waiting(struct schedule *s, struct schedule_request *r, bool came) {
        if (r->node.v > s->config.quantum[SCHEDULE_REQUEST] * SCHEDULE_SCALE) {
                r->node.v = 0;
                r->node.waiting.tie = ++s->arrivals;
        }
        r->state = SCHEDULE_WAITING;
        r->user->n_waiting++;
        s->n_waiting++;
        add_waiting(&r->node, came);
}

void schedule_remove(struct schedule *s, struct schedule_request *r) {
        struct schedule_group *client = r->node.parent;

        if (r->state == SCHEDULE_NEW)
                return;
        leave_state(s, r);
        r->state = SCHEDULE_NEW;
        client->n_children--;
        count_requests(client, -1);
        settle(s, client);
}

void schedule_start(struct schedule *s, struct schedule_request *r) {
        leave_state(s, r);
        r->state = SCHEDULE_RUNNING;
        r->slot = s->n_running;
        s->running[s->n_running++] = r;
        count_running(&r->node, 1);
        step_back(s, r->node.parent);
        r->user->n_running++;
        user_update(r->user);
}

void schedule_park(struct schedule *s, struct schedule_request *r) {
        leave_state(s, r);
        enter_waiting(s, r, false);
}

void schedule_make_way(struct schedule *s, struct schedule_request *r) {
        bool ahead = schedule_is_ahead(s, r);

        schedule_park(s, r);
        if (!ahead)
                list_append(&s->suspended, &r->suspended);
}

void schedule_limit(struct schedule *s, uint32_t slots) {
        s->slots = MIN(MAX(slots, 1u), s->config.max_running);
}

void schedule_pause(struct schedule *s, struct schedule_request *r) {
        leave_state(s, r);
        r->state = SCHEDULE_IDLE;
        r->user->n_idle++;
        s->n_idle++;
}

void schedule_wake(struct schedule *s, struct schedule_request *r) {
        leave_state(s, r);
        enter_waiting(s, r, true);
}
