/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The list of formats and what is the same for all of them. The formats themselves are in format-float.c, format-q.c,
 * format-k.c, format-k-low.c and format-lut.c, the panel layout is in pack.c.
 */

#include "format.h"

#include <string.h>
#include <strings.h>

#include "base/checked.h"
#include "base/macro.h"
#include "format-family.h"

static const struct {
        const struct fmt_family *first;
        size_t n;
} families[] = {
        { fmt_families_float, ARRAY_SIZE(fmt_families_float) },
        { fmt_families_q, ARRAY_SIZE(fmt_families_q) },
        { fmt_families_k, ARRAY_SIZE(fmt_families_k) },
        { fmt_families_k_low, ARRAY_SIZE(fmt_families_k_low) },
        { fmt_families_lut, ARRAY_SIZE(fmt_families_lut) },
        { fmt_families_lossless, ARRAY_SIZE(fmt_families_lossless) },
};

const struct fmt_family *fmt_family(uint32_t fmt) {
        for (size_t i = 0; i < ARRAY_SIZE(families); i++)
                for (size_t k = 0; k < families[i].n; k++)
                        if ((uint32_t)families[i].first[k].info.fmt == fmt)
                                return families[i].first + k;
        return NULL;
}

const struct fmt_info *fmt_info(uint32_t fmt) {
        const struct fmt_family *family = fmt_family(fmt);

        return family ? &family->info : NULL;
}

const struct fmt_info *fmt_info_by_name(const char *name) {
        for (size_t i = 0; i < ARRAY_SIZE(families); i++)
                for (size_t k = 0; k < families[i].n; k++)
                        if (strcasecmp(families[i].first[k].info.name, name) == 0)
                                return &families[i].first[k].info;
        return NULL;
}

uint64_t fmt_row_bytes(const struct fmt_info *info, uint64_t n) {
        uint64_t bytes;

        if (n % info->block != 0 || !checked_mul(n / info->block, info->bytes, &bytes))
                return 0;
        return bytes;
}

bool fmt_decode(const struct fmt_info *info, const void *src, size_t n, float *dst) {
        const struct fmt_family *family = fmt_family(info->fmt);

        if (!family->decode)
                return false;
        family->decode(src, n / info->block, dst);
        return true;
}

bool fmt_encode(const struct fmt_info *info, const float *src, size_t n, void *dst) {
        const struct fmt_family *family = fmt_family(info->fmt);

        if (!family->encode)
                return false;
        family->encode(src, n / info->block, dst);
        return true;
}

bool weight_bytes(const struct fmt_info *info, enum weight_layout layout, uint64_t n_out, uint64_t n_in,
                  uint64_t *ret) {
        uint64_t rows = n_out, row;

        if (n_in % info->block != 0 || !checked_mul(n_in / info->block, info->bytes, &row))
                return false;
        if (layout == WEIGHT_PANELS && !checked_align(n_out, WEIGHT_PANEL, &rows))
                return false;
        return checked_mul(rows, row, ret);
}

uint64_t kv_position_bytes(enum kv_format format, uint32_t head_dim) {
        uint64_t dim = head_dim;

        switch (format) {
        case KV_F16:
                return 2 * dim * 2;
        case KV_F32:
                return 2 * dim * 4;
        case KV_Q8_0: /* a scale for each block */
                return 2 * (dim + (dim + KV_BLOCK - 1) / KV_BLOCK * 2);
        default:
                return 0;
        }
}
