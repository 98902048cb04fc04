/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The table of an instruction set's panel products, and those of all but the two-level formats. matmul-ISA.c is this and
 * a vec-ISA.h.
 */

#include "matmul-panels.h"

#include "matmul-float-template.h"
#include "matmul-quant-template.h"
#include "matmul-lut-template.h"

PANELS(f32, float, FMT_F32)
PANELS(f16, float, FMT_F16)
PANELS(bf16, float, FMT_BF16)
PANELS(q8_0, quant, FMT_Q8_0)
PANELS(q4_0, quant, FMT_Q4_0)
PANELS(q4_1, quant, FMT_Q4_1)
PANELS(q5_0, quant, FMT_Q5_0)
PANELS(q5_1, quant, FMT_Q5_1)
PANELS(iq4_nl, lut, FMT_IQ4_NL)
PANELS(mxfp4, lut, FMT_MXFP4)
PANELS(nvfp4, lut, FMT_NVFP4)
PANELS(f8_e4m3, f8, FMT_F8_E4M3)

const struct matmul_kernels VEC(matmul_kernels) = {
        .f32 = VEC(panels_f32),
        .f16 = VEC(panels_f16),
        .bf16 = VEC(panels_bf16),
        .q8_0 = VEC(panels_q8_0),
        .q4_0 = VEC(panels_q4_0),
        .q4_1 = VEC(panels_q4_1),
        .q5_0 = VEC(panels_q5_0),
        .q5_1 = VEC(panels_q5_1),
        .q2_k = VEC(panels_q2_k),
        .q3_k = VEC(panels_q3_k),
        .q4_k = VEC(panels_q4_k),
        .q5_k = VEC(panels_q5_k),
        .q6_k = VEC(panels_q6_k),
        .iq4_xs = VEC(panels_iq4_xs),
        .iq4_nl = VEC(panels_iq4_nl),
        .mxfp4 = VEC(panels_mxfp4),
        .nvfp4 = VEC(panels_nvfp4),
        .f8_e4m3 = VEC(panels_f8_e4m3),
};
