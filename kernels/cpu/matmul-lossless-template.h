/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Panel products of losslessly coded BF16 (kernels/lossless.h); matmul-lossless-ISA.c is a vec-ISA.h, a lane-ISA.h and this. The
 * sums are those of plain BF16 bit for bit: the same numbers, multiplied and added in the same order.
 *
 * LANES panels at a time, one in each lane of a register. A line is four k of them, in each lane the 64 codes that stand together:
 *
 *   codes     of the four k of a byte, apart: code[s]. The high bits, spread to where they belong, take the place of two bits.
 *   escapes   escape[s] says which codes are escapes; a running sum over the bytes of a lane says how many are before a byte's
 *             (place: 15 - that).
 *   tables    of a line: bytes 0-7 of a lane are what its unit's codes stand for, bytes 15, 14 ... the line's escapes. So one
 *             look-up is a code's or an escape's, by code or by place.
 *   numbers   low and high bytes of BF16 numbers: looked up, with the significand and the sign put in. Zipped they are floats.
 *
 * That is for lines of at most 7 escapes in each lane (2.2 in the middle; of Gaussian weights one line in 500 has more), and
 * where no lane's unit is wide; line_slow() does the others, any of them, eight escapes at a time.
 *
 * A line's running sum is made while the line before it is multiplied, so that one of two long chains does not wait for the other.
 */

#include <endian.h>

#include "kernels.h"
#include "kernels/lossless.h"
#include "vec-math.h"

#define FAST_ESCAPES 7u
#define AHEAD 3072u /* bytes from what is read to what is asked for */

/* What holds for a unit in each lane, and what has been read of it. */
struct coded_unit {
        lb base;
        lb code_low, code_high;     /* tables by code */
        lb escape_low, escape_high; /* by an escape's four bits */
        const uint8_t *escapes[LANES];
        size_t at[LANES];           /* escapes so far */
        uint8_t wide[LANES];        /* 0xff or 0 */
        unsigned fast;              /* at most FAST_ESCAPES, or none where a lane is wide */
};

struct coded_line {
        lb low, nibbles;            /* as they are read; of nibbles the lower half of bytes */
        lb code[4], escape[4];
        lb count;                   /* - number of escapes of a byte */
        lb place;
        unsigned n[LANES];          /* escapes */
};

static const uint8_t code_offsets[16] = { 0, 1, 2, 3, 4, 5, 6 };
static const uint8_t code_used[16] = { 255, 255, 255, 255, 255, 255, 255 };
static const uint8_t is_escape[16] = { 0, 0, 0, 0, 0, 0, 0, 255 };
/* Bits 0-3 to bits 2, 0, 6, 4. */
static const uint8_t spread[16] = { 0x00, 0x04, 0x01, 0x05, 0x40, 0x44, 0x41, 0x45,
                                    0x10, 0x14, 0x11, 0x15, 0x50, 0x54, 0x51, 0x55 };

static ALWAYS_INLINE lb exponents_low(lb e) { return lb_and(lb_shl(e, 7), lb_set1(0x80)); }
static ALWAYS_INLINE lb exponents_high(lb e) { return lb_and(lb_shr(e, 1), lb_set1(0x7f)); }
static ALWAYS_INLINE lb exponents_of_codes(lb base) {
        return lb_and(lb_add(base, lb_table(code_offsets)), lb_table(code_used));
}
static ALWAYS_INLINE lb exponents_of_escapes(lb base) {
        uint8_t from0[16], from1[16], used[16];

        for (unsigned n = 0; n < 16; n++) {
                from0[n] = lossless_escape(0, n);
                from1[n] = lossless_escape(1, n);
                used[n] = from0[n] == from1[n] ? 0 : 0xff;
        }
        return lb_and(lb_add(base, lb_table(from0)), lb_table(used));
}

static ALWAYS_INLINE void unit_begin(struct coded_unit *u, const uint8_t *const *index, size_t unit, const uint8_t *escapes) {
        uint8_t bases[LANES];
        lb e;

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
        e = exponents_of_codes(u->base);
        u->code_low = exponents_low(e);
        u->code_high = exponents_high(e);
        e = exponents_of_escapes(u->base);
        u->escape_low = exponents_low(e);
        u->escape_high = exponents_high(e);
}

/* Escapes of four bits from the at-th on, the first one lowest: 15 or 16 of them. */
static ALWAYS_INLINE uint64_t next_nibbles(const uint8_t *escapes, size_t at) {
        uint64_t v;

        memcpy(&v, escapes + at / 2, sizeof(v));
        return le64toh(v) >> 4 * (at % 2);
}

