/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "prefix-private.h"

#define BITS_MAX 22u

static int draw(void *data, size_t size) {
        uint8_t *p = data;

        while (size > 0) {
                ssize_t n = getrandom(p, size, 0);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                p += n;
                size -= (size_t)n;
        }
        return 0;
}

int prefix_cache_new(struct prefix_cache **ret, struct kv_pool *pool) {
        _cleanup_(prefix_cache_freep) struct prefix_cache *c = calloc(1, sizeof(*c));
        size_t n_keys = (size_t)PREFIX_PLACE_KEYS + pool->page_tokens;
        int r;

        if (!c)
                return -ENOMEM;
        c->pool = pool;
        while (c->bits < BITS_MAX && (1u << c->bits) < pool->n_pages)
                c->bits++;
        c->keys = calloc(n_keys, sizeof(*c->keys));
        c->by_page = calloc(MAX(pool->n_pages, 1u), sizeof(struct prefix_node *));
        c->nodes = calloc((size_t)1 << c->bits, sizeof(struct prefix_node *));
        c->siblings = calloc((size_t)1 << c->bits, sizeof(struct prefix_node *));
        if (!c->keys || !c->by_page || !c->nodes || !c->siblings ||
            heap_reserve(&c->victims, PREFIX_USERS_MAX) < 0)
                return -ENOMEM;
        r = draw(c->keys, n_keys * sizeof(*c->keys));
        if (r < 0)
                return r;
        c->epoch = 1;
        pool->watch = prefix_watch;
        pool->watch_userdata = c;
        *ret = steal_ptr(&c);
        return 0;
}

struct prefix_cache *prefix_cache_free(struct prefix_cache *c) {
        if (!c)
                return NULL;
        if (c->nodes && c->siblings)
                prefix_forget_all(c);
        for (unsigned i = 0; i < PREFIX_USER_BUCKETS; i++)
                while (c->users[i])
                        prefix_user_free(c, c->users[i]);
        if (c->pool->watch_userdata == c)
                c->pool->watch = NULL;
        heap_deinit(&c->victims);
        free(c->keys);
        free(c->by_page);
        free(c->nodes);
        free(c->siblings);
        free(c);
        return NULL;
}

uint64_t prefix_bytes_per_page(uint32_t page_tokens) {
        /* a node, its place in a heap that grew by doubling, what malloc adds; by_page, and up to two buckets of each kind */
        return sizeof(struct prefix_node) + page_tokens * sizeof(int32_t) + 2 * sizeof(void *) + 16 + 5 * sizeof(void *);
}

/*
 * A way down: as far as everything is public, and the user's own way, which may leave the public one anywhere. Where a page
 * was stored privately before it became public there are two of the same, and so there may be two own ways on. The one
 * behind the public page is preferred; with `move`, what hangs on the private one is hung on the public one as it is met,
 * so that what is stored later finds it, and the private one ages.
 */
struct way {
        const struct prefix_user *user;   /* NULL: has nothing */
        struct prefix_node *own, *public; /* the last pages; NULL at the root, and where that way ended */
        bool all_public;                  /* false: the public way ended before */
        bool move;
        uint32_t n;
};

static struct prefix_node *way_tip(const struct way *w) {
        return w->public ? w->public : w->own;
}

/* One page further. False where there is none. */
static bool way_step(struct prefix_cache *c, struct way *w, const int32_t *tokens) {
        struct prefix_node *own = NULL, *public = NULL;
        uint64_t sum = prefix_sum(c, tokens);

        if (w->all_public) {
                public = prefix_find(c, w->public, NULL, tokens, sum);
                own = w->user ? prefix_find(c, w->public, w->user, tokens, sum) : NULL;
        }
        if (!own && w->own) {
                own = prefix_find(c, w->own, w->user, tokens, sum);
                if (own && w->all_public && w->move)
                        prefix_node_move(c, own, w->public, false);
        }
        if (!own && !public)
                return false;
        w->own = own;
        w->public = public;
        w->all_public = public != NULL;
        w->n++;
        return true;
}

static void way_walk(struct prefix_cache *c, struct way *w, const int32_t *tokens, size_t n) {
        uint32_t page_tokens = c->pool->page_tokens;

        while (n >= page_tokens && way_step(c, w, tokens)) {
                tokens += page_tokens;
                n -= page_tokens;
        }
}

/* Among the pages that come after the way's end, the one that begins with most of tokens [n]. */
static struct prefix_node *way_partial(struct prefix_cache *c, const struct way *w, const int32_t *tokens, size_t n,
                                       size_t most, uint32_t *ret_n) {
        uint32_t page_tokens = c->pool->page_tokens, n_shared = 0;
        struct prefix_node *best = NULL, *other;
        struct way next = *w;

        most = MIN(most, n);
        if (most == 0)
                return NULL;
        /* The whole page may be there, and only `most` be in the way. */
        if (n >= page_tokens && most < page_tokens && way_step(c, &next, tokens)) {
                *ret_n = (uint32_t)most;
                return way_tip(&next);
        }
        n = MIN(most, (size_t)page_tokens);
        if (w->all_public)
                best = prefix_find_partial(c, w->public, NULL, tokens, (uint32_t)n, &n_shared);
        if (w->user && w->all_public) {
                other = prefix_find_partial(c, w->public, w->user, tokens, (uint32_t)n, &n_shared);
                best = other ? other : best;
        }
        if (w->own) {
                other = prefix_find_partial(c, w->own, w->user, tokens, (uint32_t)n, &n_shared);
                best = other ? other : best;
        }
        *ret_n = n_shared;
        return best;
}

