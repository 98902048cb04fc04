/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Attention for many rows of a sequence: prompts. A block has 64 queries of one KV head (32 where heads are longer than 128): the
 * heads of a group for a run of rows, 16 to a warp. Stages of 32 positions come by one ring for all warps. A split's sums start
 * from zero, and go into totals at its end, as if a warp of the other kernel had left them: that is what it costs to give the
 * same bits, 64 registers for heads of 128 and some multiply-adds every 256 positions. Longer heads have their totals and queries in
 * shared memory. Two blocks an SM fit 100 KB and 64 Ki registers, for heads up to 128. Not measured.
 */

#include "attn-kernels.cuh"
#include "attn-ring.cuh"
#include "launch.cuh"

template <int D, bool q8> struct attn_many_shape {
        static constexpr uint32_t warps = attn_shape<D>::warps, threads = WARP * warps, queries = 16 * warps;
        using ring = attn_ring_shape<D, q8, 2, attn_shape<D>::wide ? 3 : 4, WARP * attn_shape<D>::warps>;
        static constexpr uint32_t out_stride = D + 4; /* floats of a query on their way out */
        static constexpr uint32_t out_bytes = queries * out_stride * (uint32_t)sizeof(float);
        static constexpr uint32_t ring_bytes = ring::bytes > out_bytes ? ring::bytes : out_bytes;
        static constexpr uint32_t total_bytes = attn_shape<D>::wide ? queries * D * (uint32_t)sizeof(float) : 0;
        static constexpr uint32_t bytes = ring_bytes + warps * attn_shape<D>::query_bytes + total_bytes;
        static_assert(bytes <= 99 * 1024, "what a block has on the smallest device");
};

/* A block's queries: [first, end) of a tile of rows, heads innermost; and the warp's of these. */
struct attn_many_block {
        struct cuda_attn_tile tile;
        uint32_t kv_head, group, first, end;
        uint32_t warp_first, warp_end;
};

/* Made again when it is needed again: registers are scarce in between. */
DEVICE attn_many_block attn_many_block_make(const struct cuda_attn &a, uint32_t queries) {
        const struct cuda_attn_tile *tiles = (const struct cuda_attn_tile *)((const uint8_t *)a.plan + a.plan->tiles_at);
        attn_many_block b;

        b.tile = tiles[blockIdx.y];
        b.kv_head = blockIdx.x % a.kv.n_kv_heads;
        b.group = a.attention.n_heads / a.kv.n_kv_heads;
        b.first = blockIdx.x / a.kv.n_kv_heads * queries;
        b.end = min(b.tile.n * b.group, b.first + queries);
        b.warp_first = min(b.first + threadIdx.x / WARP * 16, b.end);
        b.warp_end = min(b.warp_first + 16, b.end);
        return b;
}

DEVICE uint32_t attn_many_row(const attn_many_block &b, uint32_t query) {
        return b.tile.first + query / b.group;
}

DEVICE uint32_t attn_many_head(const attn_many_block &b, uint32_t query) {
        return b.kv_head * b.group + query % b.group;
}

/* The position behind the last one that a query sees. Those of a block ascend. */
DEVICE uint32_t attn_many_to(const struct cuda_attn &a, const attn_many_block &b, uint32_t query) {
        return a.batch.pos[attn_many_row(b, query)] + 1;
}

/* Sums over all splits. */
template <int D> struct attn_totals {
        float top[2], sum[2];
        float acc[attn_shape<D>::wide ? 1 : D / 8][4];
        float *shared; /* the lane's: every 32nd */
};

template <int D> DEVICE float *attn_total(attn_totals<D> &t, uint32_t i, uint32_t j) {
        return attn_shape<D>::wide ? t.shared + (4 * i + j) * 32 : &t.acc[attn_shape<D>::wide ? 0 : i][j];
}