/* The same in bytes 15, 14 ... of each lane. */
static ALWAYS_INLINE lb next_reversed(const struct coded_unit *u) {
        uint64_t v[LANES];
        lb x;

        for (unsigned l = 0; l < LANES; l++)
                v[l] = __builtin_bswap64(next_nibbles(u->escapes[l], u->at[l]));
        x = lb_set_u64(v);
        return lb_zip(lb_and(lb_shr(x, 4), lb_set1(0x0f)), lb_and(x, lb_set1(0x0f)));
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
        c->place = lb_behind(c->count, lb_set1(15));
}

/* A fourth of the running sum. */
static ALWAYS_INLINE void line_sum(struct coded_line *c, const unsigned s) {
        switch (s) {
        case 0: c->place = lb_add(c->place, lb_up(c->place, 1)); break;
        case 1: c->place = lb_add(c->place, lb_up(c->place, 2)); break;
        case 2: c->place = lb_add(c->place, lb_up(c->place, 4)); break;
        default: c->place = lb_add(c->place, lb_up(c->place, 8)); break;
        }
}

static ALWAYS_INLINE void line_end(struct coded_line *c) {
        uint8_t last[LANES];

        lb_last(lb_add(c->place, c->count), last);
        UNROLL for (unsigned l = 0; l < LANES; l++) {
                c->n[l] = last[l];
                __asm__("" : "+r"(c->n[l])); /* one by one: as vectors of two they would go through memory */
                c->n[l] = (15 - c->n[l]) & 0xff;
        }
}

/* Low and high bytes of the exponents of any line. */
static __attribute__((noinline)) void line_slow(const struct coded_unit *u, lb code_low, lb nibbles, lb *low, lb *high) {
        lb exponents[4], at[4], before;
        struct coded_line c;
        unsigned most = 0;

        line_begin(&c, code_low, nibbles);
        UNROLL for (unsigned s = 0; s < 4; s++)
                line_sum(&c, s);
        line_end(&c);
        for (unsigned l = 0; l < LANES; l++)
                most = c.n[l] > most ? c.n[l] : most;
        before = lb_sub(lb_set1(15), c.place);
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
        for (unsigned s = 0; s < 4; s++) {
                low[s] = exponents_low(exponents[s]);
                high[s] = exponents_high(exponents[s]);
        }
}

/* --- products ---------------------------------------------------------------------------------------------------- */

/* The numbers of one k: words of the first and of the last eight. */
static ALWAYS_INLINE void merge(const uint8_t *const *column, size_t at, lb low, lb high, lb *words) {
        lb signs = lb_load(column, at);

        low = lb_merge(lb_set1(0x7f), signs, low);
        high = lb_merge(lb_set1(0x80), signs, high);
        words[0] = lb_words(low, high, 0);
        words[1] = lb_words(low, high, 1);
}

