/* SPDX-License-Identifier: Apache-2.0 */

/*
 * KV files as a restore reads them. The header's checksum stops nearly all of what a fuzzer makes up by itself, so, by two
 * bits of the first byte, the input is a whole file, or goes into a sound one, or over a piece of a sound one.
 */

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/macro.h"
#include "daemon/engine/kvfile.h"

#define PAGE_TOKENS 4u
#define PAGE_BYTES 64u
#define PAGES 3u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct kvfile_kind kind = { .backend = "fuzz", .page_tokens = PAGE_TOKENS, .page_bytes = PAGE_BYTES };

static void read_back(int fd, const int32_t *tokens) {
        uint8_t pages[PAGES * PAGE_BYTES];
        struct kvfile_fault fault = { .text = "" };
        uint64_t at;
        uint32_t n;
        int r;

        r = kvfile_read_header(fd, &kind, tokens, PAGES * PAGE_TOKENS, &at, &n, &fault);
        if (r != 0) {
                if (r > 0 && !fault.text[0])
                        abort(); /* every refusal has a sentence */
                return;
        }
        if (n > PAGES)
                abort();
        (void)kvfile_read_pages(fd, &kind, at, 0, n, pages, &fault);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        int32_t tokens[PAGES * PAGE_TOKENS] = { 0 };
        uint8_t pages[PAGES * PAGE_BYTES] = { 0 };
        _cleanup_fd_ int fd = -1;

        if (size < 2)
                return 0;
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        if (fd < 0)
                return 0;
        if (data[0] & 1) { /* a sound file with the input as its tokens and pages */
                memcpy(tokens, data + 1, MIN(size - 1, sizeof(tokens)));
                memcpy(pages, data + 1, MIN(size - 1, sizeof(pages)));
                if (kvfile_write_pages(fd, &kind, kvfile_pages_offset(&kind, PAGES), 0, PAGES, pages) < 0 ||
                    kvfile_write_header(fd, &kind, kvfile_pages_offset(&kind, PAGES), PAGES, tokens) < 0)
                        return 0;
                if (data[0] & 2) /* with a piece of it written over */
                        (void)!pwrite(fd, data + 1, MIN(size - 1, (size_t)8), data[1]);
        } else {
                (void)!pwrite(fd, data + 1, size - 1, 0);
        }
        read_back(fd, tokens);
        return 0;
}
