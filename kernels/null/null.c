/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The null backend: deterministic fake tokens without a model, so that everything around the mathematics (IPC,
 * scheduling, faults) runs and is measured without any. Buffers are host memory. Operations do nothing, but for three:
 * begin() gives each row a hash, gather() notes which rows go on to the logits, and a matmul of one product that
 * doesn't accumulate (only the logits are such) puts a single peak at a place that depends on the row's hash alone. A
 * step takes at least null_step_us, asleep.
 *
 * Its KV cache is real, if small: each position has its row's hash, made of the token, the position and the hash of the
 * position before, which is read from the cache through the page table. So a row depends on all tokens before it, and
 * a page that is wrong, stale or was not copied changes what is generated. Rows without a cache or a page table have a
 * hash of token and position.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/checked.h"
#include "base/macro.h"
#include "kernels/backend.h"
#include "kernels/host-memory.h"

#define PEAK 32.0f /* the others are 0: chosen with near certainty at temperature 1, too */

struct null_backend {
        struct backend base;
        unsigned step_us;
        struct timespec began;
        const struct batch *batch;
        uint64_t *hashes; /* of the batch's rows */
        size_t hashes_allocated;
        uint32_t *rows; /* what gather() was told; NULL = the rows of the batch as they are */
        size_t n_rows, rows_allocated;
        bool gathered;
};

struct kv_cache {
        struct kv_config config;
        size_t mapped;
        uint64_t *hashes; /* [n_pages][page_tokens] */
};

static struct null_backend *null_of(struct backend *be) {
        return CONTAINER_OF(be, struct null_backend, base);
}

static int null_open(const struct backend_config *config, struct backend **ret) {
        struct null_backend *null = calloc(1, sizeof(*null));

        if (!null)
                return BACKEND_E_NO_MEMORY;
        null->base.ops = &backend_null;
        null->step_us = config->null_step_us;
        *ret = &null->base;
        return 0;
}

static struct backend *null_close(struct backend *be) {
        if (!be)
                return NULL;
        free(null_of(be)->hashes);
        free(null_of(be)->rows);
        free(null_of(be));
        return NULL;
}

static const char *null_describe(const struct backend *be) {
        return "null (fake tokens)";
}

static int null_alloc(struct backend *be, size_t bytes, void **ret_dev) {
        void *p = calloc(1, bytes > 0 ? bytes : 1);

        if (!p)
                return BACKEND_E_NO_MEMORY;
        *ret_dev = p;
        return 0;
}

static void null_release(struct backend *be, void *dev) {
        free(dev);
}

static int null_upload(struct backend *be, void *dev, const void *host, size_t bytes) {
        memcpy(dev, host, bytes);
        return 0;
}

static int null_download(struct backend *be, void *host, const void *dev, size_t bytes) {
        memcpy(host, dev, bytes);
        return 0;
}

static int null_bind(struct backend *be, struct weight *w) {
        return 0;
}

/* Memory is mapped, not touched: what a large pool never uses costs nothing. */
static int null_kv_new(struct backend *be, const struct kv_config *config, struct kv_cache **ret) {
        struct kv_cache *kv;
        uint64_t bytes;
        void *data;

        if (config->page_tokens == 0 || config->n_pages == 0 ||
            !checked_mul((uint64_t)config->n_pages * config->page_tokens, sizeof(*kv->hashes), &bytes) ||
            bytes > SIZE_MAX / 2)
                return BACKEND_E_UNSUPPORTED;
        kv = calloc(1, sizeof(*kv));
        if (!kv)
                return BACKEND_E_NO_MEMORY;
        kv->config = *config;
        kv->mapped = bytes;
        data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (data == MAP_FAILED) {
                free(kv);
                return BACKEND_E_NO_MEMORY;
        }
        kv->hashes = data;
        *ret = kv;
        return 0;
}

static struct kv_cache *null_kv_free(struct backend *be, struct kv_cache *kv) {
        if (!kv)
                return NULL;
        (void)munmap(kv->hashes, kv->mapped);
        free(kv);
        return NULL;
}

static uint64_t *page_hashes(const struct kv_cache *kv, uint32_t page) {
        return kv->hashes + (size_t)page * kv->config.page_tokens;
}

static size_t null_kv_page_bytes(const struct backend *be, const struct kv_cache *kv) {
        return kv->config.page_tokens * sizeof(*kv->hashes);
}

