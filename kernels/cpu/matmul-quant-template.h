/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Panel products of the plain quantized formats (format-q.c); included by matmul-ISA.c after its vec-ISA.h and
 * vec-math.h.
 *
 * Per block of 32 along K the dot products of weights and activations are exact integers, 16 outputs in 16 lanes. Then
 * t = dot * w_scale (+ w_min * sum of activations), acc = fma(t, activation scale, acc), block after block: the only
 * roundings, and the same ones in every instruction set.
 *
 * Where dot products are made of 16-bit ones (VEC_PAIRS), these add up in 16 bits as long as they fit, and are widened
 * once: after a whole block of 4 bits, after half a block of Q5_1. Formats with an offset start from what it takes away,
 * which makes the sums of Q5_0 fit for a whole block as well. Q8_0 has to widen each.
 *
 * Where there are matrix products (VEC_MMLA), rows of a tile are done two by two: see rows_mix(). Integers come out the
 * same, and what is done with them is the same.
 */

#ifdef VEC_MMLA
/* Groups of four whose products with the rows are one instruction's. */
static ALWAYS_INLINE unsigned groups_step(const unsigned rows) {
        return rows % 2 == 0 ? 2 : 1;
}

/* From sums by row to sums of two rows, [output][row] in either register of four, as matrix products add them up. */
static ALWAYS_INLINE void rows_mix(const unsigned rows, vi *sum) {
        UNROLL for (unsigned r = 0; r + 1 < rows; r += 2) {
                vi a = sum[r], b = sum[r + 1];

                sum[r] = vi_zip_low(a, b);
                sum[r + 1] = vi_zip_high(a, b);
        }
}

static ALWAYS_INLINE void rows_unmix(const unsigned rows, vi *sum) {
        UNROLL for (unsigned r = 0; r + 1 < rows; r += 2) {
                vi low = sum[r], high = sum[r + 1];

                sum[r] = vi_even(low, high);
                sum[r + 1] = vi_odd(low, high);
        }
}

/* Adds to mixed sums the products of two groups' weights; the rows' activations are `stride` bytes apart. */
static ALWAYS_INLINE void rows_mmla(const unsigned rows, vi *sum, const vi *w, const int8_t *a, const size_t stride) {
        vi low = vi_zip_low(w[0], w[1]), high = vi_zip_high(w[0], w[1]);

        UNROLL for (unsigned r = 0; r + 1 < rows; r += 2) {
                int8x16_t two = two_rows(a + r * stride, a + (r + 1) * stride);

                sum[r] = vi_mmla(sum[r], low, two);
                sum[r + 1] = vi_mmla(sum[r + 1], high, two);
        }
}
#else
/* Dot products are of four elements and one row: sums are never mixed. */
static ALWAYS_INLINE unsigned groups_step(const unsigned rows) {
        return 1;
}

static ALWAYS_INLINE void rows_mix(const unsigned rows, vi *sum) {
}

static ALWAYS_INLINE void rows_unmix(const unsigned rows, vi *sum) {
}

static ALWAYS_INLINE void rows_mmla(const unsigned rows, vi *sum, const vi *w, const int8_t *a, const size_t stride) {
}
#endif

static ALWAYS_INLINE size_t column_bytes(const enum fmt fmt) {
        switch (fmt) {
        case FMT_Q4_0: return 288;
        case FMT_Q4_1: return 320;
        case FMT_Q5_0: return 352;
        case FMT_Q5_1: return 384;
        default: return 544; /* Q8_0 */
        }
}

static ALWAYS_INLINE vi nibbles(const uint8_t *p, const unsigned upper) {
        vi v = vi_load(p);

        return vi_and(upper ? vi_shr(v, 4) : v, vi_set1(0x0f0f0f0f));
}

/* Bit g of each byte, as bit 4. */
static ALWAYS_INLINE vi fifth_bit(const uint8_t *p, const unsigned g) {
        vi v = vi_load(p);

        return vi_and(g < 4 ? vi_shl(v, 4 - g) : vi_shr(v, g - 4), vi_set1(0x10101010));
}

/* Elements 4g..4g+3 of the 16 rows' block. */
static ALWAYS_INLINE vi weights(const enum fmt fmt, const uint8_t *col, const unsigned g) {
        switch (fmt) {
        case FMT_Q4_0: return nibbles(col + 32 + 64 * (g % 4), g / 4);
        case FMT_Q4_1: return nibbles(col + 64 + 64 * (g % 4), g / 4);
        case FMT_Q5_0: return vi_or(nibbles(col + 96 + 64 * (g % 4), g / 4), fifth_bit(col + 32, g));
        case FMT_Q5_1: return vi_or(nibbles(col + 128 + 64 * (g % 4), g / 4), fifth_bit(col + 64, g));
        default: return vi_i8(vi_load(col + 32 + 64 * g)); /* Q8_0 */
        }
}

