/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The backend: what computes. A const vtable over operations on a batch of rows; a row is one token of one sequence.
 *
 * Memory: activations live in buffers that the backend allocates (device memory on a discrete GPU); pointers named
 * `dev` below point into such buffers and are only ever handed back to the backend. Host data crosses by upload() and
 * download(). Weights stay where the image has them until bind().
 *
 * Bits (design promise 1): every operation's result for a row depends on that row, its sequence's KV and the weights
 * only: not on the number of rows, their order, or which other sequences are there. Each sum runs in an order fixed by
 * the row's own shape.
 *
 * Errors: 0 done; BACKEND_E_* the caller must handle; negative: the backend is lost, end the process.
 * Threads: one thread at a time calls a backend; it may own workers.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend-facts.h"
#include "format.h"
#include "operands.h"

enum {
        BACKEND_E_NO_MEMORY = 1,
        BACKEND_E_UNSUPPORTED = 2, /* a shape or format this backend cannot do; nothing was done */
        BACKEND_E_MISSING = 3,     /* backend_open(): no such backend, or not on this machine */
};

/* What a shared object with a backend must have been built for: the version counts changes of what this header and those that it
 * includes define, operations that come or go change the rest by themselves. */
#define BACKEND_VERSION 6u
#define BACKEND_ABI ((uint32_t)(BACKEND_VERSION * 65536u + sizeof(struct backend_ops)))

struct backend; /* each backend embeds it first */
struct kv_cache; /* opaque, the backend's */

struct backend_ops {
        const char *name; /* "cpu", "cuda", "null" */
        bool fake;        /* needs no model: logits depend on the tokens of the sequence only */
        bool device;      /* has device files and a driver's threads: it is opened before the sandbox, and watched */

        int (*open)(const struct backend_config *config, struct backend **ret);
        struct backend *(*close)(struct backend *be);
        /* What computes, for people: "cpu (avx512-vnni, 2 threads)". Lives as long as the backend. */
        const char *(*describe)(const struct backend *be);

        int (*alloc)(struct backend *be, size_t bytes, void **ret_dev);
        void (*release)(struct backend *be, void *dev);
        int (*upload)(struct backend *be, void *dev, const void *host, size_t bytes);
        int (*download)(struct backend *be, void *host, const void *dev, size_t bytes);
        /* Makes a weight's data reachable for this backend; may replace w->data by a device pointer. What w->data pointed to must
         * stay as it is: for good where it was not replaced, else until settle() or close(). */
        int (*bind)(struct backend *be, struct weight *w);
        /* Returns when nothing of what bind() replaced is read any more. 0, or negative: copying it may fail as late as here. Steps
         * wait for that by themselves. NULL: bind() has done everything. */
        int (*settle)(struct backend *be);
        /* Makes a weight of random values, of about that standard deviation, in the backend's memory, which it keeps; for
         * models of a shape. NULL: the backend has no memory of its own, make it on the host and bind(). */
        int (*fill)(struct backend *be, struct weight *w, float deviation, uint64_t seed);
        /* NULL: nothing to say but the host. */
        void (*facts)(const struct backend *be, struct backend_facts *ret);
        /* Whether the device still answers, without waiting: 0, or negative as everywhere. May be called by any thread, at any
         * time between open() and close(). NULL: it always does. */
        int (*health)(struct backend *be);
        /* Of the last seconds. Any thread, as health(). NULL: nothing is known. */
        void (*power)(struct backend *be, struct backend_power *ret);
        /* Between two steps: caps what computes, until the next call or close(). Of no consequence for any result. NULL: there is
         * nothing to cap. */
        void (*cap)(struct backend *be, const struct backend_caps *caps, struct backend_capped *ret);
        /* What the machine can do, measured, for benchmarks: bytes per second read and copied, operations per second of
         * matrix products in bfloat16 (a multiply-add is two). Takes seconds. NULL: not known. */
        int (*limits)(struct backend *be, double *ret_read_bytes_s, double *ret_copy_bytes_s, double *ret_ops_s);

        int (*kv_new)(struct backend *be, const struct kv_config *config, struct kv_cache **ret);
        struct kv_cache *(*kv_free)(struct backend *be, struct kv_cache *kv);
        /* Copies a page, all layers and positions, to another one (copy-on-write). Not between begin() and end().
         * BACKEND_E_UNSUPPORTED: no such page; so with the next ones. */
        int (*kv_copy)(struct backend *be, struct kv_cache *kv, uint32_t from, uint32_t to);
        /* Bytes of a page outside of the backend; export and import move them, bit for bit, in the backend's own layout.
         * Not between begin() and end(). */
        size_t (*kv_page_bytes)(const struct backend *be, const struct kv_cache *kv);
        int (*kv_export)(struct backend *be, const struct kv_cache *kv, uint32_t page, void *host);
        int (*kv_import)(struct backend *be, struct kv_cache *kv, uint32_t page, const void *host);

        /* Gives the memory of pages [first, first + n) back to the system, as far as no other page needs it; what they held is
         * lost. They have memory again when they are written to. *ret_bytes: of the host's memory, that was taken by them until
         * now. Not between begin() and end(). BACKEND_E_UNSUPPORTED: no such pages. NULL: all memory of a cache is taken at its
         * birth, and stays. */
        int (*kv_discard)(struct backend *be, struct kv_cache *kv, uint32_t first, uint32_t n, uint64_t *ret_bytes);

