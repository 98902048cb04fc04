/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stddef.h>

#include "authorize.h"

static int decide(struct authorization *a, enum right right, enum polkit_answer answer) {
        a->undecided &= ~RIGHT_BIT(right);
        if (answer == POLKIT_YES)
                a->granted |= RIGHT_BIT(right);
        else if (a->demand.required & RIGHT_BIT(right)) {
                a->denied = right;
                return answer == POLKIT_CHALLENGE ? AUTHORIZE_E_CHALLENGE : AUTHORIZE_E_DENIED;
        }
        return 0;
}

static void on_answer(void *userdata, enum polkit_answer answer);

static int ask(struct authorization *a, enum right right) {
        const struct polkit_question q = {
                .subject = a->subject,
                .uid = a->uid,
                .right = right,
                .interactive = a->interactive && ((a->demand.required | a->demand.wanted) & RIGHT_BIT(right)),
                .told = on_answer,
                .userdata = a,
        };
        int r = a->polkit ? polkit_ask(a->polkit, &q, &a->check) : -ENOTCONN;

        if (r == 0) {
                a->asked = right;
                return AUTHORIZE_ASKED;
        }
        a->check = NULL;
        if (r != -ENOTCONN && r != POLKIT_E_GONE && a->demand.required & RIGHT_BIT(right))
                return AUTHORIZE_E_BUSY;
        return decide(a, right, r == -ENOTCONN ? POLKIT_ABSENT : POLKIT_NO);
}

static int advance(struct authorization *a) {
        int r = 0;

        while (r == 0 && a->undecided)
                r = ask(a, (enum right)__builtin_ctz(a->undecided));
        return r;
}

static void on_answer(void *userdata, enum polkit_answer answer) {
        struct authorization *a = userdata;
        int r;

        a->check = NULL;
        r = decide(a, a->asked, answer);
        if (r == 0)
                r = advance(a);
        if (r != AUTHORIZE_ASKED)
                a->decided(a->userdata, r);
}

int authorize_begin(struct authorization *a, const struct demand *demand) {
        a->demand = *demand;
        a->undecided = (demand->required | demand->wanted | demand->optional) & ~a->granted;
        return advance(a);
}

void authorize_end(struct authorization *a) {
        a->check = polkit_drop(a->check);
}
