/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The prefix cache: what was computed once is found again by the tokens that led to it. A radix tree over whole pages: a
 * node is one page of KV, known by its page_tokens tokens and by its parent. By design promise 1 a page's bits depend on
 * the tokens up to its end and nothing else, so two that were computed apart are the same, and the second one is given
 * up for the first.
 *
 * Who sees what: a node is private, and serves the user who stored it alone, or public, and serves everybody. Above a
 * public node all are public; what is computed behind a public prefix hangs on it, but is private. A lookup sees the
 * user's own nodes and the public ones and takes the longest way through them. So neither contents nor speed tell one
 * user what another one asked. A page is held by one node at most.
 *
 * Who pays: every page, public or not, is charged to the user whose request stored it. A page in use by a sequence's
 * table is never evicted, nor is any page above it. Of the others, leaves go first. Whose: of the users who have any, the
 * one who is charged most pages, those in use included (and prefix_charge()), so that a flood of one user ends at the room
 * that is nobody else's. Which: the one whose loss costs least, by GreedyDual-Size with frequency (Cherkasova 1998): value
 * = age floor + uses * cost of computing it again per byte; the cost of a page grows with its depth, since attention reads
 * all that lies before it. The floor, which is the value of what was evicted last, is a user's own, so that a flood makes
 * nobody else's pages old.
 *
 * Owned by the step thread. The number of nodes is at most the number of pages, the number of users at most
 * PREFIX_USERS_MAX (of those with nothing in use and nothing public, the one with fewest pages makes way).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macro.h"
#include "kv.h"

#define PREFIX_USERS_MAX 1024u

struct prefix_cache;
struct prefix_node;

/* pool is borrowed, and watched from now on. 0, -ENOMEM, or what getrandom() failed with. */
int prefix_cache_new(struct prefix_cache **ret, struct kv_pool *pool);
/* Gives back all that it holds; pages that a table holds stay with it. The pool must still be there. */
struct prefix_cache *prefix_cache_free(struct prefix_cache *c);
DEFINE_CLEANUP(struct prefix_cache *, prefix_cache_free)

/* Host memory, in bytes, that the cache takes at most for every page of the pool. */
uint64_t prefix_bytes_per_page(uint32_t page_tokens);

/* Where a sequence stands in the tree: the node of its last whole page, NULL at the root. {0} is the root, too. Valid as
 * long as the sequence's table holds the tip's page; a copy of it is valid with a table that shares the same pages. */
struct prefix_path {
        struct prefix_node *tip;
        uint32_t n;     /* pages from the root to the tip */
        uint64_t epoch; /* of forgetting: what is older than the user's leads nowhere any more */
};

struct prefix_match {
        uint32_t n_tokens; /* whole pages that were appended to the table, in tokens */
        /* A page whose first n_partial positions would come next; to be copied, not shared. Until that is done it is kept
         * from being evicted by kv_table_share(); then kv_table_own() tells what to copy. */
        uint32_t partial_page;
        uint32_t n_partial; /* 0 = none */
};

/* Looks up the longest cached beginning of tokens [n] and lets the table (which is empty) hold its pages. At most `most`
 * tokens are taken (a request computes at least its last token itself, for the logits). It counts as a use: who only waits
 * asks prefix_peek(). 0 or -ENOMEM (nothing taken). */
int prefix_match(struct prefix_cache *c, uint32_t uid, const int32_t *tokens, size_t n, size_t most, struct kv_table *t,
                 struct prefix_path *path, struct prefix_match *ret);
/* How many tokens prefix_match() would find, whole pages only; changes nothing. */
size_t prefix_peek(struct prefix_cache *c, uint32_t uid, const int32_t *tokens, size_t n);
/* The table's page number path->n is complete: tokens [page_tokens] are what it holds. It is stored behind path->tip
 * (publicly with `share`; a share whose beginning is not public is not shared), and the path moves on. Where it is there
 * already, the table gets that page instead of its own. A path that leads nowhere any more (prefix_forget(), or no user
 * can make way for a new one) moves on all the same, and nothing is stored.
 * 0; -ENOMEM: not stored, and neither will be what comes after it (path->n stays); -EINVAL: the table has no such page,
 * or the page stands elsewhere in the cache. */
int prefix_store(struct prefix_cache *c, uint32_t uid, struct prefix_path *path, const int32_t *tokens, struct kv_table *t,
                 bool share);
/* Makes the path's first n pages public, as far as they are the user's own and not public yet: for what prefix_match()
 * found. What others have public already stays as it is. */
void prefix_share(struct prefix_cache *c, uint32_t uid, const struct prefix_path *path, uint32_t n);
/* The path ends at its page number n (at most where it is now): to be called before the table's page number n, or any
 * before that, is given back or made the table's own. */
void prefix_rewind(struct prefix_cache *c, uint32_t uid, struct prefix_path *path, uint32_t n);
/* The sequence lets go: to be called before its table is released. The path is back at the root. */
void prefix_leave(struct prefix_cache *c, uint32_t uid, struct prefix_path *path);

/* The user's sequences hold delta pages more (or fewer) that are not stored, or not yet: they count where the user who has
 * most is looked for, so that what one computes is not taken out of another one's share. */
void prefix_charge(struct prefix_cache *c, uint32_t uid, int32_t delta);

/* Evicts until the pool has `want` free pages or nothing is left to evict. True when it has. (All that can be had is
 * kv_pool_free() + n_cached: where that is too little, evicting what there is may be a waste.) */
bool prefix_evict(struct prefix_cache *c, uint32_t want);
/* Evicts until no more than `most` pages are held by the cache alone, or nothing is left to evict. True when so. */
bool prefix_trim(struct prefix_cache *c, uint32_t most);
/* Drops what a user stored privately: found by nobody from now on, and what the user's running sequences store is not
 * either. Pages in use are free when their sequences end. What the user made public stays. */
void prefix_forget(struct prefix_cache *c, uint32_t uid);
void prefix_forget_all(struct prefix_cache *c); /* of everybody, public or not */

/* Pages that are charged to a user and held by no table. */
uint32_t prefix_cached_pages(const struct prefix_cache *c, uint32_t uid);
/* Calls fn for every user who was here lately, in no particular order. */
void prefix_each_user(const struct prefix_cache *c, void (*fn)(void *userdata, uint32_t uid, uint32_t cached_pages),
                      void *userdata);

/* For tests: true where nodes, users, hash tables, heaps and the pool's counts agree with one another. Slow. */
bool prefix_check(const struct prefix_cache *c);