static int null_kv_copy(struct backend *be, struct kv_cache *kv, uint32_t from, uint32_t to) {
        if (from >= kv->config.n_pages || to >= kv->config.n_pages)
                return BACKEND_E_UNSUPPORTED;
        if (from != to)
                memcpy(page_hashes(kv, to), page_hashes(kv, from), null_kv_page_bytes(be, kv));
        return 0;
}

static int null_kv_export(struct backend *be, const struct kv_cache *kv, uint32_t page, void *host) {
        if (page >= kv->config.n_pages)
                return BACKEND_E_UNSUPPORTED;
        memcpy(host, page_hashes(kv, page), null_kv_page_bytes(be, kv));
        return 0;
}

static int null_kv_import(struct backend *be, struct kv_cache *kv, uint32_t page, const void *host) {
        if (page >= kv->config.n_pages)
                return BACKEND_E_UNSUPPORTED;
        memcpy(page_hashes(kv, page), host, null_kv_page_bytes(be, kv));
        return 0;
}

static int null_kv_discard(struct backend *be, struct kv_cache *kv, uint32_t first, uint32_t n, uint64_t *ret_bytes) {
        size_t size = null_kv_page_bytes(be, kv);

        if (n == 0 || first >= kv->config.n_pages || n > kv->config.n_pages - first)
                return BACKEND_E_UNSUPPORTED;
        *ret_bytes = host_memory_discard(kv->hashes, kv->mapped, first * size, (first + n) * size);
        return 0;
}

static uint64_t mix(uint64_t before, uint32_t token, uint32_t pos) {
        uint64_t h = before + ((uint64_t)token << 32 | pos) + 0x9e3779b97f4a7c15u;

        h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
        h = (h ^ h >> 27) * 0x94d049bb133111ebu;
        return h ^ h >> 31;
}

/* Where the cache has a position of a row's sequence; NULL when the page table leads out of it. */
static uint64_t *cached(const struct kv_cache *kv, const struct batch *batch, uint32_t row, uint32_t pos) {
        uint32_t page = batch->page_table[batch->seq[row]][pos / kv->config.page_tokens];

        return page < kv->config.n_pages ? page_hashes(kv, page) + pos % kv->config.page_tokens : NULL;
}

/* In the order of the batch: a row finds the one before it in the cache, of this step or of an earlier one. */
static int hash_rows(struct null_backend *null, const struct batch *batch, struct kv_cache *kv) {
        for (uint32_t r = 0; r < batch->n_rows; r++) {
                uint32_t token = (uint32_t)batch->token[r], pos = batch->pos[r];
                const uint64_t *before = NULL;
                uint64_t *here;

                if (!kv || !batch->page_table) {
                        null->hashes[r] = mix(0, token, pos);
                        continue;
                }
                here = cached(kv, batch, r, pos);
                if (pos > 0)
                        before = cached(kv, batch, r, pos - 1);
                if (!here || (pos > 0 && !before))
                        return BACKEND_E_UNSUPPORTED;
                null->hashes[r] = mix(before ? *before : 0, token, pos);
                *here = null->hashes[r];
        }
        return 0;
}

/* Room for n elements; what was there is lost. */
static int reserve(void **array, size_t *allocated, size_t n, size_t size) {
        void *grown;

        if (n <= *allocated)
                return 0;
        grown = reallocarray(NULL, n, size);
        if (!grown)
                return BACKEND_E_NO_MEMORY;
        free(*array);
        *array = grown;
        *allocated = n;
        return 0;
}

static int null_begin(struct backend *be, const struct batch *batch, struct kv_cache *kv) {
        struct null_backend *null = null_of(be);
        void *hashes = null->hashes;
        int r;

        if (null->step_us > 0 && clock_gettime(CLOCK_MONOTONIC, &null->began) < 0)
                return -errno;
        r = reserve(&hashes, &null->hashes_allocated, batch->n_rows, sizeof(*null->hashes));
        null->hashes = hashes;
        if (r == 0)
                r = hash_rows(null, batch, kv);
        if (r != 0)
                return r;
        null->batch = batch;
        null->gathered = false;
        return 0;
}

