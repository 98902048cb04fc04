/* SPDX-License-Identifier: Apache-2.0 */

/* The KV cache's memory, and storing to it: rotary embedding, then K and V of each row to its page. */

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "base/macro.h"
#include "cpu.h"

/* The attention kernels read V 16 elements at a time, beyond the last head's end too. */
#define SLACK 64u

uint8_t *kv_keys(const struct kv_cache *kv, uint32_t page, uint32_t layer, uint32_t head) {
        return kv->data + page * kv->page_bytes +
               ((size_t)layer * kv->config.n_kv_heads + head) * kv->head_bytes;
}

uint8_t *kv_values(const struct kv_cache *kv, uint32_t page, uint32_t layer, uint32_t head) {
        return kv_keys(kv, page, layer, head) + (size_t)kv->slots * kv->config.head_dim * kv->element;
}

static bool kv_sizes(struct kv_cache *kv) {
        const struct kv_config *c = &kv->config;
        uint64_t slots, head, page, all;

        if (c->page_tokens == 0 || (c->page_tokens & (c->page_tokens - 1)) != 0)
                return false;
        if (!checked_align(c->page_tokens, ATTN_GROUP, &slots) ||
            !checked_mul(slots, (uint64_t)c->head_dim * 2 * kv->element, &head) ||
            !checked_mul((uint64_t)c->n_layers * c->n_kv_heads, head, &page) ||
            !checked_mul_add(page, c->n_pages, SLACK, &all) || all > SIZE_MAX / 2)
                return false;
        kv->slots = (uint32_t)slots;
        kv->head_bytes = head;
        kv->page_bytes = page;
        kv->mapped = all;
        return true;
}

