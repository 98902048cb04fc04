/* SPDX-License-Identifier: Apache-2.0 */

/* Rows of a matrix, looked up: a thread for each element. */

#include "blocks.cuh"
#include "each.cuh"

template <typename F, enum weight_layout layout> struct embed {
        struct cuda_rows rows;
        uint32_t dim;
        const int32_t *token;
        const uint8_t *w;
        float w_scale, scale;
        float *out;
};

template <typename F, enum weight_layout layout>
DEVICE float each_value(const struct embed<F, layout> &a, uint32_t row, uint32_t i) {
        uint32_t token = (uint32_t)a.token[row], n = a.dim / F::elements;
        size_t at = layout == WEIGHT_ROWS ? ((size_t)token * n + i / F::elements) * F::bytes
                                          : ((size_t)(token / WEIGHT_PANEL) * n + i / F::elements) * (WEIGHT_PANEL * F::bytes);
        struct block<F, layout> b = { a.w + at, token % WEIGHT_PANEL };
        float v = F::value(b, i % F::elements);

        v = a.w_scale != 0.0f ? v * a.w_scale : v;
        return v * a.scale;
}

template <typename F, enum weight_layout layout>
static cudaError_t embed_in(const struct cuda_launch *l, const struct cuda_embed *a) {
        struct embed<F, layout> e = { a->rows, a->n_in, a->token, (const uint8_t *)a->w, a->w_scale, a->scale, a->out };

        return each_launch(l, e);
}

template <typename F> static cudaError_t embed_of(const struct cuda_launch *l, const struct cuda_embed *a) {
        if (a->n_in % F::elements != 0)
                return cudaErrorInvalidValue;
        return a->layout == WEIGHT_ROWS ? embed_in<F, WEIGHT_ROWS>(l, a) : embed_in<F, WEIGHT_PANELS>(l, a);
}

static const struct {
        enum fmt fmt;
        cudaError_t (*embed)(const struct cuda_launch *l, const struct cuda_embed *a);
} formats[] = {
        { FMT_F32, embed_of<f32_block> },
        { FMT_F16, embed_of<f16_block> },
        { FMT_BF16, embed_of<bf16_block> },
        { FMT_F8_E4M3, embed_of<f8_block> },
        { FMT_Q4_0, embed_of<nibbles_block<4, false>> },
        { FMT_Q4_1, embed_of<nibbles_block<4, true>> },
        { FMT_Q5_0, embed_of<nibbles_block<5, false>> },
        { FMT_Q5_1, embed_of<nibbles_block<5, true>> },
        { FMT_Q8_0, embed_of<q8_0_block> },
        { FMT_Q2_K, embed_of<q2_k_block> },
        { FMT_Q3_K, embed_of<q3_k_block> },
        { FMT_Q4_K, embed_of<k_min_block<4>> },
        { FMT_Q5_K, embed_of<k_min_block<5>> },
        { FMT_Q6_K, embed_of<q6_k_block> },
        { FMT_IQ4_NL, embed_of<iq4_nl_block> },
        { FMT_IQ4_XS, embed_of<iq4_xs_block> },
        { FMT_MXFP4, embed_of<mxfp4_block> },
        { FMT_NVFP4, embed_of<nvfp4_block> },
};

cudaError_t cuda_embed(const struct cuda_launch *l, const struct cuda_embed *a) {
        for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
                if (formats[i].fmt == a->fmt)
                        return formats[i].embed(l, a);
        return cudaErrorInvalidValue;
}
