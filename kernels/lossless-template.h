/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Coding and decoding in vectors of LANES bytes, 16 or 32. A block is 8 elements of K of 16 rows: a vector of 16 bytes from each
 * row. Blocks are transposed, so that a vector is a byte of an element of K, of all rows; as coded columns have them. Vectors of 32
 * bytes do two blocks, side by side, and no byte ever crosses from one to the other.
 *
 * Escapes are rare and come from masks of 64 bits, one for 4 elements of K: bit 4 p + k % 4, which is their order. Nobody can
 * predict how many there are, so room for AHEAD of them is filled in any case, and what was too much is written over.
 *
 * On one core of a Zen 3 server, MB/s of BF16 in and out of memory (`spark-bench lossless`: measure, encode, verify, the three
 * together): 32 bytes 4970, 2390, 2850, 1290; 16 bytes 3400, 1800, 2950, 970. From caches a column is decoded at 7500 with 32
 * bytes, 6700 with 16, 660 in plain C.
 *
 * Tried, with 32 bytes: halves of vectors put together in memory, 680 together, in registers 800; exponents counted by
 * increments in four tables of 16 bits, 2400 to measure, in eight of 32 bits about 3600, by comparing with 24 values as here 5700 from
 * caches; rows coded where they lie, whose lines have one place in the cache where rows are a power of two apart, 12 % slower to
 * code than rows that are not; nothing fetched ahead and increments, 810 together. Bit instructions of BMI: no difference.
 */

#include <string.h>

#include "lossless-kernels.h"

#define BLOCK 8u                       /* elements of K */
#define BLOCKS (LANES / WEIGHT_PANEL)  /* that a vector does */
#define AHEAD 4u
#define CANDIDATES 8u /* exponents that are counted at a time: so many registers there are for them */

typedef uint8_t vec __attribute__((vector_size(LANES)));
typedef uint16_t vec16 __attribute__((vector_size(LANES)));
typedef uint8_t vec_row __attribute__((vector_size(WEIGHT_PANEL)));

#if LANES == 16
#define JOIN(a, b) (a)
#define PART(v, i) (v)
#define LOWER(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define UPPER(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define EVEN(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#else
#define JOIN(a, b) \
        __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, \
                                26, 27, 28, 29, 30, 31)
#define PART(v, i) \
        __builtin_shufflevector(v, v, 16 * (i), 16 * (i) + 1, 16 * (i) + 2, 16 * (i) + 3, 16 * (i) + 4, 16 * (i) + 5, 16 * (i) + 6, \
                                16 * (i) + 7, 16 * (i) + 8, 16 * (i) + 9, 16 * (i) + 10, 16 * (i) + 11, 16 * (i) + 12, \
                                16 * (i) + 13, 16 * (i) + 14, 16 * (i) + 15)
#define LOWER(a, b) \
        __builtin_shufflevector(a, b, 0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 16, 48, 17, 49, 18, 50, 19, 51, 20, \
                                52, 21, 53, 22, 54, 23, 55)
#define UPPER(a, b) \
        __builtin_shufflevector(a, b, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47, 24, 56, 25, 57, 26, 58, 27, \
                                59, 28, 60, 29, 61, 30, 62, 31, 63)
#define EVEN(a, b) \
        __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 32, 34, 36, 38, 40, 42, 44, 46, 16, 18, 20, 22, 24, 26, 28, 30, \
                                48, 50, 52, 54, 56, 58, 60, 62)
#endif

/* Vectors whose blocks' parts are `apart` bytes from each other. */
static inline vec load(const uint8_t *p, size_t apart) {
        vec_row first, second;

        memcpy(&first, p, sizeof(first));
        memcpy(&second, p + (BLOCKS - 1) * apart, sizeof(second));
        return JOIN(first, second);
}

static inline void store(uint8_t *p, size_t apart, vec v) {
        vec_row first = PART(v, 0), second = PART(v, BLOCKS - 1);

        memcpy(p, &first, sizeof(first));
        memcpy(p + (BLOCKS - 1) * apart, &second, sizeof(second));
}

static inline vec load_all(const uint8_t *p) {
        vec v;

        memcpy(&v, p, sizeof(v));
        return v;
}

static inline void store_all(uint8_t *p, vec v) {
        memcpy(p, &v, sizeof(v));
}

