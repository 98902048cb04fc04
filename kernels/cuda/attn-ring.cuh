/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * K and V of one sequence and KV head on their way from pages to shared memory. Stages of some groups of 16 positions follow each
 * other, a tile's K and then its V; a ring of them is under way while one is worked on. A ring belongs to a warp or to a block.
 * KV_Q8_0 travels as it is and becomes halves, in a place of its own, when its turn comes.
 *
 * A group never crosses a page. Positions that nobody sees are zeros, whatever the page has there.
 */

#include "attn-tile.cuh"

/* Where K and V are. */
struct attn_source {
        const uint8_t *data; /* of page 0: the layer's and KV head's K */
        uint64_t page_bytes, part_bytes;
        const uint32_t *table; /* of the sequence */
        uint32_t page_shift, page_mask, head_dim;
        uint32_t from, to; /* positions that are seen */
};

/* May be made before grid_wait(). */
DEVICE attn_source attn_source_make(const struct cuda_attn &a, uint32_t row, uint32_t kv_head) {
        attn_source s;

        s.part_bytes = (uint64_t)a.kv.page_tokens *
                       (a.kv.format == KV_F16 ? 2 * a.kv.head_dim : a.kv.head_dim + (a.kv.head_dim + KV_BLOCK - 1) / KV_BLOCK * 2);
        s.data = a.kv.data + ((uint64_t)a.attention.layer * a.kv.n_kv_heads + kv_head) * 2 * s.part_bytes;
        s.page_bytes = a.kv.page_bytes;
        s.table = a.batch.table + step_number(a.batch.table_start + step_number(a.batch.seq + row));
        s.page_shift = 31 - __clz((int)a.kv.page_tokens);
        s.page_mask = a.kv.page_tokens - 1;
        s.head_dim = a.kv.head_dim;
        s.from = s.to = 0;
        return s;
}

DEVICE bool attn_source_sees(const attn_source &s, uint32_t pos) {
        return pos >= s.from && pos < s.to;
}

/* Sizes: groups in a stage, stages in a ring, threads that share it. */
template <int D, bool q8, int groups_, int stages_, int threads_> struct attn_ring_shape {
        static constexpr uint32_t groups = groups_, stages = stages_, threads = threads_;
        static constexpr uint32_t group_bytes = q8 ? 17 * D : ATTN_GROUP * attn_shape<D>::stride; /* 8 bits: D for scales */
        static constexpr uint32_t stage_bytes = groups * group_bytes;
        static constexpr uint32_t halves_bytes = q8 ? groups * ATTN_GROUP * attn_shape<D>::stride : 0;
        static constexpr uint32_t bytes = stages * stage_bytes + halves_bytes;
        static constexpr uint32_t turns = ATTN_GROUPS / groups; /* stages of a tile's K */
};

struct attn_ring {
        uint8_t *shared;
        uint32_t first_tile, n; /* n: stages in all */
        uint32_t loaded, slot;  /* the next one to load, and where; the one to be used next is all but one of the ring behind */
};

template <typename S> DEVICE uint32_t attn_ring_thread(void) {
        return threadIdx.x % S::threads;
}

template <typename S> DEVICE uint32_t attn_ring_slot_after(uint32_t slot) {
        return slot + 1 == S::stages ? 0 : slot + 1;
}

template <typename S> DEVICE void attn_ring_sync(void) {
        if (S::threads == 32)
                __syncwarp();
        else
                __syncthreads();
}

/* The first position of a stage. */
template <typename S> DEVICE uint32_t attn_ring_pos(const attn_ring &r, uint32_t stage) {
        return (r.first_tile + stage / (2 * S::turns)) * CUDA_ATTN_TILE + stage % S::turns * S::groups * ATTN_GROUP;
}

