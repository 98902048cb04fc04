/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Copies and memset. Asynchronous ones of pinned or device memory read their source when they run. From pageable memory it is read
 * at once, and copies to it are waited for: a device does the same with a buffer in between.
 */

#include <stdlib.h>
#include <string.h>

#include "emu-private.h"

struct copy {
        void *dst;
        const void *src;
        size_t dst_pitch, src_pitch, width, height;
        enum cudaMemcpyKind kind;
};

static size_t span(size_t pitch, size_t width, size_t height) {
        return height == 0 || width == 0 ? 0 : (height - 1) * pitch + width;
}

/* Whether a pointer is what the kind says. On a device that reads pageable memory, host memory may stand for its own. */
static bool is_device(const void *p, size_t bytes) {
        return emu_memory_find(p, bytes) != EMU_MEMORY_NONE || emu_state.device.pageable;
}

static cudaError_t copy_check(const struct copy *c) {
        size_t dst = span(c->dst_pitch, c->width, c->height), src = span(c->src_pitch, c->width, c->height);
        bool to_device = c->kind == cudaMemcpyHostToDevice || c->kind == cudaMemcpyDeviceToDevice;
        bool from_device = c->kind == cudaMemcpyDeviceToHost || c->kind == cudaMemcpyDeviceToDevice;

        if (c->kind < cudaMemcpyHostToHost || c->kind > cudaMemcpyDefault)
                return cudaErrorInvalidMemcpyDirection;
        if (c->height > 1 && (c->width > c->dst_pitch || c->width > c->src_pitch))
                return cudaErrorInvalidPitchValue;
        if (dst == 0)
                return cudaSuccess;
        if (!c->dst || !c->src || (to_device && !is_device(c->dst, dst)) || (from_device && !is_device(c->src, src)))
                return cudaErrorInvalidValue;
        /* beyond the end of a piece that begins in it */
        if ((emu_memory_find(c->dst, 1) && !emu_memory_find(c->dst, dst)) ||
            (emu_memory_find(c->src, 1) && !emu_memory_find(c->src, src)))
                return cudaErrorInvalidValue;
        return cudaSuccess;
}

static cudaError_t copy_put(const struct copy *c, cudaStream_t stream, bool wait) {
        cudaError_t error = copy_check(c);
        cudaStream_t s = emu_stream_find(stream);
        struct emu_op *op;

        if (!error && !s)
                error = cudaErrorInvalidResourceHandle;
        if (error || span(c->dst_pitch, c->width, c->height) == 0)
                return error;
        op = emu_op_new(EMU_OP_COPY);
        op->dst = c->dst;
        op->src = c->src;
        op->dst_pitch = c->dst_pitch;
        op->src_pitch = c->src_pitch;
        op->width = c->width;
        op->height = c->height;
        if (s->capture)
                return emu_stream_put(s, op);
        if (emu_memory_find(c->src, 1) == EMU_MEMORY_NONE) {
                op->staged = malloc(c->width * c->height);
                if (!op->staged)
                        emu_die("out of memory");
                for (size_t y = 0; y < c->height; y++)
                        memcpy((uint8_t *)op->staged + y * c->width, op->src + y * c->src_pitch, c->width);
        }
        error = emu_stream_put(s, op);
        if (!error && (wait || emu_memory_find(c->dst, 1) == EMU_MEMORY_NONE))
                error = emu_stream_drain(s, s->n_asked);
        return error;
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dpitch, const void *src, size_t spitch, size_t width, size_t height,
                              enum cudaMemcpyKind kind, cudaStream_t stream) {
        struct copy c = {.dst = dst, .src = src, .dst_pitch = dpitch, .src_pitch = spitch, .width = width, .height = height,
                         .kind = kind};
        cudaError_t error = emu_begin(__func__);

        return emu_end(error ? error : copy_put(&c, stream, false));
}

cudaError_t cudaMemcpy2D(void *dst, size_t dpitch, const void *src, size_t spitch, size_t width, size_t height,
                         enum cudaMemcpyKind kind) {
        struct copy c = {.dst = dst, .src = src, .dst_pitch = dpitch, .src_pitch = spitch, .width = width, .height = height,
                         .kind = kind};
        cudaError_t error = emu_begin(__func__);

        if (!error && emu_capture_forbids())
                error = cudaErrorStreamCaptureImplicit;
        return emu_end(error ? error : copy_put(&c, NULL, true));
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind, cudaStream_t stream) {
        struct copy c = {.dst = dst, .src = src, .width = count, .height = 1, .kind = kind};
        cudaError_t error = emu_begin(__func__);

        return emu_end(error ? error : copy_put(&c, stream, false));
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind) {
        struct copy c = {.dst = dst, .src = src, .width = count, .height = 1, .kind = kind};
        cudaError_t error = emu_begin(__func__);

        if (!error && emu_capture_forbids())
                error = cudaErrorStreamCaptureImplicit;
        return emu_end(error ? error : copy_put(&c, NULL, true));
}

static cudaError_t set_put(void *ptr, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream) {
        size_t bytes = span(pitch, width, height);
        struct emu_op *op;

        if (bytes == 0)
                return cudaSuccess;
        if (!is_device(ptr, bytes) || (emu_memory_find(ptr, 1) && !emu_memory_find(ptr, bytes)))
                return cudaErrorInvalidValue;
        op = emu_op_new(EMU_OP_SET);
        op->dst = ptr;
        op->dst_pitch = pitch;
        op->value = value;
        op->width = width;
        op->height = height;
        return emu_stream_put(stream, op);
}

cudaError_t cudaMemset2DAsync(void *ptr, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream) {
        cudaError_t error = emu_begin(__func__);

        return emu_end(error ? error : set_put(ptr, pitch, value, width, height, stream));
}

cudaError_t cudaMemsetAsync(void *ptr, int value, size_t count, cudaStream_t stream) {
        cudaError_t error = emu_begin(__func__);

        return emu_end(error ? error : set_put(ptr, 0, value, count, 1, stream));
}

/* On device memory it does not wait, on a device either. */
cudaError_t cudaMemset(void *ptr, int value, size_t count) {
        cudaError_t error = emu_begin(__func__);

        if (!error && emu_capture_forbids())
                error = cudaErrorStreamCaptureImplicit;
        return emu_end(error ? error : set_put(ptr, 0, value, count, 1, NULL));
}
