/* SPDX-License-Identifier: Apache-2.0 */

/* Panel products of float formats; included by matmul-ISA.c after its vec-ISA.h and vec-math.h. */

/* As many rows of a tile as there are registers for; out is [panel][row of the tile][16]. */
static ALWAYS_INLINE void float_panels(const enum fmt fmt, const unsigned tile, const unsigned panels, const void *w,
                                       size_t stride, const float *x, size_t n_in, float *out) {
        const unsigned rows = ROWS_OF(tile);
        size_t step = fmt == FMT_F32 ? 64 : 32;
        vf acc[TILE_MAX * 4];

        UNROLL for (unsigned i = 0; i < rows * panels; i++)
                acc[i] = vf_zero();
        vf_products(fmt, rows, panels, acc, w, stride, step, x, tile, 1, n_in);
        UNROLL for (unsigned i = 0; i < rows * panels; i++)
                vf_store_fmt(fmt, out + 16 * (i / rows * tile + i % rows), acc[i]);
}

/* Several panels at a time where a chain of additions alone would not fill the pipes, the rest one by one. */
static ALWAYS_INLINE void float_kernel(const enum fmt fmt, const unsigned rows, const void *w, size_t stride,
                                       unsigned n_panels, const void *x, size_t n_in, float *out) {
        const unsigned together = rows <= 2 || VEC_PAIR ? 2 : 1;
        const uint8_t *panel = w;
        const float *a = x;

        for (; n_panels >= together; n_panels -= together) {
                for (unsigned r = 0; r < rows; r += VEC_ROWS)
                        float_panels(fmt, rows, together, panel, stride, a + r, n_in, out + 16 * r);
                panel += together * stride;
                out += together * rows * 16;
        }
        for (; together > 1 && n_panels > 0; n_panels--) {
                for (unsigned r = 0; r < rows; r += VEC_ROWS)
                        float_panels(fmt, rows, 1, panel, stride, a + r, n_in, out + 16 * r);
                panel += stride;
                out += rows * 16;
        }
}
