/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Panel products of losslessly coded BF16 (kernels/lossless.h); matmul-lossless-ISA.c is a vec-ISA.h, a lane-ISA.h and this. The
 * sums are those of plain BF16 bit for bit: the same numbers, multiplied and added in the same order.
 *
 * LANES panels at a time, one in each lane of a register. A line is four k of them, in each lane the 64 codes that stand together:
 *
 *   codes     of the four k of a byte, apart: code[s]. The high bits, spread to where they belong, take the place of two bits.
 *   escapes   escape[s] says which codes are escapes; sums are how many there are up to a byte.
 *   table     of a line: bytes 0-7 of a lane are what its unit's codes stand for, the others what the line's escapes do. So one
 *             look-up is a code's by code, or an escape's by place.
 *   numbers   what is looked up is an exponent, its last bit first: so the halves of a BF16 number come of one exchange of bits
 *             with the byte of sign and significand. Zipped they are floats.
 *
 * That is for lines of at most 7 escapes in each lane (2.2 in the middle; of Gaussian weights one line in 500 has more), and
 * where no lane's unit is wide; line_slow() does the others, any of them, eight escapes at a time.
 *
 * A line's sums are made while the line before it is multiplied, so that one of two long chains does not wait for the other.
 */

#include <endian.h>

#include "kernels.h"
#include "kernels/lossless.h"
#include "vec-math.h"

#define FAST_ESCAPES 7u
#define AHEAD 2112u /* bytes from what is read to what is asked for: a column and a half */

/* What holds for a unit in each lane, and what has been read of it. Exponents in tables are turned: see turn(). */
struct coded_unit {
        lb base;
        lb codes;                   /* by code */
        lb escape_codes;            /* by an escape's four bits */
        const uint8_t *escapes[LANES];
        size_t at[LANES];           /* escapes so far */
        uint8_t wide[LANES];        /* 0xff or 0 */
        unsigned fast;              /* at most FAST_ESCAPES, or none where a lane is wide */
};

struct coded_line {
        lb low, nibbles;            /* as they are read; of nibbles the lower half of bytes */
        lb code[4], escape[4];
        lb count;                   /* - number of escapes of a byte */
        lb sum;                     /* of these, up to a byte */
        unsigned n[LANES];          /* escapes */
};

static const uint8_t code_offsets[16] = { 0, 1, 2, 3, 4, 5, 6 };
static const uint8_t code_used[16] = { 255, 255, 255, 255, 255, 255, 255 };
/* lossless_escape() */
static const uint8_t escape_offsets[16] = { 255, 254, 253, 252, 251, 250, 249, 248, 247, 246, 245, 244, 243, 7, 8 };
static const uint8_t escape_used[16] = { 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255 };
static const uint8_t is_escape[16] = { 0, 0, 0, 0, 0, 0, 0, 255 };
/* Bits 0-3 to bits 2, 0, 6, 4. */
static const uint8_t spread[16] = { 0x00, 0x04, 0x01, 0x05, 0x40, 0x44, 0x41, 0x45,
                                    0x10, 0x14, 0x11, 0x15, 0x50, 0x54, 0x51, 0x55 };
/* From where a sum of 2, 4, 8 bytes goes to the 2, 4, 8 bytes behind them. */
static const uint8_t sums[3][16] = {
        { 128, 128, 1, 1, 128, 128, 5, 5, 128, 128, 9, 9, 128, 128, 13, 13 },
        { 128, 128, 128, 128, 3, 3, 3, 3, 128, 128, 128, 128, 11, 11, 11, 11 },
        { 128, 128, 128, 128, 128, 128, 128, 128, 7, 7, 7, 7, 7, 7, 7, 7 },
};
/* The place of a line's first escape, which is the lower or the upper half of a byte. */
static const uint8_t first_place[2][16] = { { 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8 },
                                            { 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9 } };

