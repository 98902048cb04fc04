/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "link.h"
#include "link-private.h"
#include "message.h"

#define BYTES_MAX (512u << 20) /* of Submits that are held at once */
#define JOIN_MS 200

/* --- before the threads ------------------------------------------------------------------------------------------ */

static int wait_for(struct channel *c, short events) {
        struct pollfd p = { .fd = c->fd, .events = events };

        while (poll(&p, 1, -1) < 0)
                if (errno != EINTR)
                        return -errno;
        return 0;
}

static int take_init(struct channel *c, const struct channel_frame *frame, ProtobufCMessage **ret, int *fds,
                     size_t *ret_n_fds) {
        struct message_fault fault = { .text = "" };
        const Spark__Engine__V1__ControlFrame *m;
        size_t n = 0;
        int fd;

        if (message_unpack(&spark__engine__v1__control_frame__descriptor, frame->data, frame->size, ret, &fault) != 0) {
                log_error("Init: %s", fault.text);
                return LINK_E_PROTOCOL;
        }
        while ((fd = channel_take_fd(c)) >= 0) {
                if (n == IMAGE_SEGMENTS_MAX)
                        (void)fd_close(fd);
                else
                        fds[n++] = fd;
        }
        *ret_n_fds = n;
        m = (const Spark__Engine__V1__ControlFrame *)*ret;
        if (m->body_case != SPARK__ENGINE__V1__CONTROL_FRAME__BODY_INIT || m->init->version != 1 ||
            m->init->segments != n) {
                log_error("the first frame is no Init of version 1 with its %zu segments", n);
                return LINK_E_PROTOCOL;
        }
        return 0;
}

/* The next frame; it is the channel's. */
static int receive(struct channel *c, struct channel_frame *ret) {
        int r;

        for (;;) {
                r = channel_next(c, ret);
                if (r == 1)
                        return 0;
                if (r != 0)
                        return r == CHANNEL_E_TRUNCATED ? LINK_E_CLOSED : r < 0 ? r : LINK_E_PROTOCOL;
                r = channel_read(c);
                if (r == CHANNEL_E_EOF)
                        return LINK_E_CLOSED;
                if (r == 0)
                        r = wait_for(c, POLLIN);
                else if (r > 1)
                        return LINK_E_PROTOCOL;
                if (r < 0)
                        return r;
        }
}

int link_receive_init(struct channel *c, ProtobufCMessage **ret_init, int *fds, size_t *ret_n_fds) {
        struct channel_frame frame;
        int r = receive(c, &frame);

        return r ? r : take_init(c, &frame, ret_init, fds, ret_n_fds);
}

int link_receive_image(struct channel *c, size_t *ret_tensors) {
        struct message_fault fault = { .text = "" };
        const Spark__Engine__V1__ControlFrame *m;
        ProtobufCMessage *message = NULL;
        struct channel_frame frame;
        int r = receive(c, &frame);

        if (r)
                return r;
        if (message_unpack(&spark__engine__v1__control_frame__descriptor, frame.data, frame.size, &message, &fault) != 0) {
                log_error("Image: %s", fault.text);
                return LINK_E_PROTOCOL;
        }
        m = (const Spark__Engine__V1__ControlFrame *)message;
        if (m->body_case != SPARK__ENGINE__V1__CONTROL_FRAME__BODY_IMAGE) {
                log_error("the image is not whole, and a frame came that says nothing of it");
                r = LINK_E_PROTOCOL;
        } else {
                *ret_tensors = m->image->whole ? IMAGE_ALL : m->image->tensors;
        }
        (void)message_free(message);
        return r;
}

int link_send(struct channel *c, struct frame *frame) {
        int r;

        if (!frame)
                return -ENOMEM;
        r = channel_queue(c, frame->data, frame->size, NULL, 0);
        free(frame);
        while (r == 0) {
                r = channel_flush(c);
                if (r == 1)
                        return 0;
                if (r == 0)
                        r = wait_for(c, POLLOUT);
        }
        return r > 0 ? LINK_E_CLOSED : r;
}

/* --- the IO thread ----------------------------------------------------------------------------------------------- */

