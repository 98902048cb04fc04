/* SPDX-License-Identifier: Apache-2.0 */

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/macro.h"
#include "load-group.h"

enum kind { COUNT, RANGE, RATE, MODE, PRIORITY, UID, MIX };

static const struct key {
        const char *name;
        enum kind kind;
        size_t offset;
        uint32_t min, max;
        const char *help;
} keys[] = {
#define KEY(name, kind, min, max, help) { #name, kind, offsetof(struct load_group, name), min, max, help }
        { "mix", MIX, 0, 0, 0, "chat, long, burst, slow or cancel: sets what follows to that behaviour" },
        KEY(clients, COUNT, 1, 100000, "clients, each with a connection of its own"),
        KEY(requests, COUNT, 0, 1000000000, "requests of each client; 0: as long as the other groups run"),
        KEY(prompt, RANGE, 0, 1000000, "tokens of a prompt, N or LOW-HIGH; 0: the text given with -p"),
        KEY(shared, COUNT, 0, 1000000, "the prompts begin with the same so many tokens"),
        KEY(text, COUNT, 0, UINT32_MAX, "which text that is, in any run; 0: the group's own"),
        KEY(tokens, RANGE, 1, 1000000, "tokens of an answer, N or LOW-HIGH"),
        KEY(turns, COUNT, 1, 10000, "requests of a conversation, each repeating all before it"),
        KEY(priority, PRIORITY, 0, 0, "background, normal or interactive"),
        KEY(uid, UID, 0, UINT32_MAX - 1, "connections are made by this user, or by LOW-HIGH in turn (needs root)"),
        KEY(mode, MODE, 0, 0, "closed: a client waits for its answer; open: requests arrive by the clock"),
        KEY(depth, COUNT, 1, 4096, "closed: requests a client has under way at once"),
        KEY(think_ms, RANGE, 0, 86400000, "closed: pause before the next request, N or LOW-HIGH"),
        KEY(rate, RATE, 0, 1000000, "open: requests per second of the group (Poisson arrivals)"),
        KEY(burst, COUNT, 1, 100000, "open: so many arrive together"),
        KEY(delay_ms, COUNT, 0, 86400000, "pause before the first request"),
        KEY(read, COUNT, 0, 1000000, "tokens per second that a client takes; 0: all"),
        KEY(window, COUNT, 0, 1000000, "tokens that may be under way unread; 0: the library's default"),
        KEY(cancel, COUNT, 0, 100, "percent of the requests that are cancelled"),
        KEY(cancel_after, COUNT, 0, 1000000, "... after 0 to so many tokens; those with 0 before the first one"),
#undef KEY
};

static const char *const mixes[][2] = {
        { "chat", "prompt=20-80,tokens=32-96,turns=4,think_ms=200-800" },
        { "long", "prompt=800,tokens=32" },
        { "burst", "mode=open,prompt=40,tokens=32,rate=16,burst=8" },
        { "slow", "prompt=40,tokens=96,read=20,window=16" },
        { "cancel", "prompt=200,tokens=128,cancel=100,cancel_after=64" },
};

static const char *const priorities[] = { "unspecified", "background", "normal", "interactive" };

static bool fail(char *error, size_t size, const char *fmt, ...) _printf_(3, 4);
static bool fail(char *error, size_t size, const char *fmt, ...) {
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(error, size, fmt, ap);
        va_end(ap);
        return false;
}

/* Digits up to `end` (NULL: all of it) as a number from min to max. */
static bool parse_u32(const char *s, const char *end, uint32_t min, uint32_t max, uint32_t *ret) {
        uint64_t v = 0;

        if (!end)
                end = s + strlen(s);
        if (s == end || end - s > 10)
                return false;
        for (; s < end; s++) {
                if (*s < '0' || *s > '9')
                        return false;
                v = v * 10 + (uint64_t)(*s - '0');
        }
        if (v < min || v > max)
                return false;
        *ret = (uint32_t)v;
        return true;
}

static bool parse_range(const char *s, const struct key *key, struct load_range *ret) {
        const char *dash = strchr(s, '-');
        struct load_range r;

        if (!parse_u32(s, dash, key->min, key->max, &r.low))
                return false;
        r.high = r.low;
        if (dash && (!parse_u32(dash + 1, NULL, key->min, key->max, &r.high) || r.high < r.low))
                return false;
        *ret = r;
        return true;
}

static bool parse_rate(const char *s, const struct key *key, double *ret) {
        char *end;
        double v;

        if (!isdigit((unsigned char)s[0]))
                return false;
        errno = 0;
        v = strtod(s, &end);
        if (errno || *end || !isfinite(v) || v <= 0 || v > key->max)
                return false;
        *ret = v;
        return true;
}

static bool parse_word(const char *s, const char *const *words, size_t n, uint32_t *ret) {
        for (size_t i = 0; i < n; i++)
                if (strcmp(words[i], s) == 0) {
                        *ret = (uint32_t)i;
                        return true;
                }
        return false;
}

bool load_group_set_mix(struct load_group *g, const char *mix) {
        static const struct load_group plain = LOAD_GROUP_DEFAULT;
        char text[128], error[160], *key, *state = NULL;
        struct load_group made = plain;

        for (size_t i = 0; i < ARRAY_SIZE(mixes); i++) {
                if (strcmp(mixes[i][0], mix) != 0)
                        continue;
                memcpy(made.name, g->name, sizeof(made.name));
                made.clients = g->clients;
                made.requests = g->requests;
                made.priority = g->priority;
                made.has_uid = g->has_uid;
                made.uid = g->uid;
                (void)snprintf(text, sizeof(text), "%s", mixes[i][1]);
                for (key = strtok_r(text, ",", &state); key; key = strtok_r(NULL, ",", &state)) {
                        char *value = strchr(key, '=');

                        *value++ = 0;
                        if (!load_group_set(&made, key, value, error, sizeof(error)))
                                return false;
                }
                *g = made;
                return true;
        }
        return false;
}

