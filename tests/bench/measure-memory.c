/* SPDX-License-Identifier: Apache-2.0 */

/* How fast memory is: a plain read loop of several threads, over more than caches hold. */

#include "measure.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "base/macro.h"

#define READ_BYTES (512ull << 20)
#define READ_ROUNDS 4u

struct reader {
        const uint64_t *data;
        size_t n;
        uint64_t sum;
};

static void *read_part(void *userdata) {
        struct reader *r = userdata;
        uint64_t a = 0, b = 0, c = 0, d = 0;

        for (unsigned round = 0; round < READ_ROUNDS; round++)
                for (size_t i = 0; i + 4 <= r->n; i += 4) {
                        a += r->data[i];
                        b ^= r->data[i + 1];
                        c += r->data[i + 2];
                        d ^= r->data[i + 3];
                }
        r->sum = a + b + c + d;
        return NULL;
}

double measure_bandwidth(unsigned threads) {
        struct reader readers[64];
        pthread_t ids[64];
        unsigned started = 0;
        uint64_t *data;
        double began;

        data = mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (data == MAP_FAILED)
                return 0;
        (void)madvise(data, READ_BYTES, MADV_HUGEPAGE);
        memset(data, 1, READ_BYTES);
        threads = MIN(threads, (unsigned)ARRAY_SIZE(readers));
        began = measure_now_us();
        for (; started < threads; started++) {
                size_t n = READ_BYTES / sizeof(*data) / threads;

                readers[started] = (struct reader){ .data = data + started * n, .n = n };
                if (pthread_create(&ids[started], NULL, read_part, &readers[started]) != 0)
                        break;
        }
        for (unsigned i = 0; i < started; i++)
                (void)pthread_join(ids[i], NULL);
        began = measure_now_us() - began;
        (void)munmap(data, READ_BYTES);
        return started == threads ? (double)READ_BYTES * READ_ROUNDS / began * 1e6 : 0;
}
