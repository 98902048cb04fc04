/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Panel products of the two-level formats, blocks of 256 (format-k.c, format-k-low.c, IQ4_XS of format-lut.c); included
 * by matmul-ISA.c after matmul-quant-template.h.
 *
 * Activations have one scale for 256 as well, so a column's sum of dot * sub-block scale is an exact integer, and so is
 * the sum of minimum * activations. What is rounded is
 *   acc = fma(sum, w_scale * activation scale, acc), acc = fma(sum of minima, -w_min_scale * activation scale, acc)
 * column after column, in every instruction set.
 *
 * Where dot products are made of 16-bit ones (VEC_PAIRS), they add up in 16 bits as long as they fit; then the
 * multiplication by the sub-block's scale is what widens them, and costs nothing. With 4 bits that is a sub-block of 32,
 * with 5 half of one. Q6_K starts from minus 32 times the activations, which brings its quants to both sides of zero:
 * 16 elements fit, and the offset is done with.
 */

#define K_SUBS_MAX 16u

static ALWAYS_INLINE size_t k_column_bytes(const enum fmt fmt) {
        switch (fmt) {
        case FMT_Q2_K: return 1344;
        case FMT_Q3_K: return 1760;
        case FMT_Q4_K: return 2304;
        case FMT_Q5_K: return 2816;
        case FMT_Q6_K: return 3360;
        default: return 2176; /* IQ4_XS */
        }
}

/* Sub-blocks, that is scales, per 32 elements. */
static ALWAYS_INLINE unsigned k_subs(const enum fmt fmt) {
        return fmt == FMT_Q2_K || fmt == FMT_Q3_K || fmt == FMT_Q6_K ? 2 : 1;
}

/* Blocks consist of chunks whose runs of 32 elements have their bits in the same bytes: so many runs in a chunk. */
static ALWAYS_INLINE unsigned k_chunk_runs(const enum fmt fmt) {
        return fmt == FMT_IQ4_XS ? 1 : fmt == FMT_Q4_K || fmt == FMT_Q5_K ? 2 : 4;
}

static ALWAYS_INLINE bool k_has_min(const enum fmt fmt) {
        return fmt == FMT_Q2_K || fmt == FMT_Q4_K || fmt == FMT_Q5_K;
}

/* Groups of four whose dot products fit together. */
static ALWAYS_INLINE unsigned k_groups_together(const enum fmt fmt) {
        if (VEC_PAIRS)
                return fmt == FMT_IQ4_XS ? 1 : fmt == FMT_Q4_K ? 8 : 4;
        return 8 / k_subs(fmt);
}

/* Bits [2j, 2j + 2) of each byte, moved to bit `to`. */
static ALWAYS_INLINE vi two_bits(const uint8_t *p, const unsigned j, const unsigned to) {
        vi v = vi_load(p);

        return vi_and(2 * j < to ? vi_shl(v, to - 2 * j) : vi_shr(v, 2 * j - to), vi_set1(0x03030303 << to));
}

/* Elements 4g..4g+3 of run j of a chunk, for the 16 rows. (Chunks are a loop, so that code is of a size that compiles
 * and caches well.) Offsets: see the lists of fields in format-*.c. */
static ALWAYS_INLINE vi k_weights(const enum fmt fmt, vt table, const uint8_t *col, unsigned chunk, const unsigned j,
                                  const unsigned g) {
        switch (fmt) {
        case FMT_Q2_K:
                return two_bits(col + 320 + 512 * chunk + 64 * g, j, 0);
        case FMT_Q3_K: {
                vi third = vi_shr_by(vi_load(col + 224 + 64 * g), 4 * chunk);

                third = vi_and(j < 2 ? vi_shl(third, 2 - j) : vi_shr(third, j - 2), vi_set1(0x04040404));
                return vi_or(two_bits(col + 736 + 512 * chunk + 64 * g, j, 0), third);
        }
        case FMT_Q4_K:
                return nibbles(col + 256 + 512 * chunk + 64 * g, j);
        case FMT_Q5_K: {
                vi fifth = vi_shl(vi_shr_by(vi_load(col + 256 + 64 * g), 2 * chunk), 4 - j);

                return vi_or(nibbles(col + 768 + 512 * chunk + 64 * g, j), vi_and(fifth, vi_set1(0x10101010)));
        }
        case FMT_Q6_K: { /* [half][group]: 64 bytes of either nibble run, 64 of upper bits */
                const uint8_t *bits = col + 288 + 1536 * chunk + 192 * g;

                return vi_or(nibbles(bits + 64 * (j % 2), j / 2), two_bits(bits + 128, j, 4));
        }
        default: /* IQ4_XS */
                return vi_i8(vi_lut(table, nibbles(col + 128 + 256 * chunk + 64 * (g % 4), g / 4)));
        }
}