/* The last bit of an exponent is the first one: bits 0-6 belong beside a sign, bit 7 beside a significand. */
static ALWAYS_INLINE lb turn(lb e) {
        return lb_or(lb_and(lb_shl(e, 7), lb_set1(0x80)), lb_and(lb_shr(e, 1), lb_set1(0x7f)));
}
static ALWAYS_INLINE lb exponents_of_codes(lb base) {
        return lb_and(lb_add(base, lb_table(code_offsets)), lb_table(code_used));
}
static ALWAYS_INLINE lb exponents_of_escapes(lb base) {
        return lb_and(lb_add(base, lb_table(escape_offsets)), lb_table(escape_used));
}

static ALWAYS_INLINE void unit_begin(struct coded_unit *u, const uint8_t *const *index, size_t unit, const uint8_t *escapes) {
        uint8_t bases[LANES];

        u->fast = FAST_ESCAPES;
        for (unsigned l = 0; l < LANES; l++) {
                uint64_t entry;

                memcpy(&entry, index[l] + unit * sizeof(entry), sizeof(entry));
                entry = le64toh(entry);
                bases[l] = (uint8_t)(entry >> LOSSLESS_BASE_SHIFT);
                u->escapes[l] = escapes + (entry & LOSSLESS_OFFSET_MASK);
                u->at[l] = 0;
                u->wide[l] = entry & LOSSLESS_WIDE ? 0xff : 0;
                u->fast = u->wide[l] ? 0 : u->fast;
        }
        u->base = lb_set(bases);
        u->codes = turn(exponents_of_codes(u->base));
        u->escape_codes = turn(exponents_of_escapes(u->base));
}

/* Escapes of four bits from the at-th on, the first one lowest: 15 or 16 of them. */
static ALWAYS_INLINE uint64_t next_nibbles(const uint8_t *escapes, size_t at) {
        uint64_t v;

        memcpy(&v, escapes + at / 2, sizeof(v));
        return le64toh(v) >> 4 * (at % 2);
}

/* Eight escapes, or seven after one that is done, in bytes 8-15: of bytes 4-7 of what is read, for whose sake nothing moves. There
 * is an index before all escapes. */
static ALWAYS_INLINE lb next_few(const struct coded_unit *u) {
        const uint8_t *p[LANES];
        lb x;

        for (unsigned l = 0; l < LANES; l++)
                p[l] = u->escapes[l] + u->at[l] / 2 - 4;
        x = lb_load8(p);
        return lb_zip(lb_and(x, lb_set1(0x0f)), lb_and(lb_shr(x, 4), lb_set1(0x0f)));
}

/* Where they are from. */
static ALWAYS_INLINE lb next_place(const struct coded_unit *u) {
        const uint8_t *p[LANES];

        for (unsigned l = 0; l < LANES; l++)
                p[l] = first_place[u->at[l] % 2];
        return lb_load(p, 0);
}

/* The exponents of eight escapes of either size, from `done` after u->at on, in bytes 0-7 before zeros; not where a lane has no more than `done`. */
static ALWAYS_INLINE lb next_exponents(const struct coded_unit *u, unsigned done, const unsigned *n) {
        uint64_t v[LANES];
        lb x;

        for (unsigned l = 0; l < LANES; l++) {
                v[l] = 0;
                if (done < n[l] && u->wide[l]) {
                        memcpy(&v[l], u->escapes[l] + u->at[l] + done, sizeof(v[l]));
                        v[l] = le64toh(v[l]);
                } else if (done < n[l]) {
                        uint64_t four = next_nibbles(u->escapes[l], u->at[l] + done);

                        for (unsigned i = 0; i < 8; i++)
                                v[l] |= (four >> 4 * i & 15) << 8 * i;
                }
        }
        x = lb_set_u64(v);
        x = lb_if(lb_set(u->wide), x, lb_lut(exponents_of_escapes(u->base), x));
        return lb_halves(x, lb_set1(0));
}

/* --- a line's codes ---------------------------------------------------------------------------------------------- */

