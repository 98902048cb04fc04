/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The resident image: what the loader writes and the engine maps. A versioned header, tables (hyper-parameters,
 * tensors, vocabulary, merges, chat template), then tensor data laid out as the kernels want it, in one or more
 * segments (sealed memfds, or the parts of a packed file). Segment 0 begins with the header and the tables; tensor
 * data follows and fills further segments. A tensor lies whole in one segment, 64-byte aligned (page-aligned where
 * large). All numbers are little-endian.
 *
 * The reader trusts nothing: the loader parsed a hostile file, so every offset, size, count and string is checked when
 * an image is opened, once; what the accessors hand out afterwards is in range.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hparams.h"

#define IMAGE_MAGIC "SPARKIMG"
#define IMAGE_VERSION 3u
#define IMAGE_SEGMENTS_MAX 64u
#define IMAGE_TENSORS_MAX 65536u
#define IMAGE_DIMS_MAX 4u

enum {
        IMAGE_E_INVALID = 1, /* not an image, another version, or damaged: see struct image_error */
};

struct image_error {
        char text[256]; /* a sentence naming the field and its offset */
};

struct image_tensor {
        char name[IMAGE_NAME_MAX]; /* GGUF's name, e.g. "blk.0.attn_q.weight" */
        uint32_t fmt;              /* enum fmt */
        uint32_t layout;           /* enum weight_layout */
        uint32_t n_dims;
        uint32_t segment;
        uint64_t dims[IMAGE_DIMS_MAX]; /* dims[0] runs fastest (n_in), dims[1] = n_out, ...; unused ones are 1 */
        uint64_t offset;           /* in its segment */
        uint64_t size;             /* bytes; where the format is coded (kernels/lossless.h), with index and escapes */
        uint64_t checksum;         /* of its data (checksum.h), 0 = none: images that are files have them */
};

enum image_vocab_model {
        IMAGE_VOCAB_NONE = 0,
        IMAGE_VOCAB_SPM = 1, /* "llama": SentencePiece BPE with scores and byte fallback */
        IMAGE_VOCAB_BPE = 2, /* "gpt2": byte-level BPE with merges */
};

/* Token types are GGUF's: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; with them stands how a special
 * token is recognised in text. Ids are -1 where absent. */
#define IMAGE_TOKEN_TYPE 0x0fu
#define IMAGE_TOKEN_LSTRIP 0x10u      /* takes the white space before it along */
#define IMAGE_TOKEN_RSTRIP 0x20u      /* takes the white space behind it along */
#define IMAGE_TOKEN_SINGLE_WORD 0x40u /* not within a word */
#define IMAGE_TOKEN_NORMALIZED 0x80u  /* looked for where the others are not, in text that is normalized, and as normalized text */

#define IMAGE_AROUND_MAX 8u

/* Tokens that a model wants in front of a prompt or behind it. */
struct image_around {
        uint32_t n;
        int32_t ids[IMAGE_AROUND_MAX];
};

struct image_vocab {
        enum image_vocab_model model;
        const char *pre;               /* tokenizer.ggml.pre, "" where absent; NUL-terminated */
        size_t n_tokens;
        const char *token_bytes;       /* all tokens' bytes, one after another */
        const uint64_t *token_offsets; /* [n_tokens + 1], ascending */
        const float *scores;           /* [n_tokens], NULL where absent */
        const uint8_t *types;          /* [n_tokens] */
        size_t n_merges;
        const char *merge_bytes;       /* "left right" each */
        const uint64_t *merge_offsets; /* [n_merges + 1] */
        int32_t bos, eos, eot, eom, unk, sep, pad;
        bool add_bos, add_eos, add_space_prefix, remove_extra_whitespaces, ignore_merges;
        struct image_around opening, closing; /* with add_bos, add_eos: instead of bos and eos, where not empty */
        /* the file said so; else the tokenizer's own default holds */
        bool has_add_bos, has_add_space_prefix;
        /* types and ignore_merges are the whole truth, names of tokens add nothing to it; special tokens are found leftmost
         * (special.h) */
        bool exact;
        bool nfc;            /* text is brought to Unicode's normalization form C first */
        bool prefix_first;   /* add_space_prefix: at the beginning of a text alone, not behind special tokens */
        bool prefix_missing; /* add_space_prefix: only where text does not begin with a space */
};

/* How one waits for an image that is still being written: returns when its first n tensors are in place, with IMAGE_ALL when the
 * image is whole and nobody can change it any more. 0, or whatever ended the waiting, which image_await() hands on. */
#define IMAGE_ALL SIZE_MAX
struct image_arrival {
        int (*wait)(void *userdata, size_t n);
        void *userdata;
};

/* An opened image. Everything it hands out points into the mapping and lives until image_close(). */
struct image {
        size_t n_segments;
        void *map[IMAGE_SEGMENTS_MAX];
        uint64_t map_size[IMAGE_SEGMENTS_MAX];
        const struct image_hparams *hparams;
        const struct image_tensor *tensors;
        size_t n_tensors;
        uint64_t n_params;
        struct image_vocab vocab;
        const char *chat_template; /* NUL-terminated, NULL where absent */
        size_t chat_template_size;
        const uint32_t *name_index; /* tensor numbers sorted by name: image_find() */
        struct image_arrival arrival; /* of one that is still being written */
        void *tables;                 /* of such a one: what is read in the place of segment 0's */
};

#define IMAGE_NULL ((struct image){ 0 })

/* Maps and checks the segments (fds are borrowed). Of what tensors contain, only what kernels follow without looking is checked
 * (indexes of coded ones); checksums are not. 0, IMAGE_E_INVALID with *error filled, or -errno. */
int image_open(struct image *image, const int *fds, size_t n_fds, struct image_error *error);
/* The same of segments whose tables are there already, while their data is still being written by somebody who is not trusted.
 * Tables are copied before they are checked, so that later changes do not matter. A tensor's data is not to be looked at before
 * image_await() has returned for it, and nothing of it may be used by others before image_settle(). */
int image_open_growing(struct image *image, const int *fds, size_t n_fds, const struct image_arrival *arrival,
                       struct image_error *error);
/* Waits for a tensor's data; for a coded one, whose index kernels follow without looking, until the image is whole and its indexes
 * are checked. 0, IMAGE_E_INVALID with *error filled, or what arrival's function returned. */
int image_await(struct image *image, const struct image_tensor *tensor, struct image_error *error);
/* Waits until the image is whole, and makes sure that it is the one whose tables were read. Afterwards it is like any other. As
 * above. */
int image_settle(struct image *image, struct image_error *error);
/* Checks header and tables alone, `size` bytes at tables, of an image that says itself how large its segments are; tables must
 * outlive what it hands out, and image_data() is not to be called. 0 or IMAGE_E_INVALID with *error filled, or -ENOMEM. */
int image_open_tables(struct image *image, const void *tables, uint64_t size, struct image_error *error);
/* Bytes of header and tables together, from an image's first bytes (n of them); 0 where that is no header of this version. */
uint64_t image_tables_size(const void *begin, size_t n, struct image_error *error);
void image_close(struct image *image);
/* NULL when there is no tensor of this name. */
const struct image_tensor *image_find(const struct image *image, const char *name);
static inline const void *image_data(const struct image *image, const struct image_tensor *tensor) {
        return (const char *)image->map[tensor->segment] + tensor->offset;
}