static bool set_key(struct load_group *g, const struct key *key, const char *value) {
        static const char *const modes[] = { "closed", "open" };
        void *field = (char *)g + key->offset;

        switch (key->kind) {
        case COUNT:
                return parse_u32(value, NULL, key->min, key->max, field);
        case UID:
                g->has_uid = parse_range(value, key, field);
                return g->has_uid;
        case RANGE:
                return parse_range(value, key, field);
        case RATE:
                return parse_rate(value, key, field);
        case MODE:
                return parse_word(value, modes, ARRAY_SIZE(modes), field);
        case PRIORITY:
                return parse_word(value, priorities, ARRAY_SIZE(priorities), field);
        case MIX:
                return load_group_set_mix(g, value);
        }
        return false;
}

bool load_group_set(struct load_group *g, const char *key, const char *value, char *error, size_t error_size) {
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                const struct key *k = &keys[i];

                if (strcmp(k->name, key) != 0)
                        continue;
                if (set_key(g, k, value))
                        return true;
                if (k->kind == COUNT || k->kind == RANGE || k->kind == UID)
                        return fail(error, error_size, "%s=%s: from %u to %u", key, value, k->min, k->max);
                return fail(error, error_size, "%s=%s: %s", key, value, k->help);
        }
        return fail(error, error_size, "no key '%s'", key);
}

bool load_group_check(const struct load_group *g, char *error, size_t error_size) {
        if (g->mode == LOAD_OPEN && g->rate <= 0)
                return fail(error, error_size, "mode=open needs rate=");
        if (g->mode == LOAD_OPEN && (g->think_ms.high > 0 || g->depth > 1 || g->turns > 1))
                return fail(error, error_size, "mode=open knows no think_ms, depth or turns: the clock says when");
        if (g->mode == LOAD_CLOSED && (g->rate > 0 || g->burst > 1))
                return fail(error, error_size, "rate and burst are for mode=open");
        if (g->shared > g->prompt.low)
                return fail(error, error_size, "shared=%u: a prompt has only %u tokens", g->shared, g->prompt.low);
        if (g->text > 0 && g->shared == 0)
                return fail(error, error_size, "text=%u needs shared=", g->text);
        if (g->turns > 1 && g->prompt.high == 0)
                return fail(error, error_size, "turns=%u needs prompt=", g->turns);
        return true;
}

static bool parse_name(struct load_group *g, const char *text, size_t n, char *error, size_t error_size) {
        if (n == 0 || n >= sizeof(g->name))
                return fail(error, error_size, "a group's name has 1 to %u bytes", LOAD_GROUP_NAME_MAX - 1);
        for (size_t i = 0; i < n; i++)
                if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i]))
                        return fail(error, error_size, "a group's name is letters, digits and '._-'");
        memcpy(g->name, text, n);
        g->name[n] = 0;
        return true;
}

bool load_group_parse(struct load_group *g, const char *text, char *error, size_t error_size) {
        const char *colon = strchr(text, ':');
        struct load_group made = *g;
        _cleanup_free_ char *copy = NULL;
        char *state = NULL;

        if (!parse_name(&made, text, colon ? (size_t)(colon - text) : strlen(text), error, error_size))
                return false;
        copy = strdup(colon ? colon + 1 : "");
        if (!copy)
                return fail(error, error_size, "out of memory");
        for (char *key = strtok_r(copy, ",", &state); key; key = strtok_r(NULL, ",", &state)) {
                char *value = strchr(key, '=');

                if (!value)
                        return fail(error, error_size, "'%s' is no KEY=VALUE", key);
                *value++ = 0;
                if (!load_group_set(&made, key, value, error, error_size))
                        return false;
        }
        if (!load_group_check(&made, error, error_size))
                return false;
        *g = made;
        return true;
}

size_t load_group_mixed(struct load_group *ret, const struct load_group *base) {
        static const unsigned percent[ARRAY_SIZE(mixes)] = { 40, 20, 20, 10, 10 };
        uint32_t given = 0;

        for (size_t i = ARRAY_SIZE(mixes); i-- > 0;) {
                struct load_group *g = &ret[i];
                uint32_t clients = (uint32_t)((uint64_t)base->clients * percent[i] / 100);

                *g = *base;
                /* the first takes what rounding left over */
                if (i == 0 && base->clients > given)
                        clients = base->clients - given;
                g->clients = MAX(clients, 1u);
                given += g->clients;
                (void)snprintf(g->name, sizeof(g->name), "%s", mixes[i][0]);
                (void)load_group_set_mix(g, mixes[i][0]);
        }
        return ARRAY_SIZE(mixes);
}

void load_group_help(FILE *f) {
        (void)fprintf(f, "Keys of a group (--group NAME:KEY=VALUE,...):\n");
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
                (void)fprintf(f, "  %-13s %s\n", keys[i].name, keys[i].help);
        (void)fprintf(f, "\nMixes:\n");
        for (size_t i = 0; i < ARRAY_SIZE(mixes); i++)
                (void)fprintf(f, "  %-13s %s\n", mixes[i][0], mixes[i][1]);
        (void)fprintf(f, "  %-13s all of them side by side\n", "mixed");
}
