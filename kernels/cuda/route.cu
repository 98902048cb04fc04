/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Mixtures of experts: which experts a row goes to (a warp for each row), and slots in the order of their experts (one block).
 *
 * The order is made by counting: each warp has a run of slots and counts its experts, 32 slots at a time; sums over experts
 * and warps say where each warp's slots of each expert go; then the warps go over their slots once more. Nothing depends on
 * which warp is faster. For few rows one block does both; for many, choosing is spread over the device.
 */

#include "act.cuh"
#include "launch.cuh"
#include "pack.cuh"
#include "route.h"

#define ROUTE_FEW 4u                              /* experts of a lane where there are not many, which is faster */
#define ROUTE_MANY (CUDA_ROUTE_EXPERTS / WARP)
#define ROUTE_WARPS 4u  /* of a block that only chooses */
#define SORT_THREADS CUDA_ROUTE_EXPERTS /* one for each expert */
#define SORT_WARPS (SORT_THREADS / WARP)
#define SORT_ROWS 64u   /* up to so many the sorting block chooses, too */
#define NONE UINT32_MAX

/* --- choosing --- */

DEVICE float warp_sum(float v) {
        for (uint32_t step = WARP / 2; step > 0; step /= 2)
                v += __shfl_xor_sync(WARP_ALL, v, step);
        return v;
}

DEVICE float warp_max(float v) {
        for (uint32_t step = WARP / 2; step > 0; step /= 2) {
                float other = __shfl_xor_sync(WARP_ALL, v, step);

                v = other > v ? other : v;
        }
        return v;
}

/* The weights of all experts before the choice: expert lane + 32 j in w[j]. Where a logit is not a number, its weight is none
 * either, and after a softmax all of them. */
template <uint32_t per> DEVICE void route_weights(const struct routing &r, uint32_t lane, float w[per]) {
        float top = -INFINITY, sum = 0.0f;

#pragma unroll
        for (uint32_t j = 0; j < per; j++)
                top = lane + WARP * j < r.n_experts && w[j] > top ? w[j] : top;
        if (r.gating == GATING_SOFTMAX)
                top = warp_max(top);
#pragma unroll
        for (uint32_t j = 0; j < per; j++) {
                if (lane + WARP * j >= r.n_experts || r.gating == GATING_SOFTMAX_CHOSEN)
                        continue;
                w[j] = r.gating == GATING_SOFTMAX ? act_exp(w[j] - top) : 1.0f / (1.0f + act_exp(-w[j]));
                sum += w[j];
        }
        if (r.gating != GATING_SOFTMAX)
                return;
        sum = warp_sum(sum);
#pragma unroll
        for (uint32_t j = 0; j < per; j++)
                w[j] /= sum;
}

/* What is chosen by as an integer of the same order, of which a warp's largest is one instruction. 0: not a number. */
DEVICE uint32_t route_key(float by) {
        uint32_t u = __float_as_uint(by + 0.0f);

        return by != by ? 0 : u >> 31 ? ~u : u | 0x80000000u;
}

/* The expert with the largest key, of equal ones the first; NONE where all are 0. */
template <uint32_t per> DEVICE uint32_t route_largest(uint32_t lane, const uint32_t key[per]) {
        uint32_t top = 0, first = NONE;

#pragma unroll
        for (uint32_t j = 0; j < per; j++)
                top = max(top, key[j]);
        top = __reduce_max_sync(WARP_ALL, top);
#pragma unroll
        for (uint32_t j = per; j-- > 0;)
                first = key[j] == top ? lane + WARP * j : first;
        return top > 0 ? __reduce_min_sync(WARP_ALL, first) : NONE;
}

/* The first expert that is left: if what is chosen by is not a number there, nothing is larger, and it is chosen. */
template <uint32_t per> DEVICE uint32_t route_first(uint32_t lane, uint32_t left, const uint32_t key[per]) {
        uint32_t first = NONE;

#pragma unroll
        for (uint32_t j = per; j-- > 0;)
                first = left >> j & 1u ? (lane + WARP * j) * 2 + (key[j] == 0) : first;
        first = __reduce_min_sync(WARP_ALL, first);
        return first & 1u ? first / 2 : NONE;
}

