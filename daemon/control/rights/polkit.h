/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Asks polkit whether somebody may do something. Nothing waits for it: an answer comes as a call from the loop, or never,
 * where whoever asked has dropped the question meanwhile. Questions are bounded in number, together and for each user, and in
 * time. Embedded in the bus's struct: polkit is asked over the system bus, and is absent without it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <systemd/sd-bus.h>

#include "base/list.h"
#include "peer.h"
#include "rights.h"

enum {
        POLKIT_E_BUSY = 1, /* too many questions are open */
        POLKIT_E_GONE = 2, /* there is nobody to ask about any more */
};

enum polkit_answer {
        POLKIT_YES,
        POLKIT_NO,
        POLKIT_CHALLENGE, /* no, but a person who is asked might allow it; the question did not say that one may be asked */
        POLKIT_ABSENT,    /* there is nobody to decide */
};

struct polkit {
        sd_bus *bus;    /* borrowed; NULL: not connected to the system bus */
        struct list checks;
        size_t n_checks;
        uint64_t last_id;
        bool told_absent, told_trouble;
        bool knows_no_pidfd; /* it is older than version 124 */
};

struct polkit_check;

/* Who asks: a unique name on the bus, or the process at the other end of a socket. Borrowed for as long as the question is open. */
struct polkit_subject {
        const char *bus_name;
        const struct peer *peer;
};

/* told: called once, from the loop; the check is gone by then. */
struct polkit_question {
        struct polkit_subject subject;
        uid_t uid;
        enum right right;
        bool interactive;     /* a person may be asked for a password */
        void (*told)(void *userdata, enum polkit_answer answer);
        void *userdata;
};

void polkit_init(struct polkit *p);
/* The bus goes: open questions are answered with POLKIT_NO. NULL is allowed. */
void polkit_set_bus(struct polkit *p, sd_bus *bus);
/* 0, POLKIT_E_*, or -errno (-ENOTCONN: there is no system bus); told is not called from within. */
int polkit_ask(struct polkit *p, const struct polkit_question *q, struct polkit_check **ret);
/* Nobody wants to know any more; a dialog that is open goes away. */
struct polkit_check *polkit_drop(struct polkit_check *c);