static int null_end(struct backend *be) {
        struct null_backend *null = null_of(be);
        struct timespec until = null->began;
        int r;

        null->batch = NULL;
        if (null->step_us == 0)
                return 0;
        until.tv_sec += null->step_us / 1000000;
        until.tv_nsec += (long)(null->step_us % 1000000) * 1000;
        if (until.tv_nsec >= 1000000000L) {
                until.tv_sec++;
                until.tv_nsec -= 1000000000L;
        }
        do
                r = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        while (r == EINTR);
        return -r;
}

static int null_embed(struct backend *be, const struct weight *w, const struct batch *batch, float scale,
                      float *out) {
        return 0;
}

static int null_rmsnorm(struct backend *be, const float *x, const float *weight, float eps, uint32_t n, uint32_t dim,
                        float *out) {
        return 0;
}

static int null_matmul(struct backend *be, const struct matmul *products, size_t n, const float *x, size_t x_stride,
                       uint32_t n_rows) {
        struct null_backend *null = null_of(be);

        if (n != 1 || products->accumulate || !null->batch || products->w->n_out == 0)
                return 0;
        if (n_rows > (null->gathered ? null->n_rows : null->batch->n_rows))
                return BACKEND_E_UNSUPPORTED;
        for (uint32_t r = 0; r < n_rows; r++) {
                uint32_t row = null->gathered ? null->rows[r] : r;
                float *out = products->out + r * products->out_stride;

                memset(out, 0, products->w->n_out * sizeof(*out));
                out[(uint32_t)null->hashes[row] % products->w->n_out] = PEAK;
        }
        return 0;
}

static int null_rope_kv(struct backend *be, const struct rope *rope, struct kv_cache *kv, uint32_t layer,
                        const struct batch *batch, uint32_t n_heads, float *q, float *k, const float *v) {
        return 0;
}

static int null_attention(struct backend *be, const struct attention *a, const struct kv_cache *kv,
                          const struct batch *batch, const float *q, float *out) {
        return 0;
}

static int null_gate(struct backend *be, enum activation act, const float *gate, const float *up, uint32_t n_rows,
                     uint32_t dim, float *out) {
        return 0;
}

static int null_softcap(struct backend *be, float scale, float cap, uint32_t n_rows, uint32_t dim, float *x) {
        return 0;
}

static int null_add(struct backend *be, const float *x, float scale, uint32_t n_rows, uint32_t dim, float *out) {
        return 0;
}

static int null_slice(struct backend *be, const float *x, size_t x_stride, uint32_t first, uint32_t n_rows,
                      uint32_t dim, float *out) {
        return 0;
}

static int null_route(struct backend *be, const struct routing *routing, const float *logits, uint32_t n_rows,
                      uint32_t *experts, float *weights) {
        return 0;
}

static int null_experts(struct backend *be, const struct matmul *products, size_t n, const struct chosen *chosen,
                        const float *x, bool x_per_row) {
        return 0;
}

static int null_combine(struct backend *be, const struct chosen *chosen, const float *x, uint32_t dim, bool accumulate,
                        float *out) {
        return 0;
}

static int null_gather(struct backend *be, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim,
                       float *out) {
        struct null_backend *null = null_of(be);
        void *array = null->rows;
        int r = reserve(&array, &null->rows_allocated, n, sizeof(*null->rows));

        null->rows = array;
        if (r != 0)
                return r;
        if (n > 0)
                memcpy(null->rows, rows, n * sizeof(*rows));
        null->n_rows = n;
        null->gathered = true;
        return 0;
}

const struct backend_ops backend_null = {
        .name = "null",
        .fake = true,
        .open = null_open,
        .close = null_close,
        .describe = null_describe,
        .alloc = null_alloc,
        .release = null_release,
        .upload = null_upload,
        .download = null_download,
        .bind = null_bind,
        .kv_new = null_kv_new,
        .kv_free = null_kv_free,
        .kv_copy = null_kv_copy,
        .kv_page_bytes = null_kv_page_bytes,
        .kv_export = null_kv_export,
        .kv_import = null_kv_import,
        .kv_discard = null_kv_discard,
        .begin = null_begin,
        .end = null_end,
        .embed = null_embed,
        .rmsnorm = null_rmsnorm,
        .matmul = null_matmul,
        .rope_kv = null_rope_kv,
        .attention = null_attention,
        .gate = null_gate,
        .softcap = null_softcap,
        .add = null_add,
        .slice = null_slice,
        .route = null_route,
        .experts = null_experts,
        .combine = null_combine,
        .gather = null_gather,
};
