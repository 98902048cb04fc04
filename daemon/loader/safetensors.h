/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Tensors of one or more safetensors files: u64 length of the header, the header (JSON: name -> dtype, shape, first and
 * last byte of the data behind it), the data. Nothing is believed: lengths are bounded, shapes must agree with sizes,
 * data must follow data without gap or overlap up to the end of the file, names occur once in all files together.
 * Source: the format's description in the README of the safetensors library.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "source.h"

#define SAFETENSORS_HEADER_MAX (32u << 20)
#define SAFETENSORS_TENSORS_MAX (1u << 20) /* in all files */
#define SAFETENSORS_NAME_MAX 256u /* with NUL */
#define SAFETENSORS_DIMS_MAX 8u

enum safetensors_type {
        SAFETENSORS_BOOL,
        SAFETENSORS_U8,
        SAFETENSORS_I8,
        SAFETENSORS_F8_E4M3,
        SAFETENSORS_F8_E5M2,
        SAFETENSORS_F8_E8M0,
        SAFETENSORS_U16,
        SAFETENSORS_I16,
        SAFETENSORS_F16,
        SAFETENSORS_BF16,
        SAFETENSORS_U32,
        SAFETENSORS_I32,
        SAFETENSORS_F32,
        SAFETENSORS_U64,
        SAFETENSORS_I64,
        SAFETENSORS_F64,
        SAFETENSORS_TYPE_N,
};

struct safetensors_tensor {
        char *name;
        enum safetensors_type type;
        uint32_t file; /* as given to safetensors_read() */
        uint32_t n_dims;
        uint64_t dims[SAFETENSORS_DIMS_MAX]; /* the last one runs fastest */
        uint64_t offset; /* of its data in the file */
        uint64_t size;   /* bytes */
};

struct safetensors {
        struct safetensors_tensor *tensors; /* by name, after safetensors_sort() */
        size_t n_tensors, cap;
};

#define SAFETENSORS_NULL ((struct safetensors){ 0 })

void safetensors_deinit(struct safetensors *s);
/* Adds a file's tensors. name is the file's, for messages. 0, LOADER_E_*, or -ENOMEM. */
int safetensors_read(struct safetensors *s, const char *name, uint32_t file, struct source *source,
                     struct loader_error *error);
/* After the last file. names are the files'. 0 or LOADER_E_INVALID: a name occurs twice. */
int safetensors_sort(struct safetensors *s, const char *const *names, struct loader_error *error);
/* NULL when there is no tensor of this name. */
const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name);
/* "BF16" */
const char *safetensors_type_name(enum safetensors_type type);
/* Bytes of an element. */
uint32_t safetensors_type_size(enum safetensors_type type);
