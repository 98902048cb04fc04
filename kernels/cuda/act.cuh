/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The activations of backend.h, bit for bit those of kernels/cpu (rows-template.h, vec-math.h): the same polynomial for e^x, and
 * comparisons that do with a not-a-number what those do. */

#include <ptx.cuh>

#include "kernels/operands.h"

/* 0 below -87.33, 2.4e38 above 88.37; vec-math.h says where the coefficients come from. */
DEVICE float act_exp(float x) {
        const float lowest = -87.33f, highest = 88.37f, round = 12582912.0f;
        float in = x > lowest ? x : lowest, magic, n, r, p;

        in = in < highest ? in : highest;
        magic = fmaf(in, 0x1.715476p+0f, round);
        n = magic - round;
        r = fmaf(n, 0x1.bd0106p-13f, fmaf(n, -0x1.63p-1f, in));
        p = fmaf(0x1.a125f6p-13f, r, 0x1.6d444ap-10f);
        p = fmaf(p, r, 0x1.1110e0p-7f);
        p = fmaf(p, r, 0x1.5554e8p-5f);
        p = fmaf(p, r, 0x1.555556p-3f);
        p = fmaf(p, r, 0.5f);
        p = fmaf(p, r, 1.0f);
        p = fmaf(p, r, 1.0f);
        p *= __uint_as_float((__float_as_uint(magic) - 0x4b400000u + 127u) << 23);
        return x != x ? x : x < lowest ? 0.0f : p;
}

/* x / (1 + e^-z) */
DEVICE float act_swish(float x, float z) {
        return x / (1.0f + act_exp(0.0f - z));
}

DEVICE float act_round_f16(float x) {
        return f16_to_float((uint16_t)f16x2(x, 0.0f));
}

DEVICE float act_gelu(float x) {
        float h = act_round_f16(x), cube = h * h * h;
        float y = act_round_f16(act_swish(h, 1.59576912f * fmaf(0.044715f, cube, h)));

        return x < 10.0f ? (-10.0f < x ? y : 0.0f) : x;
}

DEVICE float act_silu_clamped(float g, float up) {
        const float alpha = 1.702f, limit = 7.0f;

        g = g < limit ? g : limit;
        up = up < limit ? up : limit;
        up = up > -limit ? up : -limit;
        return g / (1.0f + act_exp(g * -alpha)) * (up + 1.0f);
}

/* act(gate) * up */
template <enum activation act> DEVICE float act_gate(float gate, float up) {
        if (act == ACT_SILU_CLAMPED)
                return act_silu_clamped(gate, up);
        return (act == ACT_GELU_TANH ? act_gelu(gate) : act_swish(gate, gate)) * up;
}
