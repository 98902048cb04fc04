/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * 16-bit floats in portable C: IEEE binary16 and bfloat16 (the upper half of a binary32). To float is exact; from
 * float rounds to nearest, ties to even. Also unaligned little-endian loads and stores, as block formats need them.
 */

#include <stdint.h>
#include <string.h>

static inline uint32_t float_bits(float f) {
        uint32_t u;

        memcpy(&u, &f, sizeof(u));
        return u;
}

static inline float float_from_bits(uint32_t u) {
        float f;

        memcpy(&f, &u, sizeof(f));
        return f;
}

static inline float f16_to_float(uint16_t h) {
        uint32_t magnitude = h & 0x7fffu;
        /* The same exponent field counts from -15 there and from -127 here; the product also normalizes subnormals. */
        uint32_t u = float_bits(float_from_bits(magnitude << 13) * 0x1p112f);

        if (magnitude >= 0x7c00u)
                u |= 0x7f800000u;
        return float_from_bits(u | (uint32_t)(h & 0x8000u) << 16);
}

static inline uint16_t f16_from_float(float f) {
        uint32_t u = float_bits(f), sign = u >> 16 & 0x8000u, x = u & 0x7fffffffu;

        if (x > 0x7f800000u)
                return (uint16_t)(sign | 0x7e00u);
        if (x >= 0x477ff000u) /* 65520 and above round to infinity */
                return (uint16_t)(sign | 0x7c00u);
        if (x < 0x38800000u) /* subnormal: 0.5 has the spacing of binary16's subnormals, let the addition round */
                return (uint16_t)(sign | (float_bits(float_from_bits(x) + 0.5f) - 0x3f000000u));
        x += 0xfffu + (x >> 13 & 1u);
        return (uint16_t)(sign | (x - 0x38000000u) >> 13);
}

static inline float bf16_to_float(uint16_t h) {
        return float_from_bits((uint32_t)h << 16);
}

static inline uint16_t bf16_from_float(float f) {
        uint32_t u = float_bits(f);

        if ((u & 0x7fffffffu) > 0x7f800000u)
                return (uint16_t)(u >> 16 | 0x40u);
        return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static inline uint16_t load_u16(const void *p) {
        uint16_t v;

        memcpy(&v, p, sizeof(v));
        return v;
}

static inline uint32_t load_u32(const void *p) {
        uint32_t v;

        memcpy(&v, p, sizeof(v));
        return v;
}

static inline uint64_t load_u64(const void *p) {
        uint64_t v;

        memcpy(&v, p, sizeof(v));
        return v;
}

static inline float load_f32(const void *p) {
        return float_from_bits(load_u32(p));
}

static inline float load_f16(const void *p) {
        return f16_to_float(load_u16(p));
}

static inline void store_u16(void *p, uint16_t v) {
        memcpy(p, &v, sizeof(v));
}

static inline void store_u32(void *p, uint32_t v) {
        memcpy(p, &v, sizeof(v));
}

static inline void store_u64(void *p, uint64_t v) {
        memcpy(p, &v, sizeof(v));
}

static inline void store_f16(void *p, float f) {
        store_u16(p, f16_from_float(f));
}