        /* Called once per step before and after its operations; end() returns when all results can be downloaded: what the
         * step's operations wrote and none of them but top() read since; the rest a backend need not have written anywhere. kv:
         * the cache that the step's rows extend, NULL for steps without attention. */
        int (*begin)(struct backend *be, const struct batch *batch, struct kv_cache *kv);
        int (*end)(struct backend *be);
        /* In the place of end(): nothing is computed. Whatever memory the backend needs for steps of the same operations, of other
         * rows and up to these limits, is taken, so that they take none. *ret_bytes: how much that is, with what it has for this
         * already; also where it is not there (BACKEND_E_NO_MEMORY). NULL: steps take no memory. */
        int (*reserve)(struct backend *be, const struct backend_limits *limits, uint64_t *ret_bytes);

        /* out[r] = row token[r] of w, times scale; out is [n_rows][w->n_in]. */
        int (*embed)(struct backend *be, const struct weight *w, const struct batch *batch, float scale, float *out);
        /* out[r][:] = x[r][:] / rms(x[r]) * weight; groups of dim elements, n of them. x and out may be the same. */
        int (*rmsnorm)(struct backend *be, const float *x, const float *weight, float eps, uint32_t n, uint32_t dim,
                       float *out);
        /* n products with the same x [n_rows][x_stride]. */
        int (*matmul)(struct backend *be, const struct matmul *products, size_t n, const float *x, size_t x_stride,
                      uint32_t n_rows);
        /* Rotates q [n_rows][n_heads * head_dim] and k [n_rows][n_kv_heads * head_dim] in place and stores k and v
         * (as k) in the cache at each row's position. */
        int (*rope_kv)(struct backend *be, const struct rope *rope, struct kv_cache *kv, uint32_t layer,
                       const struct batch *batch, uint32_t n_heads, float *q, float *k, const float *v);
        /* out [n_rows][n_heads * head_dim]: causal attention of each row over its own sequence up to its position,
         * n_heads / n_kv_heads query heads sharing a KV head (GQA). */
        int (*attention)(struct backend *be, const struct attention *a, const struct kv_cache *kv,
                         const struct batch *batch, const float *q, float *out);
        /* out[r][i] = act(gate[r][i]) * up[r][i]; out may be gate. */
        int (*gate)(struct backend *be, enum activation act, const float *gate, const float *up, uint32_t n_rows,
                    uint32_t dim, float *out);
        /* x = cap * tanh(x * scale / cap), x * scale where cap is 0; in place. */
        int (*softcap)(struct backend *be, float scale, float cap, uint32_t n_rows, uint32_t dim, float *x);
        /* out[r][i] += scale * x[r][i] */
        int (*add)(struct backend *be, const float *x, float scale, uint32_t n_rows, uint32_t dim, float *out);
        /* Columns [first, first + dim) of x [n_rows][x_stride]. */
        int (*slice)(struct backend *be, const float *x, size_t x_stride, uint32_t first, uint32_t n_rows, uint32_t dim,
                     float *out);
        /* Mixtures of experts (Shazeer et al. 2017). Chooses by logits [n_rows][n_experts]. */
        int (*route)(struct backend *be, const struct routing *routing, const float *logits, uint32_t n_rows,
                     uint32_t *experts, float *weights);
        /* n products with the same x, each of a weight of many experts (struct weight): slot s with its expert's matrix
         * and bias [n_experts][n_out]. x has a row per slot, or one per row (x_per_row). out is [slots][n_out],
         * out_stride and accumulate are not looked at. */
        int (*experts)(struct backend *be, const struct matmul *products, size_t n, const struct chosen *chosen,
                       const float *x, bool x_per_row);
        /* out[r] (+)= the sum of its slots' rows of x [slots][dim] times their weights, in their order. */
        int (*combine)(struct backend *be, const struct chosen *chosen, const float *x, uint32_t dim, bool accumulate,
                       float *out);
        /* Copies the given rows together: out[j] = x[rows[j]]; rows is a host array. What follows in the step works on these n
         * rows; one gather() a step. */
        int (*gather)(struct backend *be, const float *x, const uint32_t *rows, uint32_t n, uint32_t dim, float *out);
        /* The k highest of each row of logits [n][dim], best first, of equal ones the lowest id first, and what probabilities
         * need. Host arrays, written when end() returns. NULL: download the logits. */
        int (*top)(struct backend *be, const float *logits, uint32_t n, uint32_t dim, uint32_t k, struct backend_top *rows,
                   float *values, int32_t *ids);
};

struct backend {
        const struct backend_ops *ops;
};

extern const struct backend_ops backend_cpu;
extern const struct backend_ops backend_null;

/* By name; "auto" = the best one that this build and machine have and that is not fake. NULL: *error says why. Where "auto"
 * passes over a better one *error says why, too; it is empty otherwise. config (its library) and error may be NULL. */
const struct backend_ops *backend_choose(const char *name, const struct backend_config *config,
                                         struct backend_error *error);
/* Chooses and opens. 0: *error as above; BACKEND_E_* and negative: *error says why. A better backend that is there but does
 * not open is an error, not passed over: what a machine computes with must not depend on who came first. */
int backend_open(const char *name, const struct backend_config *config, struct backend **ret, struct backend_error *error);
/* Chooses without a word. */
const struct backend_ops *backend_find(const char *name);
