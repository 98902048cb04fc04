/* SPDX-License-Identifier: Apache-2.0 */

/* Parts of a Hugging Face model into the image: rows are read, brought into a format of ours, and packed. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "kernels/float8.h"
#include "kernels/format.h"

#include "hf.h"
#include "source-copy.h"

#define CHUNK_BYTES ((uint64_t)8 << 20)
#define F8_BLOCK 128u
#define MXFP4_BYTES 16u /* of codes in a block */

static int read_bytes(struct hf *h, const struct safetensors_tensor *t, uint64_t offset, void *buf, uint64_t n) {
        return source_copy(&h->sources[t->file], t->offset + offset, buf, n, h->error);
}

/* Source rows [row, row + n) * step of one matrix, each of `bytes` bytes, `matrix_rows` in a matrix. */
static int read_rows(struct hf *h, const struct safetensors_tensor *t, const struct hf_part *p, uint64_t bytes, uint64_t row,
                     uint64_t n, char *dst) {
        uint64_t at = (p->matrix * p->n_rows + row) * p->step * bytes;
        _cleanup_free_ char *all = NULL;
        int r;

        if (p->step == 1)
                return read_bytes(h, t, at, dst, n * bytes);
        all = malloc(n * p->step * bytes);
        if (!all)
                return -ENOMEM;
        r = read_bytes(h, t, at, all, n * p->step * bytes);
        for (uint64_t i = 0; i < n && r == 0; i++)
                (void)memcpy(dst + i * bytes, all + (i * p->step + p->first) * bytes, bytes);
        return r;
}

