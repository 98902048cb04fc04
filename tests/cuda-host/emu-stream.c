/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Streams and events. What is asked of a stream is kept, and runs when somebody waits for it: so whoever reads a result or
 * overwrites what a copy still needs too early, sees it. The legacy stream (0) and those that are not non-blocking wait for each
 * other, as on a device: each runs what the other was asked for before.
 *
 * A query of work that has not run says "not ready" and runs it, so that the next one finds it done.
 *
 * One host thread at a time runs operations, without the lock; others that want to wait do, and those that only ask are told "not
 * ready".
 */

#include <stdlib.h>
#include <string.h>

#include "emu-private.h"

static struct CUstream_st legacy = {.last = &legacy.first};
static struct CUstream_st *streams = &legacy;
static bool running; /* some host thread runs an operation */

struct emu_op *emu_op_new(enum emu_op_kind kind) {
        struct emu_op *op = calloc(1, sizeof *op);

        if (!op)
                emu_die("out of memory");
        op->kind = kind;
        return op;
}

static void *copy_of(const void *from, size_t bytes) {
        void *to = malloc(bytes ? bytes : 1);

        if (!to)
                emu_die("out of memory");
        if (bytes)
                memcpy(to, from, bytes);
        return to;
}

struct emu_op *emu_op_clone(const struct emu_op *op) {
        struct emu_op *clone = emu_op_new(op->kind);

        *clone = *op;
        clone->next = NULL;
        if (op->kind == EMU_OP_KERNEL)
                clone->call.args = copy_of(op->call.args, op->call.args_bytes);
        return clone;
}

static void event_release(cudaEvent_t event) {
        if (--event->refs == 0)
                free(event);
}

static cudaGraphExec_t execs; /* all there are */

void emu_exec_add(cudaGraphExec_t exec) {
        exec->next = execs;
        execs = exec;
}

static void exec_remove(const struct CUgraphExec_st *exec) {
        cudaGraphExec_t *at = &execs;

        while (*at != exec)
                at = &(*at)->next;
        *at = exec->next;
}

struct emu_op *emu_op_free(struct emu_op *op) {
        if (!op)
                return NULL;
        free(op->call.args);
        free(op->staged);
        if (op->event)
                event_release(op->event);
        if (op->exec && --op->exec->refs == 0) {
                while (op->exec->ops.first) {
                        struct emu_op *first = op->exec->ops.first;

                        op->exec->ops.first = first->next;
                        emu_op_free(first);
                }
                exec_remove(op->exec);
                free(op->exec);
        }
        free(op);
        return NULL;
}

cudaStream_t emu_stream_find(cudaStream_t stream) {
        if (!stream || stream == cudaStreamLegacy)
                return &legacy;
        for (struct CUstream_st *s = streams; s; s = s->next)
                if (s == stream)
                        return s;
        return NULL;
}

static void copy_rows(const struct emu_op *op) {
        const uint8_t *src = op->staged ? op->staged : op->src;
        size_t src_pitch = op->staged ? op->width : op->src_pitch;

        for (size_t y = 0; y < op->height; y++)
                memmove(op->dst + y * op->dst_pitch, src + y * src_pitch, op->width);
}

static void kernel_run(const struct emu_op *op) {
        cudaError_t error;

        emu_state.counts.kernels++;
        emu_state.counts.blocks += (uint64_t)op->call.grid.x * op->call.grid.y * op->call.grid.z;
        error = emu_count_event("kernel");
        if (error) {
                emu_set_sticky(error); /* a context does not come back from what a kernel did */
                return;
        }
        (void)pthread_mutex_unlock(&emu_state.lock);
        emu_run_grid(&op->call);
        (void)pthread_mutex_lock(&emu_state.lock);
}

static bool op_run(cudaStream_t s, struct emu_op *op);

static bool graph_run(cudaStream_t s, struct emu_op *op) {
        struct emu_op *node = op->data ? (struct emu_op *)op->data : op->exec->ops.first;

        for (; node; node = node->next) {
                op->data = node; /* where to go on after a hang */
                if (!op_run(s, node))
                        return false;
        }
        return true;
}

/* False where it hangs. After a sticky error nothing runs any more, but events are reached. */
static bool op_run(cudaStream_t s, struct emu_op *op) {
        if (op->kind == EMU_OP_RECORD) {
                op->event->time = emu_clock();
                return true;
        }
        if (emu_sticky())
                return true;
        if (op->kind == EMU_OP_KERNEL) {
                if (emu_hang_now())
                        s->hung = true;
                if (s->hung)
                        return false;
                kernel_run(op);
        } else if (op->kind == EMU_OP_COPY) {
                copy_rows(op);
        } else if (op->kind == EMU_OP_SET) {
                for (size_t y = 0; y < op->height; y++)
                        memset(op->dst + y * op->dst_pitch, op->value, op->width);
        } else if (op->kind == EMU_OP_HOST) {
                (void)pthread_mutex_unlock(&emu_state.lock);
                op->fn(op->data);
                (void)pthread_mutex_lock(&emu_state.lock);
        } else if (op->kind == EMU_OP_GRAPH) {
                return graph_run(s, op);
        }
        return true;
}

