/* SPDX-License-Identifier: Apache-2.0 */

/* What becomes of rows that were read: into a format of ours, or to their place where that is no row's. */

#include <string.h>

#include "base/macro.h"
#include "kernels/float8.h"
#include "kernels/format.h"

#include "hf.h"

#define F8_BLOCK 128u
#define MXFP4_BYTES 16u /* of codes in a block of 32 */
#define NVFP4_BYTES 32u /* of codes in a block of 64, with 4 scales */

uint64_t hf_row_bytes(const struct hf_part *p) {
        switch (p->how) {
        case HF_MXFP4: return p->n_in / 32 * MXFP4_BYTES * p->step;
        case HF_NVFP4: return p->n_in / 64 * NVFP4_BYTES * p->step;
        case HF_F8: return p->n_in * p->step;
        default: return p->n_in * fmt_info(p->fmt)->bytes * p->step;
        }
}

static void plain_rows(const void *arg, uint64_t row, uint64_t n, const char *src, void *dst) {
        const struct hf_part *p = ((const struct hf_rows *)arg)->part;
        uint64_t bytes = p->n_in * fmt_info(p->fmt)->bytes;

        (void)row;
        for (uint64_t i = 0; i < n; i++)
                (void)memcpy((char *)dst + i * bytes, src + (i * p->step + p->first) * bytes, bytes);
}

/* Bytes hold elements 2i and 2i + 1 there, i and i + 16 here. */
static void mxfp4_block(const uint8_t *codes, uint8_t scale, uint8_t *dst) {
        uint8_t q[32];

        for (unsigned i = 0; i < MXFP4_BYTES; i++) {
                q[2 * i] = codes[i] & 15u;
                q[2 * i + 1] = codes[i] >> 4;
        }
        dst[0] = scale;
        for (unsigned i = 0; i < MXFP4_BYTES; i++)
                dst[1 + i] = (uint8_t)(q[i] | q[i + 16] << 4);
}

static void mxfp4_rows(const void *arg, uint64_t row, uint64_t n, const char *src, void *dst) {
        const struct hf_rows *rows = arg;
        const struct hf_part *p = rows->part;
        uint64_t blocks = p->n_in / 32;
        uint8_t *out = dst;

        for (uint64_t i = 0; i < n; i++) {
                const uint8_t *codes = (const uint8_t *)src + (i * p->step + p->first) * blocks * MXFP4_BYTES;
                const uint8_t *scales = (const uint8_t *)rows->scales + ((row + i) * p->step + p->first) * blocks;

                for (uint64_t b = 0; b < blocks; b++, out += 1 + MXFP4_BYTES)
                        mxfp4_block(codes + b * MXFP4_BYTES, scales[b], out);
        }
}

/* Of 16 elements that have a scale, bytes hold 2i and 2i + 1 there, i and i + 8 here. */
static void nvfp4_block(const uint8_t *codes, const uint8_t *scales, uint8_t *dst) {
        (void)memcpy(dst, scales, 4);
        for (unsigned j = 0; j < 4; j++)
                for (unsigned i = 0; i < 8; i++) {
                        unsigned low = (unsigned)codes[8 * j + i / 2] >> i % 2 * 4 & 15u;
                        unsigned high = (unsigned)codes[8 * j + 4 + i / 2] >> i % 2 * 4 & 15u;

                        dst[4 + 8 * j + i] = (uint8_t)(low | high << 4);
                }
}

static void nvfp4_rows(const void *arg, uint64_t row, uint64_t n, const char *src, void *dst) {
        const struct hf_rows *rows = arg;
        uint64_t blocks = rows->part->n_in / 64;
        const uint8_t *codes = (const uint8_t *)src, *scales = (const uint8_t *)rows->scales + row * blocks * 4;

        for (uint64_t i = 0; i < n * blocks; i++)
                nvfp4_block(codes + i * NVFP4_BYTES, scales + i * 4, (uint8_t *)dst + i * (NVFP4_BYTES + 4));
}

/* One for all, one for each row, or one for each square. */
static float f8_scale(const struct hf_part *p, const float *scales, uint64_t row, uint64_t block) {
        uint64_t n = p->scale->size / safetensors_type_size(p->scale->type);

        if (n == 1)
                return scales[0];
        if (n == p->n_rows && (p->scale->n_dims < 2 || p->scale->dims[1] == 1))
                return scales[row];
        return scales[row / F8_BLOCK * p->scale->dims[1] + block];
}

