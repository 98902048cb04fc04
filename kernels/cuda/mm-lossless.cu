/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Products with losslessly coded BF16 (kernels/lossless.h), decoded on the way from shared memory to the fragments: the same
 * fragments as BF16's, so the same bits come out.
 *
 * A lane = 4 g + t decodes of a run of 16 elements, four of which a column has, elements 4t to 4t + 3 of the rows 2g and 2g + 1.
 * That is one byte of `low` and a nibble of `high` for each row, and one ldmatrix brings those of the whole column. Codes become
 * digits of a register, eight a run, in the order in which escapes are counted: digits choose a byte each of the two registers
 * that have the exponents of all codes, by byte permutations.
 *
 * Escapes: digits that are 7, times 0x11111111, are in the last digit how many there are, in each how many up to it: what of
 * the lane's own escapes it takes, for another permutation. Where these begin is a sum over the lanes in front, in the order of
 * t, then g, of all four runs at once, a byte each: of at most 31 lanes, so 248. A column's escapes are about 13 bytes in trained
 * weights, at any place. Each lane of a warp has one word of 32, loaded when the column in front was counted, and with it the
 * place was known; lanes take what they need from others by shuffles. Where a column has more than that, or a unit's escapes are
 * bytes, each lane reads its own from memory.
 *
 * Instructions, counted in ptxas's machine code for sm_90 of the variant for 8 rows, from the first ldmatrix of a column to its last
 * mma.sync, without the branches that are taken only where the window is not enough (opcodes and branch targets were read from the
 * cubin): 412 for the 32 weights that a lane has of a column, 12.9 for each, among them 4 mma.sync, 3 ldmatrix, 14 shuffles and 2
 * loads of x. By this source, in operations: codes 43, escapes found 16, counted and placed 43, taken 24, looked up 44, put where
 * they belong 32, codes looked up 12, joined with signs 58, window and unit 14: 286, or 8.9 for each; the rest are addresses, moves,
 * branches and what multiplying takes. The target has about 80 operations for each weight that memory brings, so memory's speed is what
 * to expect there; an H100 has 6 for integers and 12 in all, so that this is not its memory's speed. Times are not measured.
 *
 * What was considered:
 *
 * - Escapes one by one, in a loop while any lane of the warp has one: as many turns as the lane that has most, three or four in
 *   a column, of twenty instructions each, and slow where a row is all escapes.
 * - Escapes straight from memory: two loads for each run, which wait for the sums, where shuffles wait for nothing.
 * - A scan for each run, or for each step of 32: two or four times the shuffles.
 * - One look-up behind both ways to four-bit escapes: less code, but the compiler then issues what bytes need in every column, 50
 *   instructions more.
 * - Four escapes of a lane's eight at most, else the slow way: 20 instructions less in a column, but rows that are all escapes, as small
 *   ones are among large ones, would all be slow.
 */

#include "kernels/lossless.h"
#include "mm-kernel.cuh"

#define CODED_STEP 512u /* bytes of signs of 32 elements */
#define CODED_RUNS 4u   /* of a column */
#define CODED_UNIT (LOSSLESS_UNIT / LOSSLESS_COLUMN)
#define CODED_WINDOW 256u /* escapes of four bits in a word of each lane */

/* Of a panel, on its way along K. All but `window`, `ahead`, `digits` and `place` is the same in all lanes. */
struct coded_state {
        const uint64_t *entry; /* of the index, the last that was read */
        const uint8_t *escapes;
        uint64_t next;                /* index entry of the unit that comes next */
        uint32_t column, n_columns;   /* of the panel's part that is multiplied here; 0: there is no panel */
        bool wide, near;              /* of the unit; whether the window has all of the column's escapes */
        uint32_t codes[2], escape[4]; /* exponents that codes, and escapes of four bits, stand for, a byte each */
        /* The column's escapes begin in this word, and are `first` (in escapes) behind its begin; a word for each lane of these */
        const uint32_t *from;
        uint32_t first, window;
        const uint32_t *ahead_from; /* the same of the next column */
        uint32_t ahead_first, ahead;
        uint32_t digits[CODED_RUNS]; /* codes, [row][element] */
        uint32_t place[CODED_RUNS];  /* the first of the lane's escapes, from `from` on */
};

