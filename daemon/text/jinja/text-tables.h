/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Properties of characters, as sorted ranges. */

#include <stddef.h>
#include <stdint.h>

struct text_range {
        uint32_t first, last;
};

/* Every stride-th character of first..last maps to itself + delta. */
struct text_run {
        uint32_t first, last;
        uint32_t stride;
        int32_t delta;
};

struct text_several {
        uint32_t c;
        uint32_t to[3]; /* unused ones are 0 */
};

#define TEXT_RANGES(name)                                \
        extern const struct text_range text_##name[];    \
        extern const size_t text_n_##name
#define TEXT_MAPPING(name)                                        \
        extern const struct text_run text_##name[];               \
        extern const size_t text_n_##name;                        \
        extern const struct text_several text_##name##_several[]; \
        extern const size_t text_n_##name##_several

TEXT_RANGES(unprintable);
TEXT_RANGES(alpha);
TEXT_RANGES(numeric);
TEXT_RANGES(decimal);
TEXT_RANGES(lower);
TEXT_RANGES(upper);
TEXT_MAPPING(to_upper);
TEXT_MAPPING(to_title);
TEXT_MAPPING(to_lower);