int link_new(struct link **ret, struct channel *c, uint32_t max_jobs) {
        _cleanup_(link_freep) struct link *l = NULL;
        int r;

        l = calloc(1, sizeof(*l));
        if (!l)
                return -ENOMEM;
        l->channel = c;
        l->prep_queue.fd = l->step_queue.fd = l->file_queue.fd = l->out_queue.fd = -1;
        l->errands_end = &l->errands;
        r = job_table_init(&l->jobs, max_jobs);
        if (r == 0)
                r = queue_init(&l->prep_queue, max_jobs);
        if (r == 0)
                r = queue_init(&l->step_queue, max_jobs + LINK_PINGS + LINK_ERRANDS + LINK_ORDERS);
        if (r == 0)
                r = queue_init(&l->file_queue, LINK_ERRANDS);
        if (r == 0)
                r = queue_init(&l->out_queue, LINK_OUT_ITEMS);
        if (r < 0)
                return r;
        *ret = steal_ptr(&l);
        return 0;
}

/* What no table knows. */
static void free_items(struct queue *q) {
        struct queue_item item;

        while (q->items && queue_pop(q, &item))
                if (item.type == STEP_ERRAND)
                        (void)errand_free(item.ptr);
                else if (item.type == STEP_ORDER)
                        free(item.ptr);
}

struct link *link_free(struct link *l) {
        struct queue_item item;

        if (!l)
                return NULL;
        while (l->out_queue.items && queue_pop(&l->out_queue, &item))
                if (item.type == OUT_FRAME)
                        free(item.ptr);
        while (l->late) {
                struct late *next = l->late->next;

                free(l->late->frame);
                free(l->late);
                l->late = next;
        }
        free(l->waiting_out);
        queue_deinit(&l->prep_queue);
        free_items(&l->step_queue);
        free_items(&l->file_queue);
        queue_deinit(&l->step_queue);
        queue_deinit(&l->file_queue);
        queue_deinit(&l->out_queue);
        job_table_deinit(&l->jobs);
        link_step_deinit(l);
        free(l);
        return NULL;
}

/* Answers what never became a job. */
static int refuse(struct link *l, uint64_t key, const struct failure *f) {
        struct frame *frame = frame_new_failed(key, f);
        int r;

        if (!frame)
                return -ENOMEM;
        r = channel_queue(l->channel, frame->data, frame->size, NULL, 0);
        free(frame);
        return r > 0 ? LINK_E_PROTOCOL : r; /* control floods without reading */
}

static int refuse_busy(struct link *l, uint64_t key) {
        struct failure f;

        (void)failure_set(&f, SPARK__V1__ERROR_CODE__BUSY, "%zu requests are waiting already", l->jobs.n);
        f.retry_after_ms = 1000;
        return refuse(l, key, &f);
}

static bool submit_has_fd(const Spark__Engine__V1__Submit *s) {
        switch (s->request_case) {
        case SPARK__ENGINE__V1__SUBMIT__REQUEST_GENERATE:
                return s->generate->input_fd;
        case SPARK__ENGINE__V1__SUBMIT__REQUEST_TOKENIZE:
                return s->tokenize->input_fd;
        case SPARK__ENGINE__V1__SUBMIT__REQUEST_SCORE:
                return s->score->input_fd;
        case SPARK__ENGINE__V1__SUBMIT__REQUEST_PREWARM:
                return s->prewarm->input_fd;
        default:
                return false;
        }
}

static int refuse_errand(struct link *l, const struct request *r, const char *why) {
        struct frame *frame = frame_new_errand(r, 0, 0, why);
        int c;

        if (!frame)
                return -ENOMEM;
        c = channel_queue(l->channel, frame->data, frame->size, NULL, 0);
        free(frame);
        return c > 0 ? LINK_E_PROTOCOL : c;
}

static void take_submit(struct link *l, struct job *job, Spark__Engine__V1__Submit *s) {
        job->submit = s;
        job->request.key = s->key;
        job->request.arrived_us = clock_now_us();
        atomic_store_explicit(&job->request.granted, s->credit, memory_order_relaxed);
        if (submit_has_fd(s))
                job->input_fd = channel_take_fd(l->channel);
}

/* A Spill or a Restore, with its descriptor. */
static void take_errand(struct link *l, struct job *job, const Spark__Engine__V1__ControlFrame *m) {
        if (m->body_case == SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SPILL)
                job->spill = m->spill;
        else
                job->restore = m->restore;
        job->request.kind = job->spill ? REQUEST_SPILL : REQUEST_RESTORE;
        job->request.key = job->spill ? job->spill->key : job->restore->key;
        job->file_fd = channel_take_fd(l->channel);
}