/* Chooses: weight and expert of choice k in lane k. */
template <uint32_t per>
DEVICE void route_choose(const struct routing &r, uint32_t lane, const float w[per], uint32_t key[per], float *ret_weight,
                         uint32_t *ret_expert) {
        uint32_t left = 0;
        bool nan = false;

#pragma unroll
        for (uint32_t j = 0; j < per; j++)
                if (lane + WARP * j < r.n_experts) {
                        left |= 1u << j;
                        nan = nan || key[j] == 0;
                }
        nan = __ballot_sync(WARP_ALL, nan) != 0;
        for (uint32_t k = 0; k < r.n_used; k++) {
                uint32_t e = nan ? route_first<per>(lane, left, key) : NONE;
                float chosen = 0.0f;

                if (e == NONE)
                        e = route_largest<per>(lane, key);
#pragma unroll
                for (uint32_t j = 0; j < per; j++)
                        if (e == lane + WARP * j) {
                                left &= ~(1u << j);
                                key[j] = 0;
                                chosen = w[j];
                        }
                chosen = __shfl_sync(WARP_ALL, chosen, e % WARP);
                *ret_weight = lane == k ? chosen : *ret_weight;
                *ret_expert = lane == k ? e : *ret_expert;
        }
}

/* Of the weights of chosen experts, one in each lane, in the order of the choice. */
DEVICE float route_finish(const struct routing &r, uint32_t lane, float w) {
        float sum = 0.0f;

        if (r.gating == GATING_SOFTMAX_CHOSEN) {
                float top = __shfl_sync(WARP_ALL, w, 0), all = 0.0f;

                for (uint32_t k = 1; k < r.n_used; k++) {
                        float other = __shfl_sync(WARP_ALL, w, k);

                        top = other > top ? other : top;
                }
                w = act_exp(w - top);
                for (uint32_t k = 0; k < r.n_used; k++)
                        all += __shfl_sync(WARP_ALL, w, k);
                w /= all;
        }
        for (uint32_t k = 0; k < r.n_used; k++)
                sum += __shfl_sync(WARP_ALL, w, k);
        sum = sum > ROUTING_SUM_MIN ? sum : ROUTING_SUM_MIN;
        w = r.normalize ? w / sum : w;
        return r.scale != 1.0f ? w * r.scale : w;
}

/* A row's experts, by a warp. */
template <uint32_t per> DEVICE void route_row(const struct cuda_route &a, uint32_t row) {
        const struct routing &r = a.routing;
        uint32_t lane = threadIdx.x % WARP, key[per], expert = 0;
        float w[per], weight = 0.0f;

#pragma unroll
        for (uint32_t j = 0; j < per; j++)
                w[j] = lane + WARP * j < r.n_experts ? a.logits[(size_t)row * r.n_experts + lane + WARP * j] : 0.0f;
        route_weights<per>(r, lane, w);
#pragma unroll
        for (uint32_t j = 0; j < per; j++)
                key[j] = lane + WARP * j < r.n_experts ? route_key(r.bias ? w[j] + r.bias[lane + WARP * j] : w[j]) : 0;
        route_choose<per>(r, lane, w, key, &weight, &expert);
        weight = route_finish(r, lane, weight);
        if (lane < r.n_used) {
                a.experts[(size_t)row * r.n_used + lane] = expert;
                a.weights[(size_t)row * r.n_used + lane] = weight;
        }
}

template <uint32_t per> __global__ void __launch_bounds__(WARP *ROUTE_WARPS) route_kernel(struct cuda_route a) {
        uint32_t row = blockIdx.x * ROUTE_WARPS + threadIdx.x / WARP, n_rows;

        grid_launch_dependents();
        n_rows = rows_count(a.rows);
        grid_wait();
        if (row < n_rows)
                route_row<per>(a, row);
}

/* --- the order of slots --- */

