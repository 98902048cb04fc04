/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inside of the CUDA backend's host part: its state, memory and errors. plan.h has what becomes of a step's operations.
 *
 * One thread calls the backend, health() apart; it reads `lost` and the driver's events only. Everything waits for the device by
 * polling an event, so that a device which never answers costs a step and not the process.
 *
 * Errors: what an allocation lacks is BACKEND_E_NO_MEMORY, and the runtime's error is cleared. Anything else that the runtime
 * reports may be sticky: the backend is lost then, which is logged once, and every later call returns it at once.
 */

#include <stdatomic.h>

#include "kernels/backend.h"
#include "kernels/lossless.h"
#include "record.h"
#include "run.h"

struct cuda_nvml;
struct cuda_uploader;

#define CUDA_STAGES 2u
#define CUDA_STAGE_BYTES (8u << 20)
#define CUDA_UPLOAD_STAGES 8u

enum cuda_placement {
        CUDA_DEVICE = 0,  /* weights are copied to the device's memory */
        CUDA_PAGEABLE,    /* the device reads the process's memory through the host's page tables */
        CUDA_REGISTERED,  /* it reads what of it is registered */
};

/* A pinned buffer through which data passes. */
struct cuda_stage {
        struct cuda_memory memory;
        cudaEvent_t done; /* the copy that was started last from or to it */
};

/* Small arrays of the host's that kernels read, by content. Kept until the backend is closed. */
struct cuda_constant {
        struct cuda_constant *next;
        float *dev;
        struct cuda_memory memory;
        uint32_t n;
        float host[];
};

#define CUDA_CONSTANT_CHAINS 256u

struct cuda_backend {
        struct backend base;
        char description[128];
        char name[64]; /* of the device */
        int device;
        uint32_t arch; /* 10 * major + minor */
        uint32_t n_sms;
        enum cuda_placement placement;
        bool kv_on_host;  /* the KV cache is pinned memory of the host, which is read faster */
        bool kv_measured;
        bool fp8;         /* MXFP4 is multiplied with rows in 8 bits */
        bool no_fusion;   /* for tests: operations as they come */
        bool no_graphs;   /* for tests, and where the runtime makes none */
        uint32_t hang_ms;
        cudaStream_t stream;
        cudaEvent_t done;
        _Atomic int lost; /* 0, or what every call returns */
        uint64_t device_bytes;

        struct cuda_memory *buffers; /* that alloc() gave */
        size_t n_buffers, buffers_allocated;
        struct cuda_memory *weights;
        size_t n_weights, weights_allocated;
        struct cuda_memory slab; /* the one of weights that has room left */
        size_t slab_used;
        struct cuda_memory *registered; /* ranges of the process's memory, which it does not own */
        size_t n_registered, registered_allocated;
        struct cuda_stage stages[CUDA_STAGES];
        unsigned next_stage;
        struct cuda_uploader *uploader; /* while weights are under way, else NULL */
        struct cuda_constant *constants[CUDA_CONSTANT_CHAINS];

        struct cuda_recorder recorder;
        struct cuda_runner runner;
        struct cuda_nvml *nvml;
};

struct kv_cache {
        struct kv_config config;
        struct cuda_kv kv;
        struct cuda_memory memory;
};

static inline struct cuda_backend *cuda_of(struct backend *be) {
        return (struct cuda_backend *)be;
}

/* errors.c */

/* 0 for success, else the backend is lost: logs "what: the runtime's sentence", once. */
int cuda_check(struct cuda_backend *be, cudaError_t error, const char *what);
/* The same, but for memory that is not there. */
int cuda_check_memory(struct cuda_backend *be, cudaError_t error, const char *what);
int cuda_lose(struct cuda_backend *be, int r, const char *sentence);
/* Whether calls that wait for the device come back: one that hangs, or is gone, is left alone. */
bool cuda_answers(const struct cuda_backend *be);
/* Until an event has come, polling; -ETIMEDOUT after hang_ms. */
int cuda_wait_event(struct cuda_backend *be, cudaEvent_t event, const char *what);
/* Until all that was started on the stream is done. */
int cuda_wait_all(struct cuda_backend *be, const char *what);
/* The same for a step, when others like it have been met. */
int cuda_wait_step(struct cuda_backend *be, struct cuda_pace *pace);

/* memory.c */

