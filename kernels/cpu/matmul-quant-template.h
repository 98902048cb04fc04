/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Panel products of quantized formats; included by matmul-ISA.c after its vec-ISA.h and vec-math.h.
 *
 * Per block of 32 along K the dot products of weights and activations are exact integers, 16 outputs in 16 lanes. Then
 * t = dot * w_scale (+ w_min * sum of activations), acc = fma(t, activation scale, acc), block after block: the only
 * roundings, and the same ones in every instruction set.
 */

/* Where things are in a block column (see format-k.c, pack.c). */
#define Q4_K_SCALES 64u
#define Q4_K_LOW 256u
#define Q5_K_HIGH 256u
#define Q5_K_LOW 768u
#define Q6_K_SCALES 32u
#define Q6_K_BITS 288u /* [half][group]: 64 bytes of either nibble run, 64 of upper bits */

static ALWAYS_INLINE size_t column_bytes(const enum fmt fmt) {
        switch (fmt) {
        case FMT_Q8_0: return 544;
        case FMT_Q4_0: return 288;
        case FMT_Q4_1: return 320;
        case FMT_Q5_0: return 352;
        case FMT_Q5_1: return 384;
        case FMT_Q4_K: return 2304;
        case FMT_Q5_K: return 2816;
        default: return 3360; /* Q6_K */
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

/* Elements 4g..4g+3 of the 16 rows' sub-block. Blocks of 256 consist of chunks whose sub-blocks have their bits in the
 * same bytes, two of them in a chunk of Q4_K and Q5_K, four in one of Q6_K: j is the sub-block's place in its chunk.
 * (Chunks are a loop, so that code is of a size that compiles and caches well.) */
static ALWAYS_INLINE vi weights(const enum fmt fmt, const uint8_t *col, unsigned chunk, const unsigned j,
                                const unsigned g) {
        switch (fmt) {
        case FMT_Q8_0:
                return vi_i8(vi_load(col + 32 + 64 * g));
        case FMT_Q4_0:
                return nibbles(col + 32 + 64 * (g % 4), g / 4);
        case FMT_Q4_1:
                return nibbles(col + 64 + 64 * (g % 4), g / 4);
        case FMT_Q5_0:
                return vi_or(nibbles(col + 96 + 64 * (g % 4), g / 4), fifth_bit(col + 32, g));
        case FMT_Q5_1:
                return vi_or(nibbles(col + 128 + 64 * (g % 4), g / 4), fifth_bit(col + 64, g));
        case FMT_Q4_K:
                return nibbles(col + Q4_K_LOW + 512 * chunk + 64 * g, j);
        case FMT_Q5_K: {
                vi fifth = vi_shl(vi_shr_by(vi_load(col + Q5_K_HIGH + 64 * g), 2 * chunk), 4 - j);

                return vi_or(nibbles(col + Q5_K_LOW + 512 * chunk + 64 * g, j), vi_and(fifth, vi_set1(0x10101010)));
        }
        default: { /* Q6_K */
                const uint8_t *bits = col + Q6_K_BITS + 1536 * chunk + 192 * g;
                const unsigned at = 2 * j;
                vi upper = at < 4 ? vi_shl(vi_load(bits + 128), 4 - at) : vi_shr(vi_load(bits + 128), at - 4);

                return vi_or(nibbles(bits + 64 * (j % 2), j / 2), vi_and(upper, vi_set1(0x30303030)));
        }
        }
}

/* What the accumulator of a block's integer dot product starts with. */
static ALWAYS_INLINE vi dot_start(const enum fmt fmt, const struct act_block *x) {
        switch (fmt) {
        case FMT_Q8_0: return VEC_I8_SHIFTED ? vi_set1(x->minus128) : vi_zero();
        case FMT_Q4_0: return vi_set1(x->minus8);
        case FMT_Q5_0: return vi_set1(x->minus16);
        default: return vi_zero();
        }
}

static ALWAYS_INLINE vi dot(const enum fmt fmt, vi acc, vi w, const int8_t *a) {
        return fmt == FMT_Q8_0 ? vi_dot_i8(acc, w, vi_set1_load(a)) : vi_dot_u6(acc, w, vi_set1_load(a));
}

/* Scale and minimum of a sub-block, one per lane. */
struct scales {
        vf d, m;
};

/* One (sub-)block of 32 for all rows of the tile. */
static ALWAYS_INLINE void block_products(const enum fmt fmt, const unsigned rows, const bool has_min,
                                         const uint8_t *col, unsigned chunk, const unsigned j,
                                         const struct scales *s, const struct act_block *x, vf *acc) {
        vi sum[TILE_MAX];

        UNROLL for (unsigned r = 0; r < rows; r++)
                sum[r] = dot_start(fmt, x + r);
        UNROLL for (unsigned g = 0; g < 8; g++) {
                vi w = weights(fmt, col, chunk, j, g);

                UNROLL for (unsigned r = 0; r < rows; r++)
                        sum[r] = dot(fmt, sum[r], w, x[r].q + 4 * g);
        }
        UNROLL for (unsigned r = 0; r < rows; r++) {
                vf t = vf_mul(vf_from_vi(sum[r]), s->d);

                if (has_min)
                        t = vf_fma(s->m, vf_set1(x[r].sum), t);
                acc[r] = vf_fma(t, vf_set1(x[r].scale), acc[r]);
        }
}

static ALWAYS_INLINE void plain_column(const enum fmt fmt, const unsigned rows, const uint8_t *col,
                                       const struct act_block *x, vf *acc) {
        const bool has_min = fmt == FMT_Q4_1 || fmt == FMT_Q5_1;
        struct scales s = { vf_load_f16(col), has_min ? vf_load_f16(col + 32) : vf_zero() };

        block_products(fmt, rows, has_min, col, 0, 0, &s, x, acc);
}

/* The 6-bit scales and minima of a column, as bytes [sub-block][row]: see format-k.c for how they are coded. */
static ALWAYS_INLINE void k_scales(const uint8_t *col, uint8_t *sc, uint8_t *mn) {
        vi a = vi_load(col + Q4_K_SCALES), b = vi_load(col + Q4_K_SCALES + 64), c = vi_load(col + Q4_K_SCALES + 128);
        vi six = vi_set1(0x3f3f3f3f), low = vi_set1(0x0f0f0f0f), top = vi_set1(0x30303030);

        vi_store(sc, vi_and(a, six));
        vi_store(mn, vi_and(b, six));
        vi_store(sc + 64, vi_or(vi_and(c, low), vi_and(vi_shr(a, 2), top)));
        vi_store(mn + 64, vi_or(vi_and(vi_shr(c, 4), low), vi_and(vi_shr(b, 2), top)));
}

static ALWAYS_INLINE void k_column(const enum fmt fmt, const unsigned rows, const uint8_t *col,
                                   const struct act_block *x, vf *acc) {
        vf d = vf_load_f16(col), dmin = vf_sub(vf_zero(), vf_load_f16(col + 32));
        uint8_t sc[128], mn[128];

        k_scales(col, sc, mn);
        for (unsigned chunk = 0; chunk < 4; chunk++)
                UNROLL for (unsigned j = 0; j < 2; j++, x += rows) {
                        struct scales s = { vf_mul(d, vf_from_vi(vi_load_u8(sc + 32 * chunk + 16 * j))),
                                            vf_mul(dmin, vf_from_vi(vi_load_u8(mn + 32 * chunk + 16 * j))) };

                        block_products(fmt, rows, true, col, chunk, j, &s, x, acc);
                }
}

/* Sub-blocks [j, j + n) of a chunk of Q6_K, which has a scale for 16 elements: two dot products per block of
 * activations. */
static ALWAYS_INLINE void q6_k_products(const unsigned rows, const unsigned n, const uint8_t *col, unsigned chunk,
                                        const unsigned j, vf d, const struct act_block *x, vf *acc) {
        const uint8_t *scales = col + Q6_K_SCALES + 128 * chunk + 32 * j;
        vf t[8];
        vi sum[8];

        UNROLL for (unsigned half = 0; half < 2; half++) {
                UNROLL for (unsigned i = 0; i < rows * n; i++)
                        sum[i] = vi_set1(x[i].minus32[half]);
                UNROLL for (unsigned g = 4 * half; g < 4 * half + 4; g++)
                        UNROLL for (unsigned k = 0; k < n; k++) {
                                vi w = weights(FMT_Q6_K, col, chunk, j + k, g);

                                UNROLL for (unsigned r = k * rows; r < (k + 1) * rows; r++)
                                        sum[r] = vi_dot_u6(sum[r], w, vi_set1_load(x[r].q + 4 * g));
                        }
                UNROLL for (unsigned i = 0; i < rows * n; i++) {
                        vf scale = vf_mul(d, vf_from_vi(vi_load_i8(scales + 32 * (i / rows) + 16 * half)));

                        t[i] = half ? vf_fma(vf_from_vi(sum[i]), scale, t[i]) : vf_mul(vf_from_vi(sum[i]), scale);
                }
        }
        UNROLL for (unsigned i = 0; i < rows * n; i++)
                acc[i % rows] = vf_fma(t[i], vf_set1(x[i].scale), acc[i % rows]);
}

/* A chunk's sub-blocks are done together where there are registers enough for their sums. */
static ALWAYS_INLINE void q6_k_column(const unsigned rows, const uint8_t *col, const struct act_block *x, vf *acc) {
        const unsigned n = rows <= 2 ? 4 : 1;
        vf d = vf_load_f16(col);

        for (unsigned chunk = 0; chunk < 2; chunk++)
                UNROLL for (unsigned j = 0; j < 4; j += n, x += rows * n)
                        q6_k_products(rows, n, col, chunk, j, d, x, acc);
}

static ALWAYS_INLINE void quant_panel(const enum fmt fmt, const unsigned rows, const uint8_t *col,
                                      const struct act_block *x, size_t n_in, float *out) {
        const bool two_levels = fmt == FMT_Q4_K || fmt == FMT_Q5_K || fmt == FMT_Q6_K;
        const size_t block = two_levels ? 256 : 32;
        vf acc[TILE_MAX];

        UNROLL for (unsigned r = 0; r < rows; r++)
                acc[r] = vf_zero();
        for (size_t k = 0; k < n_in; k += block, col += column_bytes(fmt), x += rows * block / ACT_BLOCK) {
                if (fmt == FMT_Q6_K)
                        q6_k_column(rows, col, x, acc);
                else if (two_levels)
                        k_column(fmt, rows, col, x, acc);
                else
                        plain_column(fmt, rows, col, x, acc);
        }
        UNROLL for (unsigned r = 0; r < rows; r++)
                vf_store(out + 16 * r, acc[r]);
}

static ALWAYS_INLINE void quant_kernel(const enum fmt fmt, const unsigned rows, const void *w, size_t stride,
                                       unsigned n_panels, const void *x, size_t n_in, float *out) {
        const uint8_t *panel = w;

        for (unsigned p = 0; p < n_panels; p++)
                quant_panel(fmt, rows, panel + p * stride, x, n_in, out + p * rows * 16);
}
