/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Stop strings across token borders. Text goes in piece by piece; what can no longer belong to a stop string comes
 * out, what could be the beginning of one is held back, and a stop string itself never comes out.
 *
 * Where several match, the one that ends first wins, and of those the longest. Each byte is looked at once per
 * string (Knuth, Morris and Pratt, 1977): the matcher's state is how much of each string the text ends with.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STOP_STRINGS_MAX 16u
#define STOP_BYTES_MAX 256u

struct stop_string {
        const char *text; /* borrowed */
        uint16_t size;    /* 1 .. STOP_BYTES_MAX */
};

struct stop {
        const struct stop_string *strings; /* borrowed */
        size_t n;
        uint16_t (*fail)[STOP_BYTES_MAX];  /* per string: length of the longest border of each prefix */
        uint16_t state[STOP_STRINGS_MAX];
        uint16_t n_held;
        char held[STOP_BYTES_MAX];
        bool matched;
};

/* 0 or -ENOMEM. No string at all is fine: text passes through. */
int stop_init(struct stop *s, const struct stop_string *strings, size_t n);
void stop_deinit(struct stop *s);
/* Takes n bytes; writes at most n + STOP_BYTES_MAX bytes to out and returns how many. After a match (s->matched)
 * nothing more comes out. */
size_t stop_push(struct stop *s, const char *text, size_t n, char *out);
/* The text ends here: writes what was held back. */
size_t stop_finish(struct stop *s, char *out);
