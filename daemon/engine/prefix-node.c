/* SPDX-License-Identifier: Apache-2.0 */

#include <stdlib.h>
#include <string.h>

#include "prefix-private.h"

static uint64_t times(uint64_t key, int32_t token) {
        return key * (uint32_t)token;
}

uint64_t prefix_sum(const struct prefix_cache *c, const int32_t *tokens) {
        const uint64_t *keys = c->keys + PREFIX_PLACE_KEYS;
        uint64_t sum = 0;

        for (uint32_t i = 0; i < c->pool->page_tokens; i++)
                sum += times(keys[i], tokens[i]);
        return sum;
}

static uint64_t place(const struct prefix_cache *c, const struct prefix_node *parent, const struct prefix_user *viewer) {
        uint64_t p = parent ? parent->id : 0, v = viewer ? viewer->id : 0;

        return c->keys[0] + c->keys[1] * (uint32_t)p + c->keys[2] * (p >> 32) + c->keys[3] * (uint32_t)v +
               c->keys[4] * (v >> 32);
}

static struct prefix_node **bucket(const struct prefix_cache *c, struct prefix_node **table, uint64_t hash) {
        return &table[c->bits ? hash >> (64 - c->bits) : 0];
}

static struct prefix_node **sibling_bucket(const struct prefix_cache *c, uint64_t at, int32_t token) {
        return bucket(c, c->siblings, at + times(c->keys[PREFIX_PLACE_KEYS], token));
}

static const struct prefix_user *viewer_of(const struct prefix_node *n) {
        return n->public ? NULL : n->owner;
}

struct prefix_node *prefix_find(const struct prefix_cache *c, const struct prefix_node *parent,
                                const struct prefix_user *viewer, const int32_t *tokens, uint64_t sum) {
        struct prefix_node *n = *bucket(c, c->nodes, place(c, parent, viewer) + sum);

        for (; n; n = n->next)
                if (n->sum == sum && n->parent == parent && viewer_of(n) == viewer &&
                    memcmp(n->tokens, tokens, c->pool->page_tokens * sizeof(*tokens)) == 0)
                        return n;
        return NULL;
}

struct prefix_node *prefix_find_partial(const struct prefix_cache *c, const struct prefix_node *parent,
                                        const struct prefix_user *viewer, const int32_t *tokens, uint32_t n,
                                        uint32_t *n_shared) {
        struct prefix_node *s = *sibling_bucket(c, place(c, parent, viewer), tokens[0]), *best = NULL;

        for (unsigned looked = 0; s && looked < PREFIX_SIBLINGS_MAX; s = s->sibling, looked++) {
                uint32_t i = 0;

                if (s->parent != parent || viewer_of(s) != viewer)
                        continue;
                while (i < n && s->tokens[i] == tokens[i])
                        i++;
                if (i <= *n_shared)
                        continue;
                *n_shared = i;
                best = s;
        }
        return best;
}

static void table_insert(struct prefix_cache *c, struct prefix_node *n) {
        uint64_t at = place(c, n->parent, viewer_of(n));
        struct prefix_node **b = bucket(c, c->nodes, at + n->sum), **s = sibling_bucket(c, at, n->tokens[0]);

        n->next = *b;
        *b = n;
        n->sibling = *s;
        n->sibling_at = s;
        if (*s)
                (*s)->sibling_at = &n->sibling;
        *s = n;
}

static void table_remove(struct prefix_cache *c, struct prefix_node *n) {
        struct prefix_node **b = bucket(c, c->nodes, place(c, n->parent, viewer_of(n)) + n->sum);

        while (*b != n)
                b = &(*b)->next;
        *b = n->next;
        *n->sibling_at = n->sibling;
        if (n->sibling)
                n->sibling->sibling_at = n->sibling_at;
}

static void hang(struct prefix_cache *c, struct prefix_node *n, struct prefix_node *parent) {
        n->parent = parent;
        if (!parent)
                return;
        parent->n_children++;
        prefix_settle(c, parent);
}

static void unhang(struct prefix_cache *c, struct prefix_node *n) {
        if (!n->parent)
                return;
        n->parent->n_children--;
        prefix_settle(c, n->parent);
}

struct prefix_node *prefix_node_new(struct prefix_cache *c, struct prefix_node *parent, struct prefix_user *owner,
                                    uint32_t page, const int32_t *tokens, uint64_t sum, bool public) {
        size_t bytes = c->pool->page_tokens * sizeof(*tokens);
        struct prefix_node *n;

        if (heap_reserve(&owner->leaves, (size_t)owner->n_pages + 1) < 0)
                return NULL;
        n = malloc(sizeof(*n) + bytes);
        if (!n)
                return NULL;
        *n = (struct prefix_node){
                .owner = owner,
                .id = ++c->last_id,
                .sum = sum,
                .page = page,
                .depth = parent ? parent->depth + 1 : 0,
                .public = public,
                .leaf = HEAP_NODE_NULL,
        };
        memcpy(n->tokens, tokens, bytes);
        hang(c, n, parent);
        table_insert(c, n);
        list_init(&n->link);
        list_append(&owner->nodes, &n->link);
        kv_cache_hold(c->pool, page);
        c->by_page[page] = n;
        owner->n_pages++;
        owner->n_public += public;
        prefix_user_rank(c, owner);
        return n;
}

void prefix_node_drop(struct prefix_cache *c, struct prefix_node *n) {
        struct prefix_user *u = n->owner;

        table_remove(c, n);
        unhang(c, n);
        list_remove(&n->link);
        heap_remove(&u->leaves, &n->leaf);
        u->n_pages--;
        u->n_public -= n->public;
        u->n_idle -= c->pool->tables[n->page] == 0;
        c->by_page[n->page] = NULL;
        kv_cache_drop(c->pool, n->page);
        prefix_user_rank(c, u);
        free(n);
}

void prefix_node_move(struct prefix_cache *c, struct prefix_node *n, struct prefix_node *parent, bool public) {
        table_remove(c, n);
        unhang(c, n);
        hang(c, n, parent);
        n->owner->n_public += public && !n->public;
        n->public |= public;
        table_insert(c, n);
}

struct prefix_node *prefix_trail(struct prefix_node *tip) {
        struct prefix_node *first = NULL;

        for (; tip; tip = tip->parent) {
                tip->below = first;
                first = tip;
        }
        return first;
}
