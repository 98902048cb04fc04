/* SPDX-License-Identifier: Apache-2.0 */

/* Who is charged for what, and what goes first: the leaves of whoever has most. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "prefix-private.h"

#define NODE_OF(h) CONTAINER_OF(h, struct prefix_node, leaf)
#define USER_OF(h) CONTAINER_OF(h, struct prefix_user, victim)

/* Uids come from the kernel: nobody chooses them. */
static unsigned user_bucket(uint32_t uid) {
        return uid % PREFIX_USER_BUCKETS;
}

struct prefix_user *prefix_user_find(const struct prefix_cache *c, uint32_t uid) {
        struct prefix_user *u = c->users[user_bucket(uid)];

        while (u && u->uid != uid)
                u = u->next;
        return u;
}

void prefix_user_free(struct prefix_cache *c, struct prefix_user *u) {
        struct prefix_user **b = &c->users[user_bucket(u->uid)];

        while (*b != u)
                b = &(*b)->next;
        *b = u->next;
        c->n_users--;
        heap_remove(&c->victims, &u->victim);
        heap_deinit(&u->leaves);
        free(u);
}

/* Private nodes hang on older ones of the same user, or on public ones: from the youngest on, nothing hangs on them. */
static void drop_private(struct prefix_cache *c, struct prefix_user *u) {
        for (struct list *l = u->nodes.prev, *older; l != &u->nodes; l = older) {
                struct prefix_node *n = LIST_ENTRY(l, struct prefix_node, link);

                older = l->prev;
                if (!n->public)
                        prefix_node_drop(c, n);
        }
}

/* Lets the smallest user go who has nothing in use and nothing public, of equals the one who was away longest. */
static bool make_way(struct prefix_cache *c) {
        struct prefix_user *least = NULL;

        for (unsigned i = 0; i < PREFIX_USER_BUCKETS; i++)
                for (struct prefix_user *u = c->users[i]; u; u = u->next) {
                        if (u->n_idle < u->n_pages || u->n_public + u->n_other > 0)
                                continue;
                        if (!least || u->n_pages < least->n_pages ||
                            (u->n_pages == least->n_pages && u->last_used < least->last_used))
                                least = u;
                }
        if (!least)
                return false;
        drop_private(c, least);
        prefix_user_free(c, least);
        return true;
}

int prefix_user_get(struct prefix_cache *c, uint32_t uid, struct prefix_user **ret) {
        struct prefix_user *u = prefix_user_find(c, uid), **b;

        if (!u) {
                if (c->n_users == PREFIX_USERS_MAX && !make_way(c))
                        return PREFIX_E_USERS;
                u = malloc(sizeof(*u));
                if (!u)
                        return -ENOMEM;
                /* What was forgotten of a user who was here before is not known any more: paths from then lead nowhere. */
                *u = (struct prefix_user){
                        .id = ++c->last_id, .uid = uid, .forgotten = c->epoch, .victim = HEAP_NODE_NULL,
                };
                u->victim.tie = u->id;
                list_init(&u->nodes);
                b = &c->users[user_bucket(uid)];
                u->next = *b;
                *b = u;
                c->n_users++;
        }
        u->last_used = ++c->clock;
        *ret = u;
        return 0;
}

void prefix_user_rank(struct prefix_cache *c, struct prefix_user *u) {
        uint64_t key = UINT64_MAX - ((uint64_t)u->n_pages + u->n_other); /* the heap's first is the least */

        if (u->leaves.n == 0) {
                heap_remove(&c->victims, &u->victim);
                return;
        }
        if (heap_has(&u->victim))
                heap_update(&c->victims, &u->victim, key);
        else
                heap_insert(&c->victims, &u->victim, key);
}

void prefix_touch(struct prefix_cache *c, struct prefix_node *n, bool use) {
        uint64_t cost = PREFIX_ATTENTION_TOKENS + (uint64_t)n->depth * c->pool->page_tokens;
        bool is_leaf = heap_has(&n->leaf);

        heap_remove(&n->owner->leaves, &n->leaf);
        n->uses = MIN(n->uses + use, PREFIX_USES_MAX);
        n->leaf.key = n->owner->floor + n->uses * cost;
        n->leaf.tie = ++c->clock;
        if (is_leaf)
                heap_insert(&n->owner->leaves, &n->leaf, n->leaf.key);
}

