/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "kv.h"

int kv_pool_init(struct kv_pool *p, uint32_t n_pages, uint32_t page_tokens) {
        *p = (struct kv_pool){ .n_pages = n_pages, .page_tokens = page_tokens };
        /* Large pools of the null backend are mostly never touched, and so cost no memory. */
        p->freed = calloc(n_pages ? n_pages : 1, sizeof(*p->freed));
        p->holders = calloc(n_pages ? n_pages : 1, sizeof(*p->holders));
        if (!p->freed || !p->holders) {
                kv_pool_deinit(p);
                return -ENOMEM;
        }
        return 0;
}

void kv_pool_deinit(struct kv_pool *p) {
        free(p->freed);
        free(p->holders);
        *p = (struct kv_pool){ 0 };
}

uint32_t kv_pages_for(const struct kv_pool *p, uint64_t n_tokens) {
        uint64_t n = n_tokens / p->page_tokens + (n_tokens % p->page_tokens != 0);

        return n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

int kv_table_reserve(struct kv_pool *p, struct kv_table *t, uint64_t n_tokens) {
        uint32_t n = kv_pages_for(p, n_tokens);

        if (n > p->n_pages)
                return KV_E_TOO_BIG;
        if (n > p->n_pages - p->n_used - p->n_reserved)
                return KV_E_FULL;
        p->n_reserved += n;
        t->reserved += n;
        return 0;
}

static int table_grow(struct kv_table *t, uint32_t n) {
        uint32_t cap = MAX(t->cap, 8u);
        uint32_t *pages;

        if (n <= t->cap)
                return 0;
        while (cap < n)
                cap = cap > UINT32_MAX / 2 ? n : cap * 2;
        pages = reallocarray(t->pages, cap, sizeof(*pages));
        if (!pages)
                return -ENOMEM;
        t->pages = pages;
        t->cap = cap;
        return 0;
}

static uint32_t pool_take(struct kv_pool *p) {
        uint32_t page = p->n_freed > 0 ? p->freed[--p->n_freed] : p->n_fresh++;

        p->holders[page] = 1;
        p->n_used++;
        return page;
}

int kv_table_extend(struct kv_pool *p, struct kv_table *t, uint64_t n_tokens) {
        uint32_t n = kv_pages_for(p, n_tokens);
        int r;

        if (n <= t->n)
                return 0;
        if (n - t->n > t->reserved)
                return -ENOMEM;
        r = table_grow(t, n);
        if (r < 0)
                return r;
        while (t->n < n) {
                t->pages[t->n++] = pool_take(p);
                t->reserved--;
                p->n_reserved--;
        }
        return 0;
}

int kv_table_share(struct kv_pool *p, struct kv_table *t, const struct kv_table *from, uint32_t n) {
        int r;

        if (n > from->n || t->n > 0)
                return -EINVAL;
        for (uint32_t i = 0; i < n; i++)
                if (p->holders[from->pages[i]] == UINT16_MAX)
                        return KV_E_FULL;
        r = table_grow(t, n);
        if (r < 0)
                return r;
        for (uint32_t i = 0; i < n; i++) {
                t->pages[i] = from->pages[i];
                p->holders[t->pages[i]]++;
        }
        t->n = n;
        return 0;
}

void kv_table_release(struct kv_pool *p, struct kv_table *t) {
        for (uint32_t i = 0; i < t->n; i++) {
                if (--p->holders[t->pages[i]] > 0)
                        continue;
                p->freed[p->n_freed++] = t->pages[i];
                p->n_used--;
        }
        p->n_reserved -= t->reserved;
        free(t->pages);
        *t = (struct kv_table){ 0 };
}
