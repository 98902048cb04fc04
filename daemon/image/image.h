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

#define IMAGE_MAGIC "SPARKIMG"
#define IMAGE_VERSION 3u
#define IMAGE_SEGMENTS_MAX 64u
#define IMAGE_TENSORS_MAX 65536u
#define IMAGE_NAME_MAX 64u /* NUL included */
#define IMAGE_DIMS_MAX 4u
#define IMAGE_LAYERS_MAX 1024u

enum {
        IMAGE_E_INVALID = 1, /* not an image, another version, or damaged: see struct image_error */
};

struct image_error {
        char text[256]; /* a sentence naming the field and its offset */
};

enum image_rope_scaling {
        IMAGE_ROPE_SCALING_NONE = 0,
        IMAGE_ROPE_SCALING_LINEAR = 1,
        IMAGE_ROPE_SCALING_YARN = 2,
        IMAGE_ROPE_SCALING_LONG = 3, /* factors in rope_factors_long and rope_factors_short; the factor as with linear */
};

/* How elements of a head pair up for the rotary embedding. */
enum image_rope_kind {
        IMAGE_ROPE_DEFAULT = 0, /* the architecture's, in GGUF files */
        IMAGE_ROPE_NORM = 1,    /* (2i, 2i + 1) */
        IMAGE_ROPE_NEOX = 2,    /* (i, i + n_rot / 2) */
};

/* How a router's outputs become weights of experts; GGUF's numbers. */
enum image_gating {
        IMAGE_GATING_DEFAULT = 0,        /* the architecture's */
        IMAGE_GATING_SOFTMAX = 1,        /* over all experts */
        IMAGE_GATING_SIGMOID = 2,
        IMAGE_GATING_SOFTMAX_CHOSEN = 3, /* over the chosen ones */
};

/* One bit per layer: layer l is bit l % 32 of word l / 32. */
struct image_layers {
        uint32_t words[IMAGE_LAYERS_MAX / 32];
};

/* Hyper-parameters, GGUF's names in comments. Zero where a model has none. What an architecture implies without a key
 * (arch.h) is filled in by image_arch_defaults(), so that readers need not know defaults; scales of 0 count as 1. */
struct image_hparams {
        char arch[IMAGE_NAME_MAX]; /* general.architecture */
        char name[IMAGE_NAME_MAX]; /* general.name, cut */
        uint32_t n_vocab;
        uint32_t n_ctx;          /* context_length */
        uint32_t n_embd;         /* embedding_length */
        uint32_t n_layer;        /* block_count, without layers that predict further tokens (nextn_predict_layers) */
        uint32_t n_ff;           /* feed_forward_length */
        uint32_t n_head;         /* attention.head_count */
        uint32_t n_head_kv;      /* attention.head_count_kv */
        uint32_t head_dim;       /* attention.key_length, else n_embd / n_head */
        uint32_t n_rot;          /* rope.dimension_count, else head_dim */
        float norm_eps;          /* attention.layer_norm_rms_epsilon */
        float rope_base;         /* rope.freq_base */
        uint32_t rope_scaling;   /* rope.scaling.type: enum image_rope_scaling */
        float rope_scale_factor; /* rope.scaling.factor */
        uint32_t rope_orig_ctx;  /* rope.scaling.original_context_length */
        float rope_attn_factor;  /* rope.scaling.attn_factor */
        float attn_softcap;      /* attn_logit_softcapping */
        float logit_softcap;     /* final_logit_softcapping */
        uint32_t window;         /* attention.sliding_window */
        uint32_t n_expert;       /* expert_count */
        uint32_t n_expert_used;  /* expert_used_count */
        uint32_t n_ff_expert;    /* expert_feed_forward_length */
        float embd_scale;        /* embedding_scale */
        float residual_scale;    /* residual_scale */
        float attn_scale;        /* attention.scale */
        float logit_scale;       /* logit_scale: logits are divided by it */
        uint32_t rope_kind;      /* enum image_rope_kind */
        float rope_base_window;  /* rope.freq_base_swa: of layers with a window; 0 = rope_base */
        uint32_t rope_window_plain; /* layers with a window have no RoPE scaling */
        float yarn_ext_factor;   /* rope.scaling.yarn_ext_factor, 0 = 1 */
        float yarn_attn_factor;  /* rope.scaling.yarn_attn_factor: the magnitude, instead of what the factor gives; 0 = none */
        float yarn_beta_fast;    /* rope.scaling.yarn_beta_fast, 0 = 32 */
        float yarn_beta_slow;    /* rope.scaling.yarn_beta_slow, 0 = 1 */
        float yarn_log_mul;      /* rope.scaling.yarn_log_multiplier (mscale_all_dim) */
        uint32_t yarn_exact;     /* the ends of the ramp are not rounded to whole pairs ("truncate": false) */
        float temp_scale;        /* attention.temperature_scale: queries times 1 + this * ln(floor(pos / length) + 1) */
        uint32_t temp_length;    /* positions */
        uint32_t n_layer_dense;  /* leading_dense_block_count: first layers without experts */
        uint32_t n_expert_shared; /* expert_shared_count */
        uint32_t n_ff_shared;    /* expert_shared_feed_forward_length: of all shared experts together */
        uint32_t expert_gating;  /* expert_gating_func: enum image_gating */
        uint32_t expert_norm;    /* expert_weights_norm: weights of the chosen add up to 1 */
        float expert_scale;      /* expert_weights_scale */
        struct image_layers window_layers; /* attention.sliding_window_pattern: those with the window */
        struct image_layers no_rope_layers;
        uint32_t reserved[32];
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

static inline bool image_layers_has(const struct image_layers *set, uint32_t layer) {
        return set->words[layer / 32] >> layer % 32 & 1;
}

static inline void image_layers_add(struct image_layers *set, uint32_t layer) {
        set->words[layer / 32] |= 1u << layer % 32;
}

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
