/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The KV cache's memory and its pages, and storing to it: rotary embedding, then K and V of each row to its page.
 *
 * A page is one piece of memory, all layers and heads of it, so that copying, taking out and putting back are one
 * memcpy(). In KV_Q8_0 the scale and the integers of a block of 16 positions stand together in a column: the kernels
 * read K and V front to back. Columns are multiples of 16 bytes for any head_dim.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "base/macro.h"
#include "cpu.h"
#include "kernels/host-memory.h"

/* The attention kernels read V 16 elements at a time, beyond the last head's end too. */
#define SLACK 64u

uint8_t *kv_keys(const struct kv_cache *kv, uint32_t page, uint32_t layer, uint32_t head, uint32_t slot) {
        return kv->data + page * kv->page_bytes + ((size_t)layer * kv->config.n_kv_heads + head) * kv->head_bytes +
               slot / ATTN_GROUP * kv->group_bytes;
}

uint8_t *kv_values(const struct kv_cache *kv, uint32_t page, uint32_t layer, uint32_t head, uint32_t slot) {
        return kv_keys(kv, page, layer, head, slot) + kv->head_bytes / 2;
}

static bool kv_sizes(struct kv_cache *kv) {
        const struct kv_config *c = &kv->config;
        uint64_t position = kv_position_bytes(c->format, c->head_dim), slots, head, page, all;

        if (position == 0 || c->page_tokens == 0 || (c->page_tokens & (c->page_tokens - 1)) != 0)
                return false;
        if (!checked_align(c->page_tokens, ATTN_GROUP, &slots) ||
            !checked_mul(slots, position, &head) ||
            !checked_mul((uint64_t)c->n_layers * c->n_kv_heads, head, &page) ||
            !checked_mul_add(page, c->n_pages, SLACK, &all) || all > SIZE_MAX / 2)
                return false;
        kv->group_bytes = ATTN_GROUP * position / 2;
        kv->head_bytes = head;
        kv->page_bytes = page;
        kv->mapped = all;
        return true;
}

int cpu_kv_new(struct backend *be, const struct kv_config *config, struct kv_cache **ret) {
        struct kv_cache *kv;
        void *data;

        kv = calloc(1, sizeof(*kv));
        if (!kv)
                return BACKEND_E_NO_MEMORY;
        kv->config = *config;
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

int cpu_kv_discard(struct backend *be, struct kv_cache *kv, uint32_t first, uint32_t n, uint64_t *ret_bytes) {
        size_t begin = first * kv->page_bytes, end;

        if (n == 0 || first >= kv->config.n_pages || n > kv->config.n_pages - first)
                return BACKEND_E_UNSUPPORTED;
        /* Behind the last one there is nobody else. */
        end = first + n == kv->config.n_pages ? kv->mapped : begin + n * kv->page_bytes;
        *ret_bytes = host_memory_discard(kv->data, kv->mapped, begin, end);
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
        size_t local_stride; /* floats: cosines, sines, a head in its format */
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

/* A head of K goes to its lane of the group, so that its elements stand 16 apart; one of V stays together. */
static void store_floats(const float *k, const float *v, uint32_t dim, uint32_t lane, uint8_t *keys, uint8_t *values) {
        for (uint32_t d = 0; d < dim; d++)
                memcpy(keys + ((size_t)d * ATTN_GROUP + lane) * sizeof(*k), k + d, sizeof(*k));
        memcpy(values + (size_t)lane * dim * sizeof(*v), v, (size_t)dim * sizeof(*v));
}

static void store_halves(const struct row_kernels *rows, const float *k, const float *v, uint32_t dim, uint32_t lane,
                         uint16_t *local, uint8_t *keys, uint8_t *values) {
        rows->to_f16(k, dim, local);
        for (uint32_t d = 0; d < dim; d++)
                memcpy(keys + ((size_t)d * ATTN_GROUP + lane) * sizeof(*local), local + d, sizeof(*local));
        rows->to_f16(v, dim, values + (size_t)lane * dim * sizeof(*local));
}

static void store_blocks(const struct row_kernels *rows, const float *x, bool keys, uint32_t dim, uint32_t lane,
                         struct kv_block *local, uint8_t *dst) {
        rows->to_q8_0(x, dim, local);
        for (uint32_t at = 0; at < dim; at += KV_BLOCK) {
                const struct kv_block *b = local + at / KV_BLOCK;
                uint32_t n = MIN(dim - at, KV_BLOCK);

                memcpy(dst + lane * sizeof(b->scale), &b->scale, sizeof(b->scale));
                dst += ATTN_GROUP * sizeof(b->scale);
                for (uint32_t d = 0; keys && d < n; d++)
                        dst[(size_t)d * ATTN_GROUP + lane] = (uint8_t)b->q[d];
                if (!keys)
                        memcpy(dst + (size_t)lane * n, b->q, n);
                dst += (size_t)n * ATTN_GROUP;
        }
}

static void store_head(const struct job *job, uint32_t row, uint32_t head, void *local) {
        const struct kv_cache *kv = job->kv;
        const struct row_kernels *rows = job->cpu->kernels->rows;
        uint32_t dim = kv->config.head_dim, pos = job->batch->pos[row], slot = pos % kv->config.page_tokens;
        uint32_t page = job->batch->page_table[job->batch->seq[row]][pos / kv->config.page_tokens];
        size_t at = ((size_t)row * kv->config.n_kv_heads + head) * dim;
        uint8_t *keys = kv_keys(kv, page, job->layer, head, slot);
        uint8_t *values = kv_values(kv, page, job->layer, head, slot);
        uint32_t lane = slot % ATTN_GROUP;

        switch (kv->config.format) {
        case KV_F32:
                store_floats(job->k + at, job->v + at, dim, lane, keys, values);
                break;
        case KV_F16:
                store_halves(rows, job->k + at, job->v + at, dim, lane, local, keys, values);
                break;
        case KV_Q8_0:
                store_blocks(rows, job->k + at, true, dim, lane, local, keys);
                store_blocks(rows, job->v + at, false, dim, lane, local, values);
                break;
        }
}

/* The queries' temperature at this position. */
static void cool(const struct rope *rope, uint32_t pos, float *q, size_t n) {
        uint32_t steps = rope->temp_length > 0 ? pos / rope->temp_length : 0; /* whole ones */
        float scale = (float)(1.0 + (double)rope->temp_scale * log((double)steps + 1.0));

        for (size_t i = 0; i < n; i++)
                q[i] *= scale;
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
        if (job->rope->temp_scale != 0.0f)
                cool(job->rope, job->batch->pos[row], job->q + (size_t)row * job->n_heads * dim, (size_t)job->n_heads * dim);
        for (uint32_t h = 0; h < n_kv; h++)
                store_head(job, row, h, sines + dim);
}

int cpu_rope_kv(struct backend *be, const struct rope *rope, struct kv_cache *kv, uint32_t layer,
                const struct batch *batch, uint32_t n_heads, float *q, float *k, const float *v) {
        struct cpu_backend *cpu = cpu_of(be);
        uint32_t dim = kv->config.head_dim;
        struct job job = { .cpu = cpu, .rope = rope, .kv = kv, .batch = batch, .layer = layer, .n_heads = n_heads,
                           .q = q, .k = k, .v = v, .local_stride = ((size_t)dim * 3 + KV_BLOCK + 15) / 16 * 16 };
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
