/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The table of layouts: bits per weight, and nanoseconds per weight from coded exponents, sign and significand to BF16 on one core.
 * The one that is used has its rows apart and takes them there; for the others weights are one run, which spares them that.
 */

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/macro.h"
#include "daemon/loader/gguf.h"
#include "kernels/format.h"
#include "kernels/half.h"
#include "kernels/lossless-kernels.h"
#include "kernels/lossless.h"
#include "lossless-layouts.h"
#include "measure.h"
#include "random-bf16.h"

#define MANY (1u << 17)  /* Gaussian numbers of one deviation; all of them stay in caches */
#define DEVIATIONS 8u
#define TILE_MOST (4 * LAYOUT_TILE) /* bytes, whatever its exponents are; with what readers run over */
#define ROUND_US 200e3
#define ENTRY 8u /* bytes of an index entry */

typedef uint8_t vec __attribute__((vector_size(16)));

/* Whole tiles of BF16, one after another. */
struct numbers {
        uint16_t *w, *back;
        size_t n;
};

static bool numbers_add(struct numbers *a, const uint16_t *w, size_t n) {
        uint16_t *more;

        n -= n % LAYOUT_TILE;
        more = realloc(a->w, (a->n + n + 1) * sizeof(*more));
        if (!more)
                return false;
        a->w = more;
        memcpy(a->w + a->n, w, n * sizeof(*w));
        a->n += n;
        return true;
}

static bool add_gaussian(struct numbers *a) {
        _cleanup_free_ uint16_t *w = calloc(MANY, sizeof(*w));

        for (unsigned i = 0; w && i < DEVIATIONS; i++) {
                random_bf16(w, MANY, exp2(-6.0 + (i + 0.5) / DEVIATIONS));
                if (!numbers_add(a, w, MANY))
                        return false;
        }
        return w;
}

static bool add_model(struct numbers *a, const char *path) {
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct loader_error error = { 0 };
        struct source source = SOURCE_NULL;
        struct gguf g = GGUF_NULL;
        bool ok = fd >= 0 && source_init(&source, fd, &error) == 0 && gguf_read_metadata(&g, &source, &error) == 0 &&
                  gguf_read_tensors(&g) == 0;

        source_deinit(&source); /* which has read past the page cache, in whole pages */
        for (size_t i = 0; ok && i < g.n_tensors; i++) {
                const struct gguf_tensor *t = &g.tensors[i];
                _cleanup_free_ uint16_t *w = NULL;

                if (t->fmt != FMT_BF16)
                        continue;
                w = malloc(t->size);
                ok = w && pread(fd, w, t->size, (off_t)t->offset) == (ssize_t)t->size && numbers_add(a, w, t->size / 2);
        }
        gguf_deinit(&g);
        return ok;
}

/* --- the prototypes ---------------------------------------------------------------------------------------------- */

/* What one layout made of all numbers. */
struct coded {
        const struct layout *layout;
        struct layout_tables tables;
        uint8_t *signs, *tiles;
        size_t *at; /* of each tile */
        uint64_t bits;
};

static void split(const uint16_t *w, size_t n, uint8_t *signs, uint8_t *exponents) {
        for (size_t i = 0; i < n; i++) {
                signs[i] = (uint8_t)((w[i] >> 8 & 0x80) | (w[i] & 0x7f));
                exponents[i] = (uint8_t)(w[i] >> 7);
        }
}

static bool coded_make(struct coded *c, const struct numbers *a) {
        size_t n_tiles = a->n / LAYOUT_TILE, end = 0;
        uint8_t exponents[LAYOUT_TILE];

        c->signs = malloc(a->n);
        c->tiles = malloc(a->n * 4 + TILE_MOST);
        c->at = calloc(n_tiles, sizeof(*c->at));
        if (!c->signs || !c->tiles || !c->at)
                return false;
        for (size_t i = 0; i < a->n; i++)
                c->tables.count[a->w[i] >> 7 & 0xff]++;
        layout_tables_make(&c->tables);
        for (size_t tile = 0; tile < n_tiles; tile++) {
                split(a->w + tile * LAYOUT_TILE, LAYOUT_TILE, c->signs + tile * LAYOUT_TILE, exponents);
                c->at[tile] = end;
                end += c->layout->encode(&c->tables, exponents, c->tiles + end);
        }
        memset(c->tiles + end, 0, TILE_MOST);
        c->bits = (uint64_t)(a->n + end) * 8 + n_tiles * c->layout->address_bits;
        return true;
}

