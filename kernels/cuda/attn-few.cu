/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Attention for few rows: decoding. A warp takes a row, a KV head and a split of positions, by its own ring of stages, and leaves
 * a partial result; a second kernel combines these. What counts is that K and V come at the memory's speed: a block of four
 * warps has 3 of 4 stages of 4 KB each (heads of 128, F16) under way, 48 KB an SM, where a GB10's 273 GB/s need about 6 KB
 * an SM for each microsecond of latency; two blocks an SM of an H100 have 96 KB for its 25. Eight query heads that share a
 * KV head fill half of a product; that is some 4 % of the tensor cores' time on the target, so nothing is lost by it. Blocks are as
 * many as the device holds and go round over the items, neighbours to different SMs. Not measured.
 */

#include "attn-kernels.cuh"
#include "attn-ring.cuh"
#include "launch.cuh"

template <int D, bool q8> struct attn_few_shape {
        using ring = attn_ring_shape<D, q8, 1, q8 ? 6 : 4, 32>;
        static constexpr uint32_t warp_bytes = ring::bytes + attn_shape<D>::query_bytes;
        static constexpr uint32_t bytes = attn_shape<D>::warps * warp_bytes;
        static_assert(bytes <= 99 * 1024, "what a block has on the smallest device");
};

/* What a warp works on. */
struct attn_few_item {
        struct cuda_attn_item item;
        uint32_t kv_head;
        uint32_t head, n; /* its queries: heads [head, head + n) */
};

DEVICE uint32_t attn_few_chunks(const struct cuda_attn &a) {
        return (a.attention.n_heads / a.kv.n_kv_heads + 15) / 16;
}

DEVICE attn_few_item attn_few_item_at(const struct cuda_attn &a, uint32_t index) {
        const struct cuda_attn_item *items = (const struct cuda_attn_item *)((const uint8_t *)a.plan + a.plan->items_at);
        uint32_t group = a.attention.n_heads / a.kv.n_kv_heads, chunks = attn_few_chunks(a), chunk = index % chunks;
        attn_few_item w;

        w.item = items[index / chunks / a.kv.n_kv_heads];
        w.kv_head = index / chunks % a.kv.n_kv_heads;
        w.head = w.kv_head * group + 16 * chunk;
        w.n = min(group - 16 * chunk, 16u);
        return w;
}

/* The thread's shares of a partial result: elements of each head first, then each head's top and sum. */
template <int D> DEVICE void attn_few_store(const struct cuda_attn &a, const attn_few_item &w, const attn_state &st,
                                            const float acc[D / 8][4]) {
        uint32_t lane = threadIdx.x % WARP, dim = a.kv.head_dim;
        float2 *states = (float2 *)(a.partials + (size_t)a.plan->n_partials * a.attention.n_heads * dim);

#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
                uint32_t query = lane / 4 + 8 * r;
                size_t at = (size_t)w.item.partial * a.attention.n_heads + w.head + query;
                float sum = attn_quad_sum(st.sum[r]);

                if (query >= w.n)
                        continue;
                if (lane % 4 == 0)
                        states[at] = make_float2(st.top[r], sum);
#pragma unroll
                for (uint32_t i = 0; i < D / 8; i++)
                        if (8 * i < dim)
                                *(float2 *)(a.partials + at * dim + 8 * i + lane % 4 * 2) = make_float2(acc[i][2 * r],
                                                                                                       acc[i][2 * r + 1]);
        }
}

template <int D, bool q8> DEVICE void attn_few_work(const struct cuda_attn &a, const attn_few_item &w, uint8_t *shared) {
        using S = typename attn_few_shape<D, q8>::ring;
        uint32_t query = threadIdx.x % WARP / 4, first, end;
        const float *head = a.q + w.item.row * a.q_stride + (size_t)(w.head + query) * a.kv.head_dim;
        const float *heads[2] = { query < w.n ? head : NULL, query + 8 < w.n ? head + 8 * a.kv.head_dim : NULL };
        attn_source source = attn_source_make(a, w.item.row, w.kv_head);
        attn_scorer scorer = attn_scorer_make(a.attention);
        attn_state st = attn_state_new();
        float acc[D / 8][4] = {};
        attn_query<D> q;
        attn_ring ring;

        source.to = a.batch.pos[w.item.row] + 1;
        source.from = attn_from(a.attention.window, source.to);
        scorer.to[0] = scorer.to[1] = scorer.low = scorer.high = source.to;
        first = max(source.from, cuda_attn_split_first(w.item.split)) / CUDA_ATTN_TILE;
        end = (min(source.to, cuda_attn_split_first(w.item.split + 1)) + CUDA_ATTN_TILE - 1) / CUDA_ATTN_TILE;
        __syncwarp(); /* the ring of the item before is read to its end */
        ring = attn_ring_start<D, q8, S>(source, shared, first, end);
        attn_query_load<D>(q, heads, a.kv.head_dim, shared + S::bytes);
        for (uint32_t tile = first; tile < end; tile++)
                attn_tile<D, q8, S>(ring, source, q, scorer, tile * CUDA_ATTN_TILE, true, st, acc);
        attn_few_store<D>(a, w, st, acc);
}