/* A matrix that lies the other way round is read whole, once. */
static int read_transposed(struct hf *h, const struct hf_part *p, uint64_t row, uint64_t n, char *dst) {
        uint64_t size = fmt_info(p->fmt)->bytes, across = p->n_rows * p->step, bytes = across * p->n_in * size;

        if (h->whole_of != p) {
                char *whole = realloc(h->whole, bytes);
                int r;

                if (!whole)
                        return -ENOMEM;
                h->whole = whole;
                h->whole_of = NULL;
                r = read_bytes(h, p->tensor, p->matrix * bytes, whole, bytes);
                if (r)
                        return r;
                h->whole_of = p;
        }
        for (uint64_t i = 0; i < n; i++)
                for (uint64_t k = 0; k < p->n_in; k++)
                        (void)memcpy(dst + (i * p->n_in + k) * size,
                                     h->whole + (k * across + (row + i) * p->step + p->first) * size, size);
        return 0;
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

static int read_mxfp4(struct hf *h, const struct hf_part *p, uint64_t row, uint64_t n, char *dst) {
        uint64_t blocks = p->n_in / 32;
        _cleanup_free_ uint8_t *codes = malloc(n * blocks * MXFP4_BYTES), *scales = malloc(n * blocks);
        int r;

        if (!codes || !scales)
                return -ENOMEM;
        r = read_rows(h, p->tensor, p, blocks * MXFP4_BYTES, row, n, (char *)codes);
        if (!r)
                r = read_rows(h, p->scale, p, blocks, row, n, (char *)scales);
        for (uint64_t i = 0; i < n * blocks && r == 0; i++)
                mxfp4_block(codes + i * MXFP4_BYTES, scales[i], (uint8_t *)dst + i * (MXFP4_BYTES + 1));
        return r;
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

static int read_nvfp4(struct hf *h, const struct hf_part *p, uint64_t row, uint64_t n, char *dst) {
        uint64_t blocks = p->n_in / 64;
        _cleanup_free_ uint8_t *codes = malloc(n * blocks * 32), *scales = malloc(n * blocks * 4);
        int r;

        if (!codes || !scales)
                return -ENOMEM;
        r = read_rows(h, p->tensor, p, blocks * 32, row, n, (char *)codes);
        if (!r)
                r = read_rows(h, p->scale, p, blocks * 4, row, n, (char *)scales);
        for (uint64_t i = 0; i < n * blocks && r == 0; i++)
                nvfp4_block(codes + i * 32, scales + i * 4, (uint8_t *)dst + i * 36);
        return r;
}

/* All scales of a matrix as floats, which the caller frees in any case. */
static int read_scales(struct hf *h, const struct safetensors_tensor *s, float **ret, uint64_t *ret_n) {
        const uint64_t n = s->size / safetensors_type_size(s->type);
        _cleanup_free_ char *bytes = malloc(s->size + 1);
        int r;

        *ret = calloc(n + 1, sizeof(float));
        if (!bytes || !*ret)
                return -ENOMEM;
        r = read_bytes(h, s, 0, bytes, s->size);
        if (r)
                return r;
        fmt_decode(fmt_info(s->type == SAFETENSORS_F32 ? FMT_F32 : s->type == SAFETENSORS_F16 ? FMT_F16 : FMT_BF16), bytes, n,
                   *ret);
        *ret_n = n;
        return 0;
}

static float f8_scale(const struct hf_part *p, const float *scales, uint64_t n, uint64_t row, uint64_t block) {
        if (n == 1)
                return scales[0];
        if (n == p->n_rows && p->scale->n_dims < 2)
                return scales[row];
        if (n == p->n_rows && p->scale->dims[1] == 1)
                return scales[row];
        return scales[row / F8_BLOCK * p->scale->dims[1] + block];
}

/* To blocks of ours, or to values where a row is no whole number of blocks. */
static void f8_row(const struct hf_part *p, const float *scales, uint64_t n, uint64_t row, const uint8_t *codes, char *dst) {
        for (uint64_t b = 0; b * F8_BLOCK < p->n_in; b++) {
                float d = f8_scale(p, scales, n, row, b), values[F8_BLOCK];
                uint64_t len = MIN((uint64_t)F8_BLOCK, p->n_in - b * F8_BLOCK);

                if (p->fmt == FMT_F8_E4M3) {
                        (void)memcpy(dst, &d, sizeof(d));
                        (void)memcpy(dst + sizeof(d), codes, len);
                        dst += sizeof(d) + len;
                } else {
                        for (uint64_t i = 0; i < len; i++)
                                values[i] = d * e4m3_to_float(codes[i]);
                        (void)fmt_encode(fmt_info(p->fmt), values, len, dst);
                        dst += 2 * len;
                }
                codes += len;
        }
}

static int read_f8(struct hf *h, const struct hf_part *p, uint64_t row, uint64_t n, char *dst) {
        uint64_t bytes = fmt_row_bytes(fmt_info(p->fmt), p->n_in), n_scales = 0;
        _cleanup_free_ uint8_t *codes = malloc(n * p->n_in);
        _cleanup_free_ float *scales = NULL;
        int r = read_scales(h, p->scale, &scales, &n_scales);

        if (!r && !codes)
                r = -ENOMEM;
        if (!r)
                r = read_rows(h, p->tensor, p, p->n_in, row, n, (char *)codes);
        for (uint64_t i = 0; i < n && r == 0; i++)
                f8_row(p, scales, n_scales, row + i, codes + i * p->n_in, dst + i * bytes);
        return r;
}

static int part_rows(struct hf *h, const struct hf_part *p, uint64_t row, uint64_t n, char *dst) {
        switch (p->how) {
        case HF_TRANSPOSED: return read_transposed(h, p, row, n, dst);
        case HF_MXFP4: return read_mxfp4(h, p, row, n, dst);
        case HF_NVFP4: return read_nvfp4(h, p, row, n, dst);
        case HF_F8: return read_f8(h, p, row, n, dst);
        default: return read_rows(h, p->tensor, p, fmt_row_bytes(fmt_info(p->fmt), p->n_in), row, n, dst);
        }
}

/* Vectors and biases, to F32: every `step`th element. */
static int write_vector(struct hf *h, const struct hf_part *p, float *dst) {
        const struct fmt_info *info = fmt_info(p->fmt);
        uint64_t n = p->n_rows * p->n_in * p->step;
        _cleanup_free_ char *bytes = NULL;
        _cleanup_free_ float *values = NULL;
        int r;

        if (p->how == HF_FACTORS) {
                (void)memcpy(dst, p->factors, p->n_in * sizeof(float));
                return 0;
        }
        bytes = malloc(n * info->bytes);
        values = calloc(n, sizeof(float));
        if (!bytes || !values)
                return -ENOMEM;
        r = read_bytes(h, p->tensor, p->matrix * n * info->bytes, bytes, n * info->bytes);
        if (r == 0)
                fmt_decode(info, bytes, n, values);
        for (uint64_t i = 0; i < p->n_rows * p->n_in && r == 0; i++)
                dst[i] = values[i * p->step + p->first] + (p->how == HF_PLUS_ONE ? 1.0f : 0.0f);
        if (p->how == HF_DIVISOR && r == 0)
                dst[0] = 1.0f / dst[0];
        return r;
}

struct writer {
        struct hf *h;
        const struct copy_progress *progress;
        uint64_t done;
};

static void report(struct writer *w, const struct hf_part *p, uint64_t rows) {
        w->done += rows * fmt_row_bytes(fmt_info(p->fmt), p->n_in);
        if (w->progress && w->progress->fn)
                w->progress->fn(w->progress->arg, w->done, w->h->total);
}

static int write_matrix(struct writer *w, const struct hf_part *p, char *dst) {
        const struct fmt_info *info = fmt_info(p->fmt);
        uint64_t bytes = fmt_row_bytes(info, p->n_in), rows = CHUNK_BYTES / bytes / WEIGHT_PANEL * WEIGHT_PANEL;
        _cleanup_free_ char *buf = NULL;

        rows = MIN(MAX(rows, (uint64_t)WEIGHT_PANEL), p->n_rows);
        buf = malloc(rows * bytes);
        if (!buf)
                return -ENOMEM;
        for (uint64_t row = 0; row < p->n_rows; row += rows) {
                uint64_t n = MIN(rows, p->n_rows - row);
                int r = part_rows(w->h, p, row, n, buf);

                if (r)
                        return r;
                weight_pack(info, p->n_rows, p->n_in, row, n, buf, dst);
                report(w, p, n);
        }
        return 0;
}

int hf_write(struct hf *h, const struct image_plan *plan, void *const *segments, const struct copy_progress *progress) {
        struct writer w = { .h = h, .progress = progress };
        int r = 0;

        for (size_t i = 0; i < plan->n_tensors && r == 0; i++) {
                const struct image_tensor *t = &plan->tensors[i];
                const struct hf_tensor *g = &h->tensors[i];
                char *dst = (char *)segments[t->segment] + t->offset;

                for (size_t k = 0; k < g->n && r == 0; k++) {
                        const struct hf_part *p = &h->parts[g->first + k];

                        if (t->layout == WEIGHT_PANELS) {
                                r = write_matrix(&w, p, dst + t->size / g->n * k);
                        } else {
                                r = write_vector(h, p, (float *)(void *)dst + p->n_rows * p->n_in * k);
                                report(&w, p, p->n_rows);
                        }
                }
        }
        free(steal_ptr(&h->whole));
        h->whole_of = NULL;
        return r;
}