/* Bytes added and taken one by one, modulo 256 each. */
DEVICE uint32_t bytes_add(uint32_t a, uint32_t b) {
        return ((a & 0x7f7f7f7fu) + (b & 0x7f7f7f7fu)) ^ ((a ^ b) & 0x80808080u);
}

DEVICE void coded_tables(struct coded_state &s, uint32_t base) {
        uint32_t all = base * 0x01010101u;

        s.codes[0] = bytes_add(all, 0x03020100u);
        s.codes[1] = bytes_add(all, 0x07060504u);
        s.escape[0] = bytes_add(all, 0xfcfdfeffu); /* lossless_escape() */
        s.escape[1] = bytes_add(all, 0xf8f9fafbu);
        s.escape[2] = bytes_add(all, 0xf4f5f6f7u);
        s.escape[3] = bytes_add(all, 0x000807f3u) & 0x00ffffffu;
}

/* Where a unit's escapes begin. */
DEVICE void coded_aim(struct coded_state &s, uint64_t entry) {
        uint64_t at = entry & LOSSLESS_OFFSET_MASK;

        s.ahead_from = (const uint32_t *)(s.escapes + (at & ~(uint64_t)3));
        s.ahead_first = (uint32_t)(at & 3) * (entry & LOSSLESS_WIDE ? 1 : 2);
}

/* At a panel's k, of which there are more up to k_end; NULL: none, whose codes are anything. */
DEVICE void coded_begin(struct coded_state &s, const struct cuda_coded &coded, size_t panel, uint32_t units, bool valid,
                        uint32_t k, uint32_t k_end, uint32_t lane) {
        s.entry = coded.index + panel * units + k / LOSSLESS_UNIT;
        s.escapes = coded.escapes;
        s.next = valid ? __ldg(s.entry) : 0;
        s.column = 0;
        s.n_columns = valid ? (k_end - k) / LOSSLESS_COLUMN : 0;
        coded_aim(s, s.next);
        s.ahead = __ldg(s.ahead_from + lane);
}

/* Codes of a run as digits. low: bytes of the two rows, at 0 and 2; high: the same, only their lower nibbles are looked at. */
DEVICE uint32_t coded_digits(uint32_t low, uint32_t high) {
        uint32_t four = (low | low << 4) & 0x0f0f0f0fu, two = (high | high << 6) & 0x03030303u;

        return and_or(two * 0x24u, 0x44444444u, (four | four << 2) & 0x33333333u);
}

/* 1 in the digits that are escapes; of all digits how many up to them, and in the last one of all. */
DEVICE uint32_t coded_escapes(uint32_t digits) {
        return ((digits + 0x11111111u) & 0x88888888u) >> 3;
}

DEVICE uint32_t coded_counts(uint32_t digits) {
        return coded_escapes(digits) * 0x11111111u;
}

DEVICE void coded_read_codes(struct coded_state &s, const uint8_t *column, uint32_t at, uint32_t lane) {
        uint32_t r[4];

        ldmatrix_x4_trans(r, column + at);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
                uint32_t high = r[2 + i] >> lane % 2 * 4;

                s.digits[2 * i] = coded_digits(__byte_perm(r[i], 0, 0x4140), __byte_perm(high, 0, 0x4140));
                s.digits[2 * i + 1] = coded_digits(__byte_perm(r[i], 0, 0x4342), __byte_perm(high, 0, 0x4342));
        }
}

/* Escapes of the lanes in front, of each run in a byte; adds up in own_all those of all lanes: runs 0 and 2, and 1 and 3. */
DEVICE uint32_t coded_scan(uint32_t own, uint32_t lane, uint32_t ret_all[2]) {
        uint32_t sum = own, t = lane % 4, other, pair;

#pragma unroll
        for (uint32_t n = 4; n < MM_WARP; n *= 2) {
                other = __shfl_up_sync(WARP_ALL, sum, n);
                sum += lane >= n ? other : 0;
        }
        other = __shfl_sync(WARP_ALL, sum, 28 + t); /* all that have the same t */
        sum -= own;
        pair = other;
        other = __shfl_xor_sync(WARP_ALL, pair, 1);
        sum += t & 1 ? other : 0;
        pair += other;
        other = __shfl_xor_sync(WARP_ALL, pair, 2);
        sum += t & 2 ? other : 0;
        ret_all[0] = (pair & 0x00ff00ffu) + (other & 0x00ff00ffu);
        ret_all[1] = (pair >> 8 & 0x00ff00ffu) + (other >> 8 & 0x00ff00ffu);
        return sum;
}