template <int D, bool q8>
__global__ void __launch_bounds__(WARP * attn_shape<D>::warps, 1) attn_few_kernel(struct cuda_attn a) {
        uint32_t warp = threadIdx.x / WARP, n;
        uint8_t *shared = shared_memory() + warp * attn_few_shape<D, q8>::warp_bytes;

        grid_launch_dependents();
        grid_wait();
        n = a.plan->n_items * a.kv.n_kv_heads * attn_few_chunks(a);
        for (uint32_t i = warp * gridDim.x + blockIdx.x; i < n; i += attn_shape<D>::warps * gridDim.x)
                attn_few_work<D, q8>(a, attn_few_item_at(a, i), shared);
}

#define COMBINE_THREADS 128u
#define COMBINE_AHEAD 8u /* partial results that are on their way together: 32,768 positions have 80 */

/* Four elements of a head of a row, of all its splits in order, finished. */
DEVICE void attn_combine_head(const struct cuda_attn &a, const struct cuda_attn_row &row, uint32_t head, uint32_t d, float total[4]) {
        uint32_t dim = a.kv.head_dim, n_heads = a.attention.n_heads;
        const float2 *states = (const float2 *)(a.partials + (size_t)a.plan->n_partials * n_heads * dim);
        float top = -attn_infinity(), sum = 0.0f, scale;

        for (uint32_t first = 0; first < row.n_partials; first += COMBINE_AHEAD) {
                float4 v[COMBINE_AHEAD];
                float2 state[COMBINE_AHEAD];

#pragma unroll
                for (uint32_t i = 0; i < COMBINE_AHEAD; i++) {
                        size_t at = (size_t)(row.first_partial + min(first + i, row.n_partials - 1)) * n_heads + head;

                        v[i] = *(const float4 *)(a.partials + at * dim + d);
                        state[i] = states[at];
                }
#pragma unroll
                for (uint32_t i = 0; i < COMBINE_AHEAD; i++)
                        if (first + i < row.n_partials) {
                                attn_fold f = attn_fold_state(top, sum, state[i].x, state[i].y);

                                total[0] = attn_fold_element(f, total[0], v[i].x);
                                total[1] = attn_fold_element(f, total[1], v[i].y);
                                total[2] = attn_fold_element(f, total[2], v[i].z);
                                total[3] = attn_fold_element(f, total[3], v[i].w);
                        }
        }
        scale = attn_finish(top, sum, a.attention.sinks, head);
        for (uint32_t i = 0; i < 4; i++)
                total[i] *= scale;
}

/* A thread combines four elements of a row: block (row of the plan, 512 of its elements). */
__global__ void __launch_bounds__(COMBINE_THREADS) attn_combine_kernel(struct cuda_attn a) {
        uint32_t k = 4 * (blockIdx.y * COMBINE_THREADS + threadIdx.x), dim = a.kv.head_dim, n_heads = a.attention.n_heads;
        const struct cuda_attn_row *rows;
        struct cuda_attn_row row;
        float total[4] = {};

        grid_launch_dependents();
        grid_wait();
        if (blockIdx.x >= a.plan->n_rows)
                return;
        rows = (const struct cuda_attn_row *)((const uint8_t *)a.plan + a.plan->rows_at);
        row = rows[blockIdx.x];
        if (k < n_heads * dim)
                attn_combine_head(a, row, k / dim, k % dim, total);
        attn_store(a.out, row.row, k, total, k < (n_heads * dim + 31) / 32 * 32);
}

/* --- launching --- */

static dim3 combine_grid(const struct cuda_attn *a) {
        uint32_t elements = (a->attention.n_heads * a->kv.head_dim + 31) / 32 * 32;

        return dim3(a->max_rows, (elements + 4 * COMBINE_THREADS - 1) / (4 * COMBINE_THREADS));
}

struct few_launch {
        const struct cuda_launch *l;
        const struct cuda_attn *a;

        template <int D, bool q8> cudaError_t run(void) const {
                return launch(attn_few_kernel<D, q8>, dim3(a->grid_items), dim3(WARP * attn_shape<D>::warps),
                              attn_few_shape<D, q8>::bytes, l->stream, l->dependent, *a);
        }
};

struct few_prepare {
        template <int D, bool q8> cudaError_t run(void) const {
                return cudaFuncSetAttribute(attn_few_kernel<D, q8>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            (int)attn_few_shape<D, q8>::bytes);
        }
};

struct few_blocks {
        int *blocks;

        template <int D, bool q8> cudaError_t run(void) const {
                return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, attn_few_kernel<D, q8>, WARP * attn_shape<D>::warps,
                                                                     attn_few_shape<D, q8>::bytes);
        }
};

cudaError_t attn_few(const struct cuda_launch *l, const struct cuda_attn *a) {
        few_launch work = { l, a };
        cudaError_t e = attn_each_shape(a->kv.format, a->kv.head_dim, work);

        if (e != cudaSuccess)
                return e;
        return launch(attn_combine_kernel, combine_grid(a), dim3(COMBINE_THREADS), 0, l->stream, l->dependent, *a);
}

cudaError_t attn_few_prepare(void) {
        return attn_all_shapes(few_prepare());
}

uint32_t cuda_attn_grid_items(enum kv_format format, uint32_t head_dim, uint32_t n_sms) {
        int n = 0;
        few_blocks blocks = { &n };

        if (format == KV_F32 || attn_each_shape(format, head_dim, blocks) != cudaSuccess)
                return n_sms;
        return n_sms * (n > 0 ? (uint32_t)n : 1u);
}
