/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "stop.h"

static void fill_borders(const struct stop_string *s, uint16_t *fail) {
        uint16_t k = 0;

        fail[0] = 0;
        for (uint16_t i = 1; i < s->size; i++) {
                while (k > 0 && s->text[i] != s->text[k])
                        k = fail[k - 1];
                if (s->text[i] == s->text[k])
                        k++;
                fail[i] = k;
        }
}

int stop_init(struct stop *s, const struct stop_string *strings, size_t n) {
        memset(s, 0, sizeof(*s));
        if (n > STOP_STRINGS_MAX)
                return -EINVAL;
        if (n == 0)
                return 0;
        s->fail = malloc(n * sizeof(*s->fail));
        if (!s->fail)
                return -ENOMEM;
        s->strings = strings;
        s->n = n;
        for (size_t i = 0; i < n; i++)
                fill_borders(&strings[i], s->fail[i]);
        return 0;
}

void stop_deinit(struct stop *s) {
        free(s->fail);
        memset(s, 0, sizeof(*s));
}

/* Advances all strings by one byte; returns the size of the longest one that ends here, 0 for none, and in *ret_open
 * how much of the text's end could still become one. */
static uint16_t advance(struct stop *s, char c, uint16_t *ret_open) {
        uint16_t found = 0, longest = 0;

        for (size_t i = 0; i < s->n; i++) {
                const struct stop_string *string = &s->strings[i];
                uint16_t k = s->state[i];

                while (k > 0 && string->text[k] != c)
                        k = s->fail[i][k - 1];
                if (string->text[k] == c)
                        k++;
                if (k == string->size) {
                        found = MAX(found, k);
                        k = s->fail[i][k - 1];
                }
                s->state[i] = k;
                longest = MAX(longest, k);
        }
        *ret_open = longest;
        return found;
}

size_t stop_push(struct stop *s, const char *text, size_t n, char *out) {
        size_t n_out = 0;

        if (s->matched)
                return 0;
        if (s->n == 0) {
                memcpy(out, text, n);
                return n;
        }
        for (size_t i = 0; i < n; i++) {
                uint16_t open, found, drop;

                found = advance(s, text[i], &open);
                if (found > 0) {
                        /* the string's bytes are all held, this one excepted: a state never outgrows what is held */
                        drop = (uint16_t)(s->n_held - (found - 1));
                        memcpy(out + n_out, s->held, drop);
                        s->n_held = 0;
                        s->matched = true;
                        return n_out + drop;
                }
                s->held[s->n_held++] = text[i];
                drop = (uint16_t)(s->n_held - open);
                memcpy(out + n_out, s->held, drop);
                memmove(s->held, s->held + drop, open);
                s->n_held = open;
                n_out += drop;
        }
        return n_out;
}

size_t stop_finish(struct stop *s, char *out) {
        size_t n = s->n_held;

        memcpy(out, s->held, n);
        s->n_held = 0;
        return n;
}
