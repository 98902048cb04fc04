/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Where weights are. Where the device reads the process's memory through the host's page tables (GB10, Grace) weights stay in the
 * image that is mapped. Where it is part of the processor but has page tables of its own, the image's pages are registered, read
 * only. Everywhere else weights are copied to the device's memory: large ones to a piece of their own, others together in slabs.
 * Neither is ever given back before the end: a backend has one model.
 *
 * The KV cache is the device's memory, unless both are the same chips and pinned memory of the host turns out to be read faster,
 * which is measured before the first large one is made.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"
#include "base/macro.h"
#include "cuda.h"

#define SLAB_BYTES (32u << 20)
#define OWN_BYTES (8u << 20) /* weights from this size on have memory of their own */
#define ALIGN 256u
#define KV_LARGE (256u << 20)
#define MEASURE_BYTES KV_LARGE /* there is room for these, and they are ten times the target's second-level cache */

static uintptr_t page_size(void) {
        return (uintptr_t)sysconf(_SC_PAGESIZE);
}

static bool attribute(const struct cuda_backend *be, enum cudaDeviceAttr which) {
        int value = 0;

        return cudaDeviceGetAttribute(&value, which, be->device) == cudaSuccess && value != 0;
}

/*
 * Page tables as the device will need them: else it finds each page missing when it comes to it first, and the driver serves that
 * while a step waits. Only a hint: kernels before 5.14 do not know it.
 */
static void populate(uintptr_t first, uintptr_t end) {
        (void)madvise((void *)first, end - first, MADV_POPULATE_READ);
}

static cudaError_t register_range(uintptr_t first, uintptr_t end) {
        return cudaHostRegister((void *)first, end - first, cudaHostRegisterReadOnly | cudaHostRegisterMapped);
}

/* A page like the image's: of a memfd, shared, and read only. */
static void *map_probe(size_t bytes) {
        int fd = memfd_create("spark-probe", MFD_CLOEXEC);
        void *page = MAP_FAILED;

        if (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0)
                page = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (fd >= 0)
                (void)close(fd);
        return page;
}

/* Tries it: whether such memory can be registered depends on the driver and on the kernel, too. */
static bool can_register(const struct cuda_backend *be) {
        uintptr_t bytes = page_size();
        cudaError_t error;
        void *page;

        if (!attribute(be, cudaDevAttrIntegrated) || !attribute(be, cudaDevAttrCanUseHostPointerForRegisteredMem) ||
            !attribute(be, cudaDevAttrHostRegisterReadOnlySupported))
                return false;
        page = map_probe(bytes);
        if (page == MAP_FAILED)
                return false;
        error = register_range((uintptr_t)page, (uintptr_t)page + bytes);
        if (error == cudaSuccess)
                error = cudaHostUnregister(page);
        (void)cudaGetLastError(); /* no is an answer */
        (void)munmap(page, bytes);
        return error == cudaSuccess;
}

static bool measure(struct cuda_backend *be, bool host, double *ret) {
        struct cuda_memory m = {};
        bool ok;

        if (cuda_memory_take(be, MEASURE_BYTES, host, &m) != 0)
                return false;
        ok = cuda_memory_clear(be, &m) == 0 &&
             cuda_measure_read(be->stream, m.data, m.bytes, ret) == cudaSuccess;
        cuda_memory_give(be, &m);
        return ok;
}

/* The runtime's own memory is taken unless the other is clearly faster. What is small is read fast enough from either. */
void cuda_weights_place_kv(struct cuda_backend *be, uint64_t bytes) {
        double device, host;

        if (be->placement == CUDA_DEVICE || bytes < KV_LARGE || be->kv_measured)
                return;
        be->kv_measured = true;
        if (!measure(be, false, &device) || !measure(be, true, &host))
                return;
        be->kv_on_host = host > 1.05 * device;
        log_info("KV cache: the device reads %.0f GB/s of its own memory and %.0f GB/s of pinned memory, %s is taken",
                 device / 1e9, host / 1e9, be->kv_on_host ? "the latter" : "the former");
}

