/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Attention over a cache of floats, all in single precision: what results are compared with, not what is fast. A warp has two
 * heads of one row, which are whole 16 elements together, and goes for each through all positions it sees, 32 at a time, those that
 * start at multiples of 32: each thread the score of one, then all of them together the weighted sum of V, each four elements of
 * it (and four more, of longer heads).
 */

#include "attn-kernels.cuh"
#include "attn-tile.cuh"
#include "launch.cuh"

#define F32_WARPS 4u

struct attn_f32_head {
        const float *q, *data; /* data: page 0's, of the layer and KV head */
        size_t page, part;     /* floats */
        const uint32_t *table;
        uint32_t from, to;
};

DEVICE attn_f32_head attn_f32_head_make(const struct cuda_attn &a, uint32_t row, uint32_t head) {
        uint32_t kv_head = head / (a.attention.n_heads / a.kv.n_kv_heads);
        attn_f32_head h;

        h.q = a.q + row * a.q_stride + (size_t)head * a.kv.head_dim;
        h.part = (size_t)a.kv.page_tokens * a.kv.head_dim;
        h.page = a.kv.page_bytes / sizeof(float);
        h.data = (const float *)a.kv.data + ((size_t)a.attention.layer * a.kv.n_kv_heads + kv_head) * 2 * h.part;
        h.table = a.batch.table + a.batch.table_start[a.batch.seq[row]];
        h.to = a.batch.pos[row] + 1;
        h.from = attn_from(a.attention.window, h.to);
        return h;
}

/* K of a position that is seen; V is `part` further on. */
DEVICE const float *attn_f32_keys(const struct cuda_attn &a, const attn_f32_head &h, uint32_t pos) {
        return h.data + h.table[pos / a.kv.page_tokens] * h.page + (size_t)(pos % a.kv.page_tokens) * a.kv.head_dim;
}

DEVICE float attn_f32_dot(const float *q, const float *k, uint32_t dim) {
        float sum = 0.0f;

        for (uint32_t d = 0; d < dim; d += 4) {
                float4 x = *(const float4 *)(q + d), y = *(const float4 *)(k + d);

                sum = fmaf(x.x, y.x, sum);
                sum = fmaf(x.y, y.y, sum);
                sum = fmaf(x.z, y.z, sum);
                sum = fmaf(x.w, y.w, sum);
        }
        return sum;
}

DEVICE float attn_warp_max(float x) {
        for (int lanes = 16; lanes > 0; lanes /= 2)
                x = fmaxf(x, __shfl_xor_sync(WARP_ALL, x, lanes));
        return x;
}

/* What one thread has of the sums. */
struct attn_f32_sums {
        float top, sum; /* sum: of the thread's positions */
        float acc[2][4]; /* elements 4 lane .. and 128 + 4 lane .. */
};

/* Positions [base, base + 32). */
DEVICE void attn_f32_step(const struct cuda_attn &a, const attn_scorer &scorer, const attn_f32_head &h, uint32_t base,
                          attn_f32_sums &s) {
        uint32_t lane = threadIdx.x % WARP, pos = base + lane;
        bool seen = pos >= h.from && pos < h.to;
        const float *keys = seen ? attn_f32_keys(a, h, pos) : NULL;
        float score = seen ? attn_score(scorer, attn_f32_dot(h.q, keys, a.kv.head_dim)) : -attn_infinity();
        float top = fmaxf(s.top, attn_warp_max(score)), shrink = attn_ratio(s.top, top), weight;

        s.top = top;
        weight = exp2f(score - (top == -attn_infinity() ? 0.0f : top));
        s.sum = fmaf(s.sum, shrink, weight);
        for (uint32_t i = 0; i < 8; i++)
                s.acc[i / 4][i % 4] *= shrink;
        for (uint32_t p = max(base, h.from); p < min(base + 32, h.to); p++) {
                float w = __shfl_sync(WARP_ALL, weight, p - base);
                const float *values = attn_f32_keys(a, h, p) + h.part;

                for (uint32_t i = 0; i < 2; i++) {
                        uint32_t d = 128 * i + 4 * lane;
                        float4 v;

                        if (d >= a.kv.head_dim)
                                break;
                        v = *(const float4 *)(values + d);
                        s.acc[i][0] = fmaf(w, v.x, s.acc[i][0]);
                        s.acc[i][1] = fmaf(w, v.y, s.acc[i][1]);
                        s.acc[i][2] = fmaf(w, v.z, s.acc[i][2]);
                        s.acc[i][3] = fmaf(w, v.w, s.acc[i][3]);
                }
        }
}

/* A head's result to shared memory. */
DEVICE void attn_f32_attend(const struct cuda_attn &a, uint32_t row, uint32_t head, float *out) {
        attn_scorer scorer = attn_scorer_make(a.attention);
        attn_f32_head h = attn_f32_head_make(a, row, head);
        attn_f32_sums s = {};
        float scale;

        s.top = -attn_infinity();
        for (uint32_t base = h.from / 32 * 32; base < h.to; base += 32)
                attn_f32_step(a, scorer, h, base, s);
        for (int lanes = 16; lanes > 0; lanes /= 2)
                s.sum += __shfl_xor_sync(WARP_ALL, s.sum, lanes);
        scale = attn_finish(s.top, s.sum, a.attention.sinks, head);
        for (uint32_t i = 0; i < 8; i++) {
                uint32_t d = i / 4 * 128 + 4 * (threadIdx.x % WARP) + i % 4;

                if (d < a.kv.head_dim)
                        out[d] = s.acc[i / 4][i % 4] * scale;
        }
}

__global__ void __launch_bounds__(WARP * F32_WARPS, 1) attn_f32_kernel(struct cuda_attn a) {
        uint32_t row = blockIdx.x, head = 2 * (blockIdx.y * F32_WARPS + threadIdx.x / WARP);
        uint32_t dim = a.kv.head_dim, n_heads = a.attention.n_heads, n = head + 1 < n_heads ? 2 * dim : dim, end;
        float *out = (float *)shared_memory() + threadIdx.x / WARP * 2 * dim;

        grid_launch_dependents();
        grid_wait();
        if (row >= rows_count(a.rows) || head >= n_heads)
                return;
        for (uint32_t i = 0; i < n; i += dim)
                attn_f32_attend(a, row, head + i / dim, out + i);
        __syncwarp();
        /* the row's last heads fill it up to whole 32 */
        end = head + 2 >= n_heads ? (n_heads * dim + PACK_CHUNK - 1) / PACK_CHUNK * PACK_CHUNK : (head + 2) * dim;
        for (uint32_t first = 0; first < end - head * dim; first += 4 * WARP) {
                uint32_t i = first + 4 * (threadIdx.x % WARP);
                float v[4] = {};

                for (uint32_t j = 0; i < n && j < 4; j++)
                        v[j] = out[i + j];
                attn_store(a.out, row, head * dim + i, v, head * dim + i < end);
        }
}

cudaError_t attn_f32(const struct cuda_launch *l, const struct cuda_attn *a) {
        dim3 grid(a->rows.max, (a->attention.n_heads + 2 * F32_WARPS - 1) / (2 * F32_WARPS));
        size_t shared = 2 * F32_WARPS * a->kv.head_dim * sizeof(float);

        return launch(attn_f32_kernel, grid, dim3(WARP * F32_WARPS), shared, l->stream, l->dependent, *a);
}
