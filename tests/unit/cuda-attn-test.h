/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Two made-up sequences in a paged cache on the (emulated) device, attention of any of their rows in any company, and the same in
 * double precision over what the cache holds. Pages are scattered; what nobody has written is not a number.
 */

#include <math.h>
#include <stdio.h>

#include "kernels-fixture.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cuda/attn.h"
#include "kernels/half.h"

#define NO_PAGE 0x7fffffffu

static inline void cuda_ok(cudaError_t e) {
        assert_int_equal(e, cudaSuccess);
}

/* Memory of the device, with what `from` has, or all bytes 0xff. */
static inline void *device_copy(const void *from, size_t bytes) {
        void *p = NULL;

        cuda_ok(cudaMalloc(&p, bytes > 0 ? bytes : 1));
        cuda_ok(from ? cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice) : cudaMemset(p, 0xff, bytes));
        return p;
}

static inline void *host_copy(const void *from, size_t bytes) {
        void *p = malloc(bytes > 0 ? bytes : 1);

        assert_non_null(p);
        cuda_ok(cudaMemcpy(p, from, bytes, cudaMemcpyDeviceToHost));
        return p;
}

/* --- the cache, as its layout is described -------------------------------------------------------------------------- */

struct cuda_kv_place {
        uint8_t *elements, *scales;
};

/* Of a position's K (part 0) or V in a host copy of the cache. */
static inline struct cuda_kv_place kv_place(const struct kv_config *c, uint8_t *cache, uint32_t page, uint32_t layer,
                                            uint32_t head, uint32_t part, uint32_t slot) {
        size_t part_bytes = cuda_kv_part_bytes(c), blocks = (c->head_dim + 31) / 32;
        size_t element = c->format == KV_F32 ? 4 : c->format == KV_F16 ? 2 : 1;
        uint8_t *p = cache + page * cuda_kv_page_bytes(c) + (((size_t)layer * c->n_kv_heads + head) * 2 + part) * part_bytes;

        return (struct cuda_kv_place){ .elements = p + slot * c->head_dim * element,
                                       .scales = p + (size_t)c->page_tokens * c->head_dim + slot * blocks * 2 };
}

static inline void kv_put(const struct kv_config *c, struct cuda_kv_place to, const float *x) {
        struct kv_block blocks[8];

        switch (c->format) {
        case KV_F32:
                memcpy(to.elements, x, c->head_dim * sizeof(*x));
                break;
        case KV_F16:
                for (uint32_t d = 0; d < c->head_dim; d++)
                        store_f16(to.elements + 2 * (size_t)d, x[d]);
                break;
        case KV_Q8_0:
                cpu_kernels_find("c")->rows->to_q8_0(x, c->head_dim, blocks);
                for (uint32_t b = 0; b * 32 < c->head_dim; b++) {
                        memcpy(to.elements + (size_t)b * 32, blocks[b].q, MIN(c->head_dim - b * 32, 32u));
                        store_u16(to.scales + (size_t)b * 2, blocks[b].scale);
                }
                break;
        }
}

/* As the kernels take it: dequantized values are halves. */
static inline void kv_get(const struct kv_config *c, struct cuda_kv_place from, float *x) {
        for (uint32_t d = 0; d < c->head_dim; d++) {
                float scale;

                switch (c->format) {
                case KV_F32:
                        x[d] = load_f32(from.elements + 4 * (size_t)d);
                        break;
                case KV_F16:
                        x[d] = load_f16(from.elements + 2 * (size_t)d);
                        break;
                case KV_Q8_0:
                        scale = load_f16(from.scales + (size_t)d / 32 * 2);
                        x[d] = f16_to_float(f16_from_float((float)(int8_t)from.elements[d] * scale));
                        break;
                }
        }
}

/* --- sequences ------------------------------------------------------------------------------------------------------ */

#define SEQUENCES 2u

struct attn_world {
        struct kv_config kv;
        struct attention a; /* sinks: host */
        uint32_t first, n_pos; /* positions that are in the cache */
        uint32_t n_table, *table; /* [SEQUENCES][n_table] */
        float *q;              /* [SEQUENCES][n_pos][n_heads * head_dim] */
        float *k, *v;          /* [SEQUENCES][n_pos][n_kv_heads][head_dim], from the cache */
        void *cache, *sinks;   /* device */
};

static inline size_t world_row(const struct attn_world *w, uint32_t s, uint32_t pos) {
        return (size_t)s * w->n_pos + pos;
}