/* What asks for something: into the table, and to the prep thread. Takes over the message. */
static int handle_job(struct link *l, ProtobufCMessage *message, size_t bytes) {
        Spark__Engine__V1__ControlFrame *m = (Spark__Engine__V1__ControlFrame *)message;
        _cleanup_(job_freep) struct job *job = job_new();
        int r;

        if (!job) {
                (void)message_free(message);
                return -ENOMEM;
        }
        job->message = message;
        job->bytes = bytes;
        if (m->body_case == SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT)
                take_submit(l, job, m->submit);
        else
                take_errand(l, job, m);
        if (job->request.key == 0)
                return LINK_E_PROTOCOL;
        if (!job->submit && job->file_fd < 0)
                return refuse_errand(l, &job->request, "no descriptor came with it");
        r = l->bytes + bytes > BYTES_MAX ? JOB_E_FULL : job_table_add(&l->jobs, job);
        if (r == JOB_E_EXISTS)
                return LINK_E_PROTOCOL;
        if (r == JOB_E_FULL)
                return job->submit ? refuse_busy(l, job->request.key) :
                                     refuse_errand(l, &job->request, "too much is waiting already");
        l->bytes += bytes;
        /* The table holds no more jobs than the queue has room for. */
        return queue_push(&l->prep_queue, (struct queue_item){ .ptr = steal_ptr(&job) }) == 0 ? 0 : -ECANCELED;
}

static int handle_frame(struct link *l, ProtobufCMessage *message, size_t bytes) {
        const Spark__Engine__V1__ControlFrame *m = (const Spark__Engine__V1__ControlFrame *)message;
        struct job *job;
        int r = 0;

        switch (m->body_case) {
        case SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SUBMIT:
        case SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SPILL:
        case SPARK__ENGINE__V1__CONTROL_FRAME__BODY_RESTORE:
                return handle_job(l, message, bytes);
        case SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CANCEL:
                job = job_table_find(&l->jobs, m->cancel->key);
                if (job) {
                        atomic_store(&job->request.cancelled, true);
                        if (l->host->engine)
                                engine_notice(l->host->engine);
                        queue_wake(&l->step_queue);
                }
                break;
        case SPARK__ENGINE__V1__CONTROL_FRAME__BODY_WINDOW:
                job = job_table_find(&l->jobs, m->window->key);
                if (job) {
                        atomic_fetch_add(&job->request.granted, m->window->tokens);
                        if (l->host->engine)
                                engine_notice_credit(l->host->engine);
                        queue_wake(&l->step_queue);
                }
                break;
        case SPARK__ENGINE__V1__CONTROL_FRAME__BODY_PING:
                /* A full queue loses it: then the step thread is stuck, and that is what is asked. */
                (void)queue_push(&l->step_queue,
                                 (struct queue_item){ .type = STEP_PING, .value = m->ping->cookie });
                break;
        case SPARK__ENGINE__V1__CONTROL_FRAME__BODY_RESIZE:
        case SPARK__ENGINE__V1__CONTROL_FRAME__BODY_PAUSE:
        case SPARK__ENGINE__V1__CONTROL_FRAME__BODY_SELF_TEST:
        case SPARK__ENGINE__V1__CONTROL_FRAME__BODY_CAP:
                r = link_take_order(l, m);
                break;
        default:
                r = LINK_E_PROTOCOL;
                break;
        }
        (void)message_free(message);
        return r;
}

/* A Submit that is no sound message: who it was for, so that it can be answered. Its key is its first field. */
static uint64_t key_of_broken(const struct channel_frame *frame) {
        const uint8_t *p = frame->data, *end = p + frame->size;
        uint64_t key = 0;

        if (p == end || *p++ != (2 << 3 | 2)) /* ControlFrame.submit */
                return 0;
        while (p < end && *p & 0x80)
                p++;
        if (end - p < 3 || p[1] != (1 << 3 | 0)) /* Submit.key */
                return 0;
        p += 2;
        for (unsigned shift = 0; p < end && shift < 64; shift += 7) {
                key |= (uint64_t)(*p & 0x7F) << shift;
                if (!(*p++ & 0x80))
                        return key;
        }
        return 0;
}

static int handle_broken(struct link *l, const struct channel_frame *frame, int code, const struct message_fault *fault) {
        uint64_t key = key_of_broken(frame);
        struct failure f;

        if (key == 0 || job_table_find(&l->jobs, key)) {
                log_error("a frame from control: %s", fault->text);
                return LINK_E_PROTOCOL;
        }
        (void)failure_set(&f, code == MESSAGE_E_UTF8 ? SPARK__V1__ERROR_CODE__INVALID_UTF8 :
                                                       SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                          "%s", fault->text);
        return refuse(l, key, &f);
}