template <int D, typename S> DEVICE void attn_load_halves(const attn_source &s, const uint8_t *from,
                                                          uint32_t pos, uint8_t *to) {
#pragma unroll attn_shape<D>::unroll
        for (uint32_t first = 0; first < ATTN_GROUP * (D / 8); first += S::threads) {
                uint32_t i = first + attn_ring_thread<S>(), row = i / (D / 8), d = i % (D / 8) * 8;
                bool valid = d < s.head_dim && attn_source_sees(s, pos + row);

                if (ATTN_GROUP * (D / 8) % S::threads == 0 || i < ATTN_GROUP * (D / 8))
                        cp_async_16_zfill(to + row * attn_shape<D>::stride + 2 * d,
                                          valid ? from + (row * s.head_dim + d) * 2 : s.data, valid);
        }
}

/* Bytes of 16 positions, then their scales. */
template <int D, typename S> DEVICE void attn_load_bytes(const attn_source &s, const uint8_t *from,
                                                         const uint8_t *scales, uint8_t *to) {
        uint32_t n = s.head_dim, n_scales = (s.head_dim + KV_BLOCK - 1) / KV_BLOCK * 2;

        for (uint32_t i = attn_ring_thread<S>(); i < n + n_scales; i += S::threads)
                cp_async_16(to + 16 * (i < n ? i : D + i - n), i < n ? from + 16 * i : scales + 16 * (i - n));
}

template <int D, bool q8, typename S> DEVICE void attn_load_group(const attn_source &s, uint32_t part,
                                                                  uint32_t pos, uint8_t *to) {
        bool seen = pos < s.to && pos + ATTN_GROUP > s.from;
        uint32_t slot = pos & s.page_mask;
        const uint8_t *from = s.data;

        if (seen)
                from += s.table[pos >> s.page_shift] * s.page_bytes + part * s.part_bytes;
        if (!q8)
                attn_load_halves<D, S>(s, from + (uint64_t)slot * s.head_dim * 2, pos, to);
        else if (seen)
                attn_load_bytes<D, S>(s, from + slot * s.head_dim,
                                      from + (s.page_mask + 1) * s.head_dim + slot * ((s.head_dim + KV_BLOCK - 1) / KV_BLOCK) * 2, to);
}

/* Starts the next stage, if there is one; it is a commit in any case. */
template <int D, bool q8, typename S> DEVICE void attn_ring_load(attn_ring &r, const attn_source &s) {
        if (r.loaded < r.n) {
                uint32_t pos = attn_ring_pos<S>(r, r.loaded), part = r.loaded / S::turns % 2;

#pragma unroll
                for (uint32_t g = 0; g < S::groups; g++)
                        attn_load_group<D, q8, S>(s, part, pos + g * ATTN_GROUP,
                                                  r.shared + r.slot * S::stage_bytes + g * S::group_bytes);
        }
        cp_async_commit();
        r.loaded++;
        r.slot = attn_ring_slot_after<S>(r.slot);
}

/* For tiles [first, end). All of the threads that share the ring, as always. */
template <int D, bool q8, typename S> DEVICE attn_ring attn_ring_start(const attn_source &s, uint8_t *shared, uint32_t first,
                                                                       uint32_t end) {
        attn_ring r = {};

        r.shared = shared;
        r.first_tile = first;
        r.n = (end - first) * 2 * S::turns;
#pragma unroll
        for (uint32_t i = 0; i + 1 < S::stages; i++)
                attn_ring_load<D, q8, S>(r, s);
        return r;
}

/* Eight values of a position: bytes are put below the exponent of 1024, where they count as ones. */
DEVICE uint4 attn_dequantize(uint2 q, uint32_t scale) {
        uint32_t lo = q.x ^ 0x80808080u, hi = q.y ^ 0x80808080u, minus1152 = 0xe480e480u;
        uint4 v;

        scale |= scale << 16;
        v.x = f16x2_mul(f16x2_add(__byte_perm(lo, 0x64646464u, 0x4140), minus1152), scale);
        v.y = f16x2_mul(f16x2_add(__byte_perm(lo, 0x64646464u, 0x4342), minus1152), scale);
        v.z = f16x2_mul(f16x2_add(__byte_perm(hi, 0x64646464u, 0x4140), minus1152), scale);
        v.w = f16x2_mul(f16x2_add(__byte_perm(hi, 0x64646464u, 0x4342), minus1152), scale);
        return v;
}

