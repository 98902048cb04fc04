/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Graphs: a plan's launches captured from the stream for a bucket of rows, and launched again at once. A graph is made of addresses
 * and of rooms; what differs between steps with the same rooms is in the step's memory. A step with new rooms is launched directly,
 * since the runtime loads kernels when they are launched first, which does not go well with capturing; the second one is captured.
 * The least recently used goes when there are too many, those that point to scratch memory which has moved when they are met.
 *
 * Where the runtime makes no graphs, steps are launched kernel by kernel from then on, which is logged.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/macro.h"
#include "cuda.h"

#define GRAPHS_MAX 48u

struct cuda_graph {
        struct cuda_graph *next;
        struct cuda_rooms rooms;
        uint64_t generation;
        cudaGraphExec_t exec; /* NULL: was launched directly */
        struct cuda_pace pace;
        size_t n_nodes;
};

static struct cuda_graph *graph_free(struct cuda_backend *be, struct cuda_graph *g) {
        if (g->exec && cuda_answers(be)) /* or it may still run */
                (void)cuda_check(be, cudaGraphExecDestroy(g->exec), "freeing a graph");
        free(g);
        be->runner.n_graphs--;
        return NULL;
}

void cuda_graphs_free(struct cuda_backend *be, struct cuda_plan *plan) {
        for (struct cuda_graph *g = plan->graphs, *next; g; g = next) {
                next = g->next;
                graph_free(be, g);
        }
        plan->graphs = NULL;
}

/* The graph of a step with these rooms, taken out of the list. */
static struct cuda_graph *take_graph(const struct cuda_step *s) {
        for (struct cuda_graph **at = &s->plan->graphs, *g; (g = *at);) {
                if (g->generation == s->be->runner.generation) {
                        if (memcmp(&g->rooms, &s->rooms, sizeof(g->rooms)) == 0) {
                                *at = g->next;
                                return g;
                        }
                        at = &g->next;
                        continue;
                }
                *at = g->next;
                graph_free(s->be, g);
        }
        return NULL;
}

/* The last graph of the plan that was used least recently. */
static void drop_oldest(struct cuda_backend *be) {
        struct cuda_graph **oldest = NULL;

        for (struct cuda_plan *p = be->runner.plans; p; p = p->next)
                if (p->graphs)
                        oldest = &p->graphs;
        if (!oldest)
                return;
        while ((*oldest)->next)
                oldest = &(*oldest)->next;
        *oldest = graph_free(be, *oldest);
}

/* Nothing has run when it fails, and the stream is as before. */
static cudaError_t capture(const struct cuda_step *s, cudaGraphExec_t *ret, size_t *ret_nodes) {
        cudaGraph_t graph = NULL;
        cudaError_t error, ended;

        error = cudaStreamBeginCapture(s->be->stream, cudaStreamCaptureModeThreadLocal);
        if (error != cudaSuccess)
                return error;
        error = cuda_launch_plan(s);
        ended = cudaStreamEndCapture(s->be->stream, &graph);
        error = error != cudaSuccess ? error : ended;
        if (error == cudaSuccess)
                error = cudaGraphGetNodes(graph, NULL, ret_nodes);
        if (error == cudaSuccess)
                error = cudaGraphInstantiate(ret, graph, 0);
        if (graph)
                (void)cudaGraphDestroy(graph); /* of host memory alone */
        return error;
}

static void give_up(struct cuda_backend *be, cudaError_t error) {
        (void)cudaGetLastError(); /* what is wrong with the device will show again */
        if (error == cudaErrorMemoryAllocation) {
                if (!be->runner.warned)
                        log_warning("No memory for a CUDA graph: steps are launched kernel by kernel meanwhile");
                be->runner.warned = true;
                return;
        }
        be->no_graphs = true;
        log_warning("This device makes no graph of a step (%s): kernels are launched one by one", cudaGetErrorString(error));
}

/* Remembers that rooms have been met. */
static int add_graph(const struct cuda_step *s) {
        struct cuda_backend *be = s->be;
        struct cuda_graph *g;

        if (be->runner.n_graphs >= GRAPHS_MAX)
                drop_oldest(be);
        g = calloc(1, sizeof(*g));
        if (!g)
                return BACKEND_E_NO_MEMORY;
        be->runner.n_graphs++;
        g->rooms = s->rooms;
        g->generation = be->runner.generation;
        g->next = s->plan->graphs;
        s->plan->graphs = g;
        return 0;
}

int cuda_graph_run(const struct cuda_step *s, struct cuda_pace **ret) {
        struct cuda_backend *be = s->be;
        struct cuda_graph *g = take_graph(s);
        cudaError_t error;

        if (!g)
                return add_graph(s);
        if (!g->exec) {
                error = capture(s, &g->exec, &g->n_nodes);
                if (error != cudaSuccess) {
                        graph_free(be, g);
                        give_up(be, error);
                        return 0;
                }
        }
        error = cudaGraphLaunch(g->exec, be->stream);
        if (error == cudaErrorMemoryAllocation) { /* the first launch takes it to the device */
                graph_free(be, g);
                give_up(be, error);
                return 0;
        }
        g->next = s->plan->graphs;
        s->plan->graphs = g;
        *ret = &g->pace;
        be->runner.graph_steps++;
        be->runner.graph_nodes = g->n_nodes;
        return cuda_check(be, error, "launching a step's graph");
}
