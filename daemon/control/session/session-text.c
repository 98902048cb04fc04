/* SPDX-License-Identifier: Apache-2.0 */

#include <stdlib.h>

#include "session-text.h"

struct session_text *session_text_new(struct user *user, uint32_t *ids, size_t n, uint64_t charged) {
        struct session_text *t = calloc(1, sizeof(*t));
        uint64_t need = (uint64_t)n * sizeof(*ids);

        if (!t)
                return NULL;
        t->refs = 1;
        t->user = user_ref(user);
        t->n = n;
        t->ids = reallocarray(ids, n ? n : 1, sizeof(*ids));
        t->charged = t->ids && need < charged ? need : charged;
        if (!t->ids)
                t->ids = ids; /* it stays as it is, then */
        user_release(user, USER_BYTES, charged - t->charged);
        return t;
}

struct session_text *session_text_ref(struct session_text *t) {
        if (t)
                t->refs++;
        return t;
}

struct session_text *session_text_unref(struct session_text *t) {
        if (!t || --t->refs > 0)
                return NULL;
        user_release(t->user, USER_BYTES, t->charged);
        t->user = user_unref(t->user);
        free(t->ids);
        free(t);
        return NULL;
}
