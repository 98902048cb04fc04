/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Panel products of formats whose codes are looked up (IQ4_NL, MXFP4, NVFP4: see format-lut.c), and of F8_E4M3;
 * included by matmul-ISA.c after its vec-ISA.h, vec-math.h and matmul-quant-template.h.
 *
 * Looked-up weights are 8-bit integers: what matmul-quant-template.h says of sums and roundings holds here too. E2M1,
 * doubled, reaches from -12 to 12. With 12 added it is unsigned, and the sum starts with -12 times that of the
 * activations: all products of a block add up in 16 bits where dot products are made of 16-bit ones.
 */

#include <math.h>

#define F8_BYTES 2112u
#define F8_BLOCK 128u

static ALWAYS_INLINE size_t lut_column_bytes(const enum fmt fmt) {
        return fmt == FMT_IQ4_NL ? 288 : fmt == FMT_MXFP4 ? 272 : 576;
}

/* Where the codes begin in a column. */
static ALWAYS_INLINE size_t lut_codes(const enum fmt fmt) {
        return fmt == FMT_IQ4_NL ? 32 : fmt == FMT_MXFP4 ? 16 : 64;
}

static ALWAYS_INLINE vt lut_table(const enum fmt fmt) {
        static const int8_t e2m1_and_12[16] = { 12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0 };

        return vt_load(fmt == FMT_IQ4_NL ? fmt_iq4_values : e2m1_and_12);
}

/* Half of 2^(e - 127), for values are doubled; 255 is not a number. */
static ALWAYS_INLINE vf e8m0_half(const uint8_t *p) {
        vi bits = vi_max(vi_shl(vi_load_u8(p), 23), vi_set1(0x00400000));
        vf half = vf_mul(vf_bits(bits), vf_set1(0.5f));

        return vf_if_less(half, vf_set1(INFINITY), half, vf_set1(NAN));
}

/* Half of a UE4M3. With bias 7 - 1 moved to a float's, codes below 8 get an exponent that they do not have: what is
 * above 2^-8 then is half of their value. */
static ALWAYS_INLINE vf ue4m3_half(const uint8_t *p) {
        vf v = vf_bits(vi_add(vi_shl(vi_and(vi_load_u8(p), vi_set1(0x7f)), 20), vi_set1(119 << 23)));
        vf above = vf_sub(v, vf_set1(0x1p-8f));

        v = vf_if_less(v, vf_set1(0x1p-7f), vf_add(above, above), v);
        return vf_if_less(v, vf_set1(240.0f), v, vf_zero());
}

/* Elements 4g..4g+3 of the half h of a block of activations. NVFP4: col has 16 elements for each h. */
static ALWAYS_INLINE vi lut_weights(const enum fmt fmt, vt table, const uint8_t *codes, const unsigned h,
                                    const unsigned g) {
        if (fmt == FMT_NVFP4)
                return vi_lut(table, nibbles(codes + 128 * h + 64 * (g % 2), g / 2));
        return vi_lut(table, nibbles(codes + 64 * g, h));
}

/* Adds to the rows' (mixed) sums the products of half h of the rows' blocks with E2M1 + 12. */
static ALWAYS_INLINE void e2m1_half(const enum fmt fmt, const unsigned rows, vt table, const uint8_t *codes,
                                    const unsigned h, const struct act_block *x, vi *sum) {
        const unsigned n = groups_step(rows);

        UNROLL for (unsigned g = 0; g < 4; g += n) {
                vi w[2];

                UNROLL for (unsigned i = 0; i < n; i++)
                        w[i] = lut_weights(fmt, table, codes, h, g + i);
                if (n == 2)
                        rows_mmla(rows, sum, w, x->q + 16 * h + 4 * g, sizeof(*x));
                else
                        UNROLL for (unsigned r = 0; r < rows; r++)
                                sum[r] = vi_pairs_dot(sum[r], w[0], vi_set1_load(x[r].q + 16 * h + 4 * g));
        }
}

