/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>

#include "base/macro.h"
#include "kv.h"

int kv_pool_init(struct kv_pool *p, uint32_t n_pages, uint32_t page_tokens) {
        size_t n = MAX(n_pages, 1u);

        *p = (struct kv_pool){ .n_pages = n_pages, .limit = n_pages, .page_tokens = page_tokens };
        /* Large pools of the null backend are mostly never touched, and so cost no memory. */
        p->freed = calloc(n, sizeof(*p->freed));
        p->dry = calloc(n, sizeof(*p->dry));
        p->tables = calloc(n, sizeof(*p->tables));
        p->caches = calloc(n, sizeof(*p->caches));
        if (!p->freed || !p->dry || !p->tables || !p->caches) {
                kv_pool_deinit(p);
                return -ENOMEM;
        }
        return 0;
}

void kv_pool_deinit(struct kv_pool *p) {
        free(p->freed);
        free(p->dry);
        free(p->tables);
        free(p->caches);
        *p = (struct kv_pool){ 0 };
}

uint32_t kv_pages_for(const struct kv_pool *p, uint64_t n_tokens) {
        uint64_t n = n_tokens / p->page_tokens + (n_tokens % p->page_tokens != 0);

        return n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

static void watch(struct kv_pool *p, uint32_t page, bool idle) {
        if (p->watch && p->caches[page] > 0)
                p->watch(p->watch_userdata, page, idle);
}

/* A table more holds the page, which has a holder already. */
static void page_hold(struct kv_pool *p, uint32_t page) {
        if (p->tables[page]++ > 0)
                return;
        p->n_held++;
        p->n_cached--;
        watch(p, page, false);
}

static void page_drop(struct kv_pool *p, uint32_t page) {
        if (--p->tables[page] > 0)
                return;
        p->n_held--;
        if (p->caches[page] > 0)
                p->n_cached++;
        else
                p->freed[p->n_freed++] = page;
        watch(p, page, true);
}

/* There must be a free one. */
static uint32_t page_take(struct kv_pool *p) {
        uint32_t page = p->n_freed > 0 ? p->freed[--p->n_freed] : p->n_dry > 0 ? p->dry[--p->n_dry] : p->n_fresh++;

        p->tables[page] = 1;
        p->n_held++;
        return page;
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

int kv_table_extend(struct kv_pool *p, struct kv_table *t, uint64_t n_tokens) {
        uint32_t n = kv_pages_for(p, n_tokens);
        int r;

        if (n <= t->n)
                return 0;
        if (n - t->n > kv_pool_free(p))
                return KV_E_FULL;
        r = table_grow(t, n);
        if (r < 0)
                return r;
        while (t->n < n)
                t->pages[t->n++] = page_take(p);
        return 0;
}

int kv_table_share(struct kv_pool *p, struct kv_table *t, uint32_t page) {
        int r = table_grow(t, t->n + 1);

        if (r < 0)
                return r;
        page_hold(p, page);
        t->pages[t->n++] = page;
        return 0;
}

void kv_table_replace(struct kv_pool *p, struct kv_table *t, uint32_t i, uint32_t page) {
        uint32_t old = t->pages[i];

        /* First the new one: it may be the old one. */
        page_hold(p, page);
        t->pages[i] = page;
        page_drop(p, old);
}

bool kv_table_owns(const struct kv_pool *p, const struct kv_table *t, uint32_t i) {
        return p->tables[t->pages[i]] == 1 && p->caches[t->pages[i]] == 0;
}

int kv_table_own(struct kv_pool *p, struct kv_table *t, uint32_t i, uint32_t *ret_from) {
        uint32_t from = t->pages[i];

        if (kv_table_owns(p, t, i)) {
                *ret_from = UINT32_MAX;
                return 0;
        }
        if (kv_pool_free(p) == 0)
                return KV_E_FULL;
        t->pages[i] = page_take(p);
        page_drop(p, from);
        *ret_from = from;
        return 0;
}

void kv_table_truncate(struct kv_pool *p, struct kv_table *t, uint32_t keep) {
        while (t->n > keep)
                page_drop(p, t->pages[--t->n]);
}

uint32_t kv_table_discount(struct kv_pool *p, const struct kv_table *t) {
        uint32_t n = 0;

        for (uint32_t i = 0; i < t->n; i++)
                n += --p->tables[t->pages[i]] == 0;
        return n;
}

void kv_table_count(struct kv_pool *p, const struct kv_table *t) {
        for (uint32_t i = 0; i < t->n; i++)
                p->tables[t->pages[i]]++;
}

void kv_table_release(struct kv_pool *p, struct kv_table *t) {
        kv_table_truncate(p, t, 0);
        free(t->pages);
        *t = (struct kv_table){ 0 };
}

void kv_cache_hold(struct kv_pool *p, uint32_t page) {
        p->caches[page]++;
}

void kv_cache_drop(struct kv_pool *p, uint32_t page) {
        if (--p->caches[page] > 0 || p->tables[page] > 0)
                return;
        p->n_cached--;
        p->freed[p->n_freed++] = page;
}

/* --- memory ------------------------------------------------------------------------------------------------------ */

uint32_t kv_pool_spare(const struct kv_pool *p, bool *ret_dry) {
        *ret_dry = p->n_freed == 0;
        if (p->n_freed > 0)
                return p->freed[p->n_freed - 1];
        if (p->n_dry > 0)
                return p->dry[p->n_dry - 1];
        return p->n_fresh < p->n_pages ? p->n_fresh : UINT32_MAX;
}

static bool has_holder(const struct kv_pool *p, uint32_t page) {
        return p->tables[page] > 0 || p->caches[page] > 0;
}

static int compare_pages(const void *a, const void *b) {
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

        return x < y ? -1 : x > y;
}

void kv_pool_dry(struct kv_pool *p, void (*give)(void *userdata, uint32_t first, uint32_t n), void *userdata) {
        uint32_t end = 0; /* of the last stretch */

        if (p->n_freed > 1)
                qsort(p->freed, p->n_freed, sizeof(*p->freed), compare_pages);
        for (uint32_t i = 0; i < p->n_freed; i++) {
                uint32_t first = p->freed[i];

                if (first < end)
                        continue;
                for (end = first + 1; end < p->n_pages && !has_holder(p, end); end++)
                        ;
                while (first > 0 && !has_holder(p, first - 1))
                        first--;
                give(userdata, first, end - first);
        }
        /* Taken from the top: the lowest first, so that those with holders stay close together. */
        for (uint32_t i = p->n_freed; i > 0; i--)
                p->dry[p->n_dry++] = p->freed[i - 1];
        p->n_freed = 0;
}
