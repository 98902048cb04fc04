/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Arithmetic and bits of CUDA C. What the real functions do with less precision is exact here, to the last place: tests that
 * compare with a reference need a tolerance for the real ones.
 */

#define EMU_MIN_MAX(T)                                                                                                         \
        static inline T min(T a, T b) { return b < a ? b : a; }                                                                \
        static inline T max(T a, T b) { return a < b ? b : a; }
EMU_MIN_MAX(int)
EMU_MIN_MAX(unsigned)
EMU_MIN_MAX(long)
EMU_MIN_MAX(unsigned long)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
#undef EMU_MIN_MAX
static inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
static inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
static inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
static inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
/* One that is not a number is left out, as in fminf(). */
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

template <typename T, typename F> static inline T emu_bits(F from) {
        T to;

        static_assert(sizeof to == sizeof from, "as many bits");
        memcpy(&to, &from, sizeof to);
        return to;
}

static inline unsigned __float_as_uint(float f) { return emu_bits<unsigned>(f); }
static inline int __float_as_int(float f) { return emu_bits<int>(f); }
static inline float __uint_as_float(unsigned u) { return emu_bits<float>(u); }
static inline float __int_as_float(int i) { return emu_bits<float>(i); }
static inline long long __double_as_longlong(double d) { return emu_bits<long long>(d); }
static inline double __longlong_as_double(long long l) { return emu_bits<double>(l); }

static inline float rsqrtf(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
/* The host's C library has declared these, for itself. */
#define __expf(x) expf(x)
#define __exp10f(x) powf(10.0f, x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf(x, y)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __frsqrt_rn(float a) { return rsqrtf(a); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }
#define __sincosf(x, s, c) sincosf(x, s, c)

/* To integers: what is out of range becomes the nearest there is, and what is not a number 0. */
template <typename T> static inline T emu_to_integer(double d, double least, double most) {
        return d != d ? 0 : d <= least ? (T)least : d >= most ? (T)most : (T)d;
}

static inline int __float2int_rn(float f) { return emu_to_integer<int>(rint((double)f), -2147483648.0, 2147483647.0); }
static inline int __float2int_rz(float f) { return emu_to_integer<int>(trunc((double)f), -2147483648.0, 2147483647.0); }
static inline int __float2int_rd(float f) { return emu_to_integer<int>(floor((double)f), -2147483648.0, 2147483647.0); }
static inline int __float2int_ru(float f) { return emu_to_integer<int>(ceil((double)f), -2147483648.0, 2147483647.0); }
static inline unsigned __float2uint_rn(float f) { return emu_to_integer<unsigned>(rint((double)f), 0.0, 4294967295.0); }
static inline unsigned __float2uint_rz(float f) { return emu_to_integer<unsigned>(trunc((double)f), 0.0, 4294967295.0); }
static inline float __int2float_rn(int i) { return (float)i; }
static inline float __uint2float_rn(unsigned u) { return (float)u; }
static inline float __ull2float_rn(unsigned long long u) { return (float)u; }
static inline float __double2float_rn(double d) { return (float)d; }

static inline int __popc(unsigned u) { return __builtin_popcount(u); }
static inline int __popcll(unsigned long long u) { return __builtin_popcountll(u); }
static inline int __clz(int i) { return i == 0 ? 32 : __builtin_clz((unsigned)i); }
static inline int __clzll(long long i) { return i == 0 ? 64 : __builtin_clzll((unsigned long long)i); }
static inline int __ffs(int i) { return __builtin_ffs(i); }
static inline int __ffsll(long long i) { return __builtin_ffsll(i); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
        return (unsigned long long)((unsigned __int128)a * b >> 64);
}

static inline unsigned __brev(unsigned u) {
        unsigned r = 0;

        for (int i = 0; i < 32; i++)
                r |= (u >> i & 1u) << (31 - i);
        return r;
}

/* Four bytes of the eight in b:a, each chosen by a digit of s; with its bit 3 the sign of the byte all over it. */
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
        uint64_t both = (uint64_t)b << 32 | a;
        unsigned r = 0;

        for (int i = 0; i < 4; i++) {
                unsigned digit = s >> (4 * i) & 0xfu;
                unsigned byte = (unsigned)(both >> (8 * (digit & 7u))) & 0xffu;

                if (digit & 8u)
                        byte = byte & 0x80u ? 0xffu : 0;
                r |= byte << (8 * i);
        }
        return r;
}

static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift) {
        return (unsigned)(((uint64_t)hi << 32 | lo) << (shift & 31u) >> 32);
}

static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift) {
        return (unsigned)(((uint64_t)hi << 32 | lo) >> (shift & 31u));
}

static inline int __dp4a(int a, int b, int c) {
        for (int i = 0; i < 4; i++)
                c += (int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i));
        return c;
}

/* Four bytes at once. */
#define EMU_BYTES(name, T, expression)                                                                                         \
        static inline unsigned name(unsigned a, unsigned b) {                                                                  \
                unsigned r = 0;                                                                                                \
                for (int i = 0; i < 4; i++) {                                                                                  \
                        int x = (T)(a >> (8 * i)), y = (T)(b >> (8 * i));                                                      \
                        r |= ((unsigned)(expression) & 0xffu) << (8 * i);                                                      \
                }                                                                                                              \
                return r;                                                                                                      \
        }
EMU_BYTES(__vadd4, uint8_t, x + y)
EMU_BYTES(__vsub4, uint8_t, x - y)
EMU_BYTES(__vsubss4, int8_t, min(max(x - y, -128), 127))
EMU_BYTES(__vaddss4, int8_t, min(max(x + y, -128), 127))
EMU_BYTES(__vcmpeq4, uint8_t, x == y ? 0xff : 0)
EMU_BYTES(__vcmpne4, uint8_t, x != y ? 0xff : 0)
EMU_BYTES(__vminu4, uint8_t, min(x, y))
EMU_BYTES(__vmaxu4, uint8_t, max(x, y))
#undef EMU_BYTES
