/* SPDX-License-Identifier: Apache-2.0 */

/* What always holds of the prefix cache, for tests. */

#include <stdlib.h>

#include "prefix-private.h"

static bool is_linked(const struct prefix_node *n) {
        return *n->sibling_at == n && (!n->sibling || n->sibling->sibling_at == &n->sibling);
}

static bool node_is_sound(const struct prefix_cache *c, const struct prefix_user *u, const struct prefix_node *n,
                          uint32_t n_children) {
        const struct prefix_node *up = n->parent;
        bool idle = c->pool->tables[n->page] == 0;

        return n->owner == u && c->by_page[n->page] == n && c->pool->caches[n->page] == 1 &&
               n->sum == prefix_sum(c, n->tokens) &&
               prefix_find(c, up, n->public ? NULL : u, n->tokens, n->sum) == n && is_linked(n) &&
               (up ? (up->public || (up->owner == u && !n->public)) && n->depth == up->depth + 1 : n->depth == 0) &&
               n->n_children == n_children && heap_has(&n->leaf) == (idle && n_children == 0) &&
               (!heap_has(&n->leaf) || u->leaves.nodes[n->leaf.place] == &n->leaf);
}

static bool user_is_sound(const struct prefix_cache *c, const struct prefix_user *u, const uint32_t *n_children) {
        uint32_t n_pages = 0, n_idle = 0, n_public = 0, n_leaves = 0;

        for (const struct list *l = u->nodes.next; l != &u->nodes; l = l->next) {
                const struct prefix_node *n = LIST_ENTRY(l, struct prefix_node, link);

                if (!node_is_sound(c, u, n, n_children[n->page]))
                        return false;
                n_pages++;
                n_idle += c->pool->tables[n->page] == 0;
                n_public += n->public;
                n_leaves += heap_has(&n->leaf);
        }
        return n_pages == u->n_pages && n_idle == u->n_idle && n_public == u->n_public && n_leaves == u->leaves.n &&
               u->leaves.cap >= u->n_pages && heap_check(&u->leaves) &&
               heap_has(&u->victim) == (n_leaves > 0) &&
               (n_leaves == 0 || (c->victims.nodes[u->victim.place] == &u->victim &&
                                  u->victim.key == UINT64_MAX - ((uint64_t)n_pages + u->n_other)));
}

static bool users_are_sound(const struct prefix_cache *c, const uint32_t *n_children) {
        uint32_t n_users = 0, n_idle = 0, n_pages = 0, n_cached = 0, n_nodes = 0, n_siblings = 0;
        uint32_t n_held = 0;

        for (unsigned i = 0; i < PREFIX_USER_BUCKETS; i++)
                for (const struct prefix_user *u = c->users[i]; u; u = u->next) {
                        if (!user_is_sound(c, u, n_children))
                                return false;
                        n_users++;
                        n_idle += u->n_idle;
                        n_pages += u->n_pages;
                }
        for (size_t i = 0; i < (size_t)1 << c->bits; i++) {
                for (const struct prefix_node *n = c->nodes[i]; n; n = n->next)
                        n_nodes++;
                for (const struct prefix_node *n = c->siblings[i]; n; n = n->sibling)
                        n_siblings++;
        }
        for (uint32_t i = 0; i < c->pool->n_pages; i++) {
                n_cached += c->by_page[i] != NULL;
                n_held += c->pool->caches[i];
        }
        return n_users == c->n_users && n_users <= PREFIX_USERS_MAX && n_idle == c->pool->n_cached &&
               n_pages == n_cached && n_pages == n_nodes && n_pages == n_siblings && n_pages == n_held;
}

bool prefix_check(const struct prefix_cache *c) {
        _cleanup_free_ uint32_t *n_children = calloc(MAX(c->pool->n_pages, 1u), sizeof(*n_children));

        if (!n_children)
                return false;
        for (uint32_t i = 0; i < c->pool->n_pages; i++)
                if (c->by_page[i] && c->by_page[i]->parent)
                        n_children[c->by_page[i]->parent->page]++;
        return heap_check(&c->victims) && users_are_sound(c, n_children);
}