/* Groups of four whose dot products fit together. */
static ALWAYS_INLINE unsigned groups_together(const enum fmt fmt) {
        if (!VEC_PAIRS)
                return 8;
        return fmt == FMT_Q8_0 ? 1 : fmt == FMT_Q5_1 ? 4 : 8;
}

static ALWAYS_INLINE vi pairs_start(const enum fmt fmt, const struct act_block *x) {
        switch (fmt) {
        case FMT_Q4_0: return vi_pairs_start(x->pair, 8);
        case FMT_Q5_0: return vi_pairs_start(x->pair, 16);
        default: return vi_zero();
        }
}

/* What the accumulator of a block's products with i8 weights starts with. */
static ALWAYS_INLINE vi i8_start(const struct act_block *x) {
        return VEC_I8_SHIFTED ? vi_set1(x->minus128) : vi_zero();
}

static ALWAYS_INLINE vi pairs_dot(const enum fmt fmt, vi acc, vi w, const int8_t *a) {
        return fmt == FMT_Q8_0 ? vi_pairs_i8(acc, w, vi_set1_load(a)) : vi_pairs_dot(acc, w, vi_set1_load(a));
}

/* Adds to the rows' sums the products of groups [g, g + groups_step(rows)). */
static ALWAYS_INLINE void quant_groups(const enum fmt fmt, const unsigned rows, const uint8_t *col, const unsigned g,
                                       const struct act_block *x, vi *pairs) {
        const unsigned n = groups_step(rows);
        vi w[2];

        UNROLL for (unsigned i = 0; i < n; i++)
                w[i] = weights(fmt, col, g + i);
        if (n == 2)
                rows_mmla(rows, pairs, w, x->q + 4 * g, sizeof(*x));
        else
                UNROLL for (unsigned r = 0; r < rows; r++)
                        pairs[r] = pairs_dot(fmt, pairs[r], w[0], x[r].q + 4 * g);
}

static ALWAYS_INLINE void quant_column(const enum fmt fmt, const unsigned rows, const uint8_t *col,
                                       const struct act_block *x, vf *acc) {
        const bool has_min = fmt == FMT_Q4_1 || fmt == FMT_Q5_1;
        const unsigned run = groups_together(fmt);
        vf d = vf_load_f16(col), m = has_min ? vf_load_f16(col + 32) : vf_zero();
        vi sum[TILE_MAX];

        UNROLL for (unsigned r = 0; r < rows; r++)
                sum[r] = fmt == FMT_Q8_0 ? i8_start(x + r) : vi_zero();
        UNROLL for (unsigned first = 0; first < 8; first += run) {
                vi pairs[TILE_MAX];

                UNROLL for (unsigned r = 0; r < rows; r++)
                        pairs[r] = pairs_start(fmt, x + r);
                rows_mix(rows, pairs);
                UNROLL for (unsigned g = first; g < first + run; g += groups_step(rows))
                        quant_groups(fmt, rows, col, g, x, pairs);
                rows_unmix(rows, pairs);
                UNROLL for (unsigned r = 0; r < rows; r++)
                        sum[r] = vi_pairs_add(sum[r], pairs[r]);
        }
        UNROLL for (unsigned r = 0; r < rows; r++) {
                vf t = vf_mul(vf_from_vi(sum[r]), d);

                if (has_min)
                        t = vf_fma(m, vf_set1(x[r].sum), t);
                acc[r] = vf_fma(t, vf_set1(x[r].scale), acc[r]);
        }
}

/* As many rows of a tile as there are registers for. */
static ALWAYS_INLINE void quant_panel(const enum fmt fmt, const unsigned tile, const uint8_t *col,
                                      const struct act_block *x, size_t n_in, float *out) {
        const unsigned rows = ROWS_OF(tile);
        vf acc[TILE_MAX];

        UNROLL for (unsigned r = 0; r < rows; r++)
                acc[r] = vf_zero();
        for (size_t k = 0; k < n_in; k += ACT_BLOCK, col += column_bytes(fmt), x += tile)
                quant_column(fmt, rows, col, x, acc);
        UNROLL for (unsigned r = 0; r < rows; r++)
                vf_store(out + 16 * r, acc[r]);
}

static ALWAYS_INLINE void quant_kernel(const enum fmt fmt, const unsigned rows, const void *w, size_t stride,
                                       unsigned n_panels, const void *x, size_t n_in, float *out) {
        const struct act_block *a = x;

        for (unsigned p = 0; p < n_panels; p++, out += rows * 16)
                for (unsigned r = 0; r < rows; r += VEC_ROWS)
                        quant_panel(fmt, rows, (const uint8_t *)w + p * stride, a + r, n_in, out + 16 * r);
}
