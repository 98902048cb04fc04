/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How a resident image's tables lie in segment 0; only the reader and the writer in this room look at it. The header
 * comes first, then the sections in the order of the enum, each 64-byte aligned and directly after the one before, so
 * that there is exactly one valid place for each and nothing can overlap. Tensor data begins after tables_size.
 */

#include "image.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "images are little-endian"
#endif

#define IMAGE_ALIGN 64u
#define IMAGE_PAGE 4096u
#define IMAGE_PAGE_FROM (64u << 10) /* tensors from this size on start on a page */

enum image_section {
        IMAGE_SECTION_HPARAMS,       /* struct image_hparams */
        IMAGE_SECTION_TENSORS,       /* struct image_tensor[n_tensors], ascending by segment and offset */
        IMAGE_SECTION_NAME_INDEX,    /* uint32_t[n_tensors] */
        IMAGE_SECTION_VOCAB,         /* struct image_vocab_record */
        IMAGE_SECTION_PRE,           /* string with NUL */
        IMAGE_SECTION_TOKEN_BYTES,
        IMAGE_SECTION_TOKEN_OFFSETS, /* uint64_t[n_tokens + 1] */
        IMAGE_SECTION_SCORES,        /* float[n_tokens] or nothing */
        IMAGE_SECTION_TYPES,         /* uint8_t[n_tokens] */
        IMAGE_SECTION_MERGE_BYTES,
        IMAGE_SECTION_MERGE_OFFSETS, /* uint64_t[n_merges + 1] */
        IMAGE_SECTION_TEMPLATE,      /* string with NUL, or nothing */
        IMAGE_SECTION_N,
};

struct image_span {
        uint64_t offset;
        uint64_t size;
};

struct image_header {
        char magic[8];
        uint32_t version;
        uint32_t header_size;
        uint32_t n_segments;
        uint32_t n_tensors;
        uint64_t tables_size; /* header and sections */
        uint64_t n_params;
        uint64_t tables_checksum; /* 0 = none; checksum.h */
        uint64_t segment_size[IMAGE_SEGMENTS_MAX];
        struct image_span sections[IMAGE_SECTION_N];
};

enum {
        IMAGE_VOCAB_ADD_BOS = 1u << 0,
        IMAGE_VOCAB_ADD_EOS = 1u << 1,
        IMAGE_VOCAB_ADD_SPACE_PREFIX = 1u << 2,
        IMAGE_VOCAB_REMOVE_EXTRA_WHITESPACES = 1u << 3,
        IMAGE_VOCAB_IGNORE_MERGES = 1u << 4,
        IMAGE_VOCAB_HAS_ADD_BOS = 1u << 5,
        IMAGE_VOCAB_HAS_ADD_SPACE_PREFIX = 1u << 6,
        IMAGE_VOCAB_EXACT = 1u << 7,
        IMAGE_VOCAB_NFC = 1u << 8,
        IMAGE_VOCAB_PREFIX_FIRST = 1u << 9,
        IMAGE_VOCAB_PREFIX_MISSING = 1u << 10,
        IMAGE_VOCAB_FLAGS_ALL = (1u << 11) - 1,
};

/* The vocabulary has three forms: this one, which bytes of a stranger are checked as; struct image_vocab, which loaders fill and
 * readers get (plan.c and image-vocab.c turn one into the other); and the tokenizer's, whose room knows no images (engine/vocab.c).
 * A table of fields instead of the three would be as long, and the compiler would no longer see that none has the wrong type. */
struct image_vocab_record {
        uint32_t model; /* enum image_vocab_model */
        uint32_t flags;
        uint64_t n_tokens;
        uint64_t n_merges;
        int32_t bos, eos, eot, eom, unk, sep, pad;
        struct image_around opening, closing; /* unused ids are 0 */
        uint32_t reserved;
};
