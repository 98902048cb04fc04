/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Running a plan: scratch memory that is taken once for the largest step, or grows where nobody says how large that is (reserve.c),
 * and is kept; a step's own data in fixed device memory, launches and graphs.
 *
 * A step waits for its end, so there is one of everything. A graph has addresses in it: whenever a piece of scratch moves, the
 * generation changes and older graphs are not used again.
 */

#include "kernels/backend.h"

#include "plan.h"

/* A piece of memory that the device can work with; host: of the host, pinned. */
struct cuda_memory {
        void *data;
        size_t bytes;
        bool host;
};

enum cuda_scratch {
        CUDA_SCRATCH_STEP, /* the step's rows: struct cuda_layout */
        CUDA_SCRATCH_PARTIALS,
        CUDA_SCRATCH_MM,
        CUDA_SCRATCH_TICKETS,
        CUDA_SCRATCH_TOP,
        CUDA_SCRATCH_RESULTS,
        CUDA_SCRATCH_SLOTS, /* one for each choice of experts */
        CUDA_SCRATCH_VALUES = CUDA_SCRATCH_SLOTS + CUDA_ROUTES,
        CUDA_SCRATCH_COUNT = CUDA_SCRATCH_VALUES + CUDA_BUFFERS,
};

struct cuda_runner {
        struct cuda_plan *plans; /* latest first */
        size_t n_graphs;
        uint64_t generation;
        struct backend_limits limits; /* what scratch memory is enough for; none: it grows */
        struct cuda_memory scratch[CUDA_SCRATCH_COUNT];
        struct cuda_memory step_host, results_host; /* pinned */
        void *attn_host; /* a plan of attention as it is made */
        size_t attn_host_bytes;
        uint64_t steps, graph_steps; /* run, and of these as graphs */
        size_t graph_nodes; /* of the graph that was launched last */
        bool warned;
};

/* Room for a plan of attention. */
struct cuda_room {
        uint32_t items, rows, tiles, partials;
};

/* How large a step may be with the same launches: in a graph rounded up. */
struct cuda_rooms {
        uint32_t rows[CUDA_BASES];
        struct cuda_room attn[CUDA_WINDOWS];
};

/* Where things are in the step's memory; a function of the rooms, but for the page tables, which come last. */
struct cuda_layout {
        size_t counts, token, pos, seq, gather, attn[CUDA_WINDOWS], table_start, table, end;
};

struct cuda_step {
        struct cuda_backend *be;
        struct cuda_plan *plan;
        bool small; /* a graph serves it */
        struct cuda_rooms rooms;
        struct cuda_layout layout;
};

#define CUDA_GRAPH_ROWS 64u

/* How long the last two steps of a kind took; 0: there were none. */
struct cuda_pace {
        uint64_t took_ns[2];
};

/* run.c */

int cuda_run_end(struct backend *base);
void cuda_run_close(struct cuda_backend *be);
/* All plans and graphs: what they point to is going. */
void cuda_run_forget(struct cuda_backend *be);

/* The plan of the recorded operations, at the head of the list then. */
int cuda_run_plan(struct cuda_backend *be, struct cuda_plan **ret);

/* reserve.c */

int cuda_reserve(struct backend *base, const struct backend_limits *limits, uint64_t *ret_bytes);
/* Bytes that steps have of the host's memory, and of the device's. */
void cuda_reserved(const struct cuda_backend *be, uint64_t *ret_host, uint64_t *ret_device);

/* step.c: sizes, memory and data of a step */

/* The power of two that holds n; 0 for 0. */
static inline uint32_t cuda_step_bucket(uint32_t n) {
        return n <= 1 ? n : 1u << (32 - __builtin_clz(n - 1));
}

/* Bytes of scratch that the plan's operations take, by their rows; what is larger already stays. */
void cuda_step_measure(const struct cuda_step *s, size_t bytes[CUDA_SCRATCH_COUNT]);
/* Items that a window's plan may have for short runs of rows. */
uint32_t cuda_step_items_max(const struct cuda_backend *be, const struct cuda_window *w);
/* By its rooms. */
void cuda_step_lay_out(struct cuda_step *s, size_t n_pages);
/* Memory for at least so many bytes, with new contents if it was smaller. */
int cuda_step_grow(struct cuda_backend *be, struct cuda_memory *m, size_t bytes, bool host);
int cuda_step_take_tickets(struct cuda_backend *be);
/* Room for attention's plans of a step, on the host. */
int cuda_step_take_plans(struct cuda_runner *run, size_t bytes);

int cuda_step_prepare(struct cuda_backend *be, struct cuda_plan *plan, struct cuda_step *ret);
/* Starts the copy of the step's data to the device. */
int cuda_step_send(const struct cuda_step *s);
uint32_t cuda_step_max(const struct cuda_step *s, struct cuda_span span);
/* The memory of a packed value (0: none), of a choice's slots, and of a top(). */
struct cuda_packed cuda_step_value(const struct cuda_step *s, uint32_t value);
struct cuda_slots cuda_step_slots(const struct cuda_step *s, uint32_t choice);
struct cuda_top cuda_step_top(const struct cuda_step *s, uint32_t top);
/* Bytes of all top()s' results. */
size_t cuda_step_results(const struct cuda_step *s);
void *cuda_step_at(const struct cuda_step *s, size_t offset);

/* launch.c */

/* The whole plan, onto the stream. */
cudaError_t cuda_launch_plan(const struct cuda_step *s);

/* graph.c */

/* Launches the step as a graph, if one like it has been met before: *ret is its pace, valid until the next step. NULL: it is to be
 * launched directly. */
int cuda_graph_run(const struct cuda_step *s, struct cuda_pace **ret);
void cuda_graphs_free(struct cuda_backend *be, struct cuda_plan *plan);