/* Runs the first operation of a stream. False: it hangs. `running` is ours. */
static bool stream_step(cudaStream_t s) {
        struct emu_op *op = s->first;

        if (op->kind == EMU_OP_WAIT) {
                cudaStream_t other = emu_stream_find(op->stream);

                while (other && other->first && other->n_done < op->until)
                        if (other->hung || !stream_step(other))
                                return false;
        } else if (!op_run(s, op)) {
                return false;
        }
        s->first = op->next;
        if (!s->first)
                s->last = &s->first;
        s->n_done = op->number;
        emu_op_free(op);
        return true;
}

static void running_begin(void) {
        while (running)
                (void)pthread_cond_wait(&emu_state.changed, &emu_state.lock);
        running = true;
}

static void running_end(void) {
        running = false;
        (void)pthread_cond_broadcast(&emu_state.changed);
}

/* Tries to; false where it hangs. */
static bool stream_advance(cudaStream_t s, uint64_t until) {
        bool on = true;

        running_begin();
        while (on && s->first && s->n_done < until)
                on = !s->hung && stream_step(s);
        running_end();
        return on;
}

/* A stream that is destroyed by another thread meanwhile is the caller's mistake here as well as on a device. */
cudaError_t emu_stream_drain(cudaStream_t stream, uint64_t until) {
        while (!stream_advance(stream, until))
                (void)pthread_cond_wait(&emu_state.changed, &emu_state.lock);
        return emu_sticky();
}

cudaError_t emu_drain_all(bool non_blocking_too) {
        for (struct CUstream_st *s = streams; s; s = s->next)
                if (non_blocking_too || !s->non_blocking)
                        (void)emu_stream_drain(s, s->n_asked);
        return emu_sticky();
}

/* The legacy stream's work is behind that of all blocking streams, and theirs behind its own. */
static void put_order(cudaStream_t s) {
        if (s->non_blocking)
                return;
        for (struct CUstream_st *other = streams; other; other = other->next) {
                struct emu_op *wait;

                if (other == s || other->non_blocking || !other->first || (s != &legacy && other != &legacy))
                        continue;
                wait = emu_op_new(EMU_OP_WAIT);
                wait->stream = other;
                wait->until = other->n_asked;
                wait->number = ++s->n_asked;
                *s->last = wait;
                s->last = &wait->next;
        }
}

cudaError_t emu_stream_put(cudaStream_t stream, struct emu_op *op) {
        cudaStream_t s = emu_stream_find(stream);

        if (!s) {
                emu_op_free(op);
                return cudaErrorInvalidResourceHandle;
        }
        if (s->capture) {
                emu_graph_append(s->capture, op);
                return cudaSuccess;
        }
        put_order(s);
        op->number = ++s->n_asked;
        *s->last = op;
        s->last = &op->next;
        if (!emu_is_lazy())
                (void)stream_advance(s, s->n_asked);
        return emu_sticky();
}

void emu_unhang(void) {
        (void)emu_begin(__func__);
        for (struct CUstream_st *s = streams; s; s = s->next)
                s->hung = false;
        (void)pthread_cond_broadcast(&emu_state.changed);
        (void)emu_end(cudaSuccess);
}

static void stream_drop(cudaStream_t s) {
        while (s->first) {
                struct emu_op *op = s->first;

                s->first = op->next;
                s->n_done = op->number;
                emu_op_free(op);
        }
        s->last = &s->first;
        s->hung = false;
        s->capture = emu_graph_free(s->capture);
}

void emu_streams_drop(void) {
        running_begin();
        for (struct CUstream_st *s = streams; s; s = s->next)
                stream_drop(s);
        running_end();
}

static cudaError_t stream_new(cudaStream_t *ret, unsigned flags) {
        struct CUstream_st *s;

        if (!ret || flags & ~(unsigned)cudaStreamNonBlocking)
                return cudaErrorInvalidValue;
        s = calloc(1, sizeof *s);
        if (!s)
                return cudaErrorMemoryAllocation;
        s->last = &s->first;
        s->non_blocking = flags & cudaStreamNonBlocking;
        s->next = streams;
        streams = s;
        emu_state.counts.streams++;
        *ret = s;
        return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
        cudaError_t error = emu_begin(__func__);

        return emu_end(error ? error : stream_new(stream, flags));
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
        return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
        (void)priority;
        return cudaStreamCreateWithFlags(stream, flags);
}

/* Its work is still done, as on a device; work that hangs is dropped. */
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
        cudaError_t error = emu_begin(__func__);
        struct CUstream_st **at = &streams;

        while (*at && *at != stream)
                at = &(*at)->next;
        if (!*at || stream == &legacy)
                return emu_end(cudaErrorInvalidResourceHandle);
        (void)stream_advance(stream, stream->n_asked);
        for (at = &streams; *at != stream;) /* running let others at the list */
                at = &(*at)->next;
        *at = stream->next;
        stream_drop(stream);
        emu_state.counts.streams--;
        free(stream);
        return emu_end(error);
}

