/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Checked arithmetic for sizes that come from outside (files, frames, configuration). Every helper returns true when
 * the result is exact and stored in *ret, false (and *ret untouched) when it would not fit.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *ret) {
        uint64_t v;

        if (__builtin_add_overflow(a, b, &v))
                return false;
        *ret = v;
        return true;
}

static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *ret) {
        uint64_t v;

        if (__builtin_mul_overflow(a, b, &v))
                return false;
        *ret = v;
        return true;
}

/* a * b + c */
static inline bool checked_mul_add(uint64_t a, uint64_t b, uint64_t c, uint64_t *ret) {
        uint64_t v;

        return checked_mul(a, b, &v) && checked_add(v, c, ret);
}

/* Rounds v up to a multiple of align, which must be a power of two. */
static inline bool checked_align(uint64_t v, uint64_t align, uint64_t *ret) {
        uint64_t t;

        if (!checked_add(v, align - 1, &t))
                return false;
        *ret = t & ~(align - 1);
        return true;
}

/* True when [offset, offset + length) lies within [0, size). */
static inline bool checked_range(uint64_t offset, uint64_t length, uint64_t size) {
        return offset <= size && length <= size - offset;
}

/* Converts to size_t; false where that is narrower and v does not fit. */
static inline bool checked_size(uint64_t v, size_t *ret) {
        if (v > SIZE_MAX)
                return false;
        *ret = (size_t)v;
        return true;
}