/* Every third page belongs to nobody. */
static inline void world_tables(struct attn_world *w) {
        uint32_t next = w->kv.n_pages - 1;

        for (uint32_t i = 0; i < w->n_table; i++)
                for (uint32_t s = 0; s < SEQUENCES; s++) {
                        w->table[s * w->n_table + i] = NO_PAGE;
                        if ((i + 1) * w->kv.page_tokens > w->first) {
                                w->table[s * w->n_table + i] = next;
                                next -= s + 1;
                        }
                }
}

/* a.window, a.softcap and a.sinks are the caller's; kv too, n_pages apart. */
static inline void world_make(struct attn_world *w, uint32_t first, uint32_t n_pos) {
        const struct kv_config *c = &w->kv;
        size_t rows = (size_t)SEQUENCES * n_pos, nk = (size_t)c->n_kv_heads * c->head_dim;
        uint8_t *cache;

        w->first = first;
        w->n_pos = n_pos;
        w->n_table = (n_pos + c->page_tokens - 1) / c->page_tokens;
        w->kv.n_pages = 3 * (w->n_table - first / c->page_tokens);
        w->a.scale = 1.0f / sqrtf((float)c->head_dim);
        w->table = malloc((size_t)SEQUENCES * w->n_table * sizeof(*w->table));
        w->q = floats(rows * w->a.n_heads * c->head_dim, 1.5f);
        w->k = floats(rows * nk, 1.5f);
        w->v = floats(rows * nk, 1.5f);
        cache = malloc(w->kv.n_pages * cuda_kv_page_bytes(c));
        assert_true(w->table && cache);
        memset(cache, 0xff, w->kv.n_pages * cuda_kv_page_bytes(c));
        world_tables(w);
        for (uint32_t s = 0; s < SEQUENCES; s++)
                for (uint32_t pos = first; pos < n_pos; pos++)
                        for (uint32_t i = 0; i < 2 * c->n_kv_heads; i++) {
                                float *x = (i % 2 ? w->v : w->k) + world_row(w, s, pos) * nk + (size_t)(i / 2) * c->head_dim;
                                struct cuda_kv_place at = kv_place(c, cache, w->table[s * w->n_table + pos / c->page_tokens],
                                                                   w->a.layer, i / 2, i % 2, pos % c->page_tokens);

                                kv_put(c, at, x);
                                kv_get(c, at, x);
                        }
        w->cache = device_copy(cache, w->kv.n_pages * cuda_kv_page_bytes(c));
        w->sinks = w->a.sinks ? device_copy(w->a.sinks, w->a.n_heads * sizeof(float)) : NULL;
        free(cache);
}

static inline void world_free(struct attn_world *w) {
        cuda_ok(cudaFree(w->cache));
        cuda_ok(cudaFree(w->sinks));
        free(w->table);
        free(w->q);
        free(w->k);
        free(w->v);
}

/* --- rows ----------------------------------------------------------------------------------------------------------- */

#define ROWS_MAX 1024u

/* Of a batch: rows of one `seq` are those of a sequence that stand together. */
struct attn_rows {
        uint32_t n, n_seqs;
        uint32_t sequence[ROWS_MAX], pos[ROWS_MAX], seq[ROWS_MAX];
};

/* Rows [pos, pos + n) as a run. */
static inline void rows_add(struct attn_rows *r, uint32_t sequence, uint32_t pos, uint32_t n) {
        for (uint32_t i = 0; i < n; i++) {
                assert_true(r->n < ROWS_MAX);
                r->sequence[r->n] = sequence;
                r->pos[r->n] = pos + i;
                r->seq[r->n++] = r->n_seqs;
        }
        r->n_seqs++;
}

/* What attention gave, on the host. */
struct attn_result {
        uint32_t n, n_in;
        float *f32, *sums;
        uint16_t *x;
};

static inline void result_free(struct attn_result *r) {
        free(r->f32);
        free(r->sums);
        free(r->x);
}

/* Device memory of a launch. */
struct attn_buffers {
        void *pos, *seq, *table_start, *table, *q, *plan, *partials, *count, *f32, *sums, *x;
};

static inline void *rows_queries(const struct attn_world *w, const struct attn_rows *r) {
        size_t n = (size_t)w->a.n_heads * w->kv.head_dim, stride = n + 4;
        float *q = malloc(r->n * stride * sizeof(*q));
        void *p;

        assert_non_null(q);
        for (uint32_t i = 0; i < r->n; i++)
                memcpy(q + i * stride, w->q + world_row(w, r->sequence[i], r->pos[i]) * n, n * sizeof(*q));
        p = device_copy(q, r->n * stride * sizeof(*q));
        free(q);
        return p;
}

