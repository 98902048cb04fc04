/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Between the emulator's parts. One lock guards everything; it is not held while a kernel runs, which one host thread at a time
 * does. */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "emu.h"
#include "include/emu-device.h"

#define EMU_WARP 32u
#define EMU_BLOCK_MAX 1024u
#define EMU_SHARED_MAX (227u * 1024u)
#define EMU_GARBAGE 0xff /* as numbers: not-a-number in every format, or -1 */

#define EMU_ALWAYS_INLINE static inline __attribute__((always_inline))

/* A kernel with its arguments, copied. */
struct emu_kernel_call {
        const char *name;
        emu_kernel kernel;
        void (*run)(emu_kernel kernel, const void *args);
        void *args;
        size_t args_bytes;
        dim3 grid, block;
        size_t shared_bytes;
        bool dependent;
};

/* Work on a stream, or in a graph. */
enum emu_op_kind {
        EMU_OP_KERNEL,
        EMU_OP_COPY,
        EMU_OP_SET,
        EMU_OP_HOST,
        EMU_OP_RECORD,
        EMU_OP_WAIT,
        EMU_OP_GRAPH,
};

struct emu_op {
        struct emu_op *next;
        enum emu_op_kind kind;
        uint64_t number; /* on its stream, from 1 */
        struct emu_kernel_call call;
        uint8_t *dst;
        const uint8_t *src;
        void *staged; /* a copy of what was at src, owned */
        size_t dst_pitch, src_pitch, width, height;
        int value;
        cudaHostFn_t fn;
        void *data;
        cudaEvent_t event;
        cudaStream_t stream; /* waits: for this one */
        uint64_t until;      /* and this number there */
        cudaGraphExec_t exec;
};

struct emu_op *emu_op_new(enum emu_op_kind kind);
struct emu_op *emu_op_clone(const struct emu_op *op);
struct emu_op *emu_op_free(struct emu_op *op);

struct CUgraph_st {
        struct emu_op *first, **last;
        size_t n;
};

struct CUgraphExec_st {
        struct CUgraphExec_st *next; /* of all: those of a device that hangs are never destroyed */
        struct CUgraph_st ops;
        unsigned refs;
};

void emu_exec_add(cudaGraphExec_t exec);
cudaGraph_t emu_graph_new(void);
void emu_graph_append(cudaGraph_t graph, struct emu_op *op);
cudaGraph_t emu_graph_free(cudaGraph_t graph);

struct CUstream_st {
        struct CUstream_st *next;
        bool non_blocking, hung;
        struct emu_op *first, **last;
        uint64_t n_asked, n_done;
        cudaGraph_t capture; /* not NULL while it is captured */
        bool capture_broken;
        enum cudaStreamCaptureMode capture_mode;
        pthread_t capture_thread;
};

struct CUevent_st {
        cudaStream_t stream; /* of the last record */
        uint64_t number;     /* on that stream; 0: never recorded */
        uint64_t time;       /* ns, when it was reached */
        bool timing;
        unsigned refs;
};

/* emu-stream.c. The lock is held unless it says so. */
cudaStream_t emu_stream_find(cudaStream_t stream);
/* Gives an operation to a stream, or to the graph that is captured from it; takes it, also where it fails. */
cudaError_t emu_stream_put(cudaStream_t stream, struct emu_op *op);
/* Runs what a stream has up to a number, with what it waits for. Blocks while it hangs. */
cudaError_t emu_stream_drain(cudaStream_t stream, uint64_t until);
cudaError_t emu_drain_all(bool non_blocking_too);
/* Whether something is captured that makes a call unsafe now, which then breaks the capture. */
bool emu_capture_forbids(void);
void emu_streams_drop(void);
/* emu-graph.c: this thread's mode. */
enum cudaStreamCaptureMode emu_capture_mode(void);

/* emu-control.c: begins a runtime function: takes the lock and counts the call. An error that was asked for, or a sticky one. */
cudaError_t emu_begin(const char *name);
/* Ends it: keeps the error for cudaGetLastError() and gives the lock back. */
cudaError_t emu_end(cudaError_t error);
/* Counts something that is not a call of its own. */
cudaError_t emu_count_event(const char *name);
void emu_set_sticky(cudaError_t error);
cudaError_t emu_sticky(void);
bool emu_hang_now(void);
bool emu_is_lazy(void);

struct emu_state {
        pthread_mutex_t lock;
        pthread_cond_t changed; /* a stream is no longer busy, or no longer hangs */
        struct emu_device_config device;
        struct emu_counts counts;
};

extern struct emu_state emu_state;

/* emu-memory.c */
enum emu_memory_kind {
        EMU_MEMORY_NONE = 0,
        EMU_MEMORY_DEVICE,
        EMU_MEMORY_PINNED,
        EMU_MEMORY_REGISTERED,
};

enum emu_memory_kind emu_memory_find(const void *ptr, size_t bytes);

/* emu-device.c: the most shared memory that a block may have. */
size_t emu_shared_optin(void);

/* emu-block.c: runs a grid to its end. */
void emu_run_grid(const struct emu_kernel_call *call);

/* emu-switch.S */
void emu_switch(void **save, void *load);

/* emu-order.c: the numbers below n in the order that was chosen. */
void emu_order_fill(uint32_t *ret, uint32_t n);
