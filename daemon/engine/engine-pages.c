/* SPDX-License-Identifier: Apache-2.0 */

/* Pages in and out of the prefix cache, for keeping them elsewhere. */

#include <errno.h>

#include "engine-private.h"

/* What is cached of the tokens, held by a table until let_go(). */
struct hold {
        struct kv_table table;
        struct prefix_path path;
};

static int hold(struct engine *e, uint32_t uid, const int32_t *tokens, size_t n, struct hold *h) {
        struct prefix_match match;

        *h = (struct hold){ 0 };
        return prefix_match(e->prefix, uid, tokens, n, n, &h->table, &h->path, &match);
}

static void let_go(struct engine *e, uint32_t uid, struct hold *h) {
        prefix_leave(e->prefix, uid, &h->path);
        kv_table_release(&e->pool, &h->table);
}

size_t engine_page_bytes(const struct engine *e) {
        return e->model->backend->ops->kv_page_bytes(e->model->backend, e->kv);
}

uint32_t engine_cached_pages(struct engine *e, uint32_t uid, const int32_t *tokens, size_t n) {
        return (uint32_t)(prefix_peek(e->prefix, uid, tokens, n) / ENGINE_PAGE_TOKENS);
}

int engine_export_pages(struct engine *e, uint32_t uid, const int32_t *tokens, size_t n, uint32_t first, uint32_t most,
                        void *data) {
        const struct backend_ops *ops = e->model->backend->ops;
        size_t size = engine_page_bytes(e);
        struct hold h;
        uint32_t done = 0;
        int r;

        r = hold(e, uid, tokens, n, &h);
        if (r < 0)
                return r;
        watchdog_begin(e->config.watchdog, 0, 0);
        while (r == 0 && done < most && first + done < h.path.n) {
                r = ops->kv_export(e->model->backend, e->kv, h.table.pages[first + done], (uint8_t *)data + done * size);
                done += r == 0;
        }
        watchdog_end(e->config.watchdog);
        let_go(e, uid, &h);
        return r < 0 ? r : r > 0 ? -EINVAL : (int)done;
}

/* A free page behind those that are held, filled and stored. 0, KV_E_FULL, or negative. */
static int import_one(struct engine *e, uint32_t uid, const int32_t *tokens, struct hold *h, const void *data) {
        uint32_t n = h->path.n;
        int r;

        if (kv_pool_free(&e->pool) == 0 && !prefix_evict(e->prefix, 1))
                return KV_E_FULL;
        r = kv_table_extend(&e->pool, &h->table, (uint64_t)(n + 1) * ENGINE_PAGE_TOKENS);
        if (r == 0)
                r = e->model->backend->ops->kv_import(e->model->backend, e->kv, h->table.pages[n], data) ? -EINVAL : 0;
        if (r == 0)
                r = prefix_store(e->prefix, uid, &h->path, tokens + (size_t)n * ENGINE_PAGE_TOKENS, &h->table, false);
        return r == -ENOMEM ? KV_E_FULL : r;
}

int engine_import_pages(struct engine *e, uint32_t uid, const int32_t *tokens, uint32_t first, uint32_t n,
                        const void *data) {
        size_t size = engine_page_bytes(e);
        struct hold h;
        uint32_t done = 0;
        int r;

        r = hold(e, uid, tokens, (size_t)(first + n) * ENGINE_PAGE_TOKENS, &h);
        if (r < 0)
                return r;
        watchdog_begin(e->config.watchdog, 0, 0);
        if (h.path.n >= first) /* else what stands before has gone meanwhile */
                for (done = h.path.n - first; r == 0 && done < n && h.path.n < e->cache_limit;) {
                        r = import_one(e, uid, tokens, &h, (const uint8_t *)data + done * size);
                        done += r == 0;
                }
        watchdog_end(e->config.watchdog);
        let_go(e, uid, &h);
        return r < 0 ? r : (int)done;
}