template <int D> DEVICE void attn_totals_start(attn_totals<D> &t, float *shared) {
        t.top[0] = t.top[1] = -attn_infinity();
        t.sum[0] = t.sum[1] = 0.0f;
        t.shared = shared + threadIdx.x % WARP;
#pragma unroll
        for (uint32_t i = 0; i < D / 8; i++)
#pragma unroll
                for (uint32_t j = 0; j < 4; j++)
                        *attn_total(t, i, j) = 0.0f;
}

/* A split is at its end: what there is of it goes into the totals. */
template <int D> DEVICE void attn_totals_fold(attn_totals<D> &t, attn_state &st, float acc[D / 8][4]) {
        attn_fold f[2];

#pragma unroll
        for (uint32_t r = 0; r < 2; r++)
                f[r] = attn_fold_state(t.top[r], t.sum[r], st.top[r], attn_quad_sum(st.sum[r]));
#pragma unroll
        for (uint32_t i = 0; i < D / 8; i++)
#pragma unroll
                for (uint32_t j = 0; j < 4; j++) {
                        float *total = attn_total(t, i, j);

                        *total = attn_fold_element(f[j / 2], *total, acc[i][j]);
                        acc[i][j] = 0.0f;
                }
        st = attn_state_new();
}

/* The warp's totals, finished, to shared memory, where a query's elements stand together. */
template <int D, bool q8> DEVICE void attn_many_finish(const struct cuda_attn &a, const attn_many_block &b, attn_totals<D> &t,
                                                       float *out) {
        uint32_t lane = threadIdx.x % WARP;

#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
                uint32_t query = lane / 4 + 8 * r;
                float *to = out + query * attn_many_shape<D, q8>::out_stride + lane % 4 * 2;
                float scale = attn_finish(t.top[r], t.sum[r], a.attention.sinks, attn_many_head(b, b.warp_first + query));

#pragma unroll
                for (uint32_t i = 0; i < D / 8; i++)
                        *(float2 *)(to + 8 * i) = make_float2(*attn_total(t, i, 2 * r) * scale, *attn_total(t, i, 2 * r + 1) * scale);
        }
        __syncwarp();
}

/* Stores the warp's queries, whose elements are at `out`. */
template <int D, bool q8> DEVICE void attn_many_store(const struct cuda_attn &a, const attn_many_block &b, const float *out) {
        uint32_t dim = a.kv.head_dim;

        for (uint32_t query = b.warp_first; query < b.warp_end; query++, out += attn_many_shape<D, q8>::out_stride) {
                uint32_t head = attn_many_head(b, query);
                /* the row's last head fills it up to whole 32 */
                uint32_t length = head + 1 == a.attention.n_heads ? dim + (head + 1) * dim % 32 : dim;

#pragma unroll
                for (uint32_t d0 = 0; d0 < D; d0 += 128) {
                        uint32_t d = d0 + threadIdx.x % WARP * 4;
                        float v[4] = {};

                        for (uint32_t i = 0; d < dim && i < 4; i++)
                                v[i] = out[d + i];
                        attn_store(a.out, attn_many_row(b, query), head * dim + d, v, d < length);
                }
        }
}

/* What the warp's queries see, and where the thread's two are. */
DEVICE void attn_many_queries_of(const struct cuda_attn &a, const attn_many_block &b, attn_scorer &scorer, const float *heads[2]) {
        if (b.warp_first < b.warp_end) {
                scorer.low = attn_many_to(a, b, b.warp_first);
                scorer.high = attn_many_to(a, b, b.warp_end - 1);
        }
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
                uint32_t query = b.warp_first + threadIdx.x % WARP / 4 + 8 * r;

                heads[r] = NULL;
                if (query >= b.warp_end)
                        continue;
                scorer.to[r] = attn_many_to(a, b, query);
                heads[r] = a.q + attn_many_row(b, query) * a.q_stride + (size_t)attn_many_head(b, query) * a.kv.head_dim;
        }
}

