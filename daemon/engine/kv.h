/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The KV cache's pages: who holds which. The cache itself lies in the backend; here are page numbers only. A pool hands
 * out pages of page_tokens positions; a sequence holds them in a table, in the order of its positions.
 *
 * A sequence reserves its worst case at admission and takes pages as it grows, so that a request that was admitted
 * never fails for want of KV. Pages count their holders: a prefix may be held by several tables.
 * Owned by the step thread.
 */

#include <stdbool.h>
#include <stdint.h>

enum {
        KV_E_FULL = 1,    /* not now: others hold or reserved what is left */
        KV_E_TOO_BIG = 2, /* never: the pool is smaller than that */
};

struct kv_pool {
        uint32_t n_pages;
        uint32_t page_tokens; /* power of two */
        uint32_t n_used;      /* held by at least one table */
        uint32_t n_reserved;  /* promised to tables, not taken yet */
        uint32_t n_fresh;     /* pages [n_fresh, n_pages) were never taken */
        uint32_t n_freed;
        uint32_t *freed;      /* stack of pages given back */
        uint16_t *holders;    /* [n_pages] */
};

struct kv_table {
        uint32_t *pages;
        uint32_t n;
        uint32_t cap;
        uint32_t reserved;
};

int kv_pool_init(struct kv_pool *p, uint32_t n_pages, uint32_t page_tokens); /* 0 or -ENOMEM */
void kv_pool_deinit(struct kv_pool *p);

/* Pages that n tokens fill. */
uint32_t kv_pages_for(const struct kv_pool *p, uint64_t n_tokens);

/* Promises a table room for n_tokens more, in whole pages. 0, KV_E_FULL or KV_E_TOO_BIG. */
int kv_table_reserve(struct kv_pool *p, struct kv_table *t, uint64_t n_tokens);
/* Takes reserved pages until positions [0, n_tokens) have one. 0 or -ENOMEM; never asks for more than was reserved. */
int kv_table_extend(struct kv_pool *p, struct kv_table *t, uint64_t n_tokens);
/* Lets an empty table hold the first n pages of another one as well. 0, KV_E_FULL (a page has too many holders), -ENOMEM. */
int kv_table_share(struct kv_pool *p, struct kv_table *t, const struct kv_table *from, uint32_t n);
/* Gives back everything, reservation included. */
void kv_table_release(struct kv_pool *p, struct kv_table *t);
