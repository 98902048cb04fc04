/* SPDX-License-Identifier: Apache-2.0 */

/* Errors of the CUDA runtime, and waiting for the device. */

#include <errno.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/log.h"
#include "base/macro.h"
#include "cuda.h"

/*
 * Three quarters of what steps like this one took are slept at a stretch. Then the device is asked again and again, between sleeps
 * that are a small part of the time that has passed: what is slept too long is as little of a step. The kernel adds its slack to
 * each sleep, 50 us unless it is told otherwise, which alone would be a hundredth of a token's 4 ms.
 */
#define SPIN_NS 100000u /* no sleep before: small copies are over by then */
#define SLEEP_MIN_NS 5000u
#define SLEEP_MAX_NS 200000u
#define SLEEP_SHARE 128u
#define SLACK_NS 1000ul

int cuda_lose(struct cuda_backend *be, int r, const char *sentence) {
        int none = 0;

        if (atomic_compare_exchange_strong(&be->lost, &none, r))
                log_error("The CUDA device is lost: %s", sentence);
        return atomic_load(&be->lost);
}

int cuda_check(struct cuda_backend *be, cudaError_t error, const char *what) {
        int none = 0;

        if (error == cudaSuccess)
                return 0;
        if (atomic_compare_exchange_strong(&be->lost, &none, -EIO))
                log_error("The CUDA device is lost: %s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
        return atomic_load(&be->lost);
}

bool cuda_answers(const struct cuda_backend *be) {
        int lost = atomic_load(&be->lost);

        return lost != -ETIMEDOUT && lost != -ENODEV;
}

int cuda_check_memory(struct cuda_backend *be, cudaError_t error, const char *what) {
        if (error != cudaErrorMemoryAllocation)
                return cuda_check(be, error, what);
        (void)cudaGetLastError(); /* it is no sticky one */
        return BACKEND_E_NO_MEMORY;
}

static uint64_t now_ns(void) {
        struct timespec t;

        (void)clock_gettime(CLOCK_MONOTONIC, &t); /* can't fail for this clock */
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* What this thread sleeps ends in time from the first call on. */
static void sleep_ns(uint64_t ns, bool *slack) {
        if (!*slack)
                (void)prctl(PR_SET_TIMERSLACK, SLACK_NS, 0ul, 0ul, 0ul); /* a refusal costs time, nothing else */
        *slack = true;
        (void)nanosleep(&(struct timespec){ .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) }, NULL);
}

/* What is not done before quiet_ns is not asked for meanwhile. */
static int wait_event(struct cuda_backend *be, cudaEvent_t event, uint64_t quiet_ns, const char *what) {
        uint64_t start = now_ns(), limit = be->hang_ms * UINT64_C(1000000), passed;
        bool slack = false;
        cudaError_t error;

        while ((error = cudaEventQuery(event)) == cudaErrorNotReady) {
                char sentence[128];

                if (atomic_load(&be->lost) != 0) /* health() saw it first */
                        return atomic_load(&be->lost);
                passed = now_ns() - start;
                if (passed > limit) {
                        (void)snprintf(sentence, sizeof(sentence), "%s: no answer within %u ms", what, be->hang_ms);
                        return cuda_lose(be, -ETIMEDOUT, sentence);
                }
                if (passed < quiet_ns)
                        sleep_ns(quiet_ns - passed, &slack);
                else if (passed >= SPIN_NS)
                        sleep_ns(MIN(MAX(passed / SLEEP_SHARE, UINT64_C(1) * SLEEP_MIN_NS), UINT64_C(1) * SLEEP_MAX_NS), &slack);
        }
        return cuda_check(be, error, what);
}

int cuda_wait_event(struct cuda_backend *be, cudaEvent_t event, const char *what) {
        return wait_event(be, event, 0, what);
}

int cuda_wait_step(struct cuda_backend *be, struct cuda_pace *pace) {
        static const char what[] = "waiting for a step";
        uint64_t start = now_ns(), expected = MIN(pace->took_ns[0], pace->took_ns[1]);
        int r = cuda_check(be, cudaEventRecord(be->done, be->stream), what);

        r = r ? r : wait_event(be, be->done, expected / 4 * 3 > SPIN_NS ? expected / 4 * 3 : 0, what);
        pace->took_ns[1] = pace->took_ns[0];
        pace->took_ns[0] = now_ns() - start;
        return r;
}

int cuda_wait_all(struct cuda_backend *be, const char *what) {
        int r = cuda_check(be, cudaEventRecord(be->done, be->stream), what);

        return r ? r : cuda_wait_event(be, be->done, what);
}