static int read_frames(struct link *l) {
        struct channel_frame frame;
        int r, got;

        got = channel_read(l->channel);
        if (got < 0 || (got > 1 && got != CHANNEL_E_EOF))
                return got < 0 ? got : LINK_E_PROTOCOL;
        while ((r = channel_next(l->channel, &frame)) == 1) {
                struct message_fault fault = { .text = "" };
                ProtobufCMessage *message = NULL;
                int fd;

                r = message_unpack(&spark__engine__v1__control_frame__descriptor, frame.data, frame.size, &message,
                                   &fault);
                if (r == 0)
                        r = handle_frame(l, message, frame.size);
                else if (r > 0)
                        r = handle_broken(l, &frame, r, &fault);
                if (r != 0)
                        return r;
                if (!channel_partial_frame(l->channel))
                        while ((fd = channel_take_fd(l->channel)) >= 0)
                                (void)fd_close(fd); /* of a frame that was refused */
        }
        if (r != 0)
                return r < 0 ? r : r == CHANNEL_E_TRUNCATED ? LINK_E_CLOSED : LINK_E_PROTOCOL;
        return got == CHANNEL_E_EOF ? LINK_E_CLOSED : 0;
}

static void retire(struct link *l, struct job *job) {
        l->bytes -= job->bytes;
        job_table_remove(&l->jobs, job);
        (void)job_free(job);
}

/* Moves frames from the threads' queue to the socket's, as many as that takes. */
static int write_frames(struct link *l) {
        struct queue_item item;
        int r;

        for (;;) {
                if (!l->waiting_out) {
                        if (!queue_pop(&l->out_queue, &item))
                                return 0;
                        if (item.type == OUT_RETIRE) {
                                retire(l, item.ptr);
                                continue;
                        }
                        if (item.type == OUT_LOST)
                                return LINK_E_LOST;
                        l->waiting_out = item.ptr;
                }
                r = channel_queue(l->channel, l->waiting_out->data, l->waiting_out->size, NULL, 0);
                if (r == CHANNEL_E_FULL)
                        return 0;
                if (r != 0)
                        return r < 0 ? r : LINK_E_PROTOCOL;
                free(l->waiting_out);
                l->waiting_out = NULL;
        }
}

static int flush(struct link *l) {
        int r = channel_flush(l->channel);

        return r < 0 ? r : r == CHANNEL_E_EOF ? LINK_E_CLOSED : 0;
}

static int turn(struct link *l) {
        struct pollfd p[2] = {
                { .fd = l->channel->fd, .events = POLLIN },
                { .fd = l->waiting_out ? -1 : l->out_queue.fd, .events = POLLIN },
        };
        int r;

        if (channel_wants_write(l->channel))
                p[0].events |= POLLOUT;
        if (poll(p, 2, -1) < 0)
                return errno == EINTR ? 0 : -errno;
        if (p[1].revents)
                queue_clear(&l->out_queue);
        if (p[0].revents & (POLLIN | POLLHUP | POLLERR)) {
                r = read_frames(l);
                if (r != 0)
                        return r;
        }
        do {
                r = write_frames(l);
                if (r == 0 || r == LINK_E_LOST) {
                        int w = flush(l);

                        r = r ? r : w;
                }
        } while (r == 0 && l->waiting_out && !channel_wants_write(l->channel));
        return r;
}

/* Ends a thread that may be in the middle of a long step. */
static bool join(pthread_t thread) {
        struct timespec until;

        (void)clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += JOIN_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        return pthread_timedjoin_np(thread, NULL, &until) == 0;
}

static void stop_threads(struct link *l) {
        queue_close(&l->prep_queue);
        queue_close(&l->step_queue);
        queue_close(&l->file_queue);
        queue_close(&l->out_queue);
}

int link_run(struct link *l, struct host *host, bool *ret_stuck) {
        void *(*const bodies[])(void *) = { link_prep_thread, link_step_thread, link_file_thread };
        pthread_t threads[ARRAY_SIZE(bodies)];
        size_t n = 0;
        int r = 0;

        l->host = host;
        *ret_stuck = false;
        while (r == 0 && n < ARRAY_SIZE(bodies)) {
                r = -pthread_create(&threads[n], NULL, bodies[n], l);
                n += r == 0;
        }
        while (r == 0)
                r = turn(l);
        stop_threads(l);
        for (size_t i = 0; i < n; i++)
                *ret_stuck = !join(threads[i]) || *ret_stuck;
        return r;
}