static int hold_pages(struct prefix_cache *c, struct prefix_node *tip, struct kv_table *t) {
        for (struct prefix_node *n = prefix_trail(tip); n; n = n->below) {
                int r = kv_table_share(c->pool, t, n->page);

                if (r < 0) {
                        kv_table_truncate(c->pool, t, 0);
                        return r;
                }
        }
        return 0;
}

int prefix_match(struct prefix_cache *c, uint32_t uid, const int32_t *tokens, size_t n, size_t most, struct kv_table *t,
                 struct prefix_path *path, struct prefix_match *ret) {
        struct way w = { .all_public = true, .move = true };
        struct prefix_match m = { .partial_page = UINT32_MAX };
        struct prefix_node *partial;
        struct prefix_user *u = NULL;
        size_t done;
        int r;

        if (prefix_user_get(c, uid, &u) < 0)
                return -ENOMEM;
        w.user = u;
        way_walk(c, &w, tokens, MIN(n, most));
        r = hold_pages(c, way_tip(&w), t);
        if (r < 0)
                return r;
        for (struct prefix_node *i = way_tip(&w); i; i = i->parent)
                prefix_touch(c, i, true);
        m.n_tokens = w.n * c->pool->page_tokens;
        done = MIN((size_t)m.n_tokens, n);
        partial = way_partial(c, &w, tokens + done, n - done, most - MIN(done, most), &m.n_partial);
        if (partial) {
                m.partial_page = partial->page;
                prefix_touch(c, partial, true);
        }
        *path = (struct prefix_path){ .tip = way_tip(&w), .n = w.n, .epoch = c->epoch };
        *ret = m;
        return 0;
}

size_t prefix_peek(struct prefix_cache *c, uint32_t uid, const int32_t *tokens, size_t n) {
        struct way w = { .all_public = true, .user = prefix_user_find(c, uid) };

        way_walk(c, &w, tokens, n);
        return (size_t)w.n * c->pool->page_tokens;
}

/* False: what the path led to may be gone, or it left the tree and moves on beside it. */
static bool path_leads(const struct prefix_user *u, const struct prefix_path *path) {
        return u && path->epoch >= u->forgotten && (path->tip || path->n == 0);
}

static bool is_public(const struct prefix_node *n) {
        return !n || n->public;
}

/* What is there already, for everybody or for the user. */
static struct prefix_node *find_stored(struct prefix_cache *c, struct prefix_user *u, struct prefix_node *parent,
                                       const int32_t *tokens, uint64_t sum) {
        struct prefix_node *n = NULL;

        if (is_public(parent))
                n = prefix_find(c, parent, NULL, tokens, sum);
        return n ? n : prefix_find(c, parent, u, tokens, sum);
}

int prefix_store(struct prefix_cache *c, uint32_t uid, struct prefix_path *path, const int32_t *tokens, struct kv_table *t,
                 bool share) {
        struct prefix_user *u = NULL;
        struct prefix_node *n;
        uint64_t sum;
        int r;

        if (path->n >= t->n)
                return -EINVAL;
        if (path->epoch == 0)
                path->epoch = c->epoch;
        r = prefix_user_get(c, uid, &u);
        if (r < 0)
                return r;
        if (r > 0 || !path_leads(u, path)) {
                *path = (struct prefix_path){ .n = path->n + 1, .epoch = path->epoch };
                return 0;
        }
        sum = prefix_sum(c, tokens);
        share = share && is_public(path->tip);
        n = find_stored(c, u, path->tip, tokens, sum);
        if (n) {
                kv_table_replace(c->pool, t, path->n, n->page);
                if (share && !n->public)
                        prefix_node_move(c, n, path->tip, true);
        } else {
                if (c->by_page[t->pages[path->n]])
                        return -EINVAL;
                n = prefix_node_new(c, path->tip, u, t->pages[path->n], tokens, sum, share);
                if (!n)
                        return -ENOMEM;
        }
        prefix_touch(c, n, true);
        path->tip = n;
        path->n++;
        return 0;
}

void prefix_share(struct prefix_cache *c, uint32_t uid, const struct prefix_path *path, uint32_t n) {
        struct prefix_user *u = prefix_user_find(c, uid);
        struct prefix_node *above = NULL, *i;

        if (!path_leads(u, path))
                return;
        for (i = prefix_trail(path->tip); i && n > 0; i = i->below, n--) {
                struct prefix_node *twin = NULL;

                if (!i->public)
                        twin = prefix_find(c, above, NULL, i->tokens, i->sum);
                /* Where somebody has the same public already, what comes after is hung on that one. */
                if (!i->public && !twin)
                        prefix_node_move(c, i, above, true);
                above = twin ? twin : i;
        }
}

void prefix_rewind(struct prefix_cache *c, uint32_t uid, struct prefix_path *path, uint32_t n) {
        bool leads = path_leads(prefix_user_find(c, uid), path);

        if (!leads)
                path->tip = NULL;
        for (; path->n > n; path->n--)
                path->tip = path->tip ? path->tip->parent : NULL;
}

void prefix_leave(struct prefix_cache *c, uint32_t uid, struct prefix_path *path) {
        struct prefix_user *u = prefix_user_find(c, uid);

        if (path_leads(u, path)) {
                u->last_used = ++c->clock;
                /* In use until now: it ages from here on. */
                for (struct prefix_node *n = path->tip; n; n = n->parent)
                        prefix_touch(c, n, false);
        }
        *path = (struct prefix_path){ 0 };
}
