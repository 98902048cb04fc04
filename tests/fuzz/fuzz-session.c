/* SPDX-License-Identifier: Apache-2.0 */

/* A session's file, as whoever can write to the folder may have left it: the checksums are made right, so that the
 * fields behind them are met. What is taken is written again as the same bytes. */

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/fd.h"
#include "daemon/control/session/session-file.h"

#define SIZE_MAX_ 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put_crc(uint8_t *bytes, size_t at) {
        uint32_t crc = crc32c(0, bytes, at);

        for (int i = 0; i < 4; i++)
                bytes[at + (size_t)i] = (uint8_t)(crc >> (8 * i));
}

static void check_taken(const struct session_head *h, const uint8_t *file, size_t size) {
        uint8_t again[SESSION_FILE_HEADER];

        if (size != session_file_size(h->n_tokens) || !session_id_valid(h->id) || !config_model_name_valid(h->model) ||
            !session_name_valid(h->name))
                abort();
        session_head_pack(h, again);
        if (memcmp(again, file, sizeof(again)) != 0)
                abort();
}

static void try_file(const uint8_t *file, size_t size) {
        _cleanup_fd_ int fd = memfd_create("session", MFD_CLOEXEC);
        struct session_fault fault = { "" };
        struct session_head h;
        uint32_t *ids = NULL;
        int r;

        if (fd < 0 || write(fd, file, size) != (ssize_t)size || lseek(fd, 0, SEEK_SET) != 0)
                return;
        r = session_file_read_fd(fd, &h, &ids, &fault);
        if (r == 0)
                check_taken(&h, file, size);
        else if (ids || (r > 0 && !fault.text[0]))
                abort(); /* every refusal names its field */
        free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        uint8_t file[SIZE_MAX_] = { 0 };

        if (size > sizeof(file))
                return 0;
        if (size > 0)
                memcpy(file, data, size);
        try_file(file, size);
        if (size < SESSION_FILE_HEADER + 4)
                return 0;
        put_crc(file, SESSION_FILE_HEADER - 4);
        put_crc(file, size - 4);
        try_file(file, size);
        return 0;
}
