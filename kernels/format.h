/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Tensor formats: how weights are coded, and the two layouts they have in a resident image.
 *
 * File order ("rows") is GGUF's: row after row, each row a run of blocks along its n_in elements. Matrices that
 * matmul reads are repacked at load into "panels": WEIGHT_PANEL consecutive output rows interleaved block by block, so
 * that a vector register holds the same position of 16 output rows and each lane adds up one output, strictly in the
 * order of K. That order is the same for one activation row and for 512, on every instruction set: this is what makes
 * an answer independent of its company (design promise 1). n_out is padded to whole panels with zeros.
 *
 * Sizes here are for trusted (already checked) arguments unless a function says that it checks.
 * Source of the block formats: the GGUF specification and ggml's documentation of its quantization types.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus /* CUDA C */
extern "C" {
#endif

#define WEIGHT_PANEL 16u

/* Values are GGUF's type numbers and stay so in images. Formats that GGUF does not have count from FMT_NOT_GGUF,
 * where it will not get. */
enum fmt {
        FMT_F32 = 0,
        FMT_F16 = 1,
        FMT_Q4_0 = 2,
        FMT_Q4_1 = 3,
        FMT_Q5_0 = 6,
        FMT_Q5_1 = 7,
        FMT_Q8_0 = 8,
        FMT_Q2_K = 10,
        FMT_Q3_K = 11,
        FMT_Q4_K = 12,
        FMT_Q5_K = 13,
        FMT_Q6_K = 14,
        FMT_IQ4_NL = 20,
        FMT_IQ4_XS = 23,
        FMT_BF16 = 30,
        FMT_MXFP4 = 39,
        FMT_NVFP4 = 40,
        FMT_NOT_GGUF = 1000, /* no format: where those begin that GGUF does not have */
        FMT_F8_E4M3 = 1000,
        FMT_BF16_LL = 1001, /* coded: lossless.h */
        FMT_END, /* one more than the largest number */
};

enum weight_layout {
        WEIGHT_ROWS = 0,   /* as in the file */
        WEIGHT_PANELS = 1, /* interleaved as above */
};

/* What is known of a format. block = elements per block, bytes = bytes per block in file order. */
struct fmt_info {
        enum fmt fmt;
        const char *name; /* "Q4_K" */
        uint32_t block;
        uint32_t bytes;
        uint32_t panel_bytes; /* bytes of one block column of a panel (WEIGHT_PANEL rows x block elements) */
};

/* Coded formats are those of images alone: no file order, no packing, and further bytes follow the panels (tail in struct
 * weight). */
static inline bool fmt_is_coded(const struct fmt_info *info) {
        return info->fmt == FMT_BF16_LL;
}

/* NULL for a number that is no format or one that the kernels cannot compute with. */
const struct fmt_info *fmt_info(uint32_t fmt);
/* By name, any case ("q4_k", "F16"); NULL when unknown. */
const struct fmt_info *fmt_info_by_name(const char *name);

/* Bytes of n elements in file order; n must be a multiple of the block. Checks for overflow: 0 when it does not fit. */
uint64_t fmt_row_bytes(const struct fmt_info *info, uint64_t n);

/* Decodes n elements (a multiple of the block) of file-order data. Returns false, and writes nothing, where the format has no
 * file order: coded ones. */
bool fmt_decode(const struct fmt_info *info, const void *src, size_t n, float *dst);
/* Codes n elements (a multiple of the block), round to nearest as the format's reference does; for synthetic models
 * and tests. Returns false where the format has no encoder here. */
bool fmt_encode(const struct fmt_info *info, const float *src, size_t n, void *dst);

/* What the codes of IQ4_NL and IQ4_XS stand for. */
extern const int8_t fmt_iq4_values[16];

/* Bytes of an n_out x n_in matrix in a layout. Checks for overflow and for n_in being a multiple of the block:
 * false then. */
bool weight_bytes(const struct fmt_info *info, enum weight_layout layout, uint64_t n_out, uint64_t n_in,
                  uint64_t *ret);
/* Packs rows [first, first + n) of a matrix, given in file order at src, into the panels at dst (the whole matrix's
 * packed data). first is a multiple of WEIGHT_PANEL, and so is n unless the last row is among them; padding rows are
 * written as zeros then. Calls for different rows may run in parallel. Coded formats are not packed but coded (lossless.h). */
void weight_pack(const struct fmt_info *info, uint64_t n_out, uint64_t n_in, uint64_t first, uint64_t n,
                 const void *src, void *dst);

/* The same for a matrix that lies the other way round, in a format whose blocks are one element: columns [first, first + n),
 * one after another at src, in each of which n_out elements are `step` apart. Padding rows are left as they are. */
void weight_pack_columns(const struct fmt_info *info, uint64_t n_out, uint64_t n_in, uint64_t first, uint64_t n, uint64_t step,
                         const void *src, void *dst);

/* A matrix as the kernels see it. Data is borrowed (mapped image) and 64-byte aligned. Models in NVFP4 have a scale for
 * the whole matrix besides those of its blocks; products multiply their sums by it, before a bias. */
struct weight {
        const struct fmt_info *info;
        enum weight_layout layout;
        uint32_t n_out; /* rows: outputs */
        uint32_t n_in;  /* elements per row: inputs */
        const void *data;
        uint64_t tail; /* bytes of data behind the panels of all matrices, where the format is coded */
        float scale; /* of all values, 0 = none */
        uint32_t n_experts;  /* so many matrices of this shape lie one after another, in whole panels each; 0 = one */
        const float *scales; /* host, of each of these; NULL = scale */
};

/* Decodes one row (n_in floats), from either layout. */
void weight_decode_row(const struct weight *w, uint32_t row, float *dst);

/* --- the KV cache --- */

enum kv_format {
        KV_F16 = 0,
        KV_F32 = 1,
        KV_Q8_0 = 2, /* blocks of 32 elements of a head: 8-bit integers and a half-precision scale */
};

#define KV_BLOCK 32u /* elements of a block of KV_Q8_0; a head's last one may be shorter */

/* Bytes that a position takes in one layer and KV head, K and V together; 0 for a format that is not known. Pages of at
 * least 16 positions consist of these alone. */
uint64_t kv_position_bytes(enum kv_format format, uint32_t head_dim);

#ifdef __cplusplus
}
#endif