/* Sets the places of all runs, and returns how many escapes the column has. */
DEVICE uint32_t coded_count(struct coded_state &s, uint32_t lane) {
        uint32_t own = 0, all[2], before, first = s.first;

#pragma unroll
        for (uint32_t i = 0; i < CODED_RUNS; i++)
                own |= coded_counts(s.digits[i]) >> 28 << 8 * i;
        before = coded_scan(own, lane, all);
#pragma unroll
        for (uint32_t i = 0; i < CODED_RUNS; i++) {
                s.place[i] = first + (before >> 8 * i & 255u);
                first += all[i % 2] >> i / 2 * 16 & 0xffffu;
        }
        return first - s.first;
}

/* To the next column's escapes, behind n of this one. */
DEVICE void coded_look_ahead(struct coded_state &s, uint32_t n, uint32_t lane) {
        bool new_unit = s.column % CODED_UNIT == 0;

        if (new_unit) {
                coded_aim(s, s.next);
        } else {
                s.ahead_from = s.from + ((s.first + n) >> (s.wide ? 2 : 3));
                s.ahead_first = (s.first + n) & (s.wide ? 3 : 7);
        }
        /* Where escapes are bytes no more than these is known to be there. */
        if (s.wide && !new_unit) {
                s.ahead = 0;
                return;
        }
        s.ahead = __ldg(s.ahead_from + lane);
        prefetch_l2(s.ahead_from + 2 * MM_WARP);
}

/* The next column: codes, and where escapes are. codes_at: what this lane's ldmatrix reads. */
DEVICE void coded_column(struct coded_state &s, const uint8_t *column, uint32_t codes_at, uint32_t lane) {
        uint32_t n;

        s.from = s.ahead_from;
        s.first = s.ahead_first;
        s.window = s.ahead;
        if (s.column % CODED_UNIT == 0) {
                s.wide = (s.next & LOSSLESS_WIDE) != 0;
                coded_tables(s, (uint32_t)(s.next >> LOSSLESS_BASE_SHIFT) & 255u);
                if (s.column + CODED_UNIT < s.n_columns)
                        s.next = __ldg(++s.entry);
        }
        s.column++;
        coded_read_codes(s, column, codes_at, lane);
        n = coded_count(s, lane);
        s.near = !s.wide && s.first + n <= CODED_WINDOW;
        coded_look_ahead(s, n, lane);
}

/* What eight escapes of four bits stand for, a byte each. */
DEVICE void coded_look_up(const struct coded_state &s, uint32_t escapes, uint32_t ret[2]) {
        uint32_t index = escapes & 0x77777777u, half = and_or(escapes >> 1, 0x44444444u, 0x32103210u);

#pragma unroll
        for (uint32_t i = 0; i < 2; i++)
                ret[i] = __byte_perm(__byte_perm(s.escape[0], s.escape[1], index >> 16 * i),
                                     __byte_perm(s.escape[2], s.escape[3], index >> 16 * i), half >> 16 * i);
}

/* The lane's own escapes of a run and those that follow, as exponents. */
DEVICE void coded_take(const struct coded_state &s, uint32_t place, uint32_t ret[2]) {
        if (s.near) {
                uint32_t low = __shfl_sync(WARP_ALL, s.window, (int)(place / 8));
                uint32_t high = __shfl_sync(WARP_ALL, s.window, (int)(place / 8 + 1));

                coded_look_up(s, __funnelshift_r(low, high, place * 4), ret);
        } else if (!s.wide) {
                const uint32_t *p = s.from + place / 8;

                coded_look_up(s, __funnelshift_r(__ldg(p), __ldg(p + 1), place * 4), ret);
        } else {
                const uint32_t *p = s.from + place / 4;
                uint32_t middle = __ldg(p + 1);

                ret[0] = __funnelshift_r(__ldg(p), middle, place * 8);
                ret[1] = __funnelshift_r(middle, __ldg(p + 2), place * 8);
        }
}