static inline void *rows_tables(const struct attn_world *w, const struct attn_rows *r) {
        uint32_t *start = calloc(r->n_seqs, sizeof(*start));
        void *p;

        assert_non_null(start);
        for (uint32_t i = 0; i < r->n; i++)
                start[r->seq[i]] = r->sequence[i] * w->n_table;
        p = device_copy(start, r->n_seqs * sizeof(*start));
        free(start);
        return p;
}

/* The plan, on the device; fills in what it needs. */
static inline void *rows_plan(const struct attn_world *w, const struct attn_rows *r, struct cuda_attn *a) {
        struct batch batch = { .n_rows = r->n, .pos = r->pos, .seq = r->seq, .n_seqs = r->n_seqs };
        uint32_t tile_rows = cuda_attn_tile_rows(w->a.n_heads, w->kv.n_kv_heads, w->kv.head_dim);
        size_t bytes = cuda_attn_plan_bytes(&batch, w->a.window, tile_rows, UINT32_MAX);
        struct cuda_attn_plan *plan = malloc(bytes);
        void *p;

        assert_non_null(plan);
        assert_true(bytes <= cuda_attn_plan_bytes_max(r->n, w->n_pos, tile_rows));
        cuda_attn_plan_make(&batch, w->a.window, tile_rows, UINT32_MAX, plan);
        assert_int_equal(plan->bytes, bytes);
        p = device_copy(plan, bytes);
        a->max_items = plan->n_items;
        a->max_rows = plan->n_rows;
        a->max_tiles = plan->n_tiles;
        a->partials = device_copy(NULL, cuda_attn_partial_bytes(plan->n_partials, w->a.n_heads, w->kv.head_dim));
        a->plan = p;
        free(plan);
        return p;
}

/* Rows beyond `count` are not computed where the format's kernels go by it (KV_F32; the others go by the plan). */
static inline struct attn_result rows_run(const struct attn_world *w, const struct attn_rows *r, uint32_t grid_items) {
        uint32_t n_in = w->a.n_heads * w->kv.head_dim;
        size_t sums = cuda_packed_sums_bytes(r->n, n_in), x = cuda_packed_x_bytes(r->n, n_in), f32 = (size_t)r->n * n_in * 4;
        struct attn_buffers d = { .pos = device_copy(r->pos, r->n * 4), .seq = device_copy(r->seq, r->n * 4),
                                  .table_start = rows_tables(w, r), .q = rows_queries(w, r), .count = device_copy(&r->n, 4),
                                  .table = device_copy(w->table, (size_t)SEQUENCES * w->n_table * 4),
                                  .f32 = device_copy(NULL, f32), .sums = device_copy(NULL, sums), .x = device_copy(NULL, x) };
        struct cuda_attn a = { .rows = { d.count, 1, r->n }, .attention = w->a, .q = d.q, .q_stride = n_in + 4,
                               .batch = { .pos = d.pos, .seq = d.seq, .table_start = d.table_start, .table = d.table },
                               .grid_items = grid_items, .out = { .x = d.x, .sums = d.sums, .f32 = d.f32, .n_in = n_in } };
        struct cuda_launch launch = { .stream = NULL };
        struct attn_result ret = { .n = r->n, .n_in = n_in };

        a.kv = (struct cuda_kv){ w->kv.format, w->kv.n_layers, w->kv.n_kv_heads, w->kv.head_dim, w->kv.page_tokens,
                                 w->kv.n_pages, cuda_kv_page_bytes(&w->kv), w->cache };
        a.attention.sinks = w->sinks;
        d.plan = rows_plan(w, r, &a);
        d.partials = a.partials;
        cuda_ok(cuda_attn_prepare());
        cuda_ok(cuda_attn(&launch, &a));
        cuda_ok(cudaDeviceSynchronize());
        ret.f32 = host_copy(d.f32, f32);
        ret.sums = host_copy(d.sums, sums);
        ret.x = host_copy(d.x, x);
        for (size_t i = 0; i < sizeof(d) / sizeof(void *); i++)
                cuda_ok(cudaFree(((void **)&d)[i]));
        return ret;
}

/* --- in double precision -------------------------------------------------------------------------------------------- */

