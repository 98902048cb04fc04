/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Prototypes of codes for exponents: canonical Huffman codes (RFC 1951, section 3.2.2 has the construction) in a substream for each
 * lane of a warp, rANS (Duda, arXiv 1311.2540) whose lanes share a stream, and fixed lengths of 3, 4 and 2 + 3 bits.
 *
 * They are decoded as well as plain loops allow: four substreams at a time, so that a table look-up need not wait for the last one;
 * vectors of 16 bytes where places are fixed; escapes by masks.
 */

#include "lossless-layouts.h"

#include <string.h>

#include "base/macro.h"
#include "kernels/half.h"

#define ESCAPE 256u
#define LANES 32u
#define LANE_SHARE (LAYOUT_TILE / LANES)
#define PARTS (1u << LAYOUT_BITS)

typedef uint8_t vec __attribute__((vector_size(16)));

/* --- tables ------------------------------------------------------------------------------------------------------ */

/* Lengths of Huffman codes of what is not too rare, by merging the two rarest again and again. */
static void make_lengths(struct layout_tables *t, const uint64_t *weight) {
        uint64_t w[2 * 257];
        uint16_t parent[2 * 257] = { 0 };
        unsigned n = 257;

        for (unsigned i = 0; i < 257; i++)
                w[i] = weight[i];
        for (;;) {
                unsigned a = UINT16_MAX, b = UINT16_MAX;

                for (unsigned i = 0; i < n; i++) {
                        if (w[i] == 0)
                                continue;
                        if (a == UINT16_MAX || w[i] < w[a]) {
                                b = a;
                                a = i;
                        } else if (b == UINT16_MAX || w[i] < w[b]) {
                                b = i;
                        }
                }
                if (b == UINT16_MAX)
                        break;
                w[n] = w[a] + w[b];
                parent[a] = parent[b] = (uint16_t)n;
                w[a] = w[b] = 0;
                n++;
        }
        for (unsigned i = 0; i < 257; i++) {
                t->length[i] = 0;
                for (unsigned k = i; weight[i] && parent[k]; k = parent[k])
                        t->length[i]++;
        }
}

static void make_huffman(struct layout_tables *t, uint64_t total) {
        uint64_t weight[257] = { 0 };
        unsigned code = 0;

        for (unsigned e = 0; e < 256; e++) /* none below 1/1024, so that no code is longer than 12 */
                if ((uint64_t)t->count[e] * 1024 >= total)
                        weight[e] = t->count[e];
                else
                        weight[ESCAPE] += t->count[e];
        weight[ESCAPE] = MAX(weight[ESCAPE], total / 1024 + 1);
        make_lengths(t, weight);
        for (unsigned length = 1; length <= LAYOUT_BITS; length++, code <<= 1)
                for (unsigned e = 0; e < 257; e++) {
                        if (t->length[e] != length)
                                continue;
                        t->code[e] = 0;
                        for (unsigned b = 0; b < length; b++)
                                t->code[e] |= (uint16_t)((code >> b & 1u) << (length - 1 - b));
                        for (unsigned i = t->code[e]; i < PARTS; i += 1u << length)
                                t->huffman[i] = (uint16_t)(e | length << 12);
                        code++;
                }
}

/* Every exponent that is there gets a part of 4096; what rounding leaves goes to the most frequent one. */
static void make_parts(struct layout_tables *t, uint64_t total) {
        unsigned left = PARTS, most = 0, at = 0;

        for (unsigned e = 0; e < 256; e++) {
                t->part[e] = t->count[e] ? (uint16_t)MAX(1u, (unsigned)((uint64_t)t->count[e] * (PARTS - 64) / total)) : 0;
                left -= t->part[e];
                most = t->count[e] > t->count[most] ? e : most;
        }
        t->part[most] = (uint16_t)(t->part[most] + left);
        for (unsigned e = 0; e < 256; at += t->part[e], e++) {
                t->first[e] = (uint16_t)at;
                memset(t->symbol + at, (int)e, t->part[e]);
        }
}

void layout_tables_make(struct layout_tables *t) {
        uint64_t total = 0;

        for (unsigned e = 0; e < 256; e++)
                total += t->count[e];
        make_huffman(t, total);
        make_parts(t, total);
}

/* --- Huffman codes, a substream for each lane -------------------------------------------------------------------- */

struct bits {
        const uint8_t *from;
        uint64_t held;
        unsigned n;
};

