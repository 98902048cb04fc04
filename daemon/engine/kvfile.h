/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * KV on disk: what a session's text had computed, so that it need not be computed again. Only ever a saving: a file that is
 * damaged, cut, or of another model is refused, and the text is computed from its tokens. Pure format and file work;
 * everything here may block.
 *
 * Version 1, integers little-endian:
 *
 *      0   8  magic "SPARKKV1"
 *      8   4  version
 *     12   4  bytes of this header: 128
 *     16  16  fingerprint of the model (daemon/image/fingerprint.h)
 *     32  16  name of the backend, NUL-padded: another one's bits are other bits
 *     48   4  KV format
 *     52   4  tokens of a page
 *     56   8  bytes of a page
 *     64   4  number of pages n
 *     68   4  zero
 *     72   8  offset of the pages, a multiple of 4096
 *     80  40  zero
 *    120   8  checksum of the 120 bytes before and of the token ids
 *    128      token ids, 4 bytes each, n pages of them
 *             the pages: bytes of a page, then 8 of checksum, each
 */

#include <stddef.h>
#include <stdint.h>

#include "daemon/image/fingerprint.h"

#define KVFILE_VERSION 1u
#define KVFILE_HEADER 128u
#define KVFILE_PAGES_MAX (1u << 22)

enum {
        KVFILE_E_INVALID = 1, /* damaged, or no such file at all; see struct kvfile_fault */
        KVFILE_E_OTHER = 2,   /* sound, but of another model, backend, format or version */
};

struct kvfile_fault {
        char text[160]; /* a sentence that names the field */
};

/* What the file must agree with. */
struct kvfile_kind {
        uint8_t fingerprint[IMAGE_FINGERPRINT_BYTES];
        char backend[16];
        uint32_t kv_format;
        uint32_t page_tokens;
        uint64_t page_bytes;
};

/* Where the pages begin in a file that may come to hold this many. */
uint64_t kvfile_pages_offset(const struct kvfile_kind *kind, uint32_t most_pages);

/* Writes pages [first, first + n), which lie one after another at data. 0 or -errno. */
int kvfile_write_pages(int fd, const struct kvfile_kind *kind, uint64_t pages_offset, uint32_t first, uint32_t n,
                       const void *data);
/* Writes what makes it a file of n pages; comes last. tokens [n * page_tokens]. 0 or -errno. */
int kvfile_write_header(int fd, const struct kvfile_kind *kind, uint64_t pages_offset, uint32_t n, const int32_t *tokens);

/* Reads and checks the header, and compares the file's tokens with tokens [n_tokens]: *ret_pages is the number of whole
 * pages that agree (at most what the file has). 0, KVFILE_E_*, or -errno. */
int kvfile_read_header(int fd, const struct kvfile_kind *kind, const int32_t *tokens, size_t n_tokens,
                       uint64_t *ret_pages_offset, uint32_t *ret_pages, struct kvfile_fault *fault);
/* Reads pages [first, first + n) to data and checks them. 0, KVFILE_E_INVALID, or -errno. */
int kvfile_read_pages(int fd, const struct kvfile_kind *kind, uint64_t pages_offset, uint32_t first, uint32_t n, void *data,
                      struct kvfile_fault *fault);