/* Shared memory of the sorting block. */
struct sort {
        uint32_t *slots;  /* of each expert, then the first place of each */
        uint32_t *groups; /* of each expert, then the first one of each */
        uint32_t *sums;   /* of warps */
        uint16_t *counts; /* [warp][expert]: slots of the expert in the warp's run; then how many are before these */
};

static size_t sort_bytes(uint32_t n_experts) {
        return (2 * CUDA_ROUTE_EXPERTS + SORT_WARPS) * sizeof(uint32_t) + (size_t)SORT_WARPS * n_experts * sizeof(uint16_t);
}

DEVICE struct sort sort_shared(void) {
        struct sort s;

        s.slots = (uint32_t *)shared_memory();
        s.groups = s.slots + CUDA_ROUTE_EXPERTS;
        s.sums = s.groups + CUDA_ROUTE_EXPERTS;
        s.counts = (uint16_t *)(s.sums + SORT_WARPS);
        return s;
}

/* The lanes whose expert is this one's, of those that have one (n: not). */
DEVICE uint32_t sort_same(uint32_t expert, uint32_t n) {
        uint32_t same = __ballot_sync(WARP_ALL, expert < n);

        for (uint32_t bit = 1; bit < n; bit *= 2) {
                uint32_t with = __ballot_sync(WARP_ALL, expert & bit);

                same &= expert & bit ? with : ~with;
        }
        return same;
}

/* Goes over a warp's run of slots, 32 at a time. Counts; or, where it has been counted, places. */
template <bool place> DEVICE void sort_run(const struct cuda_route &a, const struct sort &s, uint32_t first, uint32_t end) {
        uint32_t lane = threadIdx.x % WARP, n_used = a.routing.n_used, n = a.routing.n_experts;
        uint16_t *counts = s.counts + (size_t)(threadIdx.x / WARP) * n;

        for (uint32_t at = first; at < end; at += WARP) {
                uint32_t slot = at + lane, expert = slot < end ? a.experts[slot] : n, same = sort_same(expert, n);
                uint32_t before = __popc(same & ((1u << lane) - 1)), to;

                if (expert < n) {
                        to = s.slots[expert] + counts[expert] + before;
                        if (place) {
                                a.slots.slot[to] = slot;
                                a.slots.row[to] = slot / n_used;
                        }
                }
                __syncwarp();
                if (expert < n && before == 0)
                        counts[expert] = (uint16_t)(counts[expert] + __popc(same));
                __syncwarp();
        }
}

/* What is in front of each thread, and all together. */
DEVICE uint32_t sort_before(const struct sort &s, uint32_t v, uint32_t *ret_all) {
        uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, sum = v, of_warps;

        for (uint32_t step = 1; step < WARP; step *= 2) {
                uint32_t other = __shfl_up_sync(WARP_ALL, sum, step);

                sum += lane >= step ? other : 0;
        }
        __syncthreads(); /* whoever reads an earlier call's has done so */
        if (lane == WARP - 1)
                s.sums[warp] = sum;
        __syncthreads();
        of_warps = lane < SORT_WARPS ? s.sums[lane] : 0;
        for (uint32_t step = 1; step < WARP; step *= 2) {
                uint32_t other = __shfl_up_sync(WARP_ALL, of_warps, step);

                of_warps += lane >= step ? other : 0;
        }
        *ret_all = __shfl_sync(WARP_ALL, of_warps, WARP - 1);
        of_warps = __shfl_sync(WARP_ALL, of_warps, warp > 0 ? warp - 1 : 0);
        return sum - v + (warp > 0 ? of_warps : 0);
}

/* Sums over warps of an expert's slots, and over experts: one thread an expert. */
DEVICE void sort_sums(const struct cuda_route &a, const struct sort &s, uint32_t n_warps) {
        uint32_t n = a.routing.n_experts, expert = threadIdx.x, slots = 0, groups, first, all;

        for (uint32_t w = 0; w < n_warps && expert < n; w++) {
                uint32_t of_warp = s.counts[(size_t)w * n + expert];

                s.counts[(size_t)w * n + expert] = (uint16_t)slots;
                slots += of_warp;
        }
        groups = (slots + a.slots.group_rows - 1) / a.slots.group_rows;
        first = sort_before(s, slots, &all);
        if (expert < n)
                s.slots[expert] = first;
        first = sort_before(s, groups, &all);
        if (expert < n)
                s.groups[expert] = first;
        if (expert == 0)
                *a.slots.n_groups = all;
}

