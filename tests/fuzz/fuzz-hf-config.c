/* SPDX-License-Identifier: Apache-2.0 */

/* Any bytes as config.json of a directory: refused with a sentence, or hyper-parameters that are plausible. */

#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "daemon/image/schema.h"
#include "daemon/loader/hf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct loader_error error = { 0 };
        struct image_hparams hp = { 0 };
        struct hf h = { .error = &error };
        int r = json_parse_file("config.json", (const char *)data, size, &h.config, &error);

        if (r == 0)
                r = hf_read_config(&h, &hp);
        if (r < 0 || (r > 0 && !error.text[0]) || (r == 0 && image_schema_check_hparams(&hp)))
                abort();
        hf_deinit(&h);
        return 0;
}
