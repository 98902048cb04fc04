/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* For tests that compare with the CPU's plain C: its backend, opened for all of a program's tests. */

#include "cuda-rows-fixture.h"

static struct backend *cpu;

static int setup(void **state) {
        emu_reset();
        return 0;
}

static int setup_all(void **state) {
        cpu = open_family("c", 1);
        return cpu ? 0 : -1;
}

static int teardown_all(void **state) {
        cpu = cpu->ops->close(cpu);
        return 0;
}
