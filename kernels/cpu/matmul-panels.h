/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How matmul-ISA.c, matmul-k-ISA.c and matmul-k-low-ISA.c define panel products; to be included after a vec-ISA.h.
 * They are three files because as one they take a minute to compile, with NEON.
 */

#include "kernels.h"
#include "vec-math.h"

#define PANEL_FN(name, rows, kind, fmt)                                                                          \
        static void name##_##rows(const void *w, size_t stride, unsigned n_panels, const void *x, size_t n_in,   \
                                  float *out) {                                                                  \
                kind##_kernel(fmt, rows, w, stride, n_panels, x, n_in, out);                                     \
        }

/* A format's products, for tiles of 1, 2, 4 and (where the registers do) 8 rows. */
#define PANELS(name, kind, fmt)               \
        TILE_FNS(PANEL_FN, name, kind, fmt)   \
        const panel_fn VEC(panels_##name)[4] = TILE_TABLE(name);

extern const panel_fn VEC(panels_f32)[4];
extern const panel_fn VEC(panels_f16)[4];
extern const panel_fn VEC(panels_bf16)[4];
extern const panel_fn VEC(panels_q8_0)[4];
extern const panel_fn VEC(panels_q4_0)[4];
extern const panel_fn VEC(panels_q4_1)[4];
extern const panel_fn VEC(panels_q5_0)[4];
extern const panel_fn VEC(panels_q5_1)[4];
extern const panel_fn VEC(panels_q2_k)[4];
extern const panel_fn VEC(panels_q3_k)[4];
extern const panel_fn VEC(panels_q4_k)[4];
extern const panel_fn VEC(panels_q5_k)[4];
extern const panel_fn VEC(panels_q6_k)[4];
extern const panel_fn VEC(panels_iq4_xs)[4];
extern const panel_fn VEC(panels_iq4_nl)[4];
extern const panel_fn VEC(panels_mxfp4)[4];
extern const panel_fn VEC(panels_nvfp4)[4];
extern const panel_fn VEC(panels_f8_e4m3)[4];
