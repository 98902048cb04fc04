/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a backend is told when it is opened and what it says of itself: all that is not about computing. */

#include <stdbool.h>
#include <stdint.h>

/* Why a backend cannot be used, a sentence for people; empty: nothing to say. */
struct backend_error {
        char text[320];
};

struct backend_config {
        unsigned threads; /* 0 = one per core this process may use */
        const char *isa; /* CPU: "auto", or a kernel family by name for tests ("c", "avx2", ...) */
        unsigned null_step_us; /* null: how long a step pretends to take */
        const char *placement; /* CUDA: "auto" (also NULL), "unified" or "device" */
        const char *activations; /* CUDA: "bf16" (also NULL and "") or "fp8", which is faster and less exact (docs/cuda.md) */
        unsigned hang_ms; /* CUDA: how long a step may take before the device counts as lost; 0 = 10 s */
        const char *library;   /* CUDA: path of the shared object; NULL = where this program's build or installation has it */
        const char *log_name;  /* how the program logs (base/log.h), for a backend that brings a logger of its own; NULL: unsaid */
        int log_level;
        bool log_for_journal;
        struct backend_error *error; /* where open() may say why it refuses, or NULL; backend_open() sets it */
};

/* What a backend says of itself, for status. */
struct backend_facts {
        char device[64];       /* "NVIDIA GB10 (sm_121)", empty where it is the host */
        char placement[16];    /* where weights are: "host", "unified", "device" */
        char kv_memory[16];    /* and KV */
        uint64_t device_bytes; /* memory of a device of its own that is allocated */
        uint64_t host_bytes;   /* of the host's memory, that it takes beside weights, KV caches and what alloc() gave */
        uint64_t steps, graph_steps; /* run so far, and how many of them as one launch of a graph */
        uint64_t graph_nodes;        /* kernels and copies of the graph that was launched last */
};

/* What the device that computes says of its power. What it can't say is not known; throttled is false then. */
struct backend_power {
        bool energy_known, power_known, temperature_known;
        uint64_t energy_uj; /* since open() */
        uint32_t power_mw;  /* lately */
        int32_t temperature_c;
        bool throttled;     /* it is slower than it could be, for heat or power */
};

/* What a backend is to do without, to save power; zero: nothing. */
struct backend_caps {
        uint32_t threads; /* that compute, at most */
        uint32_t clocks;  /* percent of the highest ones */
        bool undo;        /* one that ended may have left the device's clocks capped */
};

enum backend_clocks {
        BACKEND_CLOCKS_FREE,        /* no cap is wanted, and none is in force */
        BACKEND_CLOCKS_UCLAMP,      /* in force: the kernel is told what the threads that compute need at most (uclamp) */
        BACKEND_CLOCKS_NVML,        /* in force: the driver locks the device's clocks */
        BACKEND_CLOCKS_UNSUPPORTED, /* by the kernel, the driver or the device */
        BACKEND_CLOCKS_FORBIDDEN,   /* it takes a privilege */
};

struct backend_capped {
        uint32_t threads; /* that take part now; 0 = no threads of the host compute */
        enum backend_clocks clocks;
};

/* How large steps get. */
struct backend_limits {
        uint32_t rows, gathered; /* gathered: that gather() takes */
        uint32_t sequences;      /* of a step */
        uint32_t context;        /* positions of a sequence */
};
