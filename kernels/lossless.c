/* SPDX-License-Identifier: Apache-2.0 */

/* BF16, losslessly coded: see lossless.h. */

#include "lossless.h"

#include "base/checked.h"
#include "format-family.h"

const struct fmt_family fmt_families_lossless[1] = {
        { .info = { FMT_BF16_LL, "BF16_LL", LOSSLESS_COLUMN, LOSSLESS_COLUMN_BYTES / WEIGHT_PANEL, LOSSLESS_COLUMN_BYTES } },
};

bool lossless_layout(uint64_t n_matrices, uint64_t n_out, uint64_t n_in, struct lossless_parts *ret) {
        uint64_t panels = n_out / WEIGHT_PANEL + (n_out % WEIGHT_PANEL != 0), units = n_in / LOSSLESS_UNIT + (n_in % LOSSLESS_UNIT != 0);
        uint64_t columns, bytes;

        if (n_matrices == 0 || n_out == 0 || n_in == 0 || n_in % LOSSLESS_COLUMN != 0 || panels > UINT32_MAX || units > UINT32_MAX)
                return false;
        if (!checked_mul(n_matrices, panels, &ret->n_entries) || !checked_mul(ret->n_entries, n_in / LOSSLESS_COLUMN, &columns) ||
            !checked_mul(columns, LOSSLESS_COLUMN_BYTES, &bytes) || !checked_align(bytes, 64, &ret->index) ||
            !checked_mul(ret->n_entries, units, &ret->n_entries) || !checked_mul(ret->n_entries, sizeof(uint64_t), &bytes) ||
            !checked_add(ret->index, bytes, &bytes) || !checked_align(bytes, 64, &ret->escapes) ||
            !checked_add(ret->escapes, LOSSLESS_SLACK, &ret->least))
                return false;
        ret->units = (uint32_t)units;
        ret->panels = (uint32_t)panels;
        return true;
}
