/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Copies between the process's memory and the device's. Two pinned buffers take turns: while the device fetches one the processor
 * fills the other. A buffer is used again when the copy from or to it has ended, which its event says. Weights pass through buffers
 * of their own (upload.c).
 */

#include <errno.h>
#include <string.h>

#include "base/macro.h"
#include "cuda.h"

int cuda_stage_open(struct cuda_backend *be, struct cuda_stage *s) {
        int r;

        if (s->memory.data)
                return 0;
        if (!s->done) {
                r = cuda_check(be, cudaEventCreateWithFlags(&s->done, cudaEventDisableTiming), "making an event");
                if (r != 0)
                        return r;
        }
        return cuda_memory_take(be, CUDA_STAGE_BYTES, true, &s->memory);
}

static int open_stages(struct cuda_backend *be) {
        int r = atomic_load(&be->lost);

        for (size_t i = 0; r == 0 && i < CUDA_STAGES; i++)
                r = cuda_stage_open(be, be->stages + i);
        return r;
}

/* The next one, which nothing is under way from or to. */
static int next_stage(struct cuda_backend *be, struct cuda_stage **ret) {
        *ret = be->stages + be->next_stage++ % CUDA_STAGES;
        return cuda_wait_event(be, (*ret)->done, "waiting for a copy");
}

int cuda_stage_start(struct cuda_backend *be, struct cuda_stage *s, cudaStream_t stream, void *to, const void *from,
                     size_t bytes) {
        int r = cuda_check(be, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "copying");

        return r ? r : cuda_check(be, cudaEventRecord(s->done, stream), "copying");
}

int cuda_copy_in(struct cuda_backend *be, void *dev, const void *host, size_t bytes) {
        int r = open_stages(be);

        for (size_t at = 0, n; r == 0 && at < bytes; at += n) {
                struct cuda_stage *s;

                n = MIN(bytes - at, (size_t)CUDA_STAGE_BYTES);
                r = next_stage(be, &s);
                if (r != 0)
                        break;
                memcpy(s->memory.data, (const uint8_t *)host + at, n);
                r = cuda_stage_start(be, s, be->stream, (uint8_t *)dev + at, s->memory.data, n);
        }
        return r;
}

/* Waits for a part and takes it out of its buffer. */
static int finish(struct cuda_backend *be, const struct cuda_stage *s, void *host, size_t bytes) {
        int r = cuda_wait_event(be, s->done, "waiting for a copy from the device");

        if (r == 0)
                memcpy(host, s->memory.data, bytes);
        return r;
}

int cuda_copy_out(struct cuda_backend *be, void *host, const void *dev, size_t bytes) {
        struct cuda_stage *s, *before = NULL;
        int r = open_stages(be);

        /* A part is started before the one before it is waited for. */
        for (size_t at = 0, n; r == 0 && at < bytes; at += n, before = s) {
                n = MIN(bytes - at, (size_t)CUDA_STAGE_BYTES);
                r = next_stage(be, &s);
                r = r ? r : cuda_stage_start(be, s, be->stream, s->memory.data, (const uint8_t *)dev + at, n);
                if (r == 0 && before)
                        r = finish(be, before, (uint8_t *)host + at - CUDA_STAGE_BYTES, CUDA_STAGE_BYTES);
        }
        if (r == 0 && before)
                r = finish(be, before, (uint8_t *)host + (bytes - 1) / CUDA_STAGE_BYTES * CUDA_STAGE_BYTES,
                           (bytes - 1) % CUDA_STAGE_BYTES + 1);
        return r;
}

/* Between begin() and end() what is recorded has not run: a copy would come too early. */
static int not_in_step(const struct cuda_backend *be) {
        int r = atomic_load(&be->lost);

        return r ? r : be->recorder.batch ? BACKEND_E_UNSUPPORTED : 0;
}

int cuda_upload(struct backend *base, void *dev, const void *host, size_t bytes) {
        struct cuda_backend *be = cuda_of(base);
        int r = not_in_step(be);

        return r ? r : cuda_copy_in(be, dev, host, bytes);
}

int cuda_download(struct backend *base, void *host, const void *dev, size_t bytes) {
        struct cuda_backend *be = cuda_of(base);
        int r = not_in_step(be);

        r = r ? r : cuda_uploader_finish(be); /* it may be of a weight */
        return r ? r : cuda_copy_out(be, host, dev, bytes);
}

void cuda_stage_close(struct cuda_backend *be, struct cuda_stage *s) {
        cuda_memory_give(be, &s->memory);
        if (s->done)
                (void)cudaEventDestroy(s->done); /* nothing depends on it any more */
}

void cuda_copy_close(struct cuda_backend *be) {
        for (size_t i = 0; i < CUDA_STAGES; i++)
                cuda_stage_close(be, be->stages + i);
}
