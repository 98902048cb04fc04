/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Caps on the backend's threads and on the clocks that they run at. For clocks the kernel is told how much of a core's
 * capacity each thread will ever need (utilization clamping, Documentation/scheduler/sched-util-clamp.rst); a governor
 * that goes by utilization (schedutil) then chooses a clock that gives so much, and no higher one. It takes no privilege,
 * and acts on nobody else: a core that another program wants faster runs faster.
 *
 * There is no header with the structure that all C libraries agree on, so it stands here as the kernel defines it.
 */

#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu.h"

#define KEEP_POLICY 0x08u /* SCHED_FLAG_* of <linux/sched.h> */
#define KEEP_PARAMS 0x10u
#define UTIL_CLAMP_MAX 0x40u
#define CAPACITY 1024u /* of the fastest core at its highest clock */

struct thread_attributes {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
        uint32_t util_min, util_max;
};

int cpu_cap_clocks(unsigned percent) {
        const struct thread_attributes a = {
                .size = sizeof(a),
                .flags = KEEP_POLICY | KEEP_PARAMS | UTIL_CLAMP_MAX,
                .util_max = (CAPACITY * percent + 99) / 100,
        };

        return syscall(SYS_sched_setattr, 0, &a, 0u) < 0 ? -errno : 0;
}

static enum backend_clocks cap_clocks(struct cpu_backend *cpu, unsigned percent) {
        int r;

        if (percent == 0 || percent >= 100) {
                if (cpu->clocks)
                        (void)pool_each_thread(cpu->pool, cpu_cap_clocks, 100);
                cpu->clocks = 0;
                return BACKEND_CLOCKS_FREE;
        }
        r = pool_each_thread(cpu->pool, cpu_cap_clocks, percent);
        if (r == 0)
                cpu->clocks = percent;
        return r == 0 ? BACKEND_CLOCKS_UCLAMP : r == -EPERM || r == -EACCES ? BACKEND_CLOCKS_FORBIDDEN : BACKEND_CLOCKS_UNSUPPORTED;
}

void cpu_cap(struct backend *be, const struct backend_caps *caps, struct backend_capped *ret) {
        struct cpu_backend *cpu = cpu_of(be);

        ret->threads = pool_limit(cpu->pool, caps->threads ? caps->threads : pool_threads(cpu->pool));
        ret->clocks = cap_clocks(cpu, caps->clocks);
}