/* Bits 3 and 7 of codes are 0, for lb_select() takes them from what is spread; so lb_lut() can do with what a shift leaves. */
static ALWAYS_INLINE void line_begin(struct coded_line *c, lb low, lb nibbles) {
        lb high = lb_lut(lb_table(spread), nibbles);

        c->low = low;
        c->nibbles = nibbles;
        c->code[0] = lb_select(lb_set1(0xcc), high, low);
        c->code[1] = lb_select(lb_set1(0xcc), lb_shl(high, 2), lb_shr(low, 2));
        c->code[2] = lb_shr(c->code[0], 4);
        c->code[3] = lb_shr(c->code[1], 4);
        UNROLL for (unsigned s = 0; s < 4; s++) {
                c->code[s] = lb_index(c->code[s]);
                c->escape[s] = lb_lut(lb_table(is_escape), c->code[s]);
        }
        c->count = lb_add(lb_add(c->escape[0], c->escape[1]), lb_add(c->escape[2], c->escape[3]));
        c->sum = lb_pairs(c->count);
}

/* The s-th third of the sums. */
static ALWAYS_INLINE void line_sum(struct coded_line *c, const unsigned s) {
        c->sum = lb_add(c->sum, lb_lut(c->sum, lb_table(sums[s])));
}

static ALWAYS_INLINE void line_end(struct coded_line *c) {
        uint8_t last[LANES];

        lb_last(c->sum, last);
        UNROLL for (unsigned l = 0; l < LANES; l++) {
                c->n[l] = last[l];
                __asm__("" : "+r"(c->n[l])); /* one by one: as vectors of two they would go through memory */
                c->n[l] = -c->n[l] & 0xff;
        }
}

/* The exponents of any line, turned. */
static __attribute__((noinline)) void line_slow(const struct coded_unit *u, lb low, lb nibbles, lb *ret) {
        lb exponents[4], at[4], before;
        struct coded_line c;
        unsigned most = 0;

        line_begin(&c, low, nibbles);
        UNROLL for (unsigned s = 0; s < 3; s++)
                line_sum(&c, s);
        line_end(&c);
        for (unsigned l = 0; l < LANES; l++)
                most = c.n[l] > most ? c.n[l] : most;
        before = lb_sub(c.count, c.sum);
        for (unsigned s = 0; s < 4; s++) {
                at[s] = lb_if(c.escape[s], before, lb_set1(0xff));
                before = lb_sub(before, c.escape[s]);
                exponents[s] = lb_lut(exponents_of_codes(u->base), c.code[s]);
        }
        for (unsigned done = 0; done < most; done += 8) {
                lb next = next_exponents(u, done, c.n);

                for (unsigned s = 0; s < 4; s++)
                        exponents[s] = lb_or(exponents[s], lb_pick(next, lb_sub(at[s], lb_set1((uint8_t)done))));
        }
        for (unsigned s = 0; s < 4; s++)
                ret[s] = turn(exponents[s]);
}

/* --- products ---------------------------------------------------------------------------------------------------- */

/* The numbers of one k: words of the first and of the last eight. */
static ALWAYS_INLINE void merge(const uint8_t *const *column, size_t at, lb exponents, lb *words) {
        lb low = lb_load(column, at), high;

        lb_exchange(exponents, &low, &high);
        words[0] = lb_words(low, high, 0);
        words[1] = lb_words(low, high, 1);
}

/* The sums of a row in each lane, as lf_store() wants them. Not an array, which would not stay in registers from line to line. */
struct sums {
        lf part0, part1, part2, part3;
};

static ALWAYS_INLINE void one_product(struct sums *sum, const lf *v, float x) {
        lf a = lf_set1(x);

        sum->part0 = lf_fma(v[0], a, sum->part0);
        sum->part1 = lf_fma(v[1], a, sum->part1);
        sum->part2 = lf_fma(v[2], a, sum->part2);
        sum->part3 = lf_fma(v[3], a, sum->part3);
}

/* One k of one row or two. */
static ALWAYS_INLINE void few_products(const unsigned rows, struct sums *first, struct sums *second, const lb *words, const float *x) {
        const lf v[4] = { lf_words(words[0], 0), lf_words(words[0], 1), lf_words(words[1], 0), lf_words(words[1], 1) };

        one_product(first, v, x[0]);
        if (rows > 1)
                one_product(second, v, x[1]);
}

