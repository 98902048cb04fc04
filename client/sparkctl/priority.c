/* SPDX-License-Identifier: Apache-2.0 */

#include <string.h>

#include "priority.h"

static const char *const names[] = {
        [SPARK_PRIORITY_DEFAULT] = "",
        [SPARK_PRIORITY_BACKGROUND] = "background",
        [SPARK_PRIORITY_NORMAL] = "normal",
        [SPARK_PRIORITY_INTERACTIVE] = "interactive",
};

const char *priority_name(int priority) {
        return priority >= 0 && (size_t)priority < ARRAY_SIZE(names) ? names[priority] : "?";
}

static int find(const char *word) {
        for (size_t i = 1; i < ARRAY_SIZE(names); i++)
                if (strcmp(names[i], word) == 0)
                        return (int)i;
        return SPARK_PRIORITY_DEFAULT;
}

int priority_check(const struct ctl *ctl, const char *verb, const char *word) {
        if (word && find(word) == SPARK_PRIORITY_DEFAULT)
                return ctl_fail_usage(ctl, verb, "--priority takes background, normal or interactive, not '%.100s'.",
                                      word);
        return 0;
}

int priority_choose(const struct ctl *ctl, const char *word, bool person_waits) {
        if (word)
                return find(word);
        if (person_waits && spark_max_priority(ctl->spark) >= SPARK_PRIORITY_INTERACTIVE)
                return SPARK_PRIORITY_INTERACTIVE;
        return SPARK_PRIORITY_DEFAULT;
}
