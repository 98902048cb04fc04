/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory. A device's is the host's, from malloc(), so that AddressSanitizer knows where each piece ends, and full of garbage at
 * first. All pieces are in a list, which says what a copy may touch.
 */

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "emu-private.h"

struct piece {
        struct piece *next;
        uint8_t *ptr;
        size_t bytes;
        enum emu_memory_kind kind;
};

static struct piece *pieces;

static struct piece *piece_find(const void *ptr, size_t bytes) {
        uintptr_t at = (uintptr_t)ptr;

        for (struct piece *p = pieces; p; p = p->next)
                if (at >= (uintptr_t)p->ptr && at - (uintptr_t)p->ptr < p->bytes &&
                    bytes <= p->bytes - (at - (uintptr_t)p->ptr))
                        return p;
        return NULL;
}

enum emu_memory_kind emu_memory_find(const void *ptr, size_t bytes) {
        const struct piece *p = piece_find(ptr, bytes);

        return p ? p->kind : EMU_MEMORY_NONE;
}

static void count(enum emu_memory_kind kind, size_t bytes, int sign) {
        uint64_t *n = kind == EMU_MEMORY_DEVICE ? &emu_state.counts.allocations : &emu_state.counts.pinned;

        n[0] += (uint64_t)(int64_t)sign;
        n[1] += (uint64_t)sign * bytes;
}

static cudaError_t piece_add(void *ptr, size_t bytes, enum emu_memory_kind kind) {
        struct piece *p = malloc(sizeof *p);

        if (!p)
                return cudaErrorMemoryAllocation;
        *p = (struct piece){.next = pieces, .ptr = ptr, .bytes = bytes, .kind = kind};
        pieces = p;
        count(kind, bytes, 1);
        return cudaSuccess;
}

static bool piece_remove(const void *ptr, enum emu_memory_kind kind) {
        for (struct piece **at = &pieces; *at; at = &(*at)->next) {
                struct piece *p = *at;

                if (p->ptr != ptr || p->kind != kind)
                        continue;
                *at = p->next;
                count(kind, p->bytes, -1);
                free(p);
                return true;
        }
        return false;
}

static cudaError_t memory_new(void **ret, size_t bytes, enum emu_memory_kind kind) {
        cudaError_t error;
        void *p;

        if (!ret)
                return cudaErrorInvalidValue;
        if (emu_capture_forbids())
                return cudaErrorStreamCaptureUnsupported;
        if (bytes == 0) {
                *ret = NULL;
                return cudaSuccess;
        }
        if (kind == EMU_MEMORY_DEVICE &&
            (bytes > emu_state.device.memory || emu_state.counts.allocated > emu_state.device.memory - bytes))
                return cudaErrorMemoryAllocation;
        if (posix_memalign(&p, 256, bytes) != 0) /* not rounded up: what is behind belongs to nobody */
                return cudaErrorMemoryAllocation;
        memset(p, EMU_GARBAGE, bytes);
        error = piece_add(p, bytes, kind);
        if (error)
                free(p);
        else
                *ret = p;
        return error;
}

/* Waits for all work, as a device does before it takes memory back. */
static cudaError_t memory_free(void *ptr, enum emu_memory_kind kind) {
        cudaError_t error;

        if (!ptr)
                return cudaSuccess;
        if (emu_capture_forbids())
                return cudaErrorStreamCaptureUnsupported;
        error = emu_drain_all(true);
        if (!piece_remove(ptr, kind))
                return cudaErrorInvalidValue;
        free(ptr);
        return error;
}

cudaError_t cudaMalloc(void **ptr, size_t size) {
        cudaError_t error = emu_begin(__func__);

        return emu_end(error ? error : memory_new(ptr, size, EMU_MEMORY_DEVICE));
}

cudaError_t cudaHostAlloc(void **ptr, size_t size, unsigned flags) {
        cudaError_t error = emu_begin(__func__);

        (void)flags;
        return emu_end(error ? error : memory_new(ptr, size, EMU_MEMORY_PINNED));
}

cudaError_t cudaMallocHost(void **ptr, size_t size) {
        cudaError_t error = emu_begin(__func__);

        return emu_end(error ? error : memory_new(ptr, size, EMU_MEMORY_PINNED));
}

