/* SPDX-License-Identifier: Apache-2.0 */

/* The CPU backend as a whole: opening, memory, and the table of its operations. */

#include "cpu.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"

#define THREADS_MAX 256u
/* Less work than this (a guess at some microseconds) is done before a second thread has heard of it. */
#define WORK_TO_SHARE (1u << 17)

int scratch_reserve(struct scratch *s, size_t bytes) {
        void *p;

        if (bytes <= s->bytes)
                return 0;
        bytes = (bytes + 4095) & ~(size_t)4095;
        if (posix_memalign(&p, 64, bytes) != 0)
                return BACKEND_E_NO_MEMORY;
        free(s->data);
        s->data = p;
        s->bytes = bytes;
        return 0;
}

void cpu_run(struct cpu_backend *cpu, uint64_t work, uint32_t n_items, pool_fn fn, void *context) {
        if (work >= WORK_TO_SHARE) {
                pool_run(cpu->pool, n_items, fn, context);
                return;
        }
        for (uint32_t i = 0; i < n_items; i++)
                fn(context, i, 0);
}

static unsigned usable_cores(void) {
        cpu_set_t set;

        if (sched_getaffinity(0, sizeof(set), &set) < 0)
                return 1; /* more than 1024 CPUs; the caller can say how many threads it wants */
        return (unsigned)CPU_COUNT(&set);
}

static struct backend *cpu_close(struct backend *be) {
        struct cpu_backend *cpu = be ? cpu_of(be) : NULL;

        if (!cpu)
                return NULL;
        pool_free(cpu->pool);
        for (unsigned form = 0; form < ACT_FORMS; form++)
                free(cpu->tiles[form].data);
        free(cpu->local.data);
        free(cpu->order.data);
        free(cpu);
        return NULL;
}

static int cpu_open(const struct backend_config *config, struct backend **ret) {
        const struct cpu_kernels *kernels = cpu_kernels_find(config->isa);
        unsigned threads = config->threads > 0 ? config->threads : usable_cores();
        struct cpu_backend *cpu;
        int r;

        if (!kernels || threads > THREADS_MAX)
                return BACKEND_E_UNSUPPORTED;
        cpu = calloc(1, sizeof(*cpu));
        if (!cpu)
                return BACKEND_E_NO_MEMORY;
        cpu->base.ops = &backend_cpu;
        cpu->kernels = kernels;
        r = pool_new(threads, &cpu->pool);
        if (r < 0) {
                cpu_close(&cpu->base);
                return r == -ENOMEM || r == -EAGAIN ? BACKEND_E_NO_MEMORY : r;
        }
        (void)snprintf(cpu->description, sizeof(cpu->description), "cpu (%s, %u thread%s)", kernels->name, threads,
                       threads == 1 ? "" : "s");
        *ret = &cpu->base;
        return 0;
}

static const char *cpu_describe(const struct backend *be) {
        return ((const struct cpu_backend *)be)->description;
}

static int cpu_alloc(struct backend *be, size_t bytes, void **ret_dev) {
        void *p;

        if (bytes > SIZE_MAX - 64 || posix_memalign(&p, 64, (bytes + 63) & ~(size_t)63) != 0)
                return BACKEND_E_NO_MEMORY;
        *ret_dev = p;
        return 0;
}

static void cpu_release(struct backend *be, void *dev) {
        free(dev);
}

static int cpu_upload(struct backend *be, void *dev, const void *host, size_t bytes) {
        memcpy(dev, host, bytes);
        return 0;
}

static int cpu_download(struct backend *be, void *host, const void *dev, size_t bytes) {
        memcpy(host, dev, bytes);
        return 0;
}

static int cpu_bind(struct backend *be, struct weight *w) {
        return fmt_is_coded(w->info) || cpu_kernels_matmul(cpu_of(be)->kernels, w->info->fmt) ? 0 : BACKEND_E_UNSUPPORTED;
}

static int cpu_begin(struct backend *be, const struct batch *batch, struct kv_cache *kv) {
        pool_busy(cpu_of(be)->pool);
        return 0;
}

static int cpu_end(struct backend *be) {
        pool_idle(cpu_of(be)->pool);
        return 0;
}

const struct backend_ops backend_cpu = {
        .name = "cpu",
        .open = cpu_open,
        .close = cpu_close,
        .describe = cpu_describe,
        .alloc = cpu_alloc,
        .release = cpu_release,
        .upload = cpu_upload,
        .download = cpu_download,
        .bind = cpu_bind,
        .cap = cpu_cap,
        .kv_new = cpu_kv_new,
        .kv_free = cpu_kv_free,
        .kv_copy = cpu_kv_copy,
        .kv_page_bytes = cpu_kv_page_bytes,
        .kv_export = cpu_kv_export,
        .kv_import = cpu_kv_import,
        .kv_discard = cpu_kv_discard,
        .begin = cpu_begin,
        .end = cpu_end,
        .embed = cpu_embed,
        .rmsnorm = cpu_rmsnorm,
        .matmul = cpu_matmul,
        .rope_kv = cpu_rope_kv,
        .attention = cpu_attention,
        .gate = cpu_gate,
        .softcap = cpu_softcap,
        .add = cpu_add,
        .slice = cpu_slice,
        .route = cpu_route,
        .experts = cpu_experts,
        .combine = cpu_combine,
        .gather = cpu_gather,
};