const char *cuda_weights_place(struct cuda_backend *be, const char *placement) {
        bool device = placement && strcmp(placement, "device") == 0, unified = placement && strcmp(placement, "unified") == 0;

        if (placement && !device && !unified && strcmp(placement, "auto") != 0)
                return "placement is auto, unified or device";
        if (!device && attribute(be, cudaDevAttrPageableMemoryAccessUsesHostPageTables))
                be->placement = CUDA_PAGEABLE;
        else if (!device && can_register(be))
                be->placement = CUDA_REGISTERED;
        if (unified && be->placement == CUDA_DEVICE)
                return "placement is unified, but this device cannot read the host's memory in place; use auto or device";
        return NULL;
}

/* Memory that stays: in the last slab, a new one, or a piece of its own. */
static int take(struct cuda_backend *be, uint64_t bytes, void **ret) {
        uint64_t all;
        int r;

        if (!checked_align(bytes, ALIGN, &all))
                return BACKEND_E_NO_MEMORY;
        if (all < OWN_BYTES && be->slab.data && all <= be->slab.bytes - be->slab_used) {
                *ret = (uint8_t *)be->slab.data + be->slab_used;
                be->slab_used += all;
                return 0;
        }
        r = cuda_memory_list(&be->weights, be->n_weights, &be->weights_allocated);
        r = r ? r : cuda_memory_take(be, all < OWN_BYTES ? SLAB_BYTES : all, false, be->weights + be->n_weights);
        if (r != 0)
                return r;
        *ret = be->weights[be->n_weights].data;
        if (all < OWN_BYTES) {
                be->slab = be->weights[be->n_weights];
                be->slab_used = all;
        }
        be->n_weights++;
        return 0;
}

/* Takes back what take() gave last. */
static void untake(struct cuda_backend *be, const void *data, uint64_t bytes) {
        struct cuda_memory *last = be->weights + be->n_weights - 1;

        if (be->slab.data && (uintptr_t)data - (uintptr_t)be->slab.data < be->slab.bytes) {
                be->slab_used = (size_t)((uintptr_t)data - (uintptr_t)be->slab.data);
                return;
        }
        cuda_memory_give(be, last);
        be->n_weights--;
}

/* Registers those pages of [first, end) that are not registered yet: tensors share pages. */
static int register_pages(struct cuda_backend *be, uintptr_t first, uintptr_t end) {
        while (first < end) {
                uintptr_t stop = end;
                bool inside = false;
                int r;

                for (size_t i = 0; i < be->n_registered && !inside; i++) {
                        uintptr_t from = (uintptr_t)be->registered[i].data, to = from + be->registered[i].bytes;

                        inside = first >= from && first < to;
                        if (inside)
                                first = to;
                        else if (from > first)
                                stop = MIN(stop, from);
                }
                if (inside)
                        continue;
                r = cuda_memory_list(&be->registered, be->n_registered, &be->registered_allocated);
                r = r ? r : cuda_check_memory(be, register_range(first, stop), "registering the image's memory");
                if (r != 0)
                        return r;
                be->registered[be->n_registered++] = (struct cuda_memory){ (void *)first, stop - first, true };
                first = stop;
        }
        return 0;
}

static bool bytes_of(const struct weight *w, uint64_t *ret) {
        return w->info && w->n_out > 0 && w->n_in > 0 && weight_bytes(w->info, w->layout, w->n_out, w->n_in, ret) &&
               checked_mul(*ret, MAX(w->n_experts, 1u), ret) && checked_add(*ret, w->tail, ret) && *ret <= SIZE_MAX / 2;
}