/* Exponents of a run, of both rows. */
DEVICE void coded_exponents(const struct coded_state &s, uint32_t run, uint32_t ret[2]) {
        uint32_t digits = s.digits[run], is = coded_escapes(digits), counts = coded_counts(digits), escapes[2];

        coded_take(s, s.place[run], escapes);
#pragma unroll
        for (uint32_t row = 0; row < 2; row++) {
                uint32_t chosen = __byte_perm(escapes[0], escapes[1], row ? counts >> 12 : counts << 4);
                uint32_t mask = __byte_perm(0xff00u, 0, is >> 16 * row);

                ret[row] = (chosen & mask) | (__byte_perm(s.codes[0], s.codes[1], digits >> 16 * row) & ~mask);
        }
}

/* Four numbers of a row, from bytes of sign and significand and of exponents. */
DEVICE void coded_join(uint32_t a[4], uint32_t row, uint32_t signs, uint32_t exponents) {
        uint32_t upper = (signs & 0x80808080u) | (exponents >> 1 & 0x7f7f7f7fu);
        uint32_t lower = (signs & 0x7f7f7f7fu) | (exponents << 7 & 0x80808080u);

        a[row] = __byte_perm(lower, upper, 0x5140);
        a[row + 2] = __byte_perm(lower, upper, 0x7362);
}

template <> struct mm_format<FMT_BF16_LL> : mm_format_base<LOSSLESS_COLUMN, LOSSLESS_COLUMN_BYTES, LOSSLESS_COLUMN, 0, 0> {
        static constexpr bool coded = true, many = true;
        using state = coded_state;

        static __device__ __forceinline__ uint32_t swizzle(uint32_t at) {
                return at ^ (at >> 7 & 1) << 5;
        }

        static __device__ __forceinline__ void begin(const struct cuda_coded &coded, size_t panel, uint32_t units, bool valid,
                                                     uint32_t k, uint32_t k_end, uint32_t lane, state &s) {
                coded_begin(s, coded, panel, units, valid, k, k_end, lane);
        }

        /* Matrices 0 and 1 are `low` of runs 0 and 1, and 2 and 3: lines t and t + 4 of each. 2 and 3 are `high`. */
        static __device__ __forceinline__ uint32_t codes_at(uint32_t lane) {
                uint32_t j = lane / 8, i = lane % 8;
                uint32_t low = LOSSLESS_LOW + (j * 8 + i / 2 + i % 2 * 4) * 16;
                uint32_t high = LOSSLESS_HIGH + (j % 2 * 4 + i / 4 + i % 2 * 2) * 16;

                return swizzle(j < 2 ? low : high);
        }

        /* Signs: as F8_E4M3's codes (mm-float.cu). */
        static __device__ __forceinline__ void load(const uint8_t *chunk, uint32_t step, uint32_t lane, state &c, struct mm_step &s) {
                uint32_t j = lane / 8, i = lane % 8, own = j / 2 * 16 + i / 2 * 4 + j % 2 * 2 + i % 2, signs[4];

                if (step == 0)
                        coded_column(c, chunk, codes_at(lane), lane);
                ldmatrix_x4_trans(signs, chunk + step * CODED_STEP + swizzle(own * 16));
#pragma unroll
                for (uint32_t h = 0; h < 2; h++) {
                        uint32_t exponents[2];

                        coded_exponents(c, 2 * step + h, exponents);
                        coded_join(s.a[h], 0, __byte_perm(signs[2 * h], signs[2 * h + 1], 0x6420), exponents[0]);
                        coded_join(s.a[h], 1, __byte_perm(signs[2 * h], signs[2 * h + 1], 0x7531), exponents[1]);
                }
        }
};

MM_FORMAT(mm_bf16_ll, FMT_BF16_LL)
