/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory: pieces of the device's (or pinned ones of the host's), the buffers that alloc() hands out, and constants.
 *
 * The device's memory is counted here and nowhere else. cudaFree() waits for the device; buffers come and go between steps only.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/macro.h"
#include "cuda.h"

#define ALIGN 256u

int cuda_memory_take(struct cuda_backend *be, uint64_t bytes, bool host, struct cuda_memory *ret) {
        struct cuda_memory m = { .host = host };
        uint64_t all;
        int r;

        if (!checked_align(MAX(bytes, (uint64_t)1), ALIGN, &all) || all > SIZE_MAX / 2)
                return BACKEND_E_NO_MEMORY;
        m.bytes = all;
        r = cuda_check_memory(be, host ? cudaHostAlloc(&m.data, all, cudaHostAllocDefault) : cudaMalloc(&m.data, all),
                              "allocating memory");
        if (r != 0)
                return r;
        if (!host)
                be->device_bytes += all;
        *ret = m;
        return 0;
}

void cuda_memory_give(struct cuda_backend *be, struct cuda_memory *m) {
        cudaError_t error;

        if (!m->data)
                return;
        if (!m->host)
                be->device_bytes -= m->bytes;
        error = !cuda_answers(be) ? cudaSuccess : m->host ? cudaFreeHost(m->data) : cudaFree(m->data);
        (void)cuda_check(be, error, "freeing memory"); /* the next call says so */
        *m = (struct cuda_memory){};
}

int cuda_memory_clear(struct cuda_backend *be, const struct cuda_memory *m) {
        if (m->host) {
                memset(m->data, 0, m->bytes);
                return 0;
        }
        return cuda_check(be, cudaMemsetAsync(m->data, 0, m->bytes, be->stream), "clearing memory");
}

int cuda_memory_list(struct cuda_memory **list, size_t n, size_t *allocated) {
        struct cuda_memory *grown;
        size_t more = *allocated ? 2 * *allocated : 64;

        if (n < *allocated)
                return 0;
        grown = reallocarray(*list, more, sizeof(*grown));
        if (!grown)
                return BACKEND_E_NO_MEMORY;
        *list = grown;
        *allocated = more;
        return 0;
}

size_t cuda_memory_owner(const struct cuda_backend *be, const void *p) {
        uintptr_t at = (uintptr_t)p;

        for (size_t i = 0; i < be->n_buffers; i++) {
                uintptr_t first = (uintptr_t)be->buffers[i].data;

                if (at >= first && at - first < be->buffers[i].bytes)
                        return i + 1;
        }
        return 0;
}

int cuda_alloc(struct backend *base, size_t bytes, void **ret_dev) {
        struct cuda_backend *be = cuda_of(base);
        int r = atomic_load(&be->lost);

        r = r ? r : cuda_memory_list(&be->buffers, be->n_buffers, &be->buffers_allocated);
        r = r ? r : cuda_memory_take(be, bytes, false, be->buffers + be->n_buffers);
        if (r != 0)
                return r;
        *ret_dev = be->buffers[be->n_buffers++].data;
        return 0;
}

void cuda_release(struct backend *base, void *dev) {
        struct cuda_backend *be = cuda_of(base);
        size_t owner = dev ? cuda_memory_owner(be, dev) : 0;

        if (owner == 0)
                return;
        cuda_run_forget(be);
        cuda_memory_give(be, be->buffers + owner - 1);
        be->buffers[owner - 1] = be->buffers[--be->n_buffers];
}

static uint32_t hash_floats(const float *x, uint32_t n) {
        uint32_t h = 2166136261u ^ n; /* FNV-1a, a float at a time */

        for (uint32_t i = 0; i < n; i++) {
                uint32_t bits;

                memcpy(&bits, x + i, sizeof(bits));
                h = (h ^ bits) * 16777619u;
                h ^= h >> 15;
        }
        return h;
}

/* What is copied does not change while it is under way: it comes from the copy that is kept. */
static int make_constant(struct cuda_backend *be, const float *host, uint32_t n, struct cuda_constant **ret) {
        struct cuda_constant *c = malloc(sizeof(*c) + n * sizeof(float));
        int r;

        if (!c)
                return BACKEND_E_NO_MEMORY;
        *c = (struct cuda_constant){ .n = n };
        memcpy(c->host, host, n * sizeof(float));
        r = cuda_memory_take(be, n * sizeof(float), false, &c->memory);
        if (r == 0)
                r = cuda_copy_in(be, c->memory.data, c->host, n * sizeof(float));
        if (r != 0) {
                cuda_memory_give(be, &c->memory);
                free(c);
                return r;
        }
        *ret = c;
        return 0;
}

int cuda_memory_constant(struct cuda_backend *be, const float *host, uint32_t n, const float **ret) {
        struct cuda_constant **chain = be->constants + hash_floats(host, n) % CUDA_CONSTANT_CHAINS, *c;
        int r;

        for (c = *chain; c; c = c->next)
                if (c->n == n && memcmp(c->host, host, n * sizeof(float)) == 0)
                        break;
        if (!c) {
                r = make_constant(be, host, n, &c);
                if (r != 0)
                        return r;
                c->next = *chain;
                *chain = c;
        }
        *ret = c->memory.data;
        return 0;
}

void cuda_memory_close(struct cuda_backend *be) {
        for (size_t i = 0; i < CUDA_CONSTANT_CHAINS; i++)
                for (struct cuda_constant *c = be->constants[i], *next; c; c = next) {
                        next = c->next;
                        cuda_memory_give(be, &c->memory);
                        free(c);
                }
        for (size_t i = 0; i < be->n_buffers; i++)
                cuda_memory_give(be, be->buffers + i);
        free(be->buffers);
}
