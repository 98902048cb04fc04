/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Whether somebody has the rights that something takes, wherever it was asked for: what is granted already counts, then polkit
 * decides, one right after the other, while whoever asked waits. Embedded in what waits.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "polkit.h"
#include "rights.h"

enum {
        AUTHORIZE_ASKED = 1, /* decided() is going to be called */
        AUTHORIZE_E_DENIED = 2,
        AUTHORIZE_E_CHALLENGE = 3, /* denied, but a person who is asked might allow it */
        AUTHORIZE_E_BUSY = 4,      /* too many questions are open */
};

/* Rights, as bits. */
struct demand {
        uint32_t required; /* it can't do without them */
        uint32_t wanted;   /* it would go on without them, and be told what anybody is */
        uint32_t optional; /* they show it more: nobody is bothered for these */
        const char *why;   /* for people: the field, or the configuration's, because of which it takes them; or NULL */
};

struct authorization {
        struct polkit *polkit;         /* NULL: there is nobody to ask */
        struct polkit_subject subject;
        uid_t uid;
        bool interactive;              /* a person may be asked, for what is required or wanted */
        uint32_t granted;
        enum right denied;             /* which right was, where one was */
        /* result: 0 or AUTHORIZE_E_* */
        void (*decided)(void *userdata, int result);
        void *userdata;
        /* inside */
        struct demand demand;
        uint32_t undecided;
        enum right asked;
        struct polkit_check *check;
};

/* 0: all that is needed is granted; AUTHORIZE_ASKED, or AUTHORIZE_E_*. decided() is not called from within. */
int authorize_begin(struct authorization *a, const struct demand *demand);
/* Nobody wants to know any more. */
void authorize_end(struct authorization *a);