template <int D, typename S> DEVICE void attn_dequantize_group(const attn_source &s, const uint8_t *from,
                                                               uint32_t pos, uint8_t *to) {
        const uint16_t *scales = (const uint16_t *)(from + ATTN_GROUP * D);
        uint32_t blocks = (s.head_dim + KV_BLOCK - 1) / KV_BLOCK;

#pragma unroll attn_shape<D>::unroll
        for (uint32_t first = 0; first < ATTN_GROUP * (D / 8); first += S::threads) {
                uint32_t i = first + attn_ring_thread<S>(), row = i / (D / 8), d = i % (D / 8) * 8;
                uint4 v = make_uint4(0, 0, 0, 0);

                if (ATTN_GROUP * (D / 8) % S::threads != 0 && i >= ATTN_GROUP * (D / 8))
                        break;
                if (d < s.head_dim && attn_source_sees(s, pos + row))
                        v = attn_dequantize(*(const uint2 *)(from + row * s.head_dim + d), scales[row * blocks + d / KV_BLOCK]);
                *(uint4 *)(to + row * attn_shape<D>::stride + 2 * d) = v;
        }
}

/* The next stage, as halves; what the one before pointed to is no longer there. */
template <int D, bool q8, typename S> DEVICE const uint8_t *attn_ring_next(attn_ring &r, const attn_source &s) {
        const uint8_t *stage = r.shared + attn_ring_slot_after<S>(r.slot) * S::stage_bytes;
        uint8_t *halves = r.shared + S::stages * S::stage_bytes;
        uint32_t pos = attn_ring_pos<S>(r, r.loaded + 1 - S::stages);

        cp_async_wait<S::stages - 2>();
        attn_ring_sync<S>();
        attn_ring_load<D, q8, S>(r, s);
        if constexpr (q8) {
#pragma unroll
                for (uint32_t g = 0; g < S::groups; g++)
                        attn_dequantize_group<D, S>(s, stage + g * S::group_bytes, pos + g * ATTN_GROUP,
                                                    halves + g * ATTN_GROUP * attn_shape<D>::stride);
                attn_ring_sync<S>();
        }
        return q8 ? halves : stage;
}

/* The next tile for 16 queries, whose first position is `base`; sees: whether any of them sees any of it. */
template <int D, bool q8, typename S>
DEVICE void attn_tile(attn_ring &r, const attn_source &source, const attn_query<D> &q, const attn_scorer &c, uint32_t base,
                      bool sees, attn_state &st, float acc[D / 8][4]) {
        float s[ATTN_BLOCKS][4], shrink[2];

#pragma unroll
        for (uint32_t i = 0; i < ATTN_GROUPS; i += S::groups) {
                const uint8_t *keys = attn_ring_next<D, q8, S>(r, source);

#pragma unroll
                for (uint32_t g = 0; g < S::groups; g++)
                        if (sees)
                                attn_scores<D>(q, keys + g * ATTN_GROUP * attn_shape<D>::stride, s + 2 * (i + g));
        }
        if (sees) {
                attn_score_tile(c, base, s);
                attn_weigh(s, st, shrink);
                attn_shrink<D>(shrink, acc);
        }
#pragma unroll
        for (uint32_t i = 0; i < ATTN_GROUPS; i += S::groups) {
                const uint8_t *values = attn_ring_next<D, q8, S>(r, source);

#pragma unroll
                for (uint32_t g = 0; g < S::groups; g++)
                        if (sees)
                                attn_values<D>(s + 2 * (i + g), values + g * ATTN_GROUP * attn_shape<D>::stride, acc);
        }
}