static ALWAYS_INLINE void mxfp4_products(const unsigned rows, vt table, const uint8_t *col, const struct act_block *x,
                                         vf *acc) {
        const uint8_t *codes = col + lut_codes(FMT_MXFP4);
        vf d = e8m0_half(col);
        vi sum[TILE_MAX];

        UNROLL for (unsigned r = 0; r < rows; r++)
                sum[r] = vi_pairs_start(x[r].pair, 12);
        rows_mix(rows, sum);
        e2m1_half(FMT_MXFP4, rows, table, codes, 0, x, sum);
        e2m1_half(FMT_MXFP4, rows, table, codes, 1, x, sum);
        rows_unmix(rows, sum);
        UNROLL for (unsigned r = 0; r < rows; r++) {
                vf t = vf_from_vi(vi_pairs_add(vi_zero(), sum[r]));

                acc[r] = vf_fma(vf_mul(t, d), vf_set1(x[r].scale), acc[r]);
        }
}

/* Half of a column: as many elements as a block of activations has, with two scales. */
static ALWAYS_INLINE void nvfp4_products(const unsigned rows, vt table, const uint8_t *col, const unsigned half,
                                         const struct act_block *x, vf *acc) {
        const uint8_t *codes = col + lut_codes(FMT_NVFP4) + 256 * half;
        vf t[TILE_MAX];

        UNROLL for (unsigned r = 0; r < rows; r++)
                t[r] = vf_zero();
        UNROLL for (unsigned h = 0; h < 2; h++) {
                vf d = ue4m3_half(col + 32 * half + 16 * h);
                vi sum[TILE_MAX];

                UNROLL for (unsigned r = 0; r < rows; r++)
                        sum[r] = vi_pairs_start(x[r].half_pair[h], 12);
                rows_mix(rows, sum);
                e2m1_half(FMT_NVFP4, rows, table, codes, h, x, sum);
                rows_unmix(rows, sum);
                UNROLL for (unsigned r = 0; r < rows; r++)
                        t[r] = vf_fma(vf_from_vi(vi_pairs_add(vi_zero(), sum[r])), d, t[r]);
        }
        UNROLL for (unsigned r = 0; r < rows; r++)
                acc[r] = vf_fma(t[r], vf_set1(x[r].scale), acc[r]);
}

static ALWAYS_INLINE void iq4_nl_products(const unsigned rows, vt table, const uint8_t *col, const struct act_block *x,
                                          vf *acc) {
        const uint8_t *codes = col + lut_codes(FMT_IQ4_NL);
        const unsigned n = groups_step(rows);
        vf d = vf_load_f16(col);
        vi sum[TILE_MAX];

        UNROLL for (unsigned r = 0; r < rows; r++)
                sum[r] = i8_start(x + r);
        rows_mix(rows, sum);
        UNROLL for (unsigned g = 0; g < 8; g += n) {
                vi w[2];

                UNROLL for (unsigned i = 0; i < n; i++)
                        w[i] = vi_i8(lut_weights(FMT_IQ4_NL, table, codes, (g + i) / 4, (g + i) % 4));
                if (n == 2)
                        rows_mmla(rows, sum, w, x->q + 4 * g, sizeof(*x));
                else
                        UNROLL for (unsigned r = 0; r < rows; r++)
                                sum[r] = vi_dot_i8(sum[r], w[0], vi_set1_load(x[r].q + 4 * g));
        }
        rows_unmix(rows, sum);
        UNROLL for (unsigned r = 0; r < rows; r++)
                acc[r] = vf_fma(vf_mul(vf_from_vi(sum[r]), d), vf_set1(x[r].scale), acc[r]);
}