/* One k; sums are acc[half][row][part] and stay in registers. */
static ALWAYS_INLINE void few_products(const unsigned rows, lf *acc, const lb *words, const float *x) {
        lf v[4];

        UNROLL for (unsigned i = 0; i < 4; i++)
                v[i] = lf_words(words[i / 2], i % 2);
        UNROLL for (unsigned r = 0; r < rows; r++) {
                lf a = lf_set1(x[r]);

                UNROLL for (unsigned i = 0; i < 4; i++) {
                        lf *sum = acc + (i / 2 * rows + r) * 2 + i % 2;

                        *sum = lf_fma(v[i], a, *sum);
                }
        }
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

/* Multiplies line c, whose signs are at `at`, and sums up the next one. */
static ALWAYS_INLINE void line_multiply(const unsigned rows, lf *acc, struct coded_unit *u, const struct coded_line *c,
                                        struct coded_line *next, const uint8_t *const *column, size_t at, const float *x) {
        unsigned most = c->n[0];
        lb words[4][2];

        for (unsigned l = 1; l < LANES; l++)
                most |= c->n[l];
        if (__builtin_expect(most <= u->fast, 1)) {
                lb escapes = next_reversed(u), place = c->place;
                lb table_low = lb_halves(u->code_low, lb_lut(u->escape_low, escapes));
                lb table_high = lb_halves(u->code_high, lb_lut(u->escape_high, escapes));

                UNROLL for (unsigned s = 0; s < 4; s++) {
                        lb index = lb_if(c->escape[s], place, c->code[s]);

                        line_sum(next, s);
                        place = lb_add(place, c->escape[s]);
                        merge(column, at + 16 * s, lb_lut(table_low, index), lb_lut(table_high, index), words[s]);
                        if (rows <= LANE_ROWS)
                                few_products(rows, acc, words[s], x + s * rows);
                }
        } else {
                lb low[4], high[4];

                line_slow(u, c->low, c->nibbles, low, high);
                UNROLL for (unsigned s = 0; s < 4; s++) {
                        line_sum(next, s);
                        merge(column, at + 16 * s, low[s], high[s], words[s]);
                        if (rows <= LANE_ROWS)
                                few_products(rows, acc, words[s], x + s * rows);
                }
        }
        line_end(next);
        for (unsigned l = 0; l < LANES; l++)
                u->at[l] += c->n[l];
        if (rows > LANE_ROWS)
                many_products(rows, acc, words, x);
}

static ALWAYS_INLINE void ask_for(const uint8_t *const *column, unsigned eighth) {
        for (unsigned l = 0; l < LANES; l++)
                UNROLL for (unsigned i = 0; i < 3; i++)
                        __builtin_prefetch(column[l] + AHEAD + LOSSLESS_COLUMN_BYTES / 8 * eighth + 64 * i);
}

/* A column; its first line, and the high bits of that, have been read, and are read of the next one, or of what follows the panel: there
 * is a tensor's index at least. */
static ALWAYS_INLINE void column_multiply(const unsigned rows, lf *acc, struct coded_unit *u, struct coded_line *even, lb *high,
                                          const uint8_t *const *column, const float *x) {
        for (unsigned pair = 0; pair < 8; pair++, x += 8 * rows) {
                unsigned following = (pair + 1) % 8;
                size_t end = pair < 7 ? 0 : LOSSLESS_COLUMN_BYTES;
                struct coded_line odd;

                ask_for(column, pair);
                line_begin(&odd, lb_load(column, LOSSLESS_LOW + 32 * pair + 16), lb_and(lb_shr(*high, 4), lb_set1(0x0f)));
                line_multiply(rows, acc, u, even, &odd, column, 128 * pair, x);
                *high = lb_load(column, end + LOSSLESS_HIGH + 16 * following);
                line_begin(even, lb_load(column, end + LOSSLESS_LOW + 32 * following), lb_and(*high, lb_set1(0x0f)));
                line_multiply(rows, acc, u, &odd, even, column, 128 * pair + 64, x + 4 * rows);
        }
}

/* LANES panels; out[lane][row][16]. */
static ALWAYS_INLINE void lanes_multiply(const unsigned rows, const struct coded_panels *w, const size_t *panel, const float *x,
                                         size_t n_in, float *const *out) {
        const uint8_t *column[LANES], *index[LANES];
        lf acc[TILE_MAX * 4];
        struct coded_unit u;
        struct coded_line line;
        lb high;

        for (unsigned l = 0; l < LANES; l++) {
                column[l] = w->columns + panel[l] * w->stride;
                index[l] = w->index + panel[l] * w->units * sizeof(uint64_t);
        }
        UNROLL for (unsigned i = 0; i < rows * 4; i++)
                acc[i] = lf_zero();
        high = lb_load(column, LOSSLESS_HIGH);
        line_begin(&line, lb_load(column, LOSSLESS_LOW), lb_and(high, lb_set1(0x0f)));
        UNROLL for (unsigned s = 0; s < 4; s++)
                line_sum(&line, s);
        line_end(&line);
        for (size_t k = 0; k < n_in; k += LOSSLESS_COLUMN) {
                if (k % LOSSLESS_UNIT == 0)
                        unit_begin(&u, index, k / LOSSLESS_UNIT, w->escapes);
                column_multiply(rows, acc, &u, &line, &high, column, x + k * rows);
                for (unsigned l = 0; l < LANES; l++)
                        column[l] += LOSSLESS_COLUMN_BYTES;
        }
        UNROLL for (unsigned r = 0; r < rows; r++) {
                float *to[LANES];
                lf sums[4];

                for (unsigned l = 0; l < LANES; l++)
                        to[l] = out[l] + r * WEIGHT_PANEL;
                UNROLL for (unsigned i = 0; i < 4; i++)
                        sums[i] = acc[(i / 2 * rows + r) * 2 + i % 2];
                lf_store(to, sums);
        }
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