/* Finds a stream for a call that waits or asks, which breaks a capture. */
static cudaError_t stream_look(cudaStream_t stream, cudaStream_t *ret) {
        cudaStream_t s = emu_stream_find(stream);

        if (!s)
                return cudaErrorInvalidResourceHandle;
        if (s->capture) {
                s->capture_broken = true;
                return cudaErrorStreamCaptureUnsupported;
        }
        *ret = s;
        return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
        cudaError_t error = emu_begin(__func__);
        cudaStream_t s;

        if (!error)
                error = stream_look(stream, &s);
        if (!error)
                error = s == &legacy ? emu_drain_all(false) : emu_stream_drain(s, s->n_asked);
        return emu_end(error);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
        cudaError_t error = emu_begin(__func__);
        cudaStream_t s;

        if (!error)
                error = stream_look(stream, &s);
        if (!error && s->first) {
                if (!running)
                        (void)stream_advance(s, s->n_asked);
                error = cudaErrorNotReady;
        }
        return emu_end(error);
}

cudaError_t cudaDeviceSynchronize(void) {
        cudaError_t error = emu_begin(__func__);

        if (!error)
                error = emu_capture_forbids() ? cudaErrorStreamCaptureUnsupported : emu_drain_all(true);
        return emu_end(error);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *data) {
        cudaError_t error = emu_begin(__func__);

        if (!error) {
                struct emu_op *op = emu_op_new(EMU_OP_HOST);

                op->fn = fn;
                op->data = data;
                error = emu_stream_put(stream, op);
        }
        return emu_end(error);
}

static cudaError_t event_new(cudaEvent_t *ret, unsigned flags) {
        struct CUevent_st *e = calloc(1, sizeof *e);

        if (!e)
                return cudaErrorMemoryAllocation;
        e->timing = !(flags & cudaEventDisableTiming);
        e->refs = 1;
        emu_state.counts.events++;
        *ret = e;
        return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
        cudaError_t error = emu_begin(__func__);

        return emu_end(error ? error : event_new(event, flags));
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
        return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
        cudaError_t error = emu_begin(__func__);

        if (!event)
                return emu_end(cudaErrorInvalidResourceHandle);
        emu_state.counts.events--;
        event_release(event);
        return emu_end(error);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
        cudaError_t error = emu_begin(__func__);
        cudaStream_t s;

        if (!error)
                error = event ? stream_look(stream, &s) : cudaErrorInvalidResourceHandle;
        if (!error) {
                struct emu_op *op = emu_op_new(EMU_OP_RECORD);

                op->event = event;
                event->refs++;
                error = emu_stream_put(s, op);
                event->stream = s;
                event->number = s->n_asked;
        }
        return emu_end(error);
}

/* Whether what was in front of an event's last record has run. */
static bool event_reached(const struct CUevent_st *event) {
        const struct CUstream_st *s = event->number ? emu_stream_find(event->stream) : NULL;

        return !s || s->n_done >= event->number;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
        cudaError_t error = emu_begin(__func__);

        if (!error && emu_capture_forbids())
                error = cudaErrorStreamCaptureUnsupported;
        if (!error && !event_reached(event)) {
                if (!running)
                        (void)stream_advance(event->stream, event->number);
                error = emu_sticky() ? emu_sticky() : cudaErrorNotReady;
        }
        return emu_end(error);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
        cudaError_t error = emu_begin(__func__);

        if (!error && emu_capture_forbids())
                error = cudaErrorStreamCaptureUnsupported;
        if (!error && !event_reached(event))
                error = emu_stream_drain(event->stream, event->number);
        return emu_end(error);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
        cudaError_t error = emu_begin(__func__);

        if (!error && (!start->number || !end->number || !start->timing || !end->timing))
                error = cudaErrorInvalidResourceHandle;
        if (!error && (!event_reached(start) || !event_reached(end)))
                error = cudaErrorNotReady;
        if (!error)
                *ms = (float)((double)(int64_t)(end->time - start->time) / 1e6);
        return emu_end(error);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
        cudaError_t error = emu_begin(__func__);
        cudaStream_t s;

        (void)flags;
        if (!error)
                error = event ? stream_look(stream, &s) : cudaErrorInvalidResourceHandle;
        if (!error && !event_reached(event)) {
                struct emu_op *op = emu_op_new(EMU_OP_WAIT);

                op->stream = event->stream;
                op->until = event->number;
                error = emu_stream_put(s, op);
        }
        return emu_end(error);
}

bool emu_capture_forbids(void) {
        bool forbidden = false;
        enum cudaStreamCaptureMode mode = emu_capture_mode();

        if (mode == cudaStreamCaptureModeRelaxed)
                return false;
        for (struct CUstream_st *s = streams; s; s = s->next) {
                if (!s->capture || s->capture_mode == cudaStreamCaptureModeRelaxed)
                        continue;
                if ((s->capture_mode == cudaStreamCaptureModeThreadLocal || mode == cudaStreamCaptureModeThreadLocal) &&
                    !pthread_equal(s->capture_thread, pthread_self()))
                        continue;
                s->capture_broken = true;
                forbidden = true;
        }
        return forbidden;
}
