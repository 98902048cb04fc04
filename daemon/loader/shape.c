/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "daemon/image/schema.h"
#include "daemon/image/shapes.h"
#include "daemon/image/tensor-size.h"
#include "kernels/format.h"

#include "shape.h"

struct listing {
        struct image_plan *plan;
        const struct fmt_info *info;
        struct loader_error *error;
};

static int add_tensor(void *userdata, const char *name, uint32_t n_dims, const uint64_t *dims) {
        struct listing *l = userdata;
        uint32_t layout = image_tensor_layout(name, n_dims);
        int r;

        r = image_plan_add_tensor(l->plan, name, layout == WEIGHT_PANELS ? l->info->fmt : FMT_F32, layout, n_dims, dims);
        if (r <= 0)
                return r;
        return loader_fail(l->error, LOADER_E_UNSUPPORTED,
                           "'%s' cannot be had in %s: rows of %llu elements (tensor '%s') are no whole blocks of %u",
                           l->plan->hparams.name, l->info->name, (unsigned long long)dims[0], name, l->info->block);
}

static int add_output(struct listing *l) {
        const struct image_hparams *hp = &l->plan->hparams;
        const uint64_t dims[IMAGE_DIMS_MAX] = { hp->n_embd, hp->n_vocab, 1, 1 };

        return add_tensor(l, "output.weight", 2, dims);
}

/* Escapes as Gaussian weights have them. */
static void estimate(struct image_plan *plan, size_t i) {
        const struct image_tensor *t = &plan->tensors[i];
        struct lossless_parts parts;

        if (image_tensor_parts(t, &parts)) /* of a million numbers at a time: shapes have no odd ones that would matter */
                (void)image_plan_code_tensor(plan, i, ((t->dims[0] * t->dims[1] * t->dims[2]) >> 20) * (LOSSLESS_GAUSSIAN_BITS / 8));
}

int shape_plan(struct image_plan *plan, const char *shape, const char *format, uint64_t segment_max,
               bool *ret_estimated, struct loader_error *error) {
        struct listing l = { .plan = plan, .info = fmt_info_by_name(format), .error = error };
        char show[LOADER_SHOW_MAX], names[256];
        bool tied = false;
        int r;

        if (!image_shape_find(shape, &plan->hparams, &tied))
                return loader_fail(error, LOADER_E_UNSUPPORTED, "there is no shape '%s'; known are %s",
                                   loader_show(show, shape, strlen(shape)), image_shape_names(names, sizeof(names)));
        if (!l.info)
                return loader_fail(error, LOADER_E_UNSUPPORTED,
                                   "there is no format '%s'; formats are called as weights are, such as q4_k, q8_0 or bf16",
                                   loader_show(show, format, strlen(format)));
        r = image_schema_list(&plan->hparams, add_tensor, &l);
        if (!r && !tied)
                r = add_output(&l);
        if (r)
                return r;
        *ret_estimated = fmt_is_coded(l.info);
        for (size_t i = 0; i < plan->n_tensors && *ret_estimated; i++)
                estimate(plan, i);
        r = image_plan_layout(plan, segment_max);
        return r > 0 ? loader_fail(error, LOADER_E_UNSUPPORTED, "the model is too large for an image") : r;
}
