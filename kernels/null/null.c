/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The null backend: deterministic fake tokens without a model, so that everything around the mathematics (IPC,
 * scheduling, faults) runs and is measured without any. Buffers are host memory. Operations do nothing, but for two:
 * gather() notes which rows go on to the logits, and a matmul of one product that doesn't accumulate (only the logits
 * are such) puts a single peak at a place that depends on the row's token and position alone. A step takes at least
 * null_step_us, asleep.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/macro.h"
#include "kernels/backend.h"

#define PEAK 32.0f /* the others are 0: chosen with near certainty at temperature 1, too */

struct null_backend {
        struct backend base;
        unsigned step_us;
        struct timespec began;
        const struct batch *batch;
        uint32_t *rows; /* what gather() was told; NULL = the rows of the batch as they are */
        size_t n_rows, rows_allocated;
        bool gathered;
};

struct kv_cache {
        struct kv_config config;
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

static int null_kv_new(struct backend *be, const struct kv_config *config, struct kv_cache **ret) {
        struct kv_cache *kv = calloc(1, sizeof(*kv));

        if (!kv)
                return BACKEND_E_NO_MEMORY;
        kv->config = *config;
        *ret = kv;
        return 0;
}

static struct kv_cache *null_kv_free(struct backend *be, struct kv_cache *kv) {
        free(kv);
        return NULL;
}

static int null_begin(struct backend *be, const struct batch *batch) {
        struct null_backend *null = null_of(be);

        null->batch = batch;
        null->gathered = false;
        if (null->step_us > 0 && clock_gettime(CLOCK_MONOTONIC, &null->began) < 0)
                return -errno;
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

static uint32_t mix(uint32_t token, uint32_t pos) {
        uint64_t h = ((uint64_t)token << 32 | pos) + 0x9e3779b97f4a7c15u;

        h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
        h = (h ^ h >> 27) * 0x94d049bb133111ebu;
        return (uint32_t)(h ^ h >> 31);
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
                out[mix((uint32_t)null->batch->token[row], null->batch->pos[row]) % products->w->n_out] = PEAK;
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

static int null_gather(struct backend *be, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim,
                       float *out) {
        struct null_backend *null = null_of(be);

        if (n > null->rows_allocated) {
                uint32_t *grown = realloc(null->rows, n * sizeof(*grown));

                if (!grown)
                        return BACKEND_E_NO_MEMORY;
                null->rows = grown;
                null->rows_allocated = n;
        }
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
        .begin = null_begin,
        .end = null_end,
        .embed = null_embed,
        .rmsnorm = null_rmsnorm,
        .matmul = null_matmul,
        .rope_kv = null_rope_kv,
        .attention = null_attention,
        .gate = null_gate,
        .gather = null_gather,
};