static size_t put_bits(uint8_t *dst, size_t at, unsigned value, unsigned n) {
        for (unsigned i = 0; i < n; i++, at++) {
                if (at % 8 == 0)
                        dst[at / 8] = 0;
                dst[at / 8] |= (uint8_t)((value >> i & 1u) << at % 8);
        }
        return at;
}

/* Ends of substreams, in 16 bits each; substreams; 8 bytes that a reader may run over. */
static size_t encode_huffman(const struct layout_tables *t, const uint8_t *exponents, uint8_t *dst) {
        uint8_t *out = dst + 2 * LANES;
        size_t bytes = 0;

        for (unsigned lane = 0; lane < LANES; lane++) {
                size_t bits = 0;

                store_u16(dst + 2 * lane, (uint16_t)bytes);
                for (unsigned i = 0; i < LANE_SHARE; i++) {
                        unsigned e = exponents[i * LANES + lane], symbol = t->length[e] ? e : ESCAPE;

                        bits = put_bits(out + bytes, bits, t->code[symbol], t->length[symbol]);
                        if (symbol == ESCAPE)
                                bits = put_bits(out + bytes, bits, e, 8);
                }
                bytes += (bits + 7) / 8;
        }
        return 2 * LANES + bytes;
}

static inline uint8_t next_huffman(const struct layout_tables *t, struct bits *b) {
        unsigned entry;

        if (b->n < 32) {
                b->held |= (uint64_t)load_u32(b->from) << b->n;
                b->from += 4;
                b->n += 32;
        }
        entry = t->huffman[b->held & (PARTS - 1)];
        b->held >>= entry >> 12;
        b->n -= entry >> 12;
        if (entry & ESCAPE) {
                entry = (unsigned)b->held & 0xff;
                b->held >>= 8;
                b->n -= 8;
        }
        return (uint8_t)entry;
}

static void decode_huffman(const struct layout_tables *t, const uint8_t *src, uint8_t *exponents) {
        for (unsigned lane = 0; lane < LANES; lane += 4) {
                struct bits b[4] = { { 0 } };

                for (unsigned l = 0; l < 4; l++)
                        b[l].from = src + 2 * LANES + load_u16(src + 2 * (lane + l));
                for (unsigned i = 0; i < LANE_SHARE; i++)
                        for (unsigned l = 0; l < 4; l++)
                                exponents[i * LANES + lane + l] = next_huffman(t, &b[l]);
        }
}

/* --- rANS: 32 states, words of 16 bits from one stream in the order in which lanes want them --------------------- */

static size_t encode_rans(const struct layout_tables *t, const uint8_t *exponents, uint8_t *dst) {
        uint16_t words[2 * LAYOUT_TILE];
        uint32_t state[LANES];
        size_t n = 0;

        for (unsigned lane = 0; lane < LANES; lane++)
                state[lane] = 1u << 16;
        for (unsigned i = LAYOUT_TILE; i-- > 0;) {
                unsigned e = exponents[i], part = t->part[e];
                uint32_t *x = &state[i % LANES];

                if (*x >> (32 - LAYOUT_BITS) >= part) {
                        words[n++] = (uint16_t)*x;
                        *x >>= 16;
                }
                *x = (*x / part << LAYOUT_BITS) + *x % part + t->first[e];
        }
        for (unsigned lane = 0; lane < LANES; lane++)
                store_u32(dst + 4 * lane, state[lane]);
        for (size_t i = 0; i < n; i++)
                store_u16(dst + 4 * LANES + 2 * i, words[n - 1 - i]);
        return 4 * LANES + 2 * n;
}

static void decode_rans(const struct layout_tables *t, const uint8_t *src, uint8_t *exponents) {
        const uint8_t *words = src + 4 * LANES;
        uint32_t state[LANES];

        memcpy(state, src, sizeof(state));
        for (unsigned i = 0; i < LAYOUT_TILE; i += LANES)
                for (unsigned lane = 0; lane < LANES; lane++) {
                        uint32_t x = state[lane], slot = x & (PARTS - 1), low;
                        uint8_t e = t->symbol[slot];

                        exponents[i + lane] = e;
                        x = (x >> LAYOUT_BITS) * t->part[e] + slot - t->first[e];
                        low = x < 1u << 16;
                        x = low ? x << 16 | load_u16(words) : x;
                        words += 2 * low;
                        state[lane] = x;
                }
}