static void coded_free(struct coded *c) {
        free(c->signs);
        free(c->tiles);
        free(c->at);
}

static inline vec load_vec(const uint8_t *p) {
        vec v;

        memcpy(&v, p, sizeof(v));
        return v;
}

static inline void join(uint8_t *dst, vec sign, vec exponent) {
        vec lower = (sign & 0x7f) | exponent << 7, upper = (sign & 0x80) | exponent >> 1;
        vec first = __builtin_shufflevector(lower, upper, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        vec second = __builtin_shufflevector(lower, upper, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);

        memcpy(dst, &first, sizeof(first));
        memcpy(dst + sizeof(first), &second, sizeof(second));
}

static void coded_decode(const struct coded *c, struct numbers *a) {
        for (size_t tile = 0; tile < a->n / LAYOUT_TILE; tile++) {
                const uint8_t *signs = c->signs + tile * LAYOUT_TILE;
                uint16_t *dst = a->back + tile * LAYOUT_TILE;
                uint8_t exponents[LAYOUT_TILE];

                c->layout->decode(&c->tables, c->tiles + c->at[tile], exponents);
                for (unsigned i = 0; i < LAYOUT_TILE; i += sizeof(vec))
                        join((uint8_t *)(dst + i), load_vec(signs + i), load_vec(exponents + i));
        }
}

/* --- and the one that is used ------------------------------------------------------------------------------------ */

/* A tile is a unit: 16 rows of 256. Wide ones have each escape in a byte; the others are as they are coded. */
struct units {
        bool wide;
        uint8_t *columns, *index, *escapes;
        uint64_t bits;
};

static bool units_make(struct units *u, const struct numbers *a) {
        const size_t n_tiles = a->n / LAYOUT_TILE, column = LOSSLESS_UNIT / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES;
        uint64_t end = 0;

        u->columns = malloc(n_tiles * column);
        u->index = malloc(n_tiles * ENTRY);
        u->escapes = malloc(a->n + LOSSLESS_SLACK);
        if (!u->columns || !u->index || !u->escapes)
                return false;
        for (size_t tile = 0; tile < n_tiles; tile++) {
                const uint8_t *src = (const uint8_t *)(a->w + tile * LAYOUT_TILE);
                uint8_t *to = u->columns + tile * column, *entry = u->index + tile * ENTRY, *found = u->escapes + end;
                uint8_t base;
                uint64_t bytes = lossless_encode(src, 2 * LOSSLESS_UNIT, WEIGHT_PANEL, LOSSLESS_UNIT, end, to, entry, u->escapes);

                base = (uint8_t)(load_u64(entry) >> LOSSLESS_BASE_SHIFT);
                for (unsigned k = 0; u->wide && k < LOSSLESS_UNIT; k += LOSSLESS_COLUMN)
                        found = lossless_plain.encode(src + 2 * k, 2 * LOSSLESS_UNIT, base,
                                                      to + k / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES, found);
                if (u->wide) {
                        store_u64(entry, load_u64(entry) | LOSSLESS_WIDE);
                        bytes = (uint64_t)(found - (u->escapes + end));
                }
                end += bytes;
        }
        u->bits = ((uint64_t)n_tiles * (column + ENTRY) + end) * 8;
        return true;
}

static void units_free(struct units *u) {
        free(u->columns);
        free(u->index);
        free(u->escapes);
}

static void units_decode(const struct units *u, struct numbers *a) {
        const size_t column = LOSSLESS_UNIT / LOSSLESS_COLUMN * LOSSLESS_COLUMN_BYTES;

        for (size_t tile = 0; tile < a->n / LAYOUT_TILE; tile++)
                lossless_decode(u->columns + tile * column, u->index + tile * ENTRY, u->escapes, WEIGHT_PANEL,
                                LOSSLESS_UNIT, a->back + tile * LAYOUT_TILE, 2 * LOSSLESS_UNIT);
}

/* --- the table --------------------------------------------------------------------------------------------------- */

/* Nanoseconds per weight, the best of some rounds; 0 where they are not the same afterwards. */
static double time_decode(const struct coded *c, const struct units *u, struct numbers *a) {
        double began = measure_now_us(), best = 0;

        memset(a->back, 0, a->n * sizeof(*a->back));
        for (unsigned round = 0; round < 3 || measure_now_us() - began < ROUND_US; round++) {
                double start = measure_now_us(), took;

                if (c)
                        coded_decode(c, a);
                else
                        units_decode(u, a);
                took = measure_now_us() - start;
                best = round == 0 || took < best ? took : best;
        }
        return memcmp(a->back, a->w, a->n * sizeof(*a->w)) == 0 ? best * 1e3 / (double)a->n : 0;
}

static bool print_line(const char *name, uint64_t bits, double ns, const struct numbers *a, bool json, bool first) {
        if (json)
                printf("%s{\"layout\":\"%s\",\"bits_per_weight\":%.4f,\"decode_ns_per_weight\":%.4f}", first ? "" : ",", name,
                       (double)bits / (double)a->n, ns);
        else
                printf("  %-24s %8.3f %10.3f\n", name, (double)bits / (double)a->n, ns);
        (void)fflush(stdout);
        return ns > 0;
}

/* Bits of entropy of the exponents, and 8. */
static double entropy(const struct numbers *a) {
        uint64_t count[256] = { 0 };
        double bits = 8;

        for (size_t i = 0; i < a->n; i++)
                count[a->w[i] >> 7 & 0xff]++;
        for (unsigned e = 0; e < 256; e++)
                if (count[e])
                        bits -= (double)count[e] / (double)a->n * log2((double)count[e] / (double)a->n);
        return bits;
}

static bool compare(struct numbers *a, bool json) {
        static const char *const names[] = { "3 bits, half bytes (used)", "3 bits, bytes" };
        bool ok = true;

        if (json)
                printf("{\"weights\":%zu,\"entropy_bits\":%.4f,\"layouts\":[", a->n, entropy(a));
        else
                printf("%zu weights, %.3f bits of entropy\n  layout                   bits/wt  ns/wt to BF16\n", a->n, entropy(a));
        for (size_t i = 0; ok && i < layouts_n; i++) {
                struct coded c = { .layout = &layouts[i] };

                ok = coded_make(&c, a) && print_line(c.layout->name, c.bits, time_decode(&c, NULL, a), a, json, i == 0);
                coded_free(&c);
        }
        for (unsigned wide = 2; ok && wide-- > 0;) {
                struct units u = { .wide = wide };

                ok = units_make(&u, a) && print_line(names[wide], u.bits, time_decode(NULL, &u, a), a, json, false);
                units_free(&u);
        }
        printf("%s", json ? "]}\n" : "");
        return ok;
}

int layouts_compare(const char *model, bool json) {
        struct numbers a = { 0 };
        bool ok = model ? add_model(&a, model) : add_gaussian(&a);

        if (ok && a.n == 0) {
                (void)fprintf(stderr, "spark-bench: lossless: %s has no tensor in BF16 of %u weights or more\n", model, LAYOUT_TILE);
                free(a.w);
                return 65;
        }
        a.back = ok ? malloc(a.n * sizeof(*a.back)) : NULL;
        ok = a.back && compare(&a, json);
        free(a.w);
        free(a.back);
        if (!ok)
                (void)fprintf(stderr, "spark-bench: lossless: no memory, no such model, or what was coded does not come back\n");
        return !ok;
}
