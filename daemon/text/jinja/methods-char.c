/* SPDX-License-Identifier: Apache-2.0 */

/* Methods of str that ask what kind its characters are of. */

#include "render.h"
#include "text.h"

static bool is_alnum(uint32_t c) {
        return char_is_alpha(c) || char_is_numeric(c);
}

static bool is_ascii(uint32_t c) {
        return c < 0x80;
}

/* All characters are; `empty` is what the empty string gets. */
static int all(struct render *r, const char *name, const struct value *self, const struct args *a,
               bool (*is)(uint32_t c), bool empty, struct value *ret) {
        bool yes = self->n > 0 || empty;
        uint32_t c;
        int k = args_bind(r, name, a, NULL, 0, 0, NULL);

        if (!k)
                k = render_step(r, (uint64_t)self->n * 4);
        for (size_t i = 0; !k && yes && i < self->n;) {
                i += text_decode(self->text + i, self->n - i, &c);
                yes = is(c);
        }
        if (!k)
                *ret = VALUE_BOOL(yes);
        return k;
}

#define ALL(name, is, empty)                                                                                            \
        static int method_##name(struct render *r, const struct value *self, const struct args *a, struct value *ret) { \
                return all(r, #name, self, a, is, empty, ret);                                                          \
        }

ALL(isalpha, char_is_alpha, false)
ALL(isalnum, is_alnum, false)
ALL(isdigit, char_is_decimal, false)
ALL(isdecimal, char_is_decimal, false)
ALL(isnumeric, char_is_numeric, false)
ALL(isspace, char_is_space, false)
ALL(isprintable, char_is_printable, true)
ALL(isascii, is_ascii, true)

static int method_isupper(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return function_find_test("upper", 5)->call(r, self, a, ret);
}

static int method_islower(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        return function_find_test("lower", 5)->call(r, self, a, ret);
}

/* Words start with an upper case character, and have no other. */
static int method_istitle(struct render *r, const struct value *self, const struct args *a, struct value *ret) {
        bool cased = false, in_word = false, ok = true;
        uint32_t c;
        int k = args_bind(r, "istitle", a, NULL, 0, 0, NULL);

        if (!k)
                k = render_step(r, (uint64_t)self->n * 4);
        for (size_t i = 0; !k && i < self->n;) {
                bool up, low;

                i += text_decode(self->text + i, self->n - i, &c);
                up = char_is_upper(c);
                low = char_is_lower(c);
                ok = ok && !(up && in_word) && !(low && !in_word);
                in_word = up || low;
                cased |= in_word;
        }
        if (!k)
                *ret = VALUE_BOOL(cased && ok);
        return k;
}

const struct function methods_char[] = {
        { "isalpha", method_isalpha },
        { "isalnum", method_isalnum },
        { "isdigit", method_isdigit },
        { "isdecimal", method_isdecimal },
        { "isnumeric", method_isnumeric },
        { "isspace", method_isspace },
        { "isprintable", method_isprintable },
        { "isascii", method_isascii },
        { "isupper", method_isupper },
        { "islower", method_islower },
        { "istitle", method_istitle },
        { NULL, NULL },
};
