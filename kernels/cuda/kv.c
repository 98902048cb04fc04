/* SPDX-License-Identifier: Apache-2.0 */

/* The KV cache's memory and its pages; attn.h has the layout. A page is one piece, all layers and heads of it. */

#include <stdlib.h>

#include "base/checked.h"
#include "base/macro.h"
#include "cuda.h"

static bool sizes_of(const struct kv_config *c, uint64_t *ret_page, uint64_t *ret_all) {
        uint64_t position = kv_position_bytes(c->format, c->head_dim), layers, heads, page;

        if (position == 0 || c->page_tokens == 0 || (c->page_tokens & (c->page_tokens - 1)) != 0 || c->n_pages == 0 ||
            !checked_mul(c->page_tokens, position, &heads) ||
            !checked_mul((uint64_t)c->n_layers * c->n_kv_heads, heads, &layers) || !checked_align(layers, 128, &page) ||
            page == 0)
                return false;
        *ret_page = cuda_kv_page_bytes(c);
        return checked_mul(page, c->n_pages, ret_all) && *ret_all <= SIZE_MAX / 2;
}

int cuda_kv_new(struct backend *base, const struct kv_config *config, struct kv_cache **ret) {
        struct cuda_backend *be = cuda_of(base);
        uint64_t page_bytes, bytes;
        struct kv_cache *kv;
        int r = atomic_load(&be->lost);

        if (r != 0)
                return r;
        if (!sizes_of(config, &page_bytes, &bytes) || !cuda_attn_has(config, config->n_kv_heads))
                return BACKEND_E_UNSUPPORTED;
        kv = calloc(1, sizeof(*kv));
        if (!kv)
                return BACKEND_E_NO_MEMORY;
        cuda_weights_place_kv(be, bytes);
        r = cuda_memory_take(be, bytes, be->kv_on_host, &kv->memory);
        /* Positions that nobody has written may be read, with a weight of zero: they must be numbers. */
        r = r ? r : cuda_memory_clear(be, &kv->memory);
        if (r != 0) {
                cuda_kv_free(base, kv);
                return r;
        }
        kv->config = *config;
        kv->kv = (struct cuda_kv){ .format = config->format, .n_layers = config->n_layers,
                                   .n_kv_heads = config->n_kv_heads, .head_dim = config->head_dim,
                                   .page_tokens = config->page_tokens, .n_pages = config->n_pages,
                                   .page_bytes = page_bytes, .data = kv->memory.data };
        *ret = kv;
        return 0;
}

struct kv_cache *cuda_kv_free(struct backend *base, struct kv_cache *kv) {
        if (!kv)
                return NULL;
        cuda_run_forget(cuda_of(base));
        cuda_memory_give(cuda_of(base), &kv->memory);
        free(kv);
        return NULL;
}

static uint8_t *page_of(const struct kv_cache *kv, uint32_t page) {
        return kv->kv.data + page * kv->kv.page_bytes;
}

/* 0 where the page may be touched now. */
static int check_page(const struct cuda_backend *be, const struct kv_cache *kv, uint32_t page) {
        int r = atomic_load(&be->lost);

        return r ? r : be->recorder.batch || page >= kv->kv.n_pages ? BACKEND_E_UNSUPPORTED : 0;
}

/* Not waited for: what comes later on the stream comes after it. */
int cuda_kv_copy(struct backend *base, struct kv_cache *kv, uint32_t from, uint32_t to) {
        struct cuda_backend *be = cuda_of(base);
        int r = check_page(be, kv, MAX(from, to));

        if (r != 0 || from == to)
                return r;
        return cuda_check(be, cudaMemcpyAsync(page_of(kv, to), page_of(kv, from), kv->kv.page_bytes, cudaMemcpyDefault,
                                              be->stream), "copying a page");
}

size_t cuda_kv_page_size(const struct backend *base, const struct kv_cache *kv) {
        return kv->kv.page_bytes;
}

int cuda_kv_export(struct backend *base, const struct kv_cache *kv, uint32_t page, void *host) {
        struct cuda_backend *be = cuda_of(base);
        int r = check_page(be, kv, page);

        return r ? r : cuda_copy_out(be, host, page_of(kv, page), kv->kv.page_bytes);
}

int cuda_kv_import(struct backend *base, struct kv_cache *kv, uint32_t page, const void *host) {
        struct cuda_backend *be = cuda_of(base);
        int r = check_page(be, kv, page);

        return r ? r : cuda_copy_in(be, page_of(kv, page), host, kv->kv.page_bytes);
}