/* --- fixed lengths ----------------------------------------------------------------------------------------------- */

/* The first of `width` exponents in a row that most are among. */
static uint8_t best_base(const uint8_t *exponents, unsigned width) {
        unsigned count[256] = { 0 }, best = 0, most = 0;

        for (unsigned i = 0; i < LAYOUT_TILE; i++)
                count[exponents[i]]++;
        for (unsigned base = 0; base + width <= 256; base++) {
                unsigned n = 0;

                for (unsigned i = 0; i < width; i++)
                        n += count[base + i];
                if (n > most) {
                        most = n;
                        best = base;
                }
        }
        return (uint8_t)best;
}

/* Four bits: 15 exponents, 15 is the next byte of the escapes. Byte 16 i + j: weights 32 i + j, and 16 more, j < 16. */
static size_t encode_four(const struct layout_tables *t, const uint8_t *exponents, uint8_t *dst) {
        uint8_t base = best_base(exponents, 15), *codes = dst + 1, *escapes = codes + LAYOUT_TILE / 2;

        dst[0] = base;
        for (unsigned i = 0; i < LAYOUT_TILE; i++) {
                unsigned c = (uint8_t)(exponents[i] - base), byte = i / 32 * 16 + i % 16;

                c = MIN(c, 15u);
                codes[byte] = (uint8_t)(i % 32 < 16 ? c : codes[byte] | c << 4);
                if (c == 15)
                        *escapes++ = exponents[i];
        }
        return (size_t)(escapes - dst);
}

static void decode_four(const struct layout_tables *t, const uint8_t *src, uint8_t *exponents) {
        const uint8_t *codes = src + 1, *escapes = codes + LAYOUT_TILE / 2;

        for (unsigned i = 0; i < LAYOUT_TILE; i += 32) {
                vec both, low, high, is;
                uint64_t any[2];

                memcpy(&both, codes + i / 2, 16);
                low = both & 15;
                high = both >> 4;
                is = (vec)(low == 15) | (vec)(high == 15);
                low += src[0];
                high += src[0];
                memcpy(exponents + i, &low, 16);
                memcpy(exponents + i + 16, &high, 16);
                memcpy(any, &is, 16);
                for (unsigned k = 0; (any[0] | any[1]) && k < 32; k++)
                        if ((codes[i / 2 + k % 16] >> (k < 16 ? 0 : 4) & 15) == 15)
                                exponents[i + k] = *escapes++;
        }
}

/* The planes of kernels/lossless.h: group of 64 weights [k][p], 2 bits of each in 16 bytes, the third of two groups in 16. */
static void put_three(uint8_t *low, uint8_t *high, unsigned i, unsigned c) {
        unsigned group = i / 64, k = i / 16 % 4, p = i % 16;

        low[group * 16 + p] |= (uint8_t)((c & 3) << 2 * k);
        high[group / 2 * 16 + p] |= (uint8_t)(c >> 2 << (group % 2 * 4 + k));
}

static void expand_three(const uint8_t *low, const uint8_t *high, uint8_t base, uint8_t *exponents) {
        for (unsigned group = 0; group < LAYOUT_TILE / 64; group++) {
                vec l, h;

                memcpy(&l, low + (size_t)group * 16, 16);
                memcpy(&h, high + (size_t)(group / 2) * 16, 16);
                h >>= group % 2 * 4;
                for (unsigned k = 0; k < 4; k++) {
                        vec e = ((l >> 2 * k) & 3) + (((h >> k) & 1) << 2) + base;

                        memcpy(exponents + group * 64 + k * 16, &e, 16);
                }
        }
}

/* Three bits for 8 exponents; what is not among them has its place in 16 bits and its exponent in 8. */
static size_t encode_places(const struct layout_tables *t, const uint8_t *exponents, uint8_t *dst) {
        uint8_t base = best_base(exponents, 8), *low = dst + 3, *high = low + LAYOUT_TILE / 4, *more = high + LAYOUT_TILE / 8;
        unsigned n = 0;

        memset(low, 0, LAYOUT_TILE / 4 + LAYOUT_TILE / 8);
        for (unsigned i = 0; i < LAYOUT_TILE; i++) {
                unsigned c = (uint8_t)(exponents[i] - base);

                if (c < 8) {
                        put_three(low, high, i, c);
                } else {
                        store_u16(more + 3 * n, (uint16_t)i);
                        more[3 * n++ + 2] = exponents[i];
                }
        }
        dst[0] = base;
        store_u16(dst + 1, (uint16_t)n);
        return (size_t)(more - dst) + 3 * n;
}