/* All tiles that the block's queries see, for the warp's. */
template <int D, bool q8> DEVICE void attn_many_work(const struct cuda_attn &a, const attn_many_block &b, uint8_t *shared,
                                                     attn_totals<D> &totals) {
        using shape = attn_many_shape<D, q8>;
        using S = typename shape::ring;
        uint32_t warp = threadIdx.x / WARP, tile, end;
        attn_source source = attn_source_make(a, b.tile.first, b.kv_head);
        attn_scorer scorer = attn_scorer_make(a.attention);
        attn_state st = attn_state_new();
        float acc[D / 8][4] = {};
        const float *heads[2];
        bool touched = false;
        attn_query<D> q;
        attn_ring ring;

        source.from = attn_from(a.attention.window, attn_many_to(a, b, b.first));
        source.to = attn_many_to(a, b, b.end - 1);
        tile = source.from / CUDA_ATTN_TILE;
        end = (source.to + CUDA_ATTN_TILE - 1) / CUDA_ATTN_TILE;
        ring = attn_ring_start<D, q8, S>(source, shared, tile, end);
        attn_many_queries_of(a, b, scorer, heads);
        shared += shape::ring_bytes;
        attn_query_load<D>(q, heads, a.kv.head_dim, shared + warp * attn_shape<D>::query_bytes);
        shared += shape::warps * attn_shape<D>::query_bytes;
        attn_totals_start(totals, (float *)shared + warp * 16 * D);
        for (; tile < end; tile++) {
                uint32_t base = tile * CUDA_ATTN_TILE, next = base + CUDA_ATTN_TILE;
                bool sees = attn_sees_any(scorer, base);

                attn_tile<D, q8, S>(ring, source, q, scorer, base, sees, st, acc);
                touched |= sees;
                if (touched && (tile + 1 == end || cuda_attn_split_of(base) != cuda_attn_split_of(next))) {
                        attn_totals_fold(totals, st, acc);
                        touched = false;
                }
        }
}

template <int D, bool q8> __global__ void __launch_bounds__(attn_many_shape<D, q8>::threads, 1) attn_many_kernel(struct cuda_attn a) {
        using shape = attn_many_shape<D, q8>;
        float *out = (float *)shared_memory() + threadIdx.x / WARP * 16 * shape::out_stride;
        attn_many_block b;
        attn_totals<D> totals;

        grid_launch_dependents();
        grid_wait();
        if (blockIdx.y >= a.plan->n_tiles)
                return;
        b = attn_many_block_make(a, shape::queries);
        if (b.first >= b.end)
                return;
        attn_many_work<D, q8>(a, b, shared_memory(), totals);
        __syncthreads(); /* the ring is read to its end */
        b = attn_many_block_make(a, shape::queries);
        attn_many_finish<D, q8>(a, b, totals, out);
        attn_many_store<D, q8>(a, b, out);
}

/* --- launching --- */

struct many_launch {
        const struct cuda_launch *l;
        const struct cuda_attn *a;

        template <int D, bool q8> cudaError_t run(void) const {
                using shape = attn_many_shape<D, q8>;
                uint32_t group = a->attention.n_heads / a->kv.n_kv_heads;
                uint32_t rows = cuda_attn_tile_rows(a->attention.n_heads, a->kv.n_kv_heads, a->kv.head_dim);
                uint32_t chunks = (rows * group + shape::queries - 1) / shape::queries;

                return launch(attn_many_kernel<D, q8>, dim3(a->kv.n_kv_heads * chunks, a->max_tiles), dim3(shape::threads),
                              shape::bytes, l->stream, l->dependent, *a);
        }
};

struct many_prepare {
        template <int D, bool q8> cudaError_t run(void) const {
                return cudaFuncSetAttribute(attn_many_kernel<D, q8>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            (int)attn_many_shape<D, q8>::bytes);
        }
};

uint32_t attn_many_queries(uint32_t head_dim) {
        return head_dim > 128 ? attn_many_shape<256, false>::queries : attn_many_shape<128, false>::queries;
}

cudaError_t attn_many(const struct cuda_launch *l, const struct cuda_attn *a) {
        many_launch work = { l, a };

        return attn_each_shape(a->kv.format, a->kv.head_dim, work);
}

cudaError_t attn_many_prepare(void) {
        return attn_all_shapes(many_prepare());
}
