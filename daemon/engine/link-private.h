/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the link's threads share. Fields are grouped by the thread that alone touches them once all run. */

#include "errand.h"
#include "job.h"
#include "link.h"
#include "queue.h"

#define LINK_PINGS 16u
#define LINK_ORDERS 64u
#define LINK_ERRANDS 4u /* on their way between step and file thread; one at a time is */
#define LINK_OUT_ITEMS 4096u

enum {
        STEP_JOB = 0,
        STEP_PING,
        STEP_ERRAND, /* ptr: struct errand, back from the file thread */
        STEP_ORDER,  /* ptr: struct order */
};

enum {
        OUT_FRAME = 0, /* ptr: struct frame, handed over */
        OUT_RETIRE,    /* ptr: struct job that has had its last frame */
        OUT_LOST,      /* the backend is lost */
};

/* What control tells the engine as such. */
struct order {
        enum order_kind { ORDER_RESIZE, ORDER_PAUSE, ORDER_SELF_TEST, ORDER_CAP } kind;
        uint64_t key;
        uint64_t cache_bytes, kv_bytes;
        bool on;
        uint32_t batch;
        struct backend_caps caps;
};

/* An end of a request, to be sent behind the step's tokens. */
struct late {
        struct late *next;
        struct frame *frame;
        struct job *job;
};

/* A token on its way into the step's one frame. */
struct link_chunk {
        uint64_t key;
        uint32_t id;
        uint32_t index;
        size_t text, size; /* in link.text */
        float logprob;
        uint32_t n_top, top; /* top: in link.top_ids */
        bool has_logprob;
};

struct link {
        struct queue prep_queue; /* jobs */
        struct queue step_queue; /* jobs, pings, errands */
        struct queue file_queue; /* errands */
        struct queue out_queue;  /* frames, jobs that ended */
        struct host *host;

        /* IO */
        struct channel *channel;
        struct job_table jobs;
        size_t bytes;
        struct frame *waiting_out;

        /* step */
        struct job *errands, **errands_end; /* that wait */
        bool on_errand;                     /* one is under way */
        bool resting;                       /* no steps */
        struct link_chunk *chunks;
        size_t n_chunks, cap_chunks;
        char *text;
        size_t n_text, cap_text;
        uint32_t *top_ids;
        float *top_logprobs;
        size_t n_top, cap_top;
        void *messages; /* protobuf structs of a frame */
        size_t cap_messages;
        struct late *late, **late_end;
        bool out_of_memory;
};

/* --- link-threads.c --- */

void *link_prep_thread(void *userdata);
void *link_step_thread(void *userdata);
void *link_file_thread(void *userdata);

/* --- link-orders.c --- */

/* On the IO thread: hands the order in a frame (Resize, Pause, SelfTest, Cap) to the step thread. 0, LINK_E_PROTOCOL, or -ENOMEM. */
int link_take_order(struct link *l, const Spark__Engine__V1__ControlFrame *m);
/* On the step thread: carries it out, and answers; frees it. 0, or negative: the backend is lost. */
int link_do_order(struct link *l, struct order *order);

/* --- link-events.c: what the step thread tells --- */

/* Takes over the frame. Waits where the socket is slow; where the link is closing, the frame goes. */
void link_send_frame(struct link *l, struct frame *frame);
/* A job's last frame; after that the job is not to be touched. */
void link_end_job(struct link *l, struct job *job, struct frame *frame);
/* What the engine's events have gathered in this step: tokens first, then ends. 0 or -ENOMEM. */
int link_send_step(struct link *l);
void link_step_deinit(struct link *l);