int cpu_kv_new(struct backend *be, const struct kv_config *config, struct kv_cache **ret) {
        struct kv_cache *kv;
        void *data;

        if (config->format != KV_F16 && config->format != KV_F32)
                return BACKEND_E_UNSUPPORTED;
        kv = calloc(1, sizeof(*kv));
        if (!kv)
                return BACKEND_E_NO_MEMORY;
        kv->config = *config;
        kv->element = config->format == KV_F16 ? 2 : 4;
        if (!kv_sizes(kv)) {
                free(kv);
                return BACKEND_E_UNSUPPORTED;
        }
        data = mmap(NULL, kv->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (data == MAP_FAILED) {
                free(kv);
                return BACKEND_E_NO_MEMORY;
        }
        (void)madvise(data, kv->mapped, MADV_DONTDUMP); /* it is people's text */
        kv->data = data;
        *ret = kv;
        return 0;
}

struct kv_cache *cpu_kv_free(struct backend *be, struct kv_cache *kv) {
        if (!kv)
                return NULL;
        (void)munmap(kv->data, kv->mapped);
        free(kv);
        return NULL;
}

/* A page is one piece of memory: layers, heads, K and V. */
static uint8_t *page_data(const struct kv_cache *kv, uint32_t page) {
        return kv->data + page * kv->page_bytes;
}

int cpu_kv_copy(struct backend *be, struct kv_cache *kv, uint32_t from, uint32_t to) {
        if (from >= kv->config.n_pages || to >= kv->config.n_pages)
                return BACKEND_E_UNSUPPORTED;
        if (from != to)
                memcpy(page_data(kv, to), page_data(kv, from), kv->page_bytes);
        return 0;
}

size_t cpu_kv_page_bytes(const struct backend *be, const struct kv_cache *kv) {
        return kv->page_bytes;
}

int cpu_kv_export(struct backend *be, const struct kv_cache *kv, uint32_t page, void *host) {
        if (page >= kv->config.n_pages)
                return BACKEND_E_UNSUPPORTED;
        memcpy(host, page_data(kv, page), kv->page_bytes);
        return 0;
}

int cpu_kv_import(struct backend *be, struct kv_cache *kv, uint32_t page, const void *host) {
        if (page >= kv->config.n_pages)
                return BACKEND_E_UNSUPPORTED;
        memcpy(page_data(kv, page), host, kv->page_bytes);
        return 0;
}

struct job {
        const struct cpu_backend *cpu;
        const struct rope *rope;
        const struct kv_cache *kv;
        const struct batch *batch;
        uint32_t layer, n_heads;
        float *q, *k;
        const float *v;
        float *local;        /* per worker */
        size_t local_stride; /* floats: cosines, sines, a head as it is stored */
};

/* Angles in double: a position times an inverse frequency keeps its fraction at any length of context. */
static void angles(const struct rope *rope, uint32_t pos, float *cosines, float *sines) {
        for (uint32_t i = 0; i < rope->n_rot / 2; i++) {
                double s, c;

                sincos((double)pos * (double)rope->inv_freq[i], &s, &c);
                cosines[i] = (float)(c * (double)rope->magnitude);
                sines[i] = (float)(s * (double)rope->magnitude);
        }
}

static void rotate(const struct rope *rope, const float *cosines, const float *sines, float *head) {
        bool norm = rope->kind == ROPE_NORM;
        uint32_t half = rope->n_rot / 2;

        for (uint32_t i = 0; i < half; i++) {
                float *a = head + (norm ? 2 * i : i), *b = head + (norm ? 2 * i + 1 : i + half);
                float x = *a, y = *b;

                *a = x * cosines[i] - y * sines[i];
                *b = x * sines[i] + y * cosines[i];
        }
}

/* K goes to its lane of the group, so its elements stand 16 apart; V is stored as it is. */
static void store_head(const struct job *job, uint32_t row, uint32_t head, uint16_t *half) {
        const struct kv_cache *kv = job->kv;
        uint32_t dim = kv->config.head_dim, pos = job->batch->pos[row], slot = pos % kv->config.page_tokens;
        uint32_t page = job->batch->page_table[job->batch->seq[row]][pos / kv->config.page_tokens];
        size_t at = ((size_t)row * kv->config.n_kv_heads + head) * dim;
        uint8_t *keys = kv_keys(kv, page, job->layer, head), *values = kv_values(kv, page, job->layer, head);
        size_t first = (size_t)(slot / ATTN_GROUP) * dim * ATTN_GROUP + slot % ATTN_GROUP;

        if (kv->element == 4) {
                for (uint32_t d = 0; d < dim; d++)
                        memcpy(keys + (first + (size_t)d * ATTN_GROUP) * 4, job->k + at + d, 4);
                memcpy(values + (size_t)slot * dim * 4, job->v + at, (size_t)dim * 4);
                return;
        }
        job->cpu->kernels->rows->to_f16(job->k + at, dim, half);
        for (uint32_t d = 0; d < dim; d++)
                memcpy(keys + (first + (size_t)d * ATTN_GROUP) * 2, half + d, 2);
        job->cpu->kernels->rows->to_f16(job->v + at, dim, values + (size_t)slot * dim * 2);
}

/* Item: a row. */
static void rope_row(void *context, uint32_t row, unsigned worker) {
        const struct job *job = context;
        uint32_t dim = job->kv->config.head_dim, n_kv = job->kv->config.n_kv_heads;
        float *cosines = job->local + worker * job->local_stride, *sines = cosines + dim;

        if (job->rope->kind != ROPE_NONE) {
                angles(job->rope, job->batch->pos[row], cosines, sines);
                for (uint32_t h = 0; h < job->n_heads; h++)
                        rotate(job->rope, cosines, sines, job->q + ((size_t)row * job->n_heads + h) * dim);
                for (uint32_t h = 0; h < n_kv; h++)
                        rotate(job->rope, cosines, sines, job->k + ((size_t)row * n_kv + h) * dim);
        }
        for (uint32_t h = 0; h < n_kv; h++)
                store_head(job, row, h, (uint16_t *)(sines + dim));
}

int cpu_rope_kv(struct backend *be, const struct rope *rope, struct kv_cache *kv, uint32_t layer,
                const struct batch *batch, uint32_t n_heads, float *q, float *k, const float *v) {
        struct cpu_backend *cpu = cpu_of(be);
        uint32_t dim = kv->config.head_dim;
        struct job job = { .cpu = cpu, .rope = rope, .kv = kv, .batch = batch, .layer = layer, .n_heads = n_heads,
                           .q = q, .k = k, .v = v, .local_stride = ((size_t)dim * 3 + 15) / 16 * 16 };
        int r;

        if (rope->kind != ROPE_NONE && (rope->n_rot > dim || rope->n_rot % 2 != 0))
                return BACKEND_E_UNSUPPORTED;
        r = scratch_reserve(&cpu->local, pool_threads(cpu->pool) * job.local_stride * sizeof(float));
        if (r != 0)
                return r;
        job.local = cpu->local.data;
        /* Taking a sine and cosine for fifty multiply-adds; only the choice to share the work hangs on it. */
        cpu_run(cpu, (uint64_t)batch->n_rows * (rope->n_rot * 25 + n_heads * dim), batch->n_rows, rope_row, &job);
        return 0;
}