/* Four k, the first and the last eight rows of the panels after each other; sums are fetched and put back. */
static ALWAYS_INLINE void many_products(const unsigned rows, lf *acc, const lb (*words)[2], const float *x) {
        UNROLL for (unsigned half = 0; half < 2; half++) {
                lf v[4][2];

                UNROLL for (unsigned i = 0; i < 8; i++)
                        v[i / 2][i % 2] = lf_words(words[i / 2][half], i % 2);
                UNROLL for (unsigned r = 0; r < rows; r++) {
                        lf *sum = acc + (half * rows + r) * 2, s0 = sum[0], s1 = sum[1];

                        UNROLL for (unsigned k = 0; k < 4; k++) {
                                lf a = lf_set1(x[k * rows + r]);

                                s0 = lf_fma(v[k][0], a, s0);
                                s1 = lf_fma(v[k][1], a, s1);
                        }
                        sum[0] = s0;
                        sum[1] = s1;
                }
        }
}

/* What a tile's sums are in: of few rows `first` and `second`, of more than LANE_ROWS the others. */
struct tile {
        struct sums first, second;
        lf others[TILE_MAX * 4];
};

static ALWAYS_INLINE void merge_multiply(const unsigned rows, struct tile *t, const uint8_t *const *column, size_t at, lb exponents,
                                         lb *words, const float *x) {
        merge(column, at, exponents, words);
        if (rows <= LANE_ROWS)
                few_products(rows, &t->first, &t->second, words, x);
}

/* Multiplies line c, whose signs are at `at`, and sums up the next one. */
static ALWAYS_INLINE void line_multiply(const unsigned rows, struct tile *t, struct coded_unit *u, const struct coded_line *c,
                                        struct coded_line *next, const uint8_t *const *column, size_t at, const float *x) {
        unsigned most = c->n[0];
        lb words[4][2];

        for (unsigned l = 1; l < LANES; l++)
                most |= c->n[l];
        if (__builtin_expect(most <= u->fast, 1)) {
                lb table = lb_halves(u->codes, lb_lut(u->escape_codes, next_few(u)));
                lb place = lb_add(lb_sub(next_place(u), c->sum), c->count);

                UNROLL for (unsigned s = 0; s < 4; s++) {
                        lb index = lb_if(c->escape[s], place, c->code[s]);

                        place = lb_sub(place, c->escape[s]);
                        if (s < 3)
                                line_sum(next, s);
                        merge_multiply(rows, t, column, at + 16 * s, lb_lut(table, index), words[s], x + s * rows);
                }
        } else {
                lb exponents[4];

                line_slow(u, c->low, c->nibbles, exponents);
                UNROLL for (unsigned s = 0; s < 4; s++) {
                        if (s < 3)
                                line_sum(next, s);
                        merge_multiply(rows, t, column, at + 16 * s, exponents[s], words[s], x + s * rows);
                }
        }
        line_end(next);
        for (unsigned l = 0; l < LANES; l++)
                u->at[l] += c->n[l];
        if (rows > LANE_ROWS)
                many_products(rows, t->others, words, x);
}

static ALWAYS_INLINE void ask_for(const uint8_t *const *column, unsigned eighth) {
        for (unsigned l = 0; l < LANES; l++)
                UNROLL for (unsigned i = 0; i < 3; i++)
                        __builtin_prefetch(column[l] + AHEAD + LOSSLESS_COLUMN_BYTES / 8 * eighth + 64 * i);
}

/* A column; its first line, and the high bits of that, have been read, and are read of the next one, or of what follows the panel: there
 * is a tensor's index at least. */
static ALWAYS_INLINE void column_multiply(const unsigned rows, struct tile *t, struct coded_unit *u, struct coded_line *even, lb *high,
                                          const uint8_t *const *column, const float *x) {
        for (unsigned pair = 0; pair < 8; pair++, x += 8 * rows) {
                unsigned following = (pair + 1) % 8;
                size_t end = pair < 7 ? 0 : LOSSLESS_COLUMN_BYTES;
                struct coded_line odd;

                ask_for(column, pair);
                line_begin(&odd, lb_load(column, LOSSLESS_LOW + 32 * pair + 16), lb_and(lb_shr(*high, 4), lb_set1(0x0f)));
                line_multiply(rows, t, u, even, &odd, column, 128 * pair, x);
                *high = lb_load(column, end + LOSSLESS_HIGH + 16 * following);
                line_begin(even, lb_load(column, end + LOSSLESS_LOW + 32 * following), lb_and(*high, lb_set1(0x0f)));
                line_multiply(rows, t, u, &odd, even, column, 128 * pair + 64, x + 4 * rows);
        }
}