/* Bits that come from the byte beside it are for the caller to mask. */
static inline vec shift_left(vec v, unsigned n) {
        return (vec)((vec16)v << n);
}

static inline vec shift_right(vec v, unsigned n) {
        return (vec)((vec16)v >> n);
}

/* Byte j of vector i and byte i of vector j change places. Each round rotates the eight bits of (i, j) by one. */
static inline void transpose(vec v[16]) {
        vec t[16];

        for (unsigned round = 0; round < 4; round++) {
                for (unsigned i = 0; i < 8; i++) {
                        t[2 * i] = LOWER(v[i], v[i + 8]);
                        t[2 * i + 1] = UPPER(v[i], v[i + 8]);
                }
                for (unsigned i = 0; i < 16; i++)
                        v[i] = t[i];
        }
}

/* Masks of escapes, two for each block, from bytes whose bit k says that element k of a row is one. */
static inline void make_masks(vec escaped, uint64_t masks[2 * BLOCKS]) {
        vec first = escaped & 0x0f, second = shift_right(escaped, 4) & 0x0f;

        first |= shift_right(first, 4);
        second |= shift_right(second, 4);
        first = EVEN(first, second);
        memcpy(masks, &first, sizeof(first));
}

/* Where the lowest bit of a mask is in vectors of [k % 4][BLOCKS][row]. */
static inline unsigned place_of(uint64_t mask) {
        unsigned bit = (unsigned)__builtin_ctzll(mask | 1ull << 63);

        return bit % 4 * LANES + bit / 4;
}

static inline uint8_t *append_escapes(uint8_t *found, uint64_t mask, const uint8_t *exponents) {
        for (unsigned i = 0; i < AHEAD; i++) {
                *found = exponents[place_of(mask)];
                found += mask != 0;
                mask &= mask - 1;
        }
        for (; mask != 0; mask &= mask - 1)
                *found++ = exponents[place_of(mask)];
        return found;
}

/* Exponents as bytes, in any order. Returns the largest. */
static inline uint8_t gather_exponents(const uint8_t *src, size_t stride, unsigned n_rows, unsigned n, uint8_t *exponents) {
        vec top = { 0 };
        uint8_t largest = 0;

        for (unsigned row = 0; row < n_rows; row++, src += stride) {
                lossless_prefetch(src, 2 * n);
                for (unsigned k = 0; k < n; k += LANES, exponents += LANES) {
                        vec16 first = (vec16)load_all(src + 2 * k), second = (vec16)load_all(src + 2 * k + LANES);
                        vec both = EVEN((vec)(first >> 7), (vec)(second >> 7)), more = (vec)(both > top);

                        store_all(exponents, both);
                        top = (both & more) | (top & ~more);
                }
        }
        for (unsigned i = 0; i < LANES; i++)
                largest = top[i] > largest ? top[i] : largest;
        return largest;
}

/* How often CANDIDATES bytes, all different, are among n of them. */
static inline void count_bytes(const uint8_t *bytes, unsigned n, const uint8_t candidates[CANDIDATES], uint16_t *counts) {
        vec16 sums[CANDIDATES] = { { 0 } };

        for (unsigned end, i = 0; i < n; i = end) {
                vec minus[CANDIDATES] = { { 0 } };

                end = i + 128 * LANES < n ? i + 128 * LANES : n; /* no byte of minus gets below -128 */
                for (unsigned k = i; k < end; k += LANES) {
                        vec v = load_all(bytes + k);

#pragma GCC unroll 8
                        for (unsigned c = 0; c < CANDIDATES; c++)
                                minus[c] += (vec)(v == candidates[c]);
                }
                for (unsigned c = 0; c < CANDIDATES; c++)
                        sums[c] += ((vec16)-minus[c] & 0xff) + ((vec16)-minus[c] >> 8);
        }
        for (unsigned c = 0; c < CANDIDATES; c++) {
                counts[candidates[c]] = 0;
                for (unsigned i = 0; i < LANES / 2; i++)
                        counts[candidates[c]] = (uint16_t)(counts[candidates[c]] + sums[c][i]);
        }
}

