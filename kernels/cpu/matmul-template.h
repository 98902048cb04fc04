/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The table of an instruction set's panel products: every format, for tiles of 1, 2, 4 and (where the registers do)
 * 8 rows. matmul-ISA.c is this and a vec-ISA.h.
 */

#include "kernels.h"
#include "vec-math.h"

#include "matmul-float-template.h"
#include "matmul-quant-template.h"
#include "matmul-k-template.h"
#include "matmul-lut-template.h"

#define PANEL_FN(name, rows, kind, fmt)                                                                          \
        static void name##_##rows(const void *w, size_t stride, unsigned n_panels, const void *x, size_t n_in,   \
                                  float *out) {                                                                  \
                kind##_kernel(fmt, rows, w, stride, n_panels, x, n_in, out);                                     \
        }

TILE_FNS(PANEL_FN, f32, float, FMT_F32)
TILE_FNS(PANEL_FN, f16, float, FMT_F16)
TILE_FNS(PANEL_FN, bf16, float, FMT_BF16)
TILE_FNS(PANEL_FN, q8_0, quant, FMT_Q8_0)
TILE_FNS(PANEL_FN, q4_0, quant, FMT_Q4_0)
TILE_FNS(PANEL_FN, q4_1, quant, FMT_Q4_1)
TILE_FNS(PANEL_FN, q5_0, quant, FMT_Q5_0)
TILE_FNS(PANEL_FN, q5_1, quant, FMT_Q5_1)
TILE_FNS(PANEL_FN, q2_k, k, FMT_Q2_K)
TILE_FNS(PANEL_FN, q3_k, k, FMT_Q3_K)
TILE_FNS(PANEL_FN, q4_k, k, FMT_Q4_K)
TILE_FNS(PANEL_FN, q5_k, k, FMT_Q5_K)
TILE_FNS(PANEL_FN, q6_k, k, FMT_Q6_K)
TILE_FNS(PANEL_FN, iq4_xs, k, FMT_IQ4_XS)
TILE_FNS(PANEL_FN, iq4_nl, lut, FMT_IQ4_NL)
TILE_FNS(PANEL_FN, mxfp4, lut, FMT_MXFP4)
TILE_FNS(PANEL_FN, nvfp4, lut, FMT_NVFP4)
TILE_FNS(PANEL_FN, f8_e4m3, f8, FMT_F8_E4M3)

const struct matmul_kernels VEC(matmul_kernels) = {
        .f32 = TILE_TABLE(f32),
        .f16 = TILE_TABLE(f16),
        .bf16 = TILE_TABLE(bf16),
        .q8_0 = TILE_TABLE(q8_0),
        .q4_0 = TILE_TABLE(q4_0),
        .q4_1 = TILE_TABLE(q4_1),
        .q5_0 = TILE_TABLE(q5_0),
        .q5_1 = TILE_TABLE(q5_1),
        .q2_k = TILE_TABLE(q2_k),
        .q3_k = TILE_TABLE(q3_k),
        .q4_k = TILE_TABLE(q4_k),
        .q5_k = TILE_TABLE(q5_k),
        .q6_k = TILE_TABLE(q6_k),
        .iq4_xs = TILE_TABLE(iq4_xs),
        .iq4_nl = TILE_TABLE(iq4_nl),
        .mxfp4 = TILE_TABLE(mxfp4),
        .nvfp4 = TILE_TABLE(nvfp4),
        .f8_e4m3 = TILE_TABLE(f8_e4m3),
};