/* The 6-bit scales and minima of Q4_K and Q5_K, as bytes [sub-block][row]. */
static ALWAYS_INLINE void k_scales_and_mins(const uint8_t *p, uint8_t *sc, uint8_t *mn) {
        vi a = vi_load(p), b = vi_load(p + 64), c = vi_load(p + 128);
        vi six = vi_set1(0x3f3f3f3f), low = vi_set1(0x0f0f0f0f), top = vi_set1(0x30303030);

        vi_store(sc, vi_and(a, six));
        vi_store(mn, vi_and(b, six));
        vi_store(sc + 64, vi_or(vi_and(c, low), vi_and(vi_shr(a, 2), top)));
        vi_store(mn + 64, vi_or(vi_and(vi_shr(c, 4), low), vi_and(vi_shr(b, 2), top)));
}

/* x - 32 for bytes below 64: bit 5 inverted, and copied to the bits above. */
static ALWAYS_INLINE vi minus_32(vi x) {
        vi y = vi_xor(x, vi_set1(0x20202020)), sign = vi_and(y, vi_set1(0x20202020));

        return vi_or(y, vi_or(vi_shl(sign, 1), vi_shl(sign, 2)));
}

/* Of Q3_K: p has 12 bytes [16] of them. */
static ALWAYS_INLINE void q3_k_scales(const uint8_t *p, uint8_t *sc) {
        vi top = vi_load(p + 128);

        UNROLL for (unsigned i = 0; i < 4; i++) { /* sub-blocks 4i..4i+3 */
                vi upper = vi_and(i < 2 ? vi_shl(top, 4 - 2 * i) : vi_shr(top, 2 * i - 4), vi_set1(0x30303030));

                vi_store(sc + 64 * i, minus_32(vi_or(nibbles(p + 64 * (i % 2), i / 2), upper)));
        }
}

/* Of IQ4_XS: the upper bits of a row in 16 bits, then the lower ones, [4][16] bytes. */
static ALWAYS_INLINE void iq4_xs_scales(const uint8_t *p, uint8_t *sc) {
        for (unsigned l = 0; l < 16; l++)
                for (unsigned j = 0; j < 8; j++) {
                        unsigned low = (unsigned)p[32 + 16 * (j / 2) + l] >> 4 * (j % 2) & 15u;
                        unsigned high = (unsigned)p[2 * l + j / 4] >> 2 * (j % 4) & 3u;

                        sc[16 * j + l] = (uint8_t)((low | high << 4) - 32u);
                }
}

/* All scales of a column, as bytes [sub-block][row], and minima. Returns where the scales are. */
static ALWAYS_INLINE const uint8_t *k_scales(const enum fmt fmt, const uint8_t *col, uint8_t *sc, uint8_t *mn) {
        switch (fmt) {
        case FMT_Q2_K:
                UNROLL for (unsigned i = 0; i < 4; i++) {
                        vi_store(sc + 64 * i, nibbles(col + 64 + 64 * i, 0));
                        vi_store(mn + 64 * i, nibbles(col + 64 + 64 * i, 1));
                }
                return sc;
        case FMT_Q3_K:
                q3_k_scales(col + 32, sc);
                return sc;
        case FMT_Q4_K:
        case FMT_Q5_K:
                k_scales_and_mins(col + 64, sc, mn);
                return sc;
        case FMT_Q6_K:
                return col + 32;
        default: /* IQ4_XS */
                iq4_xs_scales(col + 32, sc);
                return sc;
        }
}

static ALWAYS_INLINE vi k_start(const enum fmt fmt, const struct act_super *x, unsigned sub) {
        switch (fmt) {
        case FMT_Q3_K: return vi_pairs_shifted(x->pair32[sub], 3);
        case FMT_Q6_K: return vi_pairs_shifted(x->pair32[sub], 0);
        case FMT_IQ4_XS: return VEC_I8_SHIFTED ? vi_set1(-128 * x->sum32[sub]) : vi_zero();
        default: return vi_zero();
        }
}

static ALWAYS_INLINE vi k_dot(const enum fmt fmt, vi acc, vi w, const int8_t *a) {
        return fmt == FMT_IQ4_XS ? vi_pairs_i8(acc, w, vi_set1_load(a)) : vi_pairs_dot(acc, w, vi_set1_load(a));
}

/* Adds to the rows' sums the products of groups [g, g + groups_step(rows)) of run j of a chunk; x->q + a is where the
 * activations are. */