static void decode_places(const struct layout_tables *t, const uint8_t *src, uint8_t *exponents) {
        const uint8_t *low = src + 3, *high = low + LAYOUT_TILE / 4, *more = high + LAYOUT_TILE / 8;
        unsigned n = load_u16(src + 1);

        expand_three(low, high, src[0], exponents);
        for (unsigned i = 0; i < n; i++)
                exponents[load_u16(more + 3 * i)] = more[3 * i + 2];
}

/* Two bits for three exponents in a row; others take three more bits from a stream, for the seven in front of these but one, which
 * is the next byte of the escapes. */
#define TWO_BELOW 5u /* of the seven; two are above */

static unsigned second_code(unsigned e, unsigned base) {
        unsigned below = (base - 1 - e) & 0xff, above = (e - base - 3) & 0xff;

        return below < TWO_BELOW ? below : above < 2 ? TWO_BELOW + above : 7;
}

static size_t encode_two(const struct layout_tables *t, const uint8_t *exponents, uint8_t *dst) {
        uint8_t base = best_base(exponents, 3), *codes = dst + 3, *second = codes + LAYOUT_TILE / 4, escapes[LAYOUT_TILE];
        size_t bits = 0, n = 0;

        memset(codes, 0, LAYOUT_TILE / 4);
        for (unsigned group = 0; group < LAYOUT_TILE / 64; group++)
                for (unsigned i = 0; i < 64; i++) {
                        unsigned p = i / 4, k = i % 4, e = exponents[group * 64 + k * 16 + p], c = (uint8_t)(e - base);

                        codes[group * 16 + p] |= (uint8_t)(MIN(c, 3u) << 2 * k);
                        if (c >= 3)
                                bits = put_bits(second, bits, second_code(e, base), 3);
                        if (c >= 3 && second_code(e, base) == 7)
                                escapes[n++] = (uint8_t)e;
                }
        dst[0] = base;
        store_u16(dst + 1, (uint16_t)((bits + 7) / 8));
        memcpy(second + (bits + 7) / 8, escapes, n);
        return (size_t)(second - dst) + (bits + 7) / 8 + n;
}

static void decode_two(const struct layout_tables *t, const uint8_t *src, uint8_t *exponents) {
        const uint8_t *codes = src + 3, *escapes = codes + LAYOUT_TILE / 4 + load_u16(src + 1), base = src[0];
        struct bits b = { .from = codes + LAYOUT_TILE / 4 };
        uint8_t value[8];

        for (unsigned c = 0; c < 8; c++)
                value[c] = (uint8_t)(c < TWO_BELOW ? base - 1 - c : base + 3 + c - TWO_BELOW);
        for (unsigned group = 0; group < LAYOUT_TILE / 64; group++, exponents += 64) {
                vec l;

                memcpy(&l, codes + (size_t)group * 16, 16);
                for (unsigned k = 0; k < 4; k++) {
                        vec e = ((l >> 2 * k) & 3) + base;

                        memcpy(exponents + k * 16, &e, 16);
                }
                for (unsigned half = 0; half < 2; half++) {
                        uint64_t word = load_u64(codes + (size_t)group * 16 + half * 8), mask = word & word >> 1 & 0x5555555555555555u;

                        for (; mask != 0; mask &= mask - 1) {
                                unsigned bit = (unsigned)__builtin_ctzll(mask), place = bit % 8 / 2 * 16 + bit / 8 + half * 8, c;

                                if (b.n < 3) {
                                        b.held |= (uint64_t)load_u32(b.from) << b.n;
                                        b.from += 4;
                                        b.n += 32;
                                }
                                c = b.held & 7;
                                b.held >>= 3;
                                b.n -= 3;
                                exponents[place] = c == 7 ? *escapes++ : value[c];
                        }
                }
        }
}

const struct layout layouts[] = {
        { "Huffman, 32 substreams", encode_huffman, decode_huffman, 32 },
        { "rANS, 32 states", encode_rans, decode_rans, 32 },
        { "2 + 3 bits, bytes", encode_two, decode_two, 32 },
        { "3 bits, places", encode_places, decode_places, 32 },
        { "4 bits, bytes", encode_four, decode_four, 32 },
};
const size_t layouts_n = ARRAY_SIZE(layouts);