static inline void attend_exactly(const struct attn_world *w, uint32_t s, uint32_t pos, uint32_t head, double *out) {
        uint32_t dim = w->kv.head_dim, kv_head = head / (w->a.n_heads / w->kv.n_kv_heads);
        uint32_t first = w->a.window > 0 && pos >= w->a.window ? pos - w->a.window + 1 : 0;
        const float *row = w->q + world_row(w, s, pos) * w->a.n_heads * dim + (size_t)head * dim;
        double q[256], sum = w->a.sinks ? exp((double)w->a.sinks[head]) : 0.0;

        for (uint32_t d = 0; d < dim; d++) {
                float limited = fmaxf(-65504.0f, fminf(65504.0f, row[d]));

                q[d] = w->kv.format == KV_F32 ? (double)row[d] : (double)f16_to_float(f16_from_float(limited));
                out[d] = 0.0;
        }
        for (uint32_t p = first; p <= pos; p++) {
                size_t at = (world_row(w, s, p) * w->kv.n_kv_heads + kv_head) * dim;
                double score = 0.0, weight;

                for (uint32_t d = 0; d < dim; d++)
                        score += q[d] * (double)w->k[at + d];
                score *= (double)w->a.scale;
                if (w->a.softcap > 0.0f)
                        score = (double)w->a.softcap * tanh(score / (double)w->a.softcap);
                weight = exp(score);
                sum += weight;
                for (uint32_t d = 0; d < dim; d++)
                        out[d] += weight * (double)w->v[at + d];
        }
        for (uint32_t d = 0; d < dim; d++)
                out[d] /= sum;
}

/* Weights are halves: each is off by up to 2^-12 of itself, of values up to 1.5. */
#define HALF_LIMIT 4e-4
#define FLOAT_LIMIT 4e-6

static inline void check_exactly(const struct attn_world *w, const struct attn_rows *r, const struct attn_result *got) {
        double limit = w->kv.format == KV_F32 ? FLOAT_LIMIT : HALF_LIMIT, exact[256];
        uint32_t dim = w->kv.head_dim;

        for (uint32_t i = 0; i < r->n; i++)
                for (uint32_t h = 0; h < w->a.n_heads; h++) {
                        attend_exactly(w, r->sequence[i], r->pos[i], h, exact);
                        for (uint32_t d = 0; d < dim; d++) {
                                double x = (double)got->f32[(size_t)i * got->n_in + (size_t)h * dim + d];

                                if (!(fabs(x - exact[d]) <= limit))
                                        fail_msg("format %d, head_dim %u, %u heads of %u: row %u (position %u), head %u, element "
                                                 "%u is %g, not %g", w->kv.format, dim, w->a.n_heads, w->kv.n_kv_heads, i,
                                                 r->pos[i], h, d, x, exact[d]);
                        }
                }
}

/* That packed forms are those of the floats, with zeros up to whole 32. */
static inline void check_packed(const struct attn_result *r) {
        uint32_t chunks = (r->n_in + 31) / 32;

        for (uint32_t row = 0; row < r->n; row++) {
                float sum = 0.0f;

                for (uint32_t k = 0; k < chunks * 32; k++) {
                        size_t at = (((size_t)row / 8 * chunks + k / 32) * 32 + row % 8 * 4 + k % 16 / 4) * 8 + k % 32 / 16 * 4 + k % 4;
                        float x = k < r->n_in ? r->f32[(size_t)row * r->n_in + k] : 0.0f;

                        assert_int_equal(r->x[at], bf16_from_float(x));
                        sum = (k % 16 == 0 ? 0.0f : sum) + bf16_to_float(r->x[at]);
                        if (k % 16 == 15)
                                assert_true(r->sums[(size_t)row * chunks * 2 + k / 16] == sum);
                }
        }
}

/* Rows of `other` (the same ones or some of them) have the bits that they have in `all`. */
static inline void check_bits(const struct attn_world *w, const struct attn_rows *all, const struct attn_result *result,
                              const struct attn_rows *others, const struct attn_result *other, const char *what) {
        for (uint32_t i = 0; i < others->n; i++) {
                uint32_t j = 0;

                while (j < all->n && (all->sequence[j] != others->sequence[i] || all->pos[j] != others->pos[i]))
                        j++;
                assert_true(j < all->n);
                if (memcmp(result->f32 + (size_t)j * result->n_in, other->f32 + (size_t)i * result->n_in, result->n_in * 4) != 0)
                        fail_msg("format %d, head_dim %u, %u heads of %u, window %u: position %u has other bits %s", w->kv.format,
                                 w->kv.head_dim, w->a.n_heads, w->kv.n_kv_heads, w->a.window, others->pos[i], what);
        }
}
