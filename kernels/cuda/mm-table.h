/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Between mm.cu and the kernels of the formats: what there is. */

#include "mm.h"

struct mm_args;

struct mm_variant {
        void (*kernel)(struct mm_args a);
        uint32_t threads, shared_bytes;
        uint32_t panels, rows; /* of a block's tile */
        uint32_t sums;         /* of a thread */
        bool totals;           /* whether a block can gate what it went through in slices */
};

#define MM_VARIANTS 5u

/* Variants in the order of their rows. */
struct mm_format_entry {
        enum fmt fmt;
        bool wants_sums;
        struct mm_variant variant[MM_VARIANTS];
};

extern const struct mm_format_entry mm_f16, mm_bf16, mm_f8_e4m3, mm_q8_0, mm_q4_0, mm_q4_1, mm_q5_0, mm_q5_1;
extern const struct mm_format_entry mm_bf16_ll;
extern const struct mm_format_entry mm_q2_k, mm_q3_k, mm_q4_k, mm_q5_k, mm_q6_k, mm_iq4_nl, mm_iq4_xs, mm_mxfp4, mm_nvfp4;
extern const struct mm_format_entry mm_mxfp4_fp8; /* there only for GPUs of 12.x */

/* F32 has a kernel of its own. */
uint32_t mm_f32_slices(uint32_t n_in);
cudaError_t mm_f32_launch(const struct cuda_launch *l, const struct cuda_mm *m);
