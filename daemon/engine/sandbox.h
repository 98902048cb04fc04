/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What an engine gives up once its socket and image have arrived: files, network, new programs, privileges, core dumps.
 * Prompts are in its memory, and what it computes with came out of a stranger's file.
 */

/* Dies with its parent, leaves no core, nobody traces it. 0 or -errno. */
int sandbox_lower(void);
/* Landlock (no files, no TCP) and seccomp (an allowlist of system calls; others fail with EPERM). Threads made later
 * inherit both. 0 or -errno; a kernel without Landlock is fine. Builds with sanitizers only lower. */
int sandbox_enter(void);
