/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Norms of heads, rotation, and K and V into the cache. A block takes eight heads of a row's, queries first, then keys, then
 * values: a warp each, a head lying in shared memory meanwhile. Each block finds the row's angles for itself; their products
 * with the position and whole turns are taken in double precision, four operations an angle, sines and cosines of the rest in
 * single. Where norms go over the width of all heads one block has all of a row, because q is written where it is read.
 *
 * Formats are rounded as kernels/cpu does: to nearest even, halves beyond their range to infinity; blocks of 8 bits with the
 * scale rounded first, and not-a-number where something is not finite or too large.
 */

#include "attn.h"
#include "launch.cuh"
#include "pack.cuh"

#define WARPS 8u
#define HEAD_MAX 256u

enum part {
        PART_Q,
        PART_K,
        PART_V,
};

/* Shared memory of a block. */
struct rope_shared {
        float heads[WARPS][HEAD_MAX];
        float cosines[HEAD_MAX / 2], sines[HEAD_MAX / 2];
        float partial[WARPS];
        float temperature;
};

/* One head of a row. */
struct rope_head {
        enum part part;
        uint32_t head; /* among those of its part */
        const float *in;
};

DEVICE rope_head rope_head_at(const struct cuda_rope_kv &a, uint32_t row, uint32_t index) {
        uint32_t n_kv = a.kv.n_kv_heads;
        rope_head h;

        h.part = index < a.n_heads ? PART_Q : index < a.n_heads + n_kv ? PART_K : PART_V;
        h.head = h.part == PART_Q ? index : (index - a.n_heads) % n_kv;
        h.in = h.part == PART_Q   ? a.q + row * a.q_stride
               : h.part == PART_K ? a.k + row * a.k_stride
                                  : a.v + row * a.v_stride;
        h.in += (size_t)h.head * a.kv.head_dim;
        return h;
}

DEVICE float warp_sum(float x) {
        for (int lanes = 16; lanes > 0; lanes /= 2)
                x += __shfl_xor_sync(WARP_ALL, x, lanes);
        return x;
}

/* --- norms --- */

DEVICE float norm_scale(float sum, uint32_t n, float eps) {
        return 1.0f / sqrtf(sum / (float)n + eps);
}

/* Of n elements, by the whole block. */
DEVICE float width_scale(rope_shared *shared, const float *x, uint32_t n, float eps) {
        float sum = 0.0f;

        for (uint32_t i = threadIdx.x; i < n; i += WARP * WARPS)
                sum = fmaf(x[i], x[i], sum);
        sum = warp_sum(sum);
        if (threadIdx.x % WARP == 0)
                shared->partial[threadIdx.x / WARP] = sum;
        __syncthreads();
        sum = 0.0f;
        for (uint32_t i = 0; i < WARPS; i++)
                sum += shared->partial[i];
        __syncthreads();
        return norm_scale(sum, n, eps);
}

DEVICE float head_scale(const float *x, uint32_t n, float eps) {
        float sum = 0.0f;

        for (uint32_t d = threadIdx.x % WARP; d < n; d += 32)
                sum = fmaf(x[d], x[d], sum);
        return norm_scale(warp_sum(sum), n, eps);
}

/* --- rotation --- */

#define TURN 6.283185307179586477
#define TURNS (1.0 / TURN)

DEVICE void find_angles(const struct rope &rope, uint32_t pos, rope_shared *shared) {
        for (uint32_t i = threadIdx.x; i < rope.n_rot / 2; i += WARP * WARPS) {
                double angle = (double)pos * (double)rope.inv_freq[i];
                float s, c;

                angle = fma(-TURN, rint(angle * TURNS), angle);
                sincosf((float)angle, &s, &c);
                shared->cosines[i] = c * rope.magnitude;
                shared->sines[i] = s * rope.magnitude;
        }
}

/* A warp's head. */
DEVICE void rotate(const struct rope &rope, const rope_shared *shared, float *head) {
        uint32_t half = rope.n_rot / 2;

        for (uint32_t i = threadIdx.x % WARP; i < half; i += 32) {
                float *a = head + (rope.kind == ROPE_NORM ? 2 * i : i), *b = rope.kind == ROPE_NORM ? a + 1 : a + half;
                float x = *a, y = *b, c = shared->cosines[i], s = shared->sines[i];

                *a = x * c - y * s;
                *b = x * s + y * c;
        }
        __syncwarp();
}

/* What queries at this position are multiplied by. By one warp: devices that are not made for double precision take some
 * 16 clocks for each of a warp's instructions, of which a logarithm is dozens. */
DEVICE float temperature(const struct rope &rope, uint32_t pos) {
        uint32_t steps = rope.temp_length > 0 ? pos / rope.temp_length : 0;

        if (rope.temp_scale == 0.0f || steps == 0)
                return 1.0f;
        return (float)(1.0 + (double)rope.temp_scale * log((double)steps + 1.0));
}

/* --- the cache --- */

DEVICE void store_floats(const float *head, uint32_t dim, float *to) {
        for (uint32_t d = threadIdx.x % WARP; d < dim; d += 32)
                to[d] = head[d];
}

DEVICE void store_halves(const float *head, uint32_t dim, uint32_t *to) {
        for (uint32_t d = threadIdx.x % WARP; d < dim / 2; d += 32)
                to[d] = f16x2(head[2 * d], head[2 * d + 1]);
}

#define FLOAT_INFINITE 0x7f800000u
#define HALF_NAN 0x7e00u
#define HALF_INFINITE 0x7c00u

