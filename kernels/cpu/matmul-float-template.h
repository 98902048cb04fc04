/* SPDX-License-Identifier: Apache-2.0 */

/* Panel products of float formats; included by matmul-ISA.c after its vec-ISA.h and vec-math.h. */

static ALWAYS_INLINE void float_panels(const enum fmt fmt, const unsigned rows, const unsigned panels, const void *w,
                                       size_t stride, const void *x, size_t n_in, float *out) {
        size_t step = fmt == FMT_F32 ? 64 : 32;
        vf acc[TILE_MAX * 4];

        UNROLL for (unsigned i = 0; i < rows * panels; i++)
                acc[i] = vf_zero();
        vf_products(fmt, rows, panels, acc, w, stride, step, x, rows, 1, n_in);
        UNROLL for (unsigned i = 0; i < rows * panels; i++)
                vf_store(out + 16 * i, acc[i]);
}

/* Several panels at a time where a chain of additions alone would not fill the pipes, the rest one by one. */
static ALWAYS_INLINE void float_kernel(const enum fmt fmt, const unsigned rows, const void *w, size_t stride,
                                       unsigned n_panels, const void *x, size_t n_in, float *out) {
        const unsigned together = rows <= 2 || VEC_PAIR ? 2 : 1;
        const uint8_t *panel = w;

        for (; n_panels >= together; n_panels -= together) {
                float_panels(fmt, rows, together, panel, stride, x, n_in, out);
                panel += together * stride;
                out += together * rows * 16;
        }
        for (; together > 1 && n_panels > 0; n_panels--) {
                float_panels(fmt, rows, 1, panel, stride, x, n_in, out);
                panel += stride;
                out += rows * 16;
        }
}
