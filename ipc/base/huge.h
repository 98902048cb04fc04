/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Files in memory, mapped so that the kernel can use huge pages for them, and memory for such a file taken in huge pages at once.
 * No state; whoever maps owns the mapping and unmaps it with munmap().
 */

#include <stddef.h>
#include <stdint.h>

/* Bytes of a huge page: as many pages as an entry of a page table's second level has. 0 where they are too large to be of use
 * (pages of 64 KiB: 512 MiB). */
size_t huge_bytes(void);
/* mmap() of a whole file, shared, at an address that is a multiple of a huge page where the file is as large as one. MAP_FAILED with
 * errno. */
void *huge_map(int fd, size_t size, int prot);
/* Takes memory for `bytes` of a mapping by huge_map(), which begin and end on huge pages; what is written there stays. Where a part
 * has memory already, that is copied. 0, or -errno: some of it has ordinary pages, or none yet; -EINVAL: the kernel cannot do it
 * (before 6.1), or may not. */
int huge_take(void *at, size_t bytes);
/* The same in ordinary pages. 0 or -errno. */
int huge_take_plain(void *at, size_t bytes);