/* A warp for each expert. */
DEVICE void sort_groups(const struct cuda_route &a, const struct sort &s, uint32_t n_slots) {
        uint32_t n = a.routing.n_experts, size = a.slots.group_rows;

        for (uint32_t expert = threadIdx.x / WARP; expert < n; expert += SORT_WARPS) {
                uint32_t first = s.slots[expert], end = expert + 1 < n ? s.slots[expert + 1] : n_slots;

                for (uint32_t g = threadIdx.x % WARP; first + g * size < end; g += WARP) {
                        struct cuda_group group = { expert, first + g * size, min(size, end - (first + g * size)) };

                        a.slots.groups[s.groups[expert] + g] = group;
                }
        }
}

/* per: experts of a lane; 0 where they have been chosen already. */
template <uint32_t per> __global__ void __launch_bounds__(SORT_THREADS, 1) sort_kernel(struct cuda_route a) {
        struct sort s = sort_shared();
        uint32_t warp = threadIdx.x / WARP, n_rows, n_slots, run, n_warps;

        grid_launch_dependents();
        n_rows = rows_count(a.rows);
        for (uint32_t i = threadIdx.x; i < SORT_WARPS * a.routing.n_experts; i += SORT_THREADS)
                s.counts[i] = 0;
        for (uint32_t i = threadIdx.x; i < CUDA_ROUTE_EXPERTS; i += SORT_THREADS)
                s.slots[i] = 0;
        grid_wait();
        if constexpr (per > 0)
                for (uint32_t row = warp; row < n_rows; row += SORT_WARPS)
                        route_row<per>(a, row);
        __syncthreads();
        n_slots = n_rows * a.routing.n_used;
        run = ((n_slots + SORT_WARPS - 1) / SORT_WARPS + WARP - 1) / WARP * WARP;
        n_warps = run > 0 ? (n_slots + run - 1) / run : 0;
        sort_run<false>(a, s, warp * run, min((warp + 1) * run, n_slots));
        __syncthreads();
        sort_sums(a, s, n_warps);
        __syncthreads();
        sort_run<true>(a, s, warp * run, min((warp + 1) * run, n_slots));
        sort_groups(a, s, n_slots);
}

cudaError_t cuda_route(const struct cuda_launch *l, const struct cuda_route *a) {
        const struct routing *r = &a->routing;
        bool few = a->rows.max <= SORT_ROWS;
        cudaError_t e;

        if (r->n_experts > CUDA_ROUTE_EXPERTS || r->n_used < 1 || r->n_used > CUDA_ROUTE_USED || r->n_used > r->n_experts ||
            a->rows.max > CUDA_ROUTE_ROWS || a->rows.max > CUDA_ROUTE_SLOTS / r->n_used || a->slots.group_rows < 1 ||
            a->slots.max_groups < cuda_groups_max(a->rows.max * r->n_used, r->n_experts, a->slots.group_rows))
                return cudaErrorInvalidValue;
        if (few)
                return launch(r->n_experts <= WARP * ROUTE_FEW ? sort_kernel<ROUTE_FEW> : sort_kernel<ROUTE_MANY>, dim3(1),
                              dim3(SORT_THREADS), sort_bytes(r->n_experts), l->stream, l->dependent, *a);
        e = launch(r->n_experts <= WARP * ROUTE_FEW ? route_kernel<ROUTE_FEW> : route_kernel<ROUTE_MANY>,
                   dim3((a->rows.max + ROUTE_WARPS - 1) / ROUTE_WARPS), dim3(WARP * ROUTE_WARPS), 0, l->stream, l->dependent, *a);
        if (e != cudaSuccess)
                return e;
        return launch(sort_kernel<0>, dim3(1), dim3(SORT_THREADS), sort_bytes(r->n_experts), l->stream, l->dependent, *a);
}
