/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A bump allocator with a hard limit. Everything that parsing or rendering a template makes lives in arenas and goes at
 * once; so no path of a stranger's program can leak, and its memory is counted in one place.
 * Embedded: `struct arena a = ARENA_NULL(limit);`, then arena_deinit(). Not for several threads at a time.
 */

#include <stdbool.h>
#include <stddef.h>

struct arena_chunk;

struct arena {
        struct arena_chunk *chunks;
        char *cur;
        char *end;
        size_t used;  /* bytes of all chunks */
        size_t limit; /* most bytes of all chunks */
        size_t next_chunk;
        bool no_memory; /* the last failure was malloc's, not the limit's */
};

#define ARENA_NULL(max) ((struct arena){ .limit = (max) })

void arena_deinit(struct arena *a);

/* size bytes, aligned for any type, not cleared; NULL past the limit or without memory. */
void *arena_alloc(struct arena *a, size_t size);
/* The same, cleared. n * size may overflow: then NULL. */
void *arena_calloc(struct arena *a, size_t n, size_t size);
/* size bytes without alignment, for text. */
char *arena_bytes(struct arena *a, size_t size);
/* Makes `more` bytes directly behind `end` the caller's if end is where the last arena_bytes() ended and there is room;
 * so appending to the newest string again and again costs what is appended. */
bool arena_extend(struct arena *a, const char *end, size_t more);
char *arena_memdup(struct arena *a, const char *p, size_t n);
