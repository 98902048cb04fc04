/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A model in Hugging Face's layout: config.json, tokenizer.json and safetensors files. Read into the same image plan that
 * a GGUF file gives, with GGUF's names, so that nobody behind the loader sees a difference. The twin of model.h.
 *
 * A tensor of the image is one or more parts: a matrix of a source tensor each, as one expert of a stack, or every other
 * row of a fused one. What becomes of the bytes says `how`; hf-names.c has the tables. Parts become pieces of a copy
 * (copy.h) in hf-write.c, hf-rows.c has what is done to their bytes.
 */

#include "daemon/image/plan.h"

#include "copy.h"
#include "json.h"
#include "model.h"
#include "safetensors.h"

#define HF_FILES_MAX 64u
#define HF_SCALES_MAX ((uint64_t)32 << 20)

enum hf_how {
        HF_PLAIN = 0,   /* F32, F16, BF16 as it is; vectors to F32 */
        HF_PLUS_ONE,    /* a norm's weight that is stored less one */
        HF_TRANSPOSED,  /* stored as n_in x n_out */
        HF_F8,          /* E4M3 with scales of its own */
        HF_MXFP4,
        HF_NVFP4,
        HF_SCALE,       /* of a whole matrix in NVFP4 */
        HF_DIVISOR,     /* the same, stored as what to divide by */
        HF_FACTORS,     /* computed from the configuration */
};

struct hf_part {
        char target[IMAGE_NAME_MAX];
        uint32_t expert; /* which matrix of the target */
        enum hf_how how;
        uint32_t fmt;    /* enum fmt of the rows that come out */
        const struct safetensors_tensor *tensor, *scale;
        const float *factors; /* HF_FACTORS */
        uint64_t matrix; /* which one of the source */
        uint64_t first, step; /* row i is row first + i * step of the source's matrix; vectors: elements */
        uint64_t n_rows, n_in; /* that come out */
};

/* What a piece's rows are made of besides what is read for it. */
struct hf_rows {
        const struct hf_part *part;
        uint64_t first; /* the piece begins with this row of the part */
        void *scales;   /* MXFP4, NVFP4: of the piece's rows, as in the file; F8: of the whole matrix, floats */
};

/* One tensor of the plan: parts [first, first + n). */
struct hf_tensor {
        size_t first, n;
};

struct hf {
        struct loader_error *error;
        size_t n_files;
        const char *names[HF_FILES_MAX]; /* borrowed */
        struct source sources[HF_FILES_MAX];
        struct json_object *config, *generation, *tokenizer_config;
        char *template, *tokenizer;
        struct safetensors weights;
        const struct hf_family *family;
        float *factors; /* of RoPE, up to two runs of n_rot / 2 */
        size_t n_factors;
        struct hf_part *parts;
        size_t n_parts, cap_parts;
        struct hf_tensor *tensors; /* as in the plan */
        /* hf-write.c */
        struct copy_piece *pieces; /* in the files' order */
        struct hf_rows *rows;      /* their args */
        size_t n_pieces, cap_pieces;
        uint64_t total; /* bytes that are read for them */
        uint64_t scales_max; /* bytes of scales in memory at a time, unless one piece has more; a piece has a quarter, or a panel */
};

/* One row of a table: a tensor's name behind "layers.N." (or "model."), with '*' for an expert's number, and GGUF's. */
struct hf_name {
        const char *from, *to;
        enum hf_how how;
        uint32_t first, step; /* step 0 = 1 */
};

enum {
        HF_NORMS_PLUS_ONE = 1u << 0,
        HF_TIED = 1u << 1,      /* output = embeddings where the configuration says nothing */
        HF_ROPE_INTERLEAVED = 1u << 2, /* pairs of neighbours; all others: halves */
};

struct hf_family {
        const char *type; /* model_type */
        const char *arch; /* GGUF's general.architecture */
        const char *act;  /* the activation that it must have */
        uint32_t flags;
        const struct hf_name *names; /* before the common ones; ends with { NULL } */
};

/* Takes the files (borrowed, as their names), which are told apart by name. 0, LOADER_E_*, or -errno. Deinit in any case. */
int hf_init(struct hf *h, const char *const *names, const int *fds, size_t n, struct loader_error *error);
void hf_deinit(struct hf *h);
/* 0, LOADER_E_*, or -ENOMEM. */
int hf_plan(struct hf *h, struct model *m, struct image_plan *plan, uint64_t segment_max);
/* Leaves out what is for other segments of the plan (segments.h). */
void hf_choose(struct hf *h, const struct image_plan *plan, uint64_t segments);
/* copy is made for h->sources. */
int hf_write(struct hf *h, struct copy *copy, const struct image_plan *plan, void *const *segments,
             const struct copy_progress *progress);
/* Reads some of its pieces for the copy's coder alone, before anything is written. */
int hf_measure(struct hf *h, struct copy *copy, const struct image_plan *plan, struct copy_piece *pieces, size_t n,
               const struct copy_progress *progress);

/* Parts of hf_plan(). */
const struct hf_family *hf_family_find(const char *type);
/* The next row for this name after `row` (NULL: the first one), NULL where there is no more. local: behind "layers.N.". */
const struct hf_name *hf_name_next(const struct hf_family *family, bool block, const char *name, const struct hf_name *row);
int hf_read_config(struct hf *h, struct image_hparams *hp);
int hf_read_rope(struct hf *h, const struct json_view *config, struct image_hparams *hp);
int hf_plan_tensors(struct hf *h, struct image_plan *plan);
int hf_add_part(struct hf *h, const struct hf_part *part);
/* After the plan's layout. 0 or -ENOMEM. */
int hf_plan_pieces(struct hf *h, const struct image_plan *plan);
/* Bytes of a row that are read from p->tensor: all `step` of them. */
uint64_t hf_row_bytes(const struct hf_part *p);
/* What a piece of this part has to do; arg is a struct hf_rows. *ret: NULL where the copy knows by itself. */
enum copy_transform hf_transform(const struct hf_part *p, bool panels, copy_fn **ret);
/* Rows of a matrix that the file has as columns, in BF16. */
void hf_gather(const void *arg, uint64_t row, unsigned n_rows, uint64_t first, uint64_t n, const char *src, void *dst);
/* Scales: arg is a struct hf_rows, rows are elements of the file. */
void hf_take_scales(const void *arg, uint64_t row, uint64_t n, const char *src, void *dst);
