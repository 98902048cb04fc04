/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What happens to the service and is worth finding again: log lines that have a MESSAGE_ID in the journal, by which they are
 * filtered (`journalctl MESSAGE_ID=...`) and explained (`journalctl -x`, systemd/sparkd.catalog). Where the log does not go to
 * the journal they are lines like any other. An id means the same for ever: it is never given to another event.
 */

#include "base/macro.h"

enum event {
        EVENT_READY,          /* the service is */
        EVENT_RELOADED,       /* the configuration was */
        EVENT_RELOAD_REFUSED, /* it stays as it was */
        EVENT_MODEL_READY,
        EVENT_MODEL_UNLOADED,
        EVENT_MODEL_GIVEN_BACK, /* its memory, for a while */
        EVENT_MODEL_IDLE,     /* it is unloaded, since nobody asked for it for a while; */
        EVENT_MODEL_EVICTED,  /* or since another one needs its room */
        EVENT_LEASE_GRANTED,  /* memory was given back for somebody */
        EVENT_LEASE_ENDED,    /* and may be taken again */
        EVENT_LOAD_FAILED,
        EVENT_MEMORY_REFUSED, /* a load that would have gone below the floor */
        EVENT_MEMORY_SHED,    /* memory was given back, a step further */
        EVENT_MEMORY_RESTORED, /* and is taken again */
        EVENT_ENGINE_LOST,    /* another one is started */
        EVENT_ENGINE_GIVEN_UP,
        EVENT_USAGE_DAMAGED,
        EVENT_SLEEP,      /* ready for the machine's */
        EVENT_SLEEP_LATE, /* not all was done in time */
        EVENT_RESUMED,
        EVENT_POWER_LESS, /* power supply or heat: less is served */
        EVENT_POWER_MORE,
        EVENT_ADOPTED,    /* what an earlier process left was taken over */
        EVENT_COLD_START, /* and this is where it could not be */
        EVENT_KEEP_LOST,  /* a restart would begin from nothing */
        EVENT_KEEP_AGAIN, /* no more */
        EVENT_N,
};

/* Logs it with the level that is the event's. model goes along as the field SPARK_MODEL; NULL where it is about none. As with
 * all of the log: nothing of a prompt or an answer. */
void event_log(enum event event, const char *model, const char *fmt, ...) _printf_(3, 4);

/* 32 hexadecimal digits. */
const char *event_id(enum event event);
