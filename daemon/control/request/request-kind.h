/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What there is to ask for, as the table of requests, the lists and the usage ledger tell it apart. */

#include <stdbool.h>

enum request_kind { /* records of what is kept have these numbers: new ones come last */
        REQUEST_GENERATE,
        REQUEST_CHAT,
        REQUEST_TOKENIZE,
        REQUEST_DETOKENIZE,
        REQUEST_SCORE,
        REQUEST_LOAD,
        REQUEST_UNLOAD,
        REQUEST_USAGE,
        REQUEST_PREWARM,
        REQUEST_SESSION_APPEND,
        REQUEST_SESSION, /* create, fork, rewind, close, list: control's own */
        REQUEST_FORGET,
        REQUEST_STORE, /* the model store's */
        REQUEST_LEASE, /* memory, or a model, that is held as long as it runs */
        REQUEST_LOOK, /* what control answers by itself, where somebody was asked whether it may */
};

const char *request_kind_name(enum request_kind kind);
/* An engine has to compute something for it. */
bool request_kind_computes(enum request_kind kind);