void prefix_settle(struct prefix_cache *c, struct prefix_node *n) {
        bool is_leaf = n->n_children == 0 && c->pool->tables[n->page] == 0;

        if (!is_leaf)
                heap_remove(&n->owner->leaves, &n->leaf);
        else if (!heap_has(&n->leaf))
                heap_insert(&n->owner->leaves, &n->leaf, n->leaf.key);
        prefix_user_rank(c, n->owner);
}

void prefix_watch(void *userdata, uint32_t page, bool idle) {
        struct prefix_cache *c = userdata;
        struct prefix_node *n = c->by_page[page];

        if (idle)
                n->owner->n_idle++;
        else
                n->owner->n_idle--;
        prefix_settle(c, n);
}

/* The leaf whose loss costs least, of the user who has most. False where there is none. */
static bool evict_one(struct prefix_cache *c) {
        struct heap_node *first = heap_top(&c->victims);
        struct prefix_user *u;
        struct prefix_node *n;

        if (!first)
                return false;
        u = USER_OF(first);
        n = NODE_OF(heap_top(&u->leaves));
        u->floor = MAX(u->floor, n->leaf.key);
        prefix_node_drop(c, n);
        return true;
}

bool prefix_evict(struct prefix_cache *c, uint32_t want) {
        while (kv_pool_free(c->pool) < want)
                if (!evict_one(c))
                        return false;
        return true;
}

bool prefix_trim(struct prefix_cache *c, uint32_t most) {
        while (c->pool->n_cached > most)
                if (!evict_one(c))
                        return false;
        return true;
}

void prefix_forget(struct prefix_cache *c, uint32_t uid) {
        struct prefix_user *u = prefix_user_find(c, uid);

        c->epoch++;
        if (!u)
                return;
        u->forgotten = c->epoch;
        drop_private(c, u);
        if (u->n_pages + u->n_other == 0)
                prefix_user_free(c, u);
}

static void user_clear(struct prefix_cache *c, struct prefix_user *u) {
        struct list *l;

        while ((l = list_pop(&u->nodes)) != NULL) {
                struct prefix_node *n = LIST_ENTRY(l, struct prefix_node, link);

                c->by_page[n->page] = NULL;
                kv_cache_drop(c->pool, n->page);
                free(n);
        }
        u->n_pages = u->n_idle = u->n_public = u->leaves.n = 0;
        prefix_user_rank(c, u);
}

void prefix_forget_all(struct prefix_cache *c) {
        c->epoch++;
        for (unsigned i = 0; i < PREFIX_USER_BUCKETS; i++)
                for (struct prefix_user *u = c->users[i], *next; u; u = next) {
                        next = u->next;
                        user_clear(c, u);
                        u->forgotten = c->epoch;
                        if (u->n_other == 0)
                                prefix_user_free(c, u);
                }
        memset(c->nodes, 0, sizeof(*c->nodes) << c->bits);
        memset(c->siblings, 0, sizeof(*c->siblings) << c->bits);
}

void prefix_charge(struct prefix_cache *c, uint32_t uid, int32_t delta) {
        struct prefix_user *u = prefix_user_find(c, uid);

        /* Who has no record, and can't have one, has nothing that the charge could protect others from. */
        if (delta == 0 || (!u && (delta < 0 || prefix_user_get(c, uid, &u) != 0)))
                return;
        u->n_other = delta < 0 ? u->n_other - MIN(u->n_other, -(uint32_t)delta) : u->n_other + (uint32_t)delta;
        prefix_user_rank(c, u);
}

uint32_t prefix_cached_pages(const struct prefix_cache *c, uint32_t uid) {
        const struct prefix_user *u = prefix_user_find(c, uid);

        return u ? u->n_idle : 0;
}

void prefix_each_user(const struct prefix_cache *c, void (*fn)(void *userdata, uint32_t uid, uint32_t cached_pages),
                      void *userdata) {
        for (unsigned i = 0; i < PREFIX_USER_BUCKETS; i++)
                for (const struct prefix_user *u = c->users[i]; u; u = u->next)
                        fn(userdata, u->uid, u->n_idle);
}
