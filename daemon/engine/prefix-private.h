/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The prefix cache's insides, shared by lookup and storing (prefix.c), the nodes and their hash tables (prefix-node.c),
 * and users, their charges and eviction (prefix-evict.c).
 *
 * Where a node hangs is its parent (the root has id 0) and who sees it (a user's id, 0 for everybody): its place. Nodes are
 * found by place and all their tokens; for a match of a page's beginning, by place and first token. Both keys are hashed
 * by a multilinear function with secret random coefficients (Carter and Wegman 1979; Lemire and Kaser 2014), of which
 * the upper 32 bits of 64 are universal: whoever chooses the tokens can't choose the collisions. Whatever has the same
 * hash is still compared in full.
 */

#include "base/heap.h"
#include "base/list.h"
#include "prefix.h"

/* A context this long makes attention cost as much as all the rest: between small models' and large ones'. */
#define PREFIX_ATTENTION_TOKENS 16384u
/* More uses than that count no further, so that what was loved once is forgotten in the end. */
#define PREFIX_USES_MAX 32u
/* Nodes that are looked at for one that shares the beginning of a page. */
#define PREFIX_SIBLINGS_MAX 64u
#define PREFIX_USER_BUCKETS 1024u

struct prefix_node {
        struct prefix_node *parent; /* NULL = the root */
        struct prefix_node *below;  /* scratch: the way down while a path is walked, see prefix_trail() */
        struct prefix_user *owner;  /* pays, and sees it while it is private */
        struct list link;           /* owner->nodes */
        struct prefix_node *next;   /* bucket by all tokens */
        struct prefix_node *sibling, **sibling_at; /* bucket by first token */
        struct heap_node leaf;      /* owner->leaves: where no table has it and nothing hangs on it; its value is the key */
        uint64_t id;
        uint64_t sum;               /* of the tokens, for the hash */
        uint32_t page;
        uint32_t depth;             /* pages before it */
        uint32_t n_children;        /* of all users */
        uint32_t uses;
        bool public;
        int32_t tokens[];           /* [page_tokens] */
};

struct prefix_user {
        struct prefix_user *next;   /* bucket */
        struct list nodes;          /* oldest first */
        struct heap leaves;         /* room for n_pages: to fall idle needs no memory */
        struct heap_node victim;    /* c->victims: while it has leaves */
        uint64_t floor;             /* value of what was evicted last */
        uint64_t id, last_used;
        uint64_t forgotten;         /* paths of an older epoch lead nowhere */
        uint32_t uid;
        uint32_t n_pages, n_idle, n_public;
        uint32_t n_other;           /* pages of its sequences that are not stored */
};

struct prefix_cache {
        struct kv_pool *pool;
        uint64_t *keys;               /* [PREFIX_PLACE_KEYS + page_tokens] */
        struct prefix_node **by_page; /* [pool->n_pages] */
        struct prefix_node **nodes, **siblings; /* [2^bits]: buckets */
        unsigned bits;
        struct prefix_user *users[PREFIX_USER_BUCKETS];
        uint32_t n_users;
        struct heap victims;          /* users, most pages first */
        uint64_t last_id, clock, epoch;
};
#define PREFIX_PLACE_KEYS 5u

/* prefix-node.c */
uint64_t prefix_sum(const struct prefix_cache *c, const int32_t *tokens);
/* The node with these tokens [page_tokens] and their sum below parent that viewer sees (NULL: everybody), or NULL. */
struct prefix_node *prefix_find(const struct prefix_cache *c, const struct prefix_node *parent,
                                const struct prefix_user *viewer, const int32_t *tokens, uint64_t sum);
/* Of the nodes below parent that viewer sees, the one that shares most tokens with these [n], n <= page_tokens: when it
 * shares more than *n_shared, that is set. NULL where none does. */
struct prefix_node *prefix_find_partial(const struct prefix_cache *c, const struct prefix_node *parent,
                                        const struct prefix_user *viewer, const int32_t *tokens, uint32_t n,
                                        uint32_t *n_shared);
/* A node for a page that a table holds, private or (below public ones only) public. NULL: no memory. */
struct prefix_node *prefix_node_new(struct prefix_cache *c, struct prefix_node *parent, struct prefix_user *owner,
                                    uint32_t page, const int32_t *tokens, uint64_t sum, bool public);
/* Nothing may hang on it. */
void prefix_node_drop(struct prefix_cache *c, struct prefix_node *n);
/* Hangs it on another parent of the same tokens (or leaves it where it is), and makes it public there with `public` (below
 * public ones only). There must be no such node yet. */
void prefix_node_move(struct prefix_cache *c, struct prefix_node *n, struct prefix_node *parent, bool public);
/* Links the nodes from the root to the tip by ->below, and gives the first of them. */
struct prefix_node *prefix_trail(struct prefix_node *tip);

/* prefix-evict.c */
struct prefix_user *prefix_user_find(const struct prefix_cache *c, uint32_t uid);
/* Finds or makes it; another one may make way. 0; PREFIX_E_USERS; -ENOMEM. */
int prefix_user_get(struct prefix_cache *c, uint32_t uid, struct prefix_user **ret);
enum {
        PREFIX_E_USERS = 1, /* too many, and none can make way */
};
/* What it would cost to lose the node now: a page at the root counts PREFIX_ATTENTION_TOKENS. `use`: and it is used once
 * more. */
void prefix_touch(struct prefix_cache *c, struct prefix_node *n, bool use);
/* Its page or its children changed: puts it among what can be evicted, or takes it out. */
void prefix_settle(struct prefix_cache *c, struct prefix_node *n);
/* The user's pages or leaves changed. */
void prefix_user_rank(struct prefix_cache *c, struct prefix_user *u);
void prefix_watch(void *userdata, uint32_t page, bool idle);
/* Frees a user who has no nodes any more. */
void prefix_user_free(struct prefix_cache *c, struct prefix_user *u);