static ALWAYS_INLINE void store_row(const struct sums *s, float *const *out, unsigned row) {
        const lf parts[4] = { s->part0, s->part1, s->part2, s->part3 };
        float *to[LANES];

        for (unsigned l = 0; l < LANES; l++)
                to[l] = out[l] + row * WEIGHT_PANEL;
        lf_store(to, parts);
}

static ALWAYS_INLINE void store_many(const unsigned rows, const lf *acc, float *const *out) {
        UNROLL for (unsigned r = 0; r < rows; r++) {
                const struct sums s = { acc[2 * r], acc[2 * r + 1], acc[2 * (rows + r)], acc[2 * (rows + r) + 1] };

                store_row(&s, out, r);
        }
}

/* LANES panels; out[lane][row][16]. */
static ALWAYS_INLINE void lanes_multiply(const unsigned rows, const struct coded_panels *w, const size_t *panel, const float *x,
                                         size_t n_in, float *const *out) {
        const uint8_t *column[LANES], *index[LANES];
        struct coded_unit u;
        struct coded_line line;
        struct tile t;
        lb high;

        for (unsigned l = 0; l < LANES; l++) {
                column[l] = w->columns + panel[l] * w->stride;
                index[l] = w->index + panel[l] * w->units * sizeof(uint64_t);
        }
        t.first = t.second = (struct sums){ lf_zero(), lf_zero(), lf_zero(), lf_zero() };
        if (rows > LANE_ROWS)
                UNROLL for (unsigned i = 0; i < rows * 4; i++)
                        t.others[i] = lf_zero();
        high = lb_load(column, LOSSLESS_HIGH);
        line_begin(&line, lb_load(column, LOSSLESS_LOW), lb_and(high, lb_set1(0x0f)));
        UNROLL for (unsigned s = 0; s < 3; s++)
                line_sum(&line, s);
        line_end(&line);
        for (size_t k = 0; k < n_in; k += LOSSLESS_COLUMN) {
                if (k % LOSSLESS_UNIT == 0)
                        unit_begin(&u, index, k / LOSSLESS_UNIT, w->escapes);
                column_multiply(rows, &t, &u, &line, &high, column, x + k * rows);
                for (unsigned l = 0; l < LANES; l++)
                        column[l] += LOSSLESS_COLUMN_BYTES;
        }
        if (rows > LANE_ROWS)
                store_many(rows, t.others, out);
        if (rows <= LANE_ROWS)
                store_row(&t.first, out, 0);
        if (rows <= LANE_ROWS && rows > 1)
                store_row(&t.second, out, 1);
}

/* Where there are fewer panels than lanes, the last one is in several. */
static ALWAYS_INLINE void coded_kernel(const unsigned rows, const struct coded_panels *w, unsigned n_panels, const float *x, size_t n_in,
                                       float *out) {
        for (unsigned p = 0; p < n_panels; p += LANES) {
                size_t panel[LANES];
                float *to[LANES];

                for (unsigned l = 0; l < LANES; l++) {
                        panel[l] = p + l < n_panels ? p + l : n_panels - 1;
                        to[l] = out + panel[l] * rows * WEIGHT_PANEL;
                }
                lanes_multiply(rows, w, panel, x, n_in, to);
        }
}

#define CODED_FN(name, rows, unused)                                                                             \
        static void name##_##rows(const struct coded_panels *w, unsigned n_panels, const float *x, size_t n_in,  \
                                  float *out) {                                                                  \
                coded_kernel(rows, w, n_panels, x, n_in, out);                                                   \
        }

TILE_FNS(CODED_FN, panels_bf16_ll, )

const coded_fn VEC(coded_kernels)[4] = TILE_TABLE(panels_bf16_ll);
