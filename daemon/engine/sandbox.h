/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What an engine gives up once its socket and image have arrived: files, network, new programs, privileges, core dumps.
 * Prompts are in its memory, and what it computes with came out of a stranger's file.
 */

/* Dies with its parent, leaves no core, nobody traces it. 0 or -errno. */
int sandbox_lower(void);
/* What the engine computes with. */
enum sandbox_profile {
        SANDBOX_MEMORY, /* memory and threads alone */
        SANDBOX_DEVICE, /* a GPU: its driver opens device files and knobs in /proc all along, and has threads already */
};

/* Landlock (no files but a device's, no TCP) and seccomp (an allowlist of system calls; others fail with EPERM). Threads made
 * later inherit both; of the driver's threads, which are there already, only seccomp takes hold. 0 or -errno; a kernel without
 * Landlock is fine. Builds with sanitizers only lower. */
int sandbox_enter(enum sandbox_profile profile);