static ALWAYS_INLINE void k_groups(const enum fmt fmt, const unsigned rows, vt table, const uint8_t *col,
                                   unsigned chunk, const unsigned j, const unsigned g, const struct act_super *x,
                                   unsigned a, vi *pairs) {
        const unsigned n = groups_step(rows);
        vi w[2];

        UNROLL for (unsigned i = 0; i < n; i++)
                w[i] = k_weights(fmt, table, col, chunk, j, g + i);
        if (n == 2)
                rows_mmla(rows, pairs, w, x->q + a, sizeof(*x));
        else
                UNROLL for (unsigned r = 0; r < rows; r++)
                        pairs[r] = k_dot(fmt, pairs[r], w[0], x[r].q + a);
}

/* Runs [j, j + n) of a chunk, for the rows. */
static ALWAYS_INLINE void k_runs(const enum fmt fmt, const unsigned rows, const unsigned n, vt table,
                                 const uint8_t *col, unsigned chunk, const unsigned j, const uint8_t *sc,
                                 const struct act_super *x, vi *sum) {
        const unsigned together = k_groups_together(fmt), subs = k_subs(fmt);
        const unsigned run = k_chunk_runs(fmt) * chunk + j;

        UNROLL for (unsigned first = 0; first < 8; first += together) {
                const unsigned sub = first * subs / 8;
                vi pairs[TILE_MAX];

                UNROLL for (unsigned i = 0; i < n * rows; i++)
                        pairs[i] = k_start(fmt, x + i % rows, (run + i / rows) * subs + sub);
                UNROLL for (unsigned k = 0; k < n; k++)
                        rows_mix(rows, pairs + k * rows);
                UNROLL for (unsigned g = first; g < first + together; g += groups_step(rows))
                        UNROLL for (unsigned k = 0; k < n; k++)
                                k_groups(fmt, rows, table, col, chunk, j + k, g, x, 32 * (run + k) + 4 * g,
                                         pairs + k * rows);
                UNROLL for (unsigned k = 0; k < n; k++) {
                        vi scale = vi_scale_i8(sc + 16 * ((run + k) * subs + sub));

                        rows_unmix(rows, pairs + k * rows);
                        UNROLL for (unsigned r = 0; r < rows; r++)
                                sum[r] = vi_pairs_scaled(sum[r], pairs[k * rows + r], scale);
                }
        }
}

#ifdef VEC_HALVES
/* One run whose weights k_unpack() left at w, for half of the outputs. */
static ALWAYS_INLINE void k_run(const enum fmt fmt, const unsigned rows, const unsigned half, const uint8_t *w,
                                unsigned run, const uint8_t *sc, const struct act_super *x, vh *sum) {
        const unsigned together = k_groups_together(fmt), subs = k_subs(fmt);

        UNROLL for (unsigned first = 0; first < 8; first += together) {
                const unsigned sub = first * subs / 8;
                vh scale = vh_of(vi_scale_i8(sc + 16 * (run * subs + sub)), half), pairs[TILE_MAX];

                UNROLL for (unsigned r = 0; r < rows; r++)
                        pairs[r] = vh_of(k_start(fmt, x + r, run * subs + sub), half);
                UNROLL for (unsigned g = first; g < first + together; g++) {
                        vh four = vh_load(w + 64 * g + 32 * half);

                        UNROLL for (unsigned r = 0; r < rows; r++) {
                                vh a = vh_set1_load(x[r].q + 32 * run + 4 * g);

                                pairs[r] = fmt == FMT_IQ4_XS ? vh_pairs_i8(pairs[r], four, a) :
                                                               vh_pairs_dot(pairs[r], four, a);
                        }
                }
                UNROLL for (unsigned r = 0; r < rows; r++)
                        sum[r] = vh_pairs_scaled(sum[r], pairs[r], scale);
        }
}

/* All runs of a column, one half of the outputs after the other. */
static ALWAYS_INLINE void k_ready_runs(const enum fmt fmt, const unsigned rows, const uint8_t *w, const uint8_t *sc,
                                       const struct act_super *x, vi *sum) {
        vh sums[VEC_HALVES][TILE_MAX];

        UNROLL for (unsigned half = 0; half < VEC_HALVES; half++) {
                vh s[TILE_MAX];

                UNROLL for (unsigned r = 0; r < rows; r++)
                        s[r] = vh_zero();
                for (unsigned run = 0; run < 8; run++)
                        k_run(fmt, rows, half, w + 512 * run, run, sc, x, s);
                UNROLL for (unsigned r = 0; r < rows; r++)
                        sums[half][r] = s[r];
        }
        UNROLL for (unsigned r = 0; r < rows; r++)
                sum[r] = vi_of(sums[0][r], sums[1][r]);
}
#else
/* Tiles are as large as what is done at a time: nothing is ever unpacked before. */
static ALWAYS_INLINE void k_ready_runs(const enum fmt fmt, const unsigned rows, const uint8_t *w, const uint8_t *sc,
                                       const struct act_super *x, vi *sum) {
}
#endif

