/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The KV cache's pages: who holds which. The cache itself lies in the backend; here are page numbers only. A page holds
 * page_tokens positions of one sequence in all layers.
 *
 * A page has two kinds of holders, counted apart: tables (sequences that compute with it) and the prefix cache
 * (prefix.h). A page without any holder is free; one that only the cache holds can be had by evicting it; one that a
 * table holds stays. A page that more than one holder has, or that the cache has, is never written to again: whoever
 * wants to go on in the middle of it copies it first (kv_table_own()).
 *
 * Nothing is reserved: whether all running sequences fit is decided before each step (engine.c), which may evict, or
 * park a sequence.
 *
 * A free page is dry while it has no memory: nobody has taken it yet, or its memory was given back to the system
 * (engine-room.c). Pages with memory are taken first, so that what is bounded to n pages has memory for no more than n.
 * Owned by the step thread.
 */

#include <stdbool.h>
#include <stdint.h>

enum {
        KV_E_FULL = 1, /* no free page now; the prefix cache may have some to give */
};

struct kv_pool {
        uint32_t n_pages;
        uint32_t page_tokens; /* power of two */
        uint32_t limit;       /* pages that may have a holder: n_pages, or fewer; kv_pool_over() may be the case for a while */
        uint32_t n_held;      /* held by at least one table */
        uint32_t n_cached;    /* held by the prefix cache alone */
        uint32_t n_fresh;     /* pages [n_fresh, n_pages) were never taken */
        uint32_t n_freed, n_dry;
        uint32_t *freed;      /* [n_freed]: stack of pages without a holder, and with memory */
        uint32_t *dry;        /* [n_dry]: the same, whose memory was given back */
        uint32_t *tables;     /* [n_pages]: tables that hold it */
        uint32_t *caches;     /* [n_pages]: nodes of the prefix cache that hold it */
        /* Told when a page that the prefix cache holds lost its last table (idle), or got its first one again; may be NULL. */
        void (*watch)(void *userdata, uint32_t page, bool idle);
        void *watch_userdata;
};

/* A sequence's pages, in the order of its positions. */
struct kv_table {
        uint32_t *pages;
        uint32_t n;
        uint32_t cap;
};

int kv_pool_init(struct kv_pool *p, uint32_t n_pages, uint32_t page_tokens); /* 0 or -ENOMEM */
void kv_pool_deinit(struct kv_pool *p);

/* Pages without any holder, as far as the limit lets them have one. */
static inline uint32_t kv_pool_free(const struct kv_pool *p) {
        uint32_t used = p->n_held + p->n_cached;

        return p->limit > used ? p->limit - used : 0;
}
/* Pages that have a holder beyond the limit. */
static inline uint32_t kv_pool_over(const struct kv_pool *p) {
        uint32_t used = p->n_held + p->n_cached;

        return used > p->limit ? used - p->limit : 0;
}
/* Pages with memory. */
static inline uint32_t kv_pool_wet(const struct kv_pool *p) {
        return p->n_fresh - p->n_dry;
}
/* A page without a holder, whatever the limit, for use until the next call; UINT32_MAX: there is none. *ret_dry: it has no
 * memory. */
uint32_t kv_pool_spare(const struct kv_pool *p, bool *ret_dry);
/* Free pages with memory are dry from now on: calls give() for each stretch of pages without a holder that has any of them,
 * as long as it can be, so that a stretch's ends are where pages have holders. */
void kv_pool_dry(struct kv_pool *p, void (*give)(void *userdata, uint32_t first, uint32_t n), void *userdata);
/* Pages that n tokens fill. */
uint32_t kv_pages_for(const struct kv_pool *p, uint64_t n_tokens);

/* Takes free pages until positions [0, n_tokens) have one. 0, KV_E_FULL (nothing was taken) or -ENOMEM. */
int kv_table_extend(struct kv_pool *p, struct kv_table *t, uint64_t n_tokens);
/* Appends a page that has a holder already to the table. 0 or -ENOMEM (the table is as it was). */
int kv_table_share(struct kv_pool *p, struct kv_table *t, uint32_t page);
/* Puts another page, which has a holder already, in the place of the table's page number i. */
void kv_table_replace(struct kv_pool *p, struct kv_table *t, uint32_t i, uint32_t page);
/* True where the table is the only holder of its page number i: it may be written. */
bool kv_table_owns(const struct kv_pool *p, const struct kv_table *t, uint32_t i);
/* Makes page number i the table's own: where it has other holders, a free page takes its place, and *ret_from is what is
 * to be copied to it (else UINT32_MAX), before anything is evicted: the table holds it no longer. 0 or KV_E_FULL. */
int kv_table_own(struct kv_pool *p, struct kv_table *t, uint32_t i, uint32_t *ret_from);
/* Gives back the pages from number `keep` on. */
void kv_table_truncate(struct kv_pool *p, struct kv_table *t, uint32_t keep);
/* For asking what would be if a table gave back everything: leaves the table out of its pages' counts, alone, and puts it in
 * again. The first one returns of how many pages it was the last. Nothing else may happen to the pool between the two. */
uint32_t kv_table_discount(struct kv_pool *p, const struct kv_table *t);
void kv_table_count(struct kv_pool *p, const struct kv_table *t);
/* Gives back everything. */
void kv_table_release(struct kv_pool *p, struct kv_table *t);

/* For prefix.c: a node of the cache begins (it has a holder already) or ceases to hold a page. The watcher is not called. */
void kv_cache_hold(struct kv_pool *p, uint32_t page);
void kv_cache_drop(struct kv_pool *p, uint32_t page);
