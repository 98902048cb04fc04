/* SPDX-License-Identifier: Apache-2.0 */

/* 'residency', and what 'models' says of it: which models are in memory, and for how long. */

#include <string.h>

#include "config-private.h"

#define RESIDENCY(key, type, lowest, highest, value, words) \
        { "residency", #key, type, offsetof(struct config, residency.key), lowest, highest, value, NULL, words }

const struct key config_residency_keys[] = {
        RESIDENCY(idle_seconds, KEY_NUMBER, 0, 1u << 30, 900, NULL),
        RESIDENCY(min_seconds, KEY_NUMBER, 0, 86400, 30, NULL),
        RESIDENCY(wait_seconds, KEY_NUMBER, 0, 86400, 60, NULL),
        RESIDENCY(max_models, KEY_NUMBER, 0, 4096, 0, NULL),
        RESIDENCY(max_bytes, KEY_SIZE, 0, 1ull << 50, 0, NULL),
        RESIDENCY(holds, KEY_INDEX, 0, 0, CONFIG_WHO_ALL, CONFIG_WHO_WORDS),
};
const size_t config_n_residency_keys = ARRAY_SIZE(config_residency_keys);

/* Of each of 'models'. */
static const struct key model_keys[] = {
        { NULL, "resident", KEY_INDEX, offsetof(struct config_model, resident), 0, 0, CONFIG_RESIDENT_AUTO, NULL,
          "auto always demand" },
        { NULL, "idle_seconds", KEY_NUMBER, offsetof(struct config_model, idle_seconds), 0, 1u << 30, CONFIG_UNSET, NULL, NULL },
};

bool config_read_model_residency(struct reader *r, struct config_model *m, const config_setting_t *s, int *ret) {
        for (size_t i = 0; i < ARRAY_SIZE(model_keys); i++)
                if (strcmp(model_keys[i].name, config_setting_name(s)) == 0) {
                        *ret = config_set_key(r, &model_keys[i], s, m);
                        return true;
                }
        return false;
}

void config_print_model_residency(const struct config_model *m, FILE *out) {
        for (size_t i = 0; i < ARRAY_SIZE(model_keys); i++) {
                const struct key *k = &model_keys[i];
                uint64_t v = *(const uint64_t *)(const void *)((const char *)m + k->offset);

                if (v == CONFIG_UNSET)
                        continue;
                (void)fprintf(out, " %s = ", k->name);
                config_print_value(m, k, out);
                (void)fputc(';', out);
        }
}