/* As many rows of a tile as there are registers for. */
static ALWAYS_INLINE void lut_panel(const enum fmt fmt, const unsigned tile, vt table, const uint8_t *col,
                                    const struct act_block *x, size_t n_in, float *out) {
        const size_t blocks = fmt == FMT_NVFP4 ? 2 : 1; /* of activations in a column */
        const unsigned rows = ROWS_OF(tile);
        vf acc[TILE_MAX];

        UNROLL for (unsigned r = 0; r < rows; r++)
                acc[r] = vf_zero();
        for (size_t k = 0; k < n_in; k += blocks * ACT_BLOCK, col += lut_column_bytes(fmt), x += blocks * tile) {
                if (fmt == FMT_IQ4_NL)
                        iq4_nl_products(rows, table, col, x, acc);
                else if (fmt == FMT_MXFP4)
                        mxfp4_products(rows, table, col, x, acc);
                else
                        UNROLL for (unsigned half = 0; half < 2; half++)
                                nvfp4_products(rows, table, col, half, x + half * tile, acc);
        }
        UNROLL for (unsigned r = 0; r < rows; r++)
                vf_store(out + 16 * r, acc[r]);
}

static ALWAYS_INLINE void lut_kernel(const enum fmt fmt, const unsigned rows, const void *w, size_t stride,
                                     unsigned n_panels, const void *x, size_t n_in, float *out) {
        const vt table = lut_table(fmt);
        const struct act_block *a = x;

        for (unsigned p = 0; p < n_panels; p++, out += rows * 16)
                for (unsigned r = 0; r < rows; r += VEC_ROWS)
                        lut_panel(fmt, rows, table, (const uint8_t *)w + p * stride, a + r, n_in, out + 16 * r);
}

/* F8_E4M3, with activations in float: a block's products in the order of k, their sum times the scale. */
static ALWAYS_INLINE void f8_panels(const unsigned tile, const unsigned panels, const uint8_t *col, size_t stride,
                                    const float *x, size_t n_in, float *out) {
        const unsigned rows = ROWS_OF(tile);
        vf acc[TILE_MAX * 2];

        UNROLL for (unsigned i = 0; i < rows * panels; i++)
                acc[i] = vf_zero();
        for (size_t k = 0; k < n_in; k += F8_BLOCK, col += F8_BYTES, x += tile * F8_BLOCK) {
                vf sum[TILE_MAX * 2];

                UNROLL for (unsigned i = 0; i < rows * panels; i++)
                        sum[i] = vf_zero();
                for (unsigned e = 0; e < F8_BLOCK; e++)
                        UNROLL for (unsigned p = 0; p < panels; p++) {
                                vf v = vf_load_e4m3(col + p * stride + 64 + 16 * e);

                                UNROLL for (unsigned r = 0; r < rows; r++)
                                        sum[p * rows + r] = vf_fma(v, vf_set1(x[e * tile + r]), sum[p * rows + r]);
                        }
                UNROLL for (unsigned i = 0; i < rows * panels; i++) {
                        vf scale = vf_mul(vf_load((const float *)(const void *)(col + i / rows * stride)),
                                          vf_set1(1.0f / E4M3_LOADED));

                        acc[i] = vf_fma(sum[i], scale, acc[i]);
                }
        }
        UNROLL for (unsigned i = 0; i < rows * panels; i++)
                vf_store(out + 16 * (i / rows * tile + i % rows), acc[i]);
}

static ALWAYS_INLINE void f8_kernel(const enum fmt fmt, const unsigned rows, const void *w, size_t stride,
                                    unsigned n_panels, const void *x, size_t n_in, float *out) {
        const unsigned together = rows <= 2 || VEC_PAIR ? 2 : 1;
        const uint8_t *panel = w;
        const float *a = x;

        for (; n_panels >= together; n_panels -= together, panel += together * stride, out += together * rows * 16)
                for (unsigned r = 0; r < rows; r += VEC_ROWS)
                        f8_panels(rows, together, panel, stride, a + r, n_in, out + 16 * r);
        for (; together > 1 && n_panels > 0; n_panels--, panel += stride, out += rows * 16)
                for (unsigned r = 0; r < rows; r += VEC_ROWS)
                        f8_panels(rows, 1, panel, stride, a + r, n_in, out + 16 * r);
}