int cuda_memory_take(struct cuda_backend *be, uint64_t bytes, bool host, struct cuda_memory *ret);
void cuda_memory_give(struct cuda_backend *be, struct cuda_memory *m);
/* To zeros, on the stream. */
int cuda_memory_clear(struct cuda_backend *be, const struct cuda_memory *m);
/* Room for one more than n in a list. */
int cuda_memory_list(struct cuda_memory **list, size_t n, size_t *allocated);
/* The number + 1 of the buffer that alloc() gave and `p` points into; 0: none. */
size_t cuda_memory_owner(const struct cuda_backend *be, const void *p);
/* A device copy of a host array that lives as long as the backend. */
int cuda_memory_constant(struct cuda_backend *be, const float *host, uint32_t n, const float **ret);
void cuda_memory_close(struct cuda_backend *be);

int cuda_alloc(struct backend *base, size_t bytes, void **ret_dev);
void cuda_release(struct backend *base, void *dev);

/* copy.c: between host and device, through pinned buffers */

/* Returns when `host` may change; the copy may still be under way. */
int cuda_copy_in(struct cuda_backend *be, void *dev, const void *host, size_t bytes);
/* After all that was started on the stream. */
int cuda_copy_out(struct cuda_backend *be, void *host, const void *dev, size_t bytes);
int cuda_upload(struct backend *base, void *dev, const void *host, size_t bytes);
int cuda_download(struct backend *base, void *host, const void *dev, size_t bytes);
void cuda_copy_close(struct cuda_backend *be);
/* A stage of zeros gets memory and event; one that has them keeps them. */
int cuda_stage_open(struct cuda_backend *be, struct cuda_stage *s);
/* Starts a copy from or to its memory. */
int cuda_stage_start(struct cuda_backend *be, struct cuda_stage *s, cudaStream_t stream, void *to, const void *from,
                     size_t bytes);
void cuda_stage_close(struct cuda_backend *be, struct cuda_stage *s);

/* upload.c: weights to the device's memory, by several threads */

/* Returns when the last of it has begun. `host` must stay as it is until finish() or close(). BACKEND_E_NO_MEMORY: nothing
 * has begun. */
int cuda_uploader_put(struct cuda_backend *be, void *dev, const void *host, size_t bytes);
/* Returns when all is there; ends the threads, and gives the memory between back. */
int cuda_uploader_finish(struct cuda_backend *be);
/* The same, without what has not been sent. */
void cuda_uploader_close(struct cuda_backend *be);

/* weights.c */

/* Where weights are to be; decided once. NULL, or a sentence why it can't be as wanted. */
const char *cuda_weights_place(struct cuda_backend *be, const char *placement);
/* And where a KV cache of so many bytes. */
void cuda_weights_place_kv(struct cuda_backend *be, uint64_t bytes);
int cuda_bind(struct backend *base, struct weight *w);
/* Where the parts of a bound weight are; false where it is coded, but can't be. */
bool cuda_coded_parts(const struct weight *w, struct cuda_coded *ret);
int cuda_settle(struct backend *base);
int cuda_fill_weight(struct backend *base, struct weight *w, float deviation, uint64_t seed);
void cuda_weights_close(struct cuda_backend *be);

/* fill-coded.c: random weights in losslessly coded BF16 */

struct cuda_drawn {
        struct lossless_parts parts; /* of the tensor */
        uint32_t n_in;
        size_t panel_bytes;
        uint64_t n_panels, n_drawn;  /* all, and those that are here */
        uint8_t *columns;            /* of the latter */
        uint64_t *index;             /* of all */
        uint8_t *escapes;
        uint64_t once, escape_bytes; /* of those that are here, and of all */
};

/* From the weight's shape. BACKEND_E_*, and it must be freed, too. */
int cuda_drawn_make(const struct weight *w, float deviation, uint64_t seed, struct cuda_drawn *ret);
/* To parts.least + escape_bytes bytes of the device's memory. */
int cuda_drawn_put(struct cuda_backend *be, const struct cuda_drawn *d, void *dev);
void cuda_drawn_free(struct cuda_drawn *d);

/* kv.c */

int cuda_kv_new(struct backend *base, const struct kv_config *config, struct kv_cache **ret);
struct kv_cache *cuda_kv_free(struct backend *base, struct kv_cache *kv);
int cuda_kv_copy(struct backend *base, struct kv_cache *kv, uint32_t from, uint32_t to);
size_t cuda_kv_page_size(const struct backend *base, const struct kv_cache *kv);
int cuda_kv_export(struct backend *base, const struct kv_cache *kv, uint32_t page, void *host);
int cuda_kv_import(struct backend *base, struct kv_cache *kv, uint32_t page, const void *host);

/* cuda.c */

const struct backend_ops *spark_backend_cuda(uint32_t abi, const char **ret_error);
