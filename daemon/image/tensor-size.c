/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "base/checked.h"
#include "kernels/format.h"

#include "tensor-size.h"

uint32_t image_tensor_layout(const char *name, uint32_t n_dims) {
        size_t n = strlen(name);

        return n_dims == 1 || (n > 5 && strcmp(name + n - 5, ".bias") == 0) ? WEIGHT_ROWS : WEIGHT_PANELS;
}

bool image_tensor_parts(const struct image_tensor *t, struct lossless_parts *ret) {
        const struct fmt_info *info = fmt_info(t->fmt);

        return info && fmt_is_coded(info) && t->layout == WEIGHT_PANELS && lossless_layout(t->dims[2], t->dims[1], t->dims[0], ret);
}

bool image_tensor_size(const struct image_tensor *t, uint64_t *ret_size, uint64_t *ret_elements) {
        const struct fmt_info *info = fmt_info(t->fmt);
        uint64_t rows = 1, matrices = 1, elements, size;
        struct lossless_parts parts;

        if (!info || t->n_dims < 1 || t->n_dims > IMAGE_DIMS_MAX)
                return false;
        if (t->layout != WEIGHT_ROWS && t->layout != WEIGHT_PANELS)
                return false;
        for (uint32_t i = 0; i < IMAGE_DIMS_MAX; i++)
                if (t->dims[i] < 1 || (i >= t->n_dims && t->dims[i] != 1))
                        return false;
        for (uint32_t i = 1; i < IMAGE_DIMS_MAX; i++)
                if (!checked_mul(rows, t->dims[i], &rows))
                        return false;
        /* struct weight counts in 32 bits */
        if (t->dims[0] > UINT32_MAX || rows > UINT32_MAX || (t->layout == WEIGHT_PANELS && (t->n_dims < 2 || t->n_dims > 3)))
                return false;
        if (t->layout == WEIGHT_PANELS) {
                rows = t->dims[1];
                matrices = t->dims[2];
        }
        if (!checked_mul(rows, t->dims[0], &elements) || !checked_mul(elements, matrices, &elements) ||
            !weight_bytes(info, (enum weight_layout)t->layout, rows, t->dims[0], &size) ||
            !checked_mul(size, matrices, &size))
                return false;
        if (fmt_is_coded(info)) {
                if (!image_tensor_parts(t, &parts))
                        return false;
                size = parts.least;
        }
        *ret_size = size;
        *ret_elements = elements;
        return true;
}
