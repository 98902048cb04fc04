/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Other ways to code the exponents of BF16 than the one that is used (kernels/lossless.h), for docs/lossless.md: prototypes, made
 * to be measured against it. Each codes tiles of LAYOUT_TILE exponents by themselves; sign and significand are bytes beside them in
 * all of these, and putting both together costs all of them the same.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LAYOUT_TILE 4096u
#define LAYOUT_BITS 12u /* of a Huffman code at most, and of probabilities */

/* What a whole tensor shares: from how often each exponent is there. */
struct layout_tables {
        uint32_t count[256];
        uint8_t length[257];  /* of Huffman codes; 256 is the escape, 8 bits follow it */
        uint16_t code[257];   /* lowest bit first */
        uint16_t huffman[1u << LAYOUT_BITS]; /* exponent or escape, and length in bits 12-15 */
        uint16_t part[256], first[256];      /* of 4096: rANS */
        uint8_t symbol[1u << LAYOUT_BITS];
};

struct layout {
        const char *name;
        /* Returns the bytes of a tile. */
        size_t (*encode)(const struct layout_tables *t, const uint8_t *exponents, uint8_t *dst);
        void (*decode)(const struct layout_tables *t, const uint8_t *src, uint8_t *exponents);
        unsigned address_bits; /* that a tile takes to be found */
};

extern const struct layout layouts[];
extern const size_t layouts_n;

/* From count, which has something in it. */
void layout_tables_make(struct layout_tables *t);

/* spark-bench lossless --layouts: all of them and the one that is used, on Gaussian numbers or on the BF16 tensors of a model.
 * Returns the exit status. */
int layouts_compare(const char *model, bool json);