bool cuda_coded_parts(const struct weight *w, struct cuda_coded *ret) {
        struct lossless_parts parts;

        *ret = (struct cuda_coded){ NULL, NULL };
        if (!fmt_is_coded(w->info))
                return true;
        if (w->layout != WEIGHT_PANELS || !lossless_layout(MAX(w->n_experts, 1u), w->n_out, w->n_in, &parts))
                return false;
        ret->index = (const uint64_t *)((const uint8_t *)w->data + parts.index);
        ret->escapes = (const uint8_t *)w->data + parts.escapes;
        return true;
}

/* Whether index and escapes of a coded weight can be behind its panels. */
static bool has_parts(const struct weight *w) {
        struct lossless_parts parts;

        return !fmt_is_coded(w->info) || (lossless_layout(MAX(w->n_experts, 1u), w->n_out, w->n_in, &parts) &&
                                          w->tail >= parts.least - parts.index);
}

int cuda_bind(struct backend *base, struct weight *w) {
        struct cuda_backend *be = cuda_of(base);
        uintptr_t mask = ~(page_size() - 1), at = (uintptr_t)w->data, end;
        int r = atomic_load(&be->lost);
        uint64_t bytes;
        void *dev;

        if (r != 0)
                return r;
        if (!bytes_of(w, &bytes) || !cuda_mm_has(w->info->fmt))
                return BACKEND_E_UNSUPPORTED;
        if (!has_parts(w))
                return BACKEND_E_UNSUPPORTED;
        end = (at + bytes + page_size() - 1) & mask;
        if (be->placement == CUDA_PAGEABLE) {
                populate(at & mask, end);
                return 0;
        }
        if (be->placement == CUDA_REGISTERED)
                return register_pages(be, at & mask, end);
        r = take(be, bytes, &dev);
        if (r != 0)
                return r;
        r = cuda_uploader_put(be, dev, w->data, bytes);
        if (r != 0) {
                untake(be, dev, bytes);
                return r;
        }
        w->data = dev;
        return 0;
}

static int fill_coded(struct cuda_backend *be, struct weight *w, float deviation, uint64_t seed) {
        struct cuda_drawn drawn;
        int r = cuda_drawn_make(w, deviation, seed, &drawn);
        uint64_t bytes = drawn.parts.least + drawn.escape_bytes;
        void *dev = NULL;

        r = r ? r : take(be, bytes, &dev);
        if (r == 0)
                r = cuda_drawn_put(be, &drawn, dev);
        if (r == 0) {
                w->data = dev;
                w->tail = bytes - drawn.parts.index;
        }
        cuda_drawn_free(&drawn);
        return r;
}

int cuda_fill_weight(struct backend *base, struct weight *w, float deviation, uint64_t seed) {
        struct cuda_backend *be = cuda_of(base);
        const struct cuda_launch launch = { .stream = be->stream };
        int r = atomic_load(&be->lost);
        uint64_t bytes;
        void *dev;

        if (r != 0)
                return r;
        w->layout = WEIGHT_PANELS;
        if (!bytes_of(w, &bytes) || !cuda_mm_has(w->info->fmt))
                return BACKEND_E_UNSUPPORTED;
        if (fmt_is_coded(w->info))
                return fill_coded(be, w, deviation, seed);
        r = take(be, bytes, &dev);
        if (r != 0)
                return r;
        r = cuda_check(be, cuda_fill(&launch, w->info->fmt, bytes / w->info->panel_bytes, deviation, seed, dev),
                       "filling a weight");
        if (r == 0)
                w->data = dev;
        return r;
}

int cuda_settle(struct backend *base) {
        return cuda_uploader_finish(cuda_of(base));
}

void cuda_weights_close(struct cuda_backend *be) {
        for (size_t i = 0; i < be->n_weights; i++)
                cuda_memory_give(be, be->weights + i);
        for (size_t i = 0; cuda_answers(be) && i < be->n_registered; i++)
                (void)cudaHostUnregister(be->registered[i].data); /* the process's mapping may be gone already */
        free(be->weights);
        free(be->registered);
}