/* A block of 32, an element each thread (zero beyond the head's end). */
DEVICE void store_block(float x, bool inside, int8_t *to, uint16_t *to_scale) {
        uint32_t top = __float_as_uint(fabsf(x)), half;
        float scale;
        int q = 0;

        for (int lanes = 16; lanes > 0; lanes /= 2) {
                uint32_t other = __shfl_xor_sync(WARP_ALL, top, lanes);

                top = other > top ? other : top;
        }
        half = f16x2(__uint_as_float(top) / 127.0f, 0.0f) & 0xffffu;
        scale = f16_to_float((uint16_t)half);
        if (top >= FLOAT_INFINITE || half >= HALF_INFINITE)
                half = HALF_NAN;
        else if (scale > 0.0f)
                q = max(-127, min(127, __float2int_rn(x * (1.0f / scale))));
        if (inside)
                *to = (int8_t)q;
        if (threadIdx.x % WARP == 0)
                *to_scale = (uint16_t)half;
}

DEVICE void store_blocks(const float *head, uint32_t dim, uint8_t *to, uint16_t *to_scale) {
        for (uint32_t first = 0; first < dim; first += KV_BLOCK) {
                uint32_t d = first + threadIdx.x % WARP;

                store_block(d < dim ? head[d] : 0.0f, d < dim, (int8_t *)to + d, to_scale + first / KV_BLOCK);
        }
}

DEVICE void store_head(const struct cuda_rope_kv &a, uint32_t row, const rope_head &h, const float *head) {
        uint32_t dim = a.kv.head_dim, pos = a.batch.pos[row], slot = pos % a.kv.page_tokens;
        uint32_t blocks = (dim + KV_BLOCK - 1) / KV_BLOCK;
        uint32_t page = a.batch.table[a.batch.table_start[a.batch.seq[row]] + pos / a.kv.page_tokens];
        uint64_t position = a.kv.format == KV_F32 ? 4 * dim : a.kv.format == KV_F16 ? 2 * dim : dim + 2 * blocks;
        uint64_t part = ((uint64_t)a.layer * a.kv.n_kv_heads + h.head) * 2 + (h.part == PART_V);
        uint8_t *to = a.kv.data + page * a.kv.page_bytes + part * a.kv.page_tokens * position;

        if (a.kv.format == KV_F32)
                store_floats(head, dim, (float *)to + (size_t)slot * dim);
        else if (a.kv.format == KV_F16)
                store_halves(head, dim, (uint32_t *)to + (size_t)slot * dim / 2);
        else
                store_blocks(head, dim, to + (size_t)slot * dim,
                             (uint16_t *)(to + (size_t)a.kv.page_tokens * dim) + (size_t)slot * blocks);
}

/* --- the kernel --- */

/* The head to shared memory, with its norm. scale: where that goes over the width of all heads. */
DEVICE void load_head(const struct cuda_rope_kv &a, const rope_head &h, float scale, float *head) {
        const float *norm = h.part == PART_Q ? a.q_norm : h.part == PART_K ? a.k_norm : NULL;
        uint32_t dim = a.kv.head_dim;

        if (norm && a.norm_width)
                norm += (size_t)h.head * dim;
        else if (norm)
                scale = head_scale(h.in, dim, a.norm_eps);
        for (uint32_t d = threadIdx.x % WARP; d < dim; d += 32)
                head[d] = norm ? h.in[d] * scale * norm[d] : h.in[d];
        __syncwarp();
}

DEVICE void finish_head(const struct cuda_rope_kv &a, uint32_t row, const rope_head &h, float factor, const float *head) {
        float *q;

        if (h.part != PART_Q) {
                store_head(a, row, h, head);
                return;
        }
        q = a.q + row * a.q_stride + (size_t)h.head * a.kv.head_dim;
        for (uint32_t d = threadIdx.x % WARP; d < a.kv.head_dim; d += 32)
                q[d] = head[d] * factor;
}

__global__ void __launch_bounds__(WARP * WARPS, 4) rope_kv_kernel(struct cuda_rope_kv a) {
        rope_shared *shared = (rope_shared *)shared_memory();
        uint32_t row = blockIdx.x, warp = threadIdx.x / WARP, n_kv = a.kv.n_kv_heads, pos;
        float *head = shared->heads[warp], q_scale = 1.0f, k_scale = 1.0f;

        grid_launch_dependents();
        grid_wait();
        if (row >= rows_count(a.rows))
                return;
        pos = a.batch.pos[row];
        if (a.norm_width && a.q_norm)
                q_scale = width_scale(shared, a.q + row * a.q_stride, a.n_heads * a.kv.head_dim, a.norm_eps);
        if (a.norm_width && a.k_norm)
                k_scale = width_scale(shared, a.k + row * a.k_stride, n_kv * a.kv.head_dim, a.norm_eps);
        if (a.rope.kind != ROPE_NONE)
                find_angles(a.rope, pos, shared);
        if (warp == WARPS - 1) /* the first ones have the angles */
                shared->temperature = temperature(a.rope, pos);
        __syncthreads();
        for (uint32_t i = blockIdx.y * WARPS + warp; i < a.n_heads + 2 * n_kv; i += gridDim.y * WARPS) {
                rope_head h = rope_head_at(a, row, i);

                load_head(a, h, h.part == PART_Q ? q_scale : k_scale, head);
                if (a.rope.kind != ROPE_NONE && h.part != PART_V)
                        rotate(a.rope, shared, head);
                finish_head(a, row, h, shared->temperature, head);
                __syncwarp();
        }
}

cudaError_t cuda_rope_kv(const struct cuda_launch *l, const struct cuda_rope_kv *a) {
        uint32_t blocks = a->norm_width ? 1 : (a->n_heads + 2 * a->kv.n_kv_heads + WARPS - 1) / WARPS;

        return launch(rope_kv_kernel, dim3(a->rows.max, blocks), dim3(WARP * WARPS), sizeof(rope_shared), l->stream,
                      l->dependent, *a);
}