/* After a sticky error memory is given back all the same, so that leaks that matter are seen. */
cudaError_t cudaFree(void *ptr) {
        cudaError_t error = emu_begin(__func__), freed = memory_free(ptr, EMU_MEMORY_DEVICE);

        return emu_end(error ? error : freed);
}

cudaError_t cudaFreeHost(void *ptr) {
        cudaError_t error = emu_begin(__func__), freed = memory_free(ptr, EMU_MEMORY_PINNED);

        return emu_end(error ? error : freed);
}

/* Whether a page of a range is registered already, or one of its bytes is other memory of the runtime's. */
static bool is_taken(const void *ptr, size_t size) {
        uintptr_t in_page = (uintptr_t)sysconf(_SC_PAGESIZE) - 1, first = (uintptr_t)ptr, last = first + size - 1;

        for (const struct piece *p = pieces; p; p = p->next) {
                uintptr_t grain = p->kind == EMU_MEMORY_REGISTERED ? in_page : 0, at = (uintptr_t)p->ptr;

                if ((at & ~grain) <= (last | grain) && ((at + p->bytes - 1) | grain) >= (first & ~grain))
                        return true;
        }
        return false;
}

/* A byte through a pipe and back: the kernel says where that can't be. */
static bool is_writable(void *ptr) {
        int ends[2];
        bool ok;

        if (pipe2(ends, O_CLOEXEC) < 0)
                emu_die("no pipe");
        ok = write(ends[1], ptr, 1) == 1 && read(ends[0], ptr, 1) == 1;
        (void)close(ends[0]);
        (void)close(ends[1]);
        return ok;
}

static cudaError_t memory_register(void *ptr, size_t size, unsigned flags) {
        const unsigned known = cudaHostRegisterPortable | cudaHostRegisterMapped | cudaHostRegisterReadOnly;

        if (!ptr || size == 0 || flags & ~known)
                return cudaErrorInvalidValue;
        if (emu_capture_forbids())
                return cudaErrorStreamCaptureUnsupported;
        if (is_taken(ptr, size))
                return cudaErrorHostMemoryAlreadyRegistered;
        if (!(flags & cudaHostRegisterReadOnly) && !emu_state.device.pageable && !is_writable(ptr))
                return cudaErrorInvalidValue;
        return piece_add(ptr, size, EMU_MEMORY_REGISTERED);
}

cudaError_t cudaHostRegister(void *ptr, size_t size, unsigned flags) {
        cudaError_t error = emu_begin(__func__);

        return emu_end(error ? error : memory_register(ptr, size, flags));
}

cudaError_t cudaHostUnregister(void *ptr) {
        cudaError_t error = emu_begin(__func__), drained;

        if (emu_capture_forbids())
                return emu_end(cudaErrorStreamCaptureUnsupported);
        drained = emu_drain_all(true);
        if (!piece_remove(ptr, EMU_MEMORY_REGISTERED))
                drained = cudaErrorHostMemoryNotRegistered;
        return emu_end(error ? error : drained);
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags) {
        cudaError_t error = emu_begin(__func__);
        enum emu_memory_kind kind = emu_memory_find(host, 1);

        if (!error && (flags || (kind != EMU_MEMORY_PINNED && kind != EMU_MEMORY_REGISTERED)))
                error = cudaErrorInvalidValue;
        if (!error)
                *device = host;
        return emu_end(error);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *ptr) {
        cudaError_t error = emu_begin(__func__);
        enum emu_memory_kind kind = emu_memory_find(ptr, 1);

        if (!error) {
                *attributes = (struct cudaPointerAttributes){.type = kind == EMU_MEMORY_NONE ? cudaMemoryTypeUnregistered :
                                                                     kind == EMU_MEMORY_DEVICE ? cudaMemoryTypeDevice :
                                                                                                 cudaMemoryTypeHost};
                attributes->device = kind == EMU_MEMORY_NONE ? -2 : 0;
                attributes->devicePointer = kind == EMU_MEMORY_NONE ? NULL : (void *)(uintptr_t)ptr;
                attributes->hostPointer = kind == EMU_MEMORY_DEVICE ? NULL : (void *)(uintptr_t)ptr;
        }
        return emu_end(error);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
        cudaError_t error = emu_begin(__func__);

        if (!error) {
                *free_bytes = (size_t)(emu_state.device.memory - emu_state.counts.allocated);
                *total = (size_t)emu_state.device.memory;
        }
        return emu_end(error);
}