/* Nearly always all exponents are among the largest 23, and zero. */
static void count(const uint8_t *src, size_t stride, unsigned n_rows, unsigned n, uint16_t counts[LOSSLESS_EXPONENTS]) {
        uint8_t exponents[LOSSLESS_UNIT_MAX], candidates[CANDIDATES], exponent;
        unsigned total = n_rows * n, found = 0;

        memset(counts, 0, LOSSLESS_EXPONENTS * sizeof(*counts));
        exponent = gather_exponents(src, stride, n_rows, n, exponents);
        for (unsigned i = 0; i < 3; i++) {
                for (unsigned c = 0; c < CANDIDATES; c++, exponent--)
                        candidates[c] = exponent;
                if (i == 2)
                        candidates[CANDIDATES - 1] = 0;
                count_bytes(exponents, total, candidates, counts);
        }
        for (unsigned e = 0; e < LOSSLESS_EXPONENTS; e++)
                found += counts[e];
        if (found == total)
                return;
        memset(counts, 0, LOSSLESS_EXPONENTS * sizeof(*counts));
        for (unsigned i = 0; i < total; i++)
                counts[exponents[i]]++;
}

static uint8_t *encode(const uint8_t *rows, size_t stride, uint8_t base, uint8_t *column, uint8_t *found) {
        for (unsigned block = 0; block < LOSSLESS_COLUMN / BLOCK; block += BLOCKS) {
                uint8_t *signs = column + block * BLOCK * WEIGHT_PANEL, exponents[BLOCK][LANES];
                vec v[16], low[2] = { { 0 } }, high = { 0 }, escaped = { 0 };
                uint64_t masks[2 * BLOCKS];

                for (unsigned row = 0; row < WEIGHT_PANEL; row++)
                        v[row] = load_all(rows + row * stride + block * BLOCK * 2);
                transpose(v);
                for (unsigned k = 0; k < BLOCK; k++) {
                        vec exponent = (v[2 * k + 1] + v[2 * k + 1]) | (shift_right(v[2 * k], 7) & 1);
                        vec code = exponent - base, is = (vec)(code >= LOSSLESS_ESCAPE);

                        store(signs + k * WEIGHT_PANEL, BLOCK * WEIGHT_PANEL, (v[2 * k + 1] & 0x80) | (v[2 * k] & 0x7f));
                        store_all(exponents[k], exponent);
                        code |= is;
                        low[k / 4] |= shift_left(code & 3, 2 * (k % 4));
                        high |= k < 2 ? shift_right(code & 4, 2 - k) : shift_left(code & 4, k - 2);
                        escaped |= is & (uint8_t)(1u << k);
                }
                for (unsigned i = 0; i < 2; i++)
                        store(column + LOSSLESS_LOW + (2 * block + i) * WEIGHT_PANEL, 2 * WEIGHT_PANEL, low[i]);
                store(column + LOSSLESS_HIGH + block * WEIGHT_PANEL, WEIGHT_PANEL, high);
                make_masks(escaped, masks);
                for (unsigned i = 0; i < 2 * BLOCKS; i++)
                        found = append_escapes(found, masks[i], &exponents[i % 2 * 4][i / 2 * WEIGHT_PANEL]);
        }
        return found;
}

/* Exponents of BLOCKS blocks, wrong where there are escapes, and the masks of these. */
static inline void decode_exponents(const uint8_t *column, unsigned block, uint8_t base, uint8_t *exponents, uint64_t masks[2 * BLOCKS]) {
        vec low[2], high = load(column + LOSSLESS_HIGH + block * WEIGHT_PANEL, WEIGHT_PANEL), escaped = { 0 };

        for (unsigned i = 0; i < 2; i++)
                low[i] = load(column + LOSSLESS_LOW + (2 * block + i) * WEIGHT_PANEL, 2 * WEIGHT_PANEL);
        for (unsigned k = 0; k < BLOCK; k++) {
                vec code = (shift_right(low[k / 4], 2 * (k % 4)) & 3) |
                           ((k < 2 ? shift_left(high, 2 - k) : shift_right(high, k - 2)) & 4);

                store_all(exponents + k * LANES, code + base);
                escaped |= (vec)(code == LOSSLESS_ESCAPE) & (uint8_t)(1u << k);
        }
        make_masks(escaped, masks);
}

