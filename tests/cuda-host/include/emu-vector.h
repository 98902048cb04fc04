/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* CUDA's vector types, with the alignment that makes a load of one a single access. */

#ifdef __cplusplus

#define EMU_VECTOR(T, name, bytes)                                                                                             \
        struct __attribute__((aligned(bytes * 2))) name##2 { T x, y; };                                                        \
        struct name##3 { T x, y, z; };                                                                                         \
        struct __attribute__((aligned(bytes * 4 > 16 ? 16 : bytes * 4))) name##4 { T x, y, z, w; };                            \
        static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                      \
        static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                              \
        static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTOR(float, float, 4)
EMU_VECTOR(double, double, 8)
EMU_VECTOR(int, int, 4)
EMU_VECTOR(short, short, 2)
EMU_VECTOR(unsigned short, ushort, 2)
EMU_VECTOR(signed char, char, 1)
EMU_VECTOR(unsigned char, uchar, 1)
EMU_VECTOR(long long, longlong, 8)
EMU_VECTOR(unsigned long long, ulonglong, 8)
#undef EMU_VECTOR

struct __attribute__((aligned(8))) uint2 { unsigned x, y; };
struct __attribute__((aligned(16))) uint4 { unsigned x, y, z, w; };

static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

#endif
