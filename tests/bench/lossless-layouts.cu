/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What decoding takes on a GPU, for docs/lossless.md: a warp decodes weights into registers, as a product would, and folds them, so
 * that nothing is left out. Not run but counted:
 *
 *     nvcc -std=c++17 -O3 -arch=sm_121 -ptx -o - tests/bench/lossless-layouts.cu | tests/bench/count-ptx.py
 *
 * Each kernel stands for 32 weights of a lane; the parts of an escape are kernels of their own.
 */

#include <stdint.h>

#define WARP 0xffffffffu

struct planes {
        const uint8_t *signs, *low, *high, *escapes;
        uint32_t base;
};

/* Two weights from exponents and signs in bytes 0 and 2. */
static __device__ uint32_t join(uint32_t exponents, uint32_t signs) {
        return (signs & 0x00800080u) << 8 | exponents << 7 | (signs & 0x007f007fu);
}

/* Exclusive sum over the warp, and the whole. */
static __device__ uint32_t scan(uint32_t n, uint32_t *all) {
        uint32_t sum = n;

        for (unsigned d = 1; d < 32; d *= 2) {
                uint32_t other = __shfl_up_sync(WARP, sum, d);

                sum += threadIdx.x >= d ? other : 0;
        }
        *all = __shfl_sync(WARP, sum, 31);
        return sum - n;
}

static __device__ uint32_t fold_four(uint32_t exponents, uint32_t signs) {
        return join(exponents & 0x00ff00ffu, signs) ^ join(exponents >> 8 & 0x00ff00ffu, signs >> 8);
}

/* 3 bits: 8 rows of 4 elements of K. Exponents of four rows at a time, in bytes. */
extern "C" __global__ void three_bits(struct planes p, uint32_t *out, uint64_t *masks, uint32_t *places) {
        unsigned lane = threadIdx.x;
        uint2 low = ((const uint2 *)p.low)[lane], high = ((const uint2 *)p.high)[lane / 4 * 2 + lane % 2];
        uint32_t words[2] = { low.x, low.y }, thirds[2] = { high.x >> lane / 2 % 2 * 4, high.y >> lane / 2 % 2 * 4 }, mask[2], sum = 0, all;

        for (unsigned i = 0; i < 2; i++) {
                uint32_t t = thirds[i] & 0x0f0f0f0fu;

                for (unsigned k = 0; k < 4; k++) {
                        uint32_t code = (words[i] >> 2 * k & 0x03030303u) | (thirds[i] >> k & 0x01010101u) << 2;

                        sum ^= fold_four(code + p.base, ((const uint32_t *)p.signs)[k * 64 + lane * 2 + i]);
                }
                t = (t | t << 2) & 0x33333333u;
                t = (t | t << 1) & 0x55555555u;
                mask[i] = words[i] & words[i] >> 1 & t;
        }
        places[lane] = scan(__popc(mask[0]) + __popc(mask[1]), &all);
        masks[lane] = (uint64_t)mask[1] << 32 | mask[0];
        out[lane] = sum + all;
}

/* 4 bits: 32 weights. */
extern "C" __global__ void four_bits(struct planes p, uint32_t *out, uint64_t *masks, uint32_t *places) {
        unsigned lane = threadIdx.x;
        uint4 low = ((const uint4 *)p.low)[lane];
        const uint32_t words[4] = { low.x, low.y, low.z, low.w };
        uint32_t sum = 0, mask = 0, all;

        for (unsigned i = 0; i < 4; i++) {
                uint32_t w = words[i], full = w & w >> 1;

                sum ^= fold_four((w & 0x0f0f0f0fu) + p.base, ((const uint32_t *)p.signs)[lane * 8 + 2 * i]);
                sum ^= fold_four((w >> 4 & 0x0f0f0f0fu) + p.base, ((const uint32_t *)p.signs)[lane * 8 + 2 * i + 1]);
                full &= full >> 2;
                mask |= (full & 0x11111111u) << i;
        }
        places[lane] = scan(__popc(mask), &all);
        masks[lane] = mask;
        out[lane] = sum + all;
}

/* An escape of either, its weight corrected where it is; of half a byte, and of a byte. */
extern "C" __global__ void escape_half(struct planes p, uint32_t *out, uint64_t *masks, uint32_t *places, const uint8_t *table) {
        uint64_t mask = masks[threadIdx.x];
        uint32_t place = places[threadIdx.x], sum = 0;

        while (mask != 0) {
                unsigned bit = __ffsll((long long)mask) - 1;

                mask &= mask - 1;
                sum ^= (uint32_t)table[p.escapes[place / 2] >> place % 2 * 4 & 15] << (bit & 16) << 7;
                place++;
        }
        out[threadIdx.x] = sum;
}

extern "C" __global__ void escape_byte(struct planes p, uint32_t *out, uint64_t *masks, uint32_t *places) {
        uint64_t mask = masks[threadIdx.x];
        uint32_t place = places[threadIdx.x], sum = 0;

        while (mask != 0) {
                unsigned bit = __ffsll((long long)mask) - 1;

                mask &= mask - 1;
                sum ^= (uint32_t)p.escapes[place] << (bit & 16) << 7;
                place++;
        }
        out[threadIdx.x] = sum;
}

/* A Huffman code of the lane's own substream, from a table in shared memory. */
extern "C" __global__ void huffman(const uint8_t *signs, const uint32_t *stream, const uint16_t *codes, uint32_t n, uint32_t *out) {
        __shared__ uint16_t table[4096];
        uint64_t held = 0;
        uint32_t sum = 0, bits = 0;

        for (unsigned i = threadIdx.x; i < 4096; i += 32)
                table[i] = codes[i];
        __syncwarp();
        stream += threadIdx.x * n;
#pragma unroll 1
        for (uint32_t i = 0; i < n; i++) {
                uint32_t entry, e, sign = signs[i * 32 + threadIdx.x];

                if (bits < 32) {
                        held |= (uint64_t)*stream++ << bits;
                        bits += 32;
                }
                entry = table[held & 4095];
                held >>= entry >> 12;
                bits -= entry >> 12;
                e = entry & 0xff;
                if (entry & 256) {
                        e = (uint32_t)held & 0xff;
                        held >>= 8;
                        bits -= 8;
                }
                sum ^= (sign & 0x80) << 8 | e << 7 | (sign & 0x7f);
        }
        out[threadIdx.x] = sum;
}

/* rANS: lanes whose state is small take words of a shared stream, in their order. */
extern "C" __global__ void rans(const uint8_t *signs, const uint16_t *stream, const uint32_t *codes, uint32_t *states, uint32_t n,
                                uint32_t *out) {
        __shared__ uint32_t table[4096]; /* exponent, part and place in it: 8 + 12 + 12 bits */
        uint32_t x = states[threadIdx.x], sum = 0;

        for (unsigned i = threadIdx.x; i < 4096; i += 32)
                table[i] = codes[i];
        __syncwarp();
#pragma unroll 1
        for (uint32_t i = 0; i < n; i++) {
                uint32_t entry = table[x & 4095], sign = signs[i * 32 + threadIdx.x], wants;

                sum ^= (sign & 0x80) << 8 | (entry & 0xff) << 7 | (sign & 0x7f);
                x = (x >> 12) * (entry >> 8 & 0xfff) + (entry >> 20);
                wants = __ballot_sync(WARP, x < 65536);
                if (x < 65536)
                        x = x << 16 | stream[__popc(wants & ((1u << threadIdx.x) - 1))];
                stream += __popc(wants);
        }
        out[threadIdx.x] = sum;
}
