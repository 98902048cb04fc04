/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Attention: what surrounds the kernels. An item is a few rows of one sequence and one KV head, with all the query
 * heads that share it. Its queries stand in tiles (heads innermost); chunk after chunk of 64 positions, counted from
 * position 0, is brought to every tile, so that K and V come from the cache for all but the first. A chunk that all
 * rows of a tile see whole is computed for the tile at once, one that lies across a row's horizon row by row: the
 * kernels give the same bits either way.
 *
 * Where page_tokens is below 64 a chunk still holds 64 positions, of several pages; below 16 it is one page.
 */

#include <math.h>
#include <string.h>

#include "base/macro.h"
#include "cpu.h"

#define ITEM_QUERIES 32u

struct job {
        const struct cpu_kernels *kernels;
        const struct attention *a;
        const struct kv_cache *kv;
        const struct batch *batch;
        const float *q;
        float *out;
        uint32_t group;      /* query heads of a KV head */
        uint32_t item_rows;
        uint32_t acc_stride;
        uint8_t *local;      /* per worker: see item_memory() */
        size_t local_stride;
};

/* The queries of an item: rows [first, first + n_rows) times `group` heads. */
struct item {
        uint32_t first, n_rows, kv_head;
        float *q;                  /* tile t at t * tile * head_dim: [head_dim][tile] */
        float *acc;                /* [queries][acc_stride] */
        struct attn_state *state;  /* [queries] */
};

static uint32_t queries_of(const struct job *job) {
        return job->item_rows * job->group;
}

/* A query's place: heads of a row lie together, and rows are packed into tiles as long as whole ones fit. */
static uint32_t tile_size(const struct job *job) {
        return job->kernels->attn_tile;
}

static struct item item_memory(const struct job *job, unsigned worker) {
        uint8_t *p = job->local + worker * job->local_stride;
        uint32_t tiles = (queries_of(job) + tile_size(job) - 1) / tile_size(job);
        struct item item = { .q = (float *)p };

        item.acc = item.q + (size_t)tiles * tile_size(job) * job->kv->config.head_dim;
        item.state = (struct attn_state *)(item.acc + (size_t)queries_of(job) * job->acc_stride);
        return item;
}

static size_t item_bytes(const struct job *job) {
        size_t tiles = (queries_of(job) + tile_size(job) - 1) / tile_size(job);
        size_t bytes = (tiles * tile_size(job) * job->kv->config.head_dim +
                        (size_t)queries_of(job) * job->acc_stride) * sizeof(float) +
                       queries_of(job) * sizeof(struct attn_state);

        return (bytes + 63) / 64 * 64;
}

static void load_queries(const struct job *job, struct item *item) {
        uint32_t dim = job->kv->config.head_dim, tile = tile_size(job);

        for (uint32_t i = 0; i < item->n_rows * job->group; i++) {
                uint32_t head = item->kv_head * job->group + i % job->group;
                const float *src = job->q + ((size_t)(item->first + i / job->group) * job->a->n_heads + head) * dim;
                float *dst = item->q + (size_t)(i / tile) * tile * dim + i % tile;

                for (uint32_t d = 0; d < dim; d++)
                        dst[(size_t)d * tile] = src[d];
                memset(item->acc + (size_t)i * job->acc_stride, 0, job->acc_stride * sizeof(float));
                item->state[i] = (struct attn_state){ .top = -INFINITY };
                if (job->a->sinks) {
                        item->state[i].top = job->a->sinks[head];
                        item->state[i].sum[0] = 1.0f;
                }
        }
}

static void store_queries(const struct job *job, const struct item *item) {
        uint32_t dim = job->kv->config.head_dim;

        for (uint32_t i = 0; i < item->n_rows * job->group; i++) {
                uint32_t head = item->kv_head * job->group + i % job->group;
                const float *acc = item->acc + (size_t)i * job->acc_stride, *lanes = item->state[i].sum;
                float *dst = job->out + ((size_t)(item->first + i / job->group) * job->a->n_heads + head) * dim;
                float sum[ATTN_GROUP];

                memcpy(sum, lanes, sizeof(sum));
                for (unsigned step = ATTN_GROUP / 2; step > 0; step /= 2)
                        for (unsigned l = 0; l < step; l++)
                                sum[l] += sum[l + step];
                for (uint32_t d = 0; d < dim; d++)
                        dst[d] = acc[d] / sum[0];
        }
}

static uint32_t chunk_positions(const struct kv_cache *kv) {
        return kv->config.page_tokens < ATTN_GROUP ? kv->config.page_tokens : ATTN_CHUNK;
}

/* Where the chunk's K and V are, up to position `end` (counted in the sequence). */
static void locate_chunk(const struct job *job, const struct item *item, uint32_t base, uint32_t end,
                         struct attn_chunk *c) {
        const struct kv_cache *kv = job->kv;
        const uint32_t *table = job->batch->page_table[job->batch->seq[item->first]];

        c->n_groups = 0;
        for (uint32_t pos = base; pos < end && c->n_groups < ATTN_GROUPS; pos += ATTN_GROUP) {
                uint32_t page = table[pos / kv->config.page_tokens], slot = pos % kv->config.page_tokens;

                c->k[c->n_groups] = kv_keys(kv, page, job->a->layer, item->kv_head, slot);
                c->v[c->n_groups++] = kv_values(kv, page, job->a->layer, item->kv_head, slot);
        }
}

