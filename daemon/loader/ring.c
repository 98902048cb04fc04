/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <string.h>

#include "base/macro.h"

#include "ring.h"

static int restrict_ring(struct io_uring *uring, const int *fds, unsigned n_fds) {
        struct io_uring_restriction rules[3] = {
                { .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ },
                { .opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_FIXED_FILE | IOSQE_ASYNC },
                { .opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE },
        };
        int r;

        r = io_uring_register_files(uring, fds, n_fds);
        if (r < 0)
                return r;
        /* by number: liburing 2.3 declares these two calls but does not export them */
        r = io_uring_register((unsigned)uring->ring_fd, IORING_REGISTER_RESTRICTIONS, rules, ARRAY_SIZE(rules));
        if (r < 0)
                return r;
        return io_uring_register((unsigned)uring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

void ring_init(struct ring *r, const int *fds, unsigned n_fds, unsigned depth) {
        *r = (struct ring){ .ok = false };
        if (io_uring_queue_init(depth, &r->uring, IORING_SETUP_R_DISABLED) < 0)
                return;
        if (restrict_ring(&r->uring, fds, n_fds) < 0) {
                io_uring_queue_exit(&r->uring);
                return;
        }
        r->ok = true;
}

void ring_deinit(struct ring *r) {
        if (r->ok)
                io_uring_queue_exit(&r->uring);
        r->ok = false;
}

bool ring_read(struct ring *r, unsigned file, uint64_t offset, void *buf, unsigned n, bool fresh, uint64_t tag) {
        struct io_uring_sqe *sqe = r->ok ? io_uring_get_sqe(&r->uring) : NULL;
        int e;

        if (!sqe)
                return false;
        io_uring_prep_read(sqe, (int)file, buf, n, offset);
        sqe->flags |= IOSQE_FIXED_FILE | (fresh ? IOSQE_ASYNC : 0);
        sqe->user_data = tag;
        do
                e = io_uring_submit(&r->uring);
        while (e == -EINTR || e == -EAGAIN || e == -EBUSY);
        /* an entry that was not taken stays queued: the ring cannot be used any further, but it may complete yet */
        if (e < 0) {
                r->ok = false;
                io_uring_queue_exit(&r->uring);
                return false;
        }
        r->n_in_flight++;
        return true;
}

int ring_reap(struct ring *r, bool wait, uint64_t *ret_tag, int *ret_result) {
        struct io_uring_cqe *cqe = NULL;
        int e;

        if (!r->ok || r->n_in_flight == 0)
                return 0;
        do
                e = wait ? io_uring_wait_cqe(&r->uring, &cqe) : io_uring_peek_cqe(&r->uring, &cqe);
        while (e == -EINTR);
        if (e == -EAGAIN)
                return 0;
        if (e < 0)
                return e;
        *ret_tag = cqe->user_data;
        *ret_result = cqe->res;
        io_uring_cqe_seen(&r->uring, cqe);
        r->n_in_flight--;
        return 1;
}
