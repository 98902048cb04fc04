/* SPDX-License-Identifier: Apache-2.0 */

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"

#define CHUNK_MIN 4096u
#define CHUNK_MAX (1u << 20)

struct arena_chunk {
        struct arena_chunk *next;
        alignas(max_align_t) char data[];
};

void arena_deinit(struct arena *a) {
        struct arena_chunk *c = a->chunks, *next;

        for (; c; c = next) {
                next = c->next;
                free(c);
        }
        *a = ARENA_NULL(a->limit);
}

/* A new chunk with room for size bytes. Chunks double up to CHUNK_MAX, so that small renders stay small. */
static bool arena_grow(struct arena *a, size_t size) {
        struct arena_chunk *c;
        size_t n;

        a->no_memory = false;
        if (size > a->limit || a->used > a->limit - size)
                return false;
        n = a->next_chunk ? a->next_chunk : CHUNK_MIN;
        if (n < CHUNK_MAX)
                a->next_chunk = n * 2;
        if (n > a->limit - a->used)
                n = a->limit - a->used;
        if (n < size)
                n = size;
        if (n > SIZE_MAX - sizeof(*c))
                return false;

        c = malloc(sizeof(*c) + n);
        if (!c) {
                a->no_memory = true;
                return false;
        }
        c->next = a->chunks;
        a->chunks = c;
        a->cur = c->data;
        a->end = c->data + n;
        a->used += n;
        return true;
}

void *arena_alloc(struct arena *a, size_t size) {
        size_t pad = (size_t)(-(uintptr_t)a->cur & (alignof(max_align_t) - 1));
        char *p;

        if (!a->cur || pad > (size_t)(a->end - a->cur) || size > (size_t)(a->end - a->cur) - pad) {
                if (!arena_grow(a, size))
                        return NULL;
                pad = 0;
        }
        p = a->cur + pad;
        a->cur = p + size;
        return p;
}

void *arena_calloc(struct arena *a, size_t n, size_t size) {
        size_t total;
        void *p;

        if (__builtin_mul_overflow(n, size, &total)) {
                a->no_memory = false;
                return NULL;
        }
        p = arena_alloc(a, total);
        if (p)
                memset(p, 0, total);
        return p;
}

char *arena_bytes(struct arena *a, size_t size) {
        char *p;

        if (!a->cur || size > (size_t)(a->end - a->cur))
                if (!arena_grow(a, size))
                        return NULL;
        p = a->cur;
        a->cur += size;
        return p;
}

bool arena_extend(struct arena *a, const char *end, size_t more) {
        if (!a->cur || end != a->cur || more > (size_t)(a->end - a->cur))
                return false;
        a->cur += more;
        return true;
}

char *arena_memdup(struct arena *a, const char *p, size_t n) {
        char *d = arena_bytes(a, n);

        if (d && n)
                memcpy(d, p, n);
        return d;
}