static const attn_fn *kernels_of(const struct job *job) {
        const struct attn_kernels *k = job->kernels->attn;

        switch (job->kv->config.format) {
        case KV_F32: return k->f32;
        case KV_Q8_0: return k->q8_0;
        default: return k->f16;
        }
}

/* Queries [from, to) of the item, which all see [c->first, c->end) of the chunk. */
static void attend_queries(const struct job *job, const struct item *item, struct attn_chunk *c, uint32_t from,
                           uint32_t to) {
        const attn_fn *fns = kernels_of(job);
        uint32_t tile = tile_size(job);

        while (from < to) {
                uint32_t n = tile;

                while (n > to - from || from % tile + n > tile)
                        n /= 2;
                c->q = item->q + (size_t)(from / tile) * tile * job->kv->config.head_dim + from % tile;
                c->state = item->state + from;
                c->acc = item->acc + (size_t)from * job->acc_stride;
                fns[__builtin_ctz(n)](c);
                from += n;
        }
}

/* The positions that a row sees: up to its own, and no further back than the window. */
static uint32_t horizon(const struct job *job, uint32_t row) {
        uint32_t pos = job->batch->pos[row], window = job->a->window;

        return window > 0 && pos >= window ? pos - window + 1 : 0;
}

static void attend_chunk(const struct job *job, const struct item *item, struct attn_chunk *c, uint32_t base,
                         uint32_t length) {
        const uint32_t *pos = job->batch->pos;
        uint32_t last = item->first + item->n_rows - 1, row = item->first, whole_from, whole_to;

        /* Rows that see the whole chunk: from the first one past its end to the last one whose window holds its start. */
        while (row <= last && pos[row] < base + length - 1)
                row++;
        whole_from = row;
        while (row <= last && horizon(job, row) <= base)
                row++;
        whole_to = row;
        for (row = item->first; row <= last; row++) {
                uint32_t from = horizon(job, row);

                if (row == whole_from && whole_to > whole_from) {
                        c->first = 0;
                        c->end = length;
                        attend_queries(job, item, c, (whole_from - item->first) * job->group,
                                       (whole_to - item->first) * job->group);
                        row = whole_to - 1;
                } else if (pos[row] >= base && from < base + length) {
                        c->first = from > base ? from - base : 0;
                        c->end = MIN(pos[row] - base + 1, length);
                        attend_queries(job, item, c, (row - item->first) * job->group,
                                       (row - item->first + 1) * job->group);
                }
        }
}

static void attend_item(const struct job *job, struct item *item) {
        uint32_t length = chunk_positions(job->kv), end = job->batch->pos[item->first + item->n_rows - 1] + 1;
        struct attn_chunk c = { .head_dim = job->kv->config.head_dim, .scale = job->a->scale,
                                .softcap = job->a->softcap, .q_stride = tile_size(job),
                                .acc_stride = job->acc_stride };

        load_queries(job, item);
        for (uint32_t base = horizon(job, item->first) / length * length; base < end; base += length) {
                locate_chunk(job, item, base, MIN(base + length, end), &c);
                attend_chunk(job, item, &c, base, length);
        }
        store_queries(job, item);
}

/* Item: a run of item_rows rows and a KV head. Where a run crosses sequences it is cut there. */
static void attention_item(void *context, uint32_t index, unsigned worker) {
        const struct job *job = context;
        struct item item = item_memory(job, worker);
        uint32_t row = index / job->kv->config.n_kv_heads * job->item_rows;
        uint32_t end = MIN(row + job->item_rows, job->batch->n_rows);

        item.kv_head = index % job->kv->config.n_kv_heads;
        while (row < end) {
                item.first = row;
                while (row < end && job->batch->seq[row] == job->batch->seq[item.first])
                        row++;
                item.n_rows = row - item.first;
                attend_item(job, &item);
        }
}

int cpu_attention(struct backend *be, const struct attention *a, const struct kv_cache *kv,
                  const struct batch *batch, const float *q, float *out) {
        struct cpu_backend *cpu = cpu_of(be);
        struct job job = { .kernels = cpu->kernels, .a = a, .kv = kv, .batch = batch, .q = q, .out = out };
        const struct kv_config *config = &kv->config;
        uint64_t work = 0;
        int r;

        if (config->n_kv_heads == 0 || a->n_heads % config->n_kv_heads != 0 || a->n_heads == 0)
                return BACKEND_E_UNSUPPORTED;
        job.group = a->n_heads / config->n_kv_heads;
        job.item_rows = MAX(ITEM_QUERIES / job.group, 1u);
        job.acc_stride = (config->head_dim + 15) / 16 * 16;
        job.local_stride = item_bytes(&job);
        r = scratch_reserve(&cpu->local, pool_threads(cpu->pool) * job.local_stride);
        if (r != 0)
                return r;
        job.local = cpu->local.data;
        for (uint32_t i = 0; i < batch->n_rows; i++)
                work += (uint64_t)(batch->pos[i] + 1) * a->n_heads * config->head_dim * 2;
        cpu_run(cpu, work, (batch->n_rows + job.item_rows - 1) / job.item_rows * config->n_kv_heads, attention_item,
                &job);
        return 0;
}
