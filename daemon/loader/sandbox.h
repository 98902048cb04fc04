/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The loader's cage. A process that parses hostile files may read its input, write memory that it was given, talk on
 * its link, and end; nothing else: no files, no sockets, no programs, no further rings, threads or processes.
 *
 * Two steps, because the helpers must be inside too, and Landlock covers only threads made after it:
 *   cage_enter_files()       no new privileges, no core dumps, not traceable, Landlock without any right (daemon/cage/cage.h)
 *   (make the ring and the helper threads)
 *   sandbox_enter_calls()    limits, and an allowlist of system calls for all threads
 */

#include <stdbool.h>

/* 0 or -errno. Everything that is not allowed fails with EPERM afterwards. pack: a file, written through a mapping, may also be given
 * its blocks and be brought to its disk. */
int sandbox_enter_calls(bool pack);