/* To blocks of ours, or to values where a row is no whole number of blocks. */
static void f8_row(const struct hf_part *p, const float *scales, uint64_t row, const uint8_t *codes, char *dst) {
        for (uint64_t b = 0; b * F8_BLOCK < p->n_in; b++) {
                float d = f8_scale(p, scales, row, b), values[F8_BLOCK];
                uint64_t len = MIN((uint64_t)F8_BLOCK, p->n_in - b * F8_BLOCK);

                if (p->fmt == FMT_F8_E4M3) {
                        (void)memcpy(dst, &d, sizeof(d));
                        (void)memcpy(dst + sizeof(d), codes, len);
                        dst += sizeof(d) + len;
                } else {
                        for (uint64_t i = 0; i < len; i++)
                                values[i] = d * e4m3_to_float(codes[i]);
                        (void)fmt_encode(fmt_info(p->fmt), values, len, dst);
                        dst += len * fmt_info(p->fmt)->bytes;
                }
                codes += len;
        }
}

static void f8_rows(const void *arg, uint64_t row, uint64_t n, const char *src, void *dst) {
        const struct hf_rows *rows = arg;
        const struct hf_part *p = rows->part;
        uint64_t bytes = fmt_row_bytes(fmt_info(p->fmt), p->n_in);

        for (uint64_t i = 0; i < n; i++)
                f8_row(p, rows->scales, rows->first + row + i, (const uint8_t *)src + i * p->n_in, (char *)dst + i * bytes);
}

/* Rows of the file are columns. */
static void transposed_rows(const void *arg, uint64_t row, uint64_t n, const char *src, void *dst) {
        const struct hf_part *p = ((const struct hf_rows *)arg)->part;
        const struct fmt_info *info = fmt_info(p->fmt);
        uint64_t matrix = 0;

        (void)weight_bytes(info, WEIGHT_PANELS, p->n_rows, p->n_in, &matrix);
        weight_pack_columns(info, p->n_rows, p->n_in, row, n, p->step, src + p->first * info->bytes,
                            (char *)dst + p->expert * matrix);
}

void hf_gather(const void *arg, uint64_t row, unsigned n_rows, uint64_t first, uint64_t n, const char *src, void *dst) {
        const struct hf_part *p = ((const struct hf_rows *)arg)->part;
        uint16_t *to = dst;

        for (uint64_t k = 0; k < n; k++)
                for (uint64_t r = 0; r < n_rows; r++) /* a file's numbers need not be aligned */
                        (void)memcpy(&to[r * n + k], src + (((first + k) * p->n_rows + row + r) * p->step + p->first) * sizeof(*to),
                                     sizeof(*to));
}

/* Vectors and biases, to F32: every `step`th element. */
static void vector_rows(const void *arg, uint64_t row, uint64_t n, const char *src, void *dst) {
        const struct hf_part *p = ((const struct hf_rows *)arg)->part;
        const struct fmt_info *info = fmt_info(p->fmt);
        float *out = (float *)dst + (p->expert * p->n_rows + row) * p->n_in;

        for (uint64_t i = 0; i < n * p->n_in; i++) {
                fmt_decode(info, src + (i * p->step + p->first) * info->bytes, 1, &out[i]);
                if (p->how == HF_PLUS_ONE)
                        out[i] += 1.0f;
                else if (p->how == HF_DIVISOR)
                        out[i] = 1.0f / out[i];
        }
}

void hf_take_scales(const void *arg, uint64_t row, uint64_t n, const char *src, void *dst) {
        const struct hf_rows *rows = arg;
        enum safetensors_type type = rows->part->scale->type;

        (void)dst;
        if (rows->part->how == HF_F8)
                fmt_decode(fmt_info(type == SAFETENSORS_F32 ? FMT_F32 : type == SAFETENSORS_F16 ? FMT_F16 : FMT_BF16), src, n,
                           (float *)rows->scales + row);
        else
                (void)memcpy((char *)rows->scales + row, src, n);
}

enum copy_transform hf_transform(const struct hf_part *p, bool panels, copy_fn **ret) {
        *ret = NULL;
        if (!panels) {
                if (p->how == HF_PLAIN && p->step == 1)
                        return COPY_DECODE;
                *ret = vector_rows;
                return COPY_PLACE;
        }
        switch (p->how) {
        case HF_TRANSPOSED: *ret = transposed_rows; return COPY_PLACE;
        case HF_MXFP4: *ret = mxfp4_rows; return COPY_CONVERT;
        case HF_NVFP4: *ret = nvfp4_rows; return COPY_CONVERT;
        case HF_F8: *ret = f8_rows; return COPY_CONVERT;
        default: break;
        }
        if (p->step == 1)
                return COPY_PACK;
        *ret = plain_rows;
        return COPY_CONVERT;
}