/* Escape i of a mask is `at` and its bit. */
static inline uint16_t *append_bits(uint16_t *bits, uint64_t mask, unsigned at) {
        for (unsigned i = 0; i < AHEAD; i++) {
                *bits = (uint16_t)(at + (unsigned)__builtin_ctzll(mask | 1ull << 63));
                bits += mask != 0;
                mask &= mask - 1;
        }
        for (; mask != 0; mask &= mask - 1)
                *bits++ = (uint16_t)(at + (unsigned)__builtin_ctzll(mask));
        return bits;
}

/* Bit 64 i + 4 row + k of a column's masks. */
static inline unsigned place_in_column(unsigned bit) {
        unsigned i = bit / 64;

        return i / (2 * BLOCKS) * (BLOCK * LANES) + (i % 2 * 4 + bit % 4) * LANES + i / 2 % BLOCKS * WEIGHT_PANEL + bit / 4 % WEIGHT_PANEL;
}

static inline void put_escapes(struct lossless_unit *unit, const uint16_t *bits, const uint16_t *end, uint8_t *exponents) {
        uint32_t next = unit->next;

        unit->next += (uint32_t)(end - bits);
        if (unit->wide)
                for (; bits < end; bits++, next++)
                        exponents[place_in_column(*bits)] = unit->escapes[next];
        else
                for (; bits < end; bits++, next++)
                        exponents[place_in_column(*bits)] = unit->narrow[unit->escapes[next / 2] >> 4 * (next % 2) & 15u];
}

static void decode(const uint8_t *column, struct lossless_unit *unit, uint16_t *rows) {
        uint8_t exponents[LOSSLESS_COLUMN * WEIGHT_PANEL];
        uint16_t bits[LOSSLESS_COLUMN * WEIGHT_PANEL + AHEAD], *end = bits;
        uint64_t masks[2 * BLOCKS];

        for (unsigned block = 0; block < LOSSLESS_COLUMN / BLOCK; block += BLOCKS) {
                decode_exponents(column, block, unit->base, exponents + block * BLOCK * WEIGHT_PANEL, masks);
                for (unsigned i = 0; i < 2 * BLOCKS; i++)
                        end = append_bits(end, masks[i], (2 * block + i) * 64);
        }
        put_escapes(unit, bits, end, exponents);
        for (unsigned block = 0; block < LOSSLESS_COLUMN / BLOCK; block += BLOCKS) {
                unsigned at = block * BLOCK * WEIGHT_PANEL;
                vec v[16];

                for (unsigned k = 0; k < BLOCK; k++) {
                        vec sign = load(column + at + k * WEIGHT_PANEL, BLOCK * WEIGHT_PANEL);
                        vec exponent = load_all(exponents + at + k * LANES);

                        v[2 * k] = (sign & 0x7f) | (shift_left(exponent, 7) & 0x80);
                        v[2 * k + 1] = (sign & 0x80) | (shift_right(exponent, 1) & 0x7f);
                }
                transpose(v);
                for (unsigned row = 0; row < WEIGHT_PANEL; row++)
                        store((uint8_t *)(rows + row * LOSSLESS_COLUMN + block * BLOCK), BLOCK * 2, v[row]);
        }
}

static void decode_row(const uint8_t *column, struct lossless_unit *unit, unsigned row, uint16_t *dst) {
        uint8_t exponents[BLOCKS * BLOCK * WEIGHT_PANEL];
        uint64_t masks[2 * BLOCKS];

        for (unsigned block = 0; block < LOSSLESS_COLUMN / BLOCK; block += BLOCKS) {
                decode_exponents(column, block, unit->base, exponents, masks);
                for (unsigned i = 0; i < 2 * BLOCKS; i++) {
                        uint32_t first = unit->next;

                        unit->next += (uint32_t)__builtin_popcountll(masks[i] & ((1ull << 4 * row) - 1));
                        for (unsigned k = 0; k < 4; k++) {
                                unsigned at = block * BLOCK + 4 * i + k, sign = column[at * WEIGHT_PANEL + row];
                                unsigned exponent = masks[i] >> (4 * row + k) & 1 ? lossless_next(unit) :
                                                    exponents[(i % 2 * 4 + k) * LANES + i / 2 * WEIGHT_PANEL + row];

                                dst[at] = (uint16_t)((sign & 0x80u) << 8 | exponent << 7 | (sign & 0x7fu));
                        }
                        unit->next = first + (uint32_t)__builtin_popcountll(masks[i]);
                }
        }
}
