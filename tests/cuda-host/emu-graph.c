/* SPDX-License-Identifier: Apache-2.0 */

/* Capture of a stream, and graphs: lists of operations, which run in the order in which they were captured. */

#include <stdlib.h>
#include <string.h>

#include "emu-private.h"

static _Thread_local enum cudaStreamCaptureMode thread_mode;

enum cudaStreamCaptureMode emu_capture_mode(void) {
        return thread_mode;
}

cudaGraph_t emu_graph_new(void) {
        cudaGraph_t graph = calloc(1, sizeof *graph);

        if (!graph)
                emu_die("out of memory");
        graph->last = &graph->first;
        emu_state.counts.graphs++;
        return graph;
}

void emu_graph_append(cudaGraph_t graph, struct emu_op *op) {
        *graph->last = op;
        graph->last = &op->next;
        graph->n++;
}

static void ops_clear(struct CUgraph_st *graph) {
        while (graph->first) {
                struct emu_op *op = graph->first;

                graph->first = op->next;
                emu_op_free(op);
        }
        graph->last = &graph->first;
        graph->n = 0;
}

static void ops_copy(struct CUgraph_st *to, const struct CUgraph_st *from) {
        for (const struct emu_op *op = from->first; op; op = op->next)
                emu_graph_append(to, emu_op_clone(op));
}

cudaGraph_t emu_graph_free(cudaGraph_t graph) {
        if (!graph)
                return NULL;
        ops_clear(graph);
        free(graph);
        emu_state.counts.graphs--;
        return NULL;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
        enum cudaStreamCaptureMode before = thread_mode;

        thread_mode = *mode;
        *mode = before;
        return cudaSuccess;
}

/* The legacy stream can't be captured. */
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
        cudaError_t error = emu_begin(__func__);
        cudaStream_t s = emu_stream_find(stream);

        if (!error && !s)
                error = cudaErrorInvalidResourceHandle;
        if (!error && (s == emu_stream_find(NULL) || s->capture))
                error = s->capture ? cudaErrorInvalidValue : cudaErrorStreamCaptureUnsupported;
        if (!error) {
                s->capture = emu_graph_new();
                s->capture_broken = false;
                s->capture_mode = mode;
                s->capture_thread = pthread_self();
        }
        return emu_end(error);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
        cudaError_t error = emu_begin(__func__);
        cudaStream_t s = emu_stream_find(stream);

        if (!s)
                return emu_end(cudaErrorInvalidResourceHandle);
        if (!s->capture)
                return emu_end(cudaErrorInvalidValue);
        if (!error && s->capture_mode != cudaStreamCaptureModeRelaxed && !pthread_equal(s->capture_thread, pthread_self()))
                error = cudaErrorStreamCaptureWrongThread;
        if (!error && s->capture_broken)
                error = cudaErrorStreamCaptureInvalidated;
        *graph = error ? emu_graph_free(s->capture) : s->capture;
        s->capture = NULL;
        return emu_end(error);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
        cudaError_t error = emu_begin(__func__);
        cudaStream_t s = emu_stream_find(stream);

        if (!error && !s)
                error = cudaErrorInvalidResourceHandle;
        if (!error)
                *status = !s->capture ? cudaStreamCaptureStatusNone :
                          s->capture_broken ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
        return emu_end(error);
}

/* Only their number: nodes have no handles here. */
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n) {
        cudaError_t error = emu_begin(__func__);

        if (!error && nodes)
                error = cudaErrorNotSupported;
        if (!error)
                *n = graph->n;
        return emu_end(error);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags) {
        cudaError_t error = emu_begin(__func__);

        if (!error && (!exec || !graph || flags))
                error = cudaErrorInvalidValue;
        if (!error) {
                cudaGraphExec_t e = calloc(1, sizeof *e);

                if (!e)
                        return emu_end(cudaErrorMemoryAllocation);
                e->ops.last = &e->ops.first;
                e->refs = 1;
                emu_exec_add(e);
                ops_copy(&e->ops, graph);
                emu_state.counts.execs++;
                *exec = e;
        }
        return emu_end(error);
}

/* Arguments and sizes may change, not what there is. */
static enum cudaGraphExecUpdateResult update_check(const struct CUgraph_st *old, const struct CUgraph_st *graph) {
        const struct emu_op *a = old->first, *b = graph->first;

        if (old->n != graph->n)
                return cudaGraphExecUpdateErrorTopologyChanged;
        for (; a; a = a->next, b = b->next) {
                if (a->kind != b->kind)
                        return cudaGraphExecUpdateErrorNodeTypeChanged;
                if (a->kind == EMU_OP_KERNEL && a->call.kernel != b->call.kernel)
                        return cudaGraphExecUpdateErrorFunctionChanged;
        }
        return cudaGraphExecUpdateSuccess;
}

/* Launches before it run what there was: the emulator, which runs late, does it first. */
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph, cudaGraphExecUpdateResultInfo *info) {
        cudaError_t error = emu_begin(__func__);

        if (!error && (!exec || !graph || !info))
                error = cudaErrorInvalidValue;
        if (error)
                return emu_end(error);
        if (exec->refs > 1)
                error = emu_drain_all(true);
        *info = (cudaGraphExecUpdateResultInfo){.result = update_check(&exec->ops, graph)};
        if (info->result != cudaGraphExecUpdateSuccess)
                return emu_end(cudaErrorGraphExecUpdateFailure);
        ops_clear(&exec->ops);
        ops_copy(&exec->ops, graph);
        return emu_end(error);
}

static cudaError_t graph_put(cudaGraphExec_t exec, cudaStream_t stream) {
        cudaStream_t s = emu_stream_find(stream);
        struct emu_op *op;

        if (!exec || !s)
                return cudaErrorInvalidResourceHandle;
        if (s->capture) {
                s->capture_broken = true;
                return cudaErrorStreamCaptureUnsupported;
        }
        op = emu_op_new(EMU_OP_GRAPH);
        op->exec = exec;
        exec->refs++;
        emu_state.counts.graph_launches++;
        return emu_stream_put(s, op);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
        cudaError_t error = emu_begin(__func__);

        if (!error)
                error = emu_count_event("launch");
        return emu_end(error ? error : graph_put(exec, stream));
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream) {
        cudaError_t error = emu_begin(__func__);

        return emu_end(error ? error : exec && emu_stream_find(stream) ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
        cudaError_t error = emu_begin(__func__);

        if (!graph)
                return emu_end(cudaErrorInvalidValue);
        (void)emu_graph_free(graph);
        return emu_end(error);
}

/* Launches under way keep it. */
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
        cudaError_t error = emu_begin(__func__);
        struct emu_op *op;

        if (!exec)
                return emu_end(cudaErrorInvalidValue);
        op = emu_op_new(EMU_OP_GRAPH);
        op->exec = exec;
        (void)emu_op_free(op);
        emu_state.counts.execs--;
        return emu_end(error);
}
