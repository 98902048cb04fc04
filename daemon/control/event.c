/* SPDX-License-Identifier: Apache-2.0 */

#define SD_JOURNAL_SUPPRESS_LOCATION /* it would be this file's */

#include <stdarg.h>
#include <stdio.h>

#include <systemd/sd-journal.h>

#include "base/log.h"
#include "event.h"

static const struct {
        enum log_level level;
        const char *id;
} events[EVENT_N] = {
        [EVENT_READY] = { LOG_LEVEL_INFO, "e98aa3be61004c2aac1202e39af2cd11" },
        [EVENT_RELOADED] = { LOG_LEVEL_INFO, "b736ede11ded42a29e2c3b1b7a7d171d" },
        [EVENT_RELOAD_REFUSED] = { LOG_LEVEL_ERROR, "655b72c6cda047ea9fc58abfc3d74ea2" },
        [EVENT_MODEL_READY] = { LOG_LEVEL_INFO, "3ee0cb01387b4c9d86b95a94a24778b8" },
        [EVENT_MODEL_UNLOADED] = { LOG_LEVEL_INFO, "dc891edf399a45848aba6fbd25b14ae4" },
        [EVENT_MODEL_GIVEN_BACK] = { LOG_LEVEL_NOTICE, "5240ce02b5e44bb19877cfa00222c05f" },
        [EVENT_MODEL_IDLE] = { LOG_LEVEL_INFO, "f88e9f486d6a4ffab809c5c4ee5efb9d" },
        [EVENT_MODEL_EVICTED] = { LOG_LEVEL_INFO, "71f855e797014a22a19e211f3bfe4f46" },
        [EVENT_LEASE_GRANTED] = { LOG_LEVEL_INFO, "a0b773d913574c16ae060eecf4513dc3" },
        [EVENT_LEASE_ENDED] = { LOG_LEVEL_INFO, "2ed2ac3274e24c1fb58dac4780672a83" },
        [EVENT_LOAD_FAILED] = { LOG_LEVEL_ERROR, "582eae2309c943e083dd122bdbf657b6" },
        [EVENT_MEMORY_REFUSED] = { LOG_LEVEL_ERROR, "5da69a2f5d8d46e5a31dff945d864138" },
        [EVENT_MEMORY_SHED] = { LOG_LEVEL_WARNING, "ef408f4ca5df4610b448a480a6378f04" },
        [EVENT_MEMORY_RESTORED] = { LOG_LEVEL_INFO, "be06d9123a6f4c2e98038ceb3f711e70" },
        [EVENT_ENGINE_LOST] = { LOG_LEVEL_WARNING, "fcb6d68bd19d4425a3bca7f2801b91f9" },
        [EVENT_ENGINE_GIVEN_UP] = { LOG_LEVEL_ERROR, "af72c623e1534da292eaa2bd730d4b50" },
        [EVENT_USAGE_DAMAGED] = { LOG_LEVEL_WARNING, "502f62fa0c2342ac8742f03342fa825a" },
        [EVENT_SLEEP] = { LOG_LEVEL_INFO, "ac96948b43094be889966f6506517c6a" },
        [EVENT_SLEEP_LATE] = { LOG_LEVEL_WARNING, "c3271819296c4502b318675545f36604" },
        [EVENT_RESUMED] = { LOG_LEVEL_INFO, "7ddba64eb3494da19a96eb16e62fd8e0" },
        [EVENT_POWER_LESS] = { LOG_LEVEL_NOTICE, "2d6dbeec48204a5ba60381fcf686a245" },
        [EVENT_POWER_MORE] = { LOG_LEVEL_INFO, "b4dfff035a20422e91e9b28efc9581d4" },
        [EVENT_ADOPTED] = { LOG_LEVEL_NOTICE, "c924debc59b040c48582d9cb70bba706" },
        [EVENT_COLD_START] = { LOG_LEVEL_WARNING, "15f053aae0ea467b8eaa53a701da71d8" },
        [EVENT_KEEP_LOST] = { LOG_LEVEL_ERROR, "3bdeccaf3b34481f813cfb9f1f14a93c" },
        [EVENT_KEEP_AGAIN] = { LOG_LEVEL_NOTICE, "4c1f293ebc5341e7baabe20ced746d14" },
};

const char *event_id(enum event event) {
        return events[event].id;
}

/* False where the journal did not take it. */
static bool send_to_journal(enum event event, const char *model, const char *text) {
        return sd_journal_send("MESSAGE=%s", text, "PRIORITY=%d", (int)events[event].level, "MESSAGE_ID=%s", events[event].id,
                               model ? "SPARK_MODEL=%s" : NULL, model, NULL) >= 0;
}

void event_log(enum event event, const char *model, const char *fmt, ...) {
        char text[2048];
        va_list ap;
        int n;

        if (!log_is_on(events[event].level))
                return;
        va_start(ap, fmt);
        n = vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        if (n < 0)
                return;
        if (!log_is_for_journal() || !send_to_journal(event, model, text))
                log_write(events[event].level, "%s", text);
}
