/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How much memory KV may take. The pool keeps all of its pages for good; what is bounded is how many of them have a
 * holder, and so, since pages with memory are taken first, how many have memory. Within the bounds all goes on as ever:
 * who finds no room waits, and what was parked goes on when there is some.
 *
 * While any bound is in effect somebody needs the memory: free pages give theirs back, too, but for some while anything
 * runs, so that a request that ends and one that begins do not have the system clear the same memory again and again.
 */

#include <errno.h>
#include <stdlib.h>

#include "engine-private.h"

#define SPARE_PART 16u /* of the bound: free pages that keep their memory while something runs */
#define SPARE_MIN 16u

static uint32_t pages_in(const struct engine *e, uint64_t bytes, uint32_t most) {
        return e->page_bytes == 0 || bytes / e->page_bytes >= most ? most : (uint32_t)(bytes / e->page_bytes);
}

static bool is_bounded(const struct engine *e) {
        return e->cache_limit < UINT32_MAX || e->pool.limit < e->pool.n_pages;
}

/* Makes it fit a little better; false where nobody has anything. */
static bool give_up_one(struct engine *e) {
        uint32_t over = kv_pool_over(&e->pool), cached = e->pool.n_cached;
        struct schedule_request *worst;

        (void)prefix_trim(e->prefix, cached - MIN(cached, over));
        if (e->pool.n_cached < cached || engine_release_one(e, NULL, NULL))
                return true;
        worst = schedule_worst(&e->schedule, NULL);
        if (worst)
                engine_park(e, worst);
        return worst != NULL;
}

struct giving {
        struct engine *e;
        uint64_t bytes;
};

static void give_back(void *userdata, uint32_t first, uint32_t n) {
        struct giving *g = userdata;
        uint64_t bytes;

        if (g->e->model->backend->ops->kv_discard(g->e->model->backend, g->e->kv, first, n, &bytes) == 0)
                g->bytes += bytes;
}

static uint64_t give_free_back(struct engine *e) {
        struct giving g = { .e = e };

        if (e->pool.n_freed > 0 && e->model->backend->ops->kv_discard)
                kv_pool_dry(&e->pool, give_back, &g);
        return g.bytes;
}

void engine_keep_bounds(struct engine *e, bool idle) {
        if (!is_bounded(e))
                return;
        (void)prefix_trim(e->prefix, e->cache_limit);
        if (idle || e->pool.n_freed > MAX(SPARE_MIN, e->pool.limit / SPARE_PART))
                (void)give_free_back(e);
}

uint64_t engine_resize(struct engine *e, uint64_t cache_bytes, uint64_t kv_bytes) {
        e->cache_limit = pages_in(e, cache_bytes, UINT32_MAX);
        e->pool.limit = pages_in(e, kv_bytes, e->pool.n_pages);
        (void)prefix_trim(e->prefix, e->cache_limit);
        while (kv_pool_over(&e->pool) > 0 && give_up_one(e))
                ;
        (void)prefix_trim(e->prefix, e->cache_limit); /* what was released left its pages there */
        return is_bounded(e) ? give_free_back(e) : 0;
}

int engine_borrow_page(struct engine *e, uint32_t *ret_page, void **ret_kept) {
        const struct backend *be = e->model->backend;
        _cleanup_free_ void *kept = NULL;
        uint32_t page;
        bool dry;
        int r;

        page = kv_pool_spare(&e->pool, &dry);
        if (page == UINT32_MAX) {
                page = 0;
                kept = malloc(MAX(engine_page_bytes(e), (size_t)1));
                if (!kept)
                        return -ENOMEM;
                watchdog_begin(e->config.watchdog, 0, 0);
                r = be->ops->kv_export(e->model->backend, e->kv, page, kept);
                watchdog_end(e->config.watchdog);
                if (r != 0)
                        return r < 0 ? r : -EINVAL;
        }
        *ret_page = page;
        *ret_kept = steal_ptr(&kept);
        return 0;
}

int engine_return_page(struct engine *e, uint32_t page, void *kept) {
        struct backend *be = e->model->backend;
        uint64_t bytes;
        bool dry;
        int r;

        if (!kept) {
                (void)kv_pool_spare(&e->pool, &dry);
                if (dry && be->ops->kv_discard)
                        (void)be->ops->kv_discard(be, e->kv, page, 1, &bytes);
                return 0;
        }
        watchdog_begin(e->config.watchdog, 0, 0);
        r = be->ops->kv_import(be, e->kv, page, kept);
        watchdog_end(e->config.watchdog);
        free(kept);
        return r > 0 ? -EINVAL : r;
}
