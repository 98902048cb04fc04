/* SPDX-License-Identifier: Apache-2.0 */

/* Errors of the CUDA runtime, and waiting for the device. */

#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "base/log.h"
#include "base/macro.h"
#include "cuda.h"

#define SPINS 512u /* queries before the first sleep: a short step is over by then */
#define SLEEP_MIN_NS 5000u
#define SLEEP_MAX_NS 200000u
#define SLEEP_SHARE 64u /* of the time that has passed: what is slept too long is as little of a step */

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

int cuda_wait_event(struct cuda_backend *be, cudaEvent_t event, const char *what) {
        uint64_t start = now_ns(), limit = be->hang_ms * UINT64_C(1000000), passed;
        cudaError_t error;

        for (unsigned i = 0; (error = cudaEventQuery(event)) == cudaErrorNotReady; i++) {
                char sentence[128];

                if (atomic_load(&be->lost) != 0) /* health() saw it first */
                        return atomic_load(&be->lost);
                if (i < SPINS)
                        continue;
                passed = now_ns() - start;
                if (passed > limit) {
                        (void)snprintf(sentence, sizeof(sentence), "%s: no answer within %u ms", what, be->hang_ms);
                        return cuda_lose(be, -ETIMEDOUT, sentence);
                }
                passed = MIN(MAX(passed / SLEEP_SHARE, UINT64_C(1) * SLEEP_MIN_NS), UINT64_C(1) * SLEEP_MAX_NS);
                (void)nanosleep(&(struct timespec){ .tv_nsec = (long)passed }, NULL);
        }
        return cuda_check(be, error, what);
}

int cuda_wait_all(struct cuda_backend *be, const char *what) {
        int r = cuda_check(be, cudaEventRecord(be->done, be->stream), what);

        return r ? r : cuda_wait_event(be, be->done, what);
}
