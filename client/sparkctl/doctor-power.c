/* SPDX-License-Identifier: Apache-2.0 */

/* What the service says of sleep, power supply and energy, and what to do about it. */

#include <string.h>

#include "doctor.h"
#include "power.h"

static void check_sleep(struct doctor *d, const struct spark_power *p) {
        if (strcmp(p->inhibitor, "held") == 0)
                doctor_note(d, LEVEL_OK, "sleep", NULL, "The service parks its requests before the machine sleeps.");
        else if (strcmp(p->inhibitor, "refused") == 0)
                doctor_note(d, LEVEL_WARN, "sleep", "Look for a polkit rule against org.freedesktop.login1.inhibit-delay-sleep.",
                            "logind does not let the service delay the machine's sleep.");
        else if (strcmp(p->inhibitor, "off") == 0)
                doctor_note(d, LEVEL_OK, "sleep", NULL,
                            "The service takes no part in the machine's sleep (power.sleep is \"no\").");
        else if (strcmp(p->inhibitor, "released") == 0)
                doctor_note(d, LEVEL_OK, "sleep", NULL, "The machine is about to sleep.");
        else
                doctor_note(d, LEVEL_OK, "sleep", NULL, "The service does not hear of the machine's sleep: it knows no logind.");
}

static void check_supply(struct doctor *d, const struct spark_power *p) {
        char line[POWER_LINE_MAX];
        bool less = strcmp(p->serves, "background") != 0;

        doctor_note(d, less ? LEVEL_WARN : LEVEL_OK, "power",
                    less ? "Plug in the power supply, or see 'power' in sparkd.conf(5)." : NULL, "%s.",
                    power_supply_line(p, line));
}

void doctor_judge_power(struct doctor *d, const struct spark_power *p) {
        if (!p)
                return;
        check_sleep(d, p);
        check_supply(d, p);
        for (size_t i = 0; i < p->n_notes; i++) {
                if (strstr(p->notes[i], "RAPL"))
                        doctor_note(d, LEVEL_OK, "energy", "If you trust every program here: docs/power.md says how.", "%s",
                                    p->notes[i]);
                else if (strstr(p->notes[i], "in time"))
                        doctor_note(d, LEVEL_WARN, "sleep", "Its log says what was late: journalctl -u sparkd", "%s", p->notes[i]);
        }
}