/* A column's weights as bytes, [run][group][row][4], for a tile of more rows than are done at a time. */
static ALWAYS_INLINE void k_unpack(const enum fmt fmt, vt table, const uint8_t *col, uint8_t *dst) {
        const unsigned runs = k_chunk_runs(fmt);

        for (unsigned chunk = 0; chunk < 8 / runs; chunk++)
                UNROLL for (unsigned j = 0; j < runs; j++)
                        UNROLL for (unsigned g = 0; g < 8; g++)
                                vi_store(dst + 64 * (8 * (runs * chunk + j) + g), k_weights(fmt, table, col, chunk, j, g));
}

/* The sum of minimum * activations of one row. */
static ALWAYS_INLINE vi k_min_sum(const enum fmt fmt, const uint8_t *mn, const struct act_super *x) {
        const int16_t *sums = k_subs(fmt) == 2 ? x->sum16 : x->sum32;
        vi sum = vi_zero();

        UNROLL for (unsigned s = 0; s < 8 * k_subs(fmt); s += 2)
                sum = vi_two_madd(sum, vi_two_u8(mn + 16 * s), sums + s);
        return sum;
}

/* Runs of a chunk are done together where there are registers enough for their sums: their bits are loaded once. */
static ALWAYS_INLINE unsigned k_runs_together(const enum fmt fmt, const unsigned rows) {
        const unsigned fit = rows >= 4 ? 1 : 4 / rows;

        return fit < k_chunk_runs(fmt) ? fit : k_chunk_runs(fmt);
}

/* What a column adds to the rows; w is the column, or its weights where they are ready. */
static ALWAYS_INLINE void k_column(const enum fmt fmt, const bool ready, const unsigned rows, vt table,
                                   const uint8_t *col, const uint8_t *w, const uint8_t *sc, const uint8_t *mn,
                                   const struct act_super *x, vf *acc) {
        const unsigned runs = k_chunk_runs(fmt), n = k_runs_together(fmt, rows);
        vf d = vf_load_f16(col);
        vi sum[TILE_MAX];

        UNROLL for (unsigned r = 0; r < rows; r++)
                sum[r] = vi_zero();
        for (unsigned chunk = 0; !ready && chunk < 8 / runs; chunk++)
                UNROLL for (unsigned j = 0; j < runs; j += n)
                        k_runs(fmt, rows, n, table, w, chunk, j, sc, x, sum);
        if (ready)
                k_ready_runs(fmt, rows, w, sc, x, sum);
        UNROLL for (unsigned r = 0; r < rows; r++)
                acc[r] = vf_fma(vf_from_vi(sum[r]), vf_mul(d, vf_set1(x[r].scale)), acc[r]);
        if (k_has_min(fmt)) {
                vf dmin = vf_sub(vf_zero(), vf_load_f16(col + 32));

                UNROLL for (unsigned r = 0; r < rows; r++)
                        acc[r] = vf_fma(vf_from_vi(k_min_sum(fmt, mn, x + r)), vf_mul(dmin, vf_set1(x[r].scale)),
                                        acc[r]);
        }
}

/* How many rows there are, said so that the loop over parts of a tile does not unroll. */
static ALWAYS_INLINE unsigned k_rows(const unsigned tile) {
        unsigned n = tile;

        if (tile > VEC_ROWS)
                __asm__("" : "+r"(n));
        return n;
}

static ALWAYS_INLINE void k_kernel(const enum fmt fmt, const unsigned rows, const void *w, size_t stride,
                                   unsigned n_panels, const void *x, size_t n_in, float *out) {
        const vt table = vt_load(fmt_iq4_values);
        const bool ready = rows > VEC_ROWS;

        for (unsigned p = 0; p < n_panels; p++, out += rows * 16) {
                const uint8_t *col = (const uint8_t *)w + p * stride;
                const struct act_super *a = x;
                vf acc[TILE_MAX];

                UNROLL for (unsigned r = 0; r < rows; r++)
                        acc[r] = vf_zero();
                for (size_t k = 0; k < n_in; k += ACT_SUPER, col += k_column_bytes(fmt), a += rows) {
                        uint8_t scales[K_SUBS_MAX * 16], mn[K_SUBS_MAX * 16], bytes[VEC_TILE > VEC_ROWS ? ACT_SUPER * 16 : 64];
                        const uint8_t *sc = k_scales(fmt, col, scales, mn);

                        if (ready)
                                k_unpack(fmt, table, col, bytes);
                        for (unsigned r = 0, n = k_rows(rows); r < n; r += VEC_ROWS)
                                k_column(fmt, ready, ROWS_OF(rows), table, col, ready ? bytes : col, sc, mn, a + r, acc + r);
                }
                UNROLL for (unsigned r = 0; r < rows; r++)
                        vf_store(out + 16 * r, acc[r]);
        }
}
