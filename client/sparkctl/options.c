/* SPDX-License-Identifier: Apache-2.0 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

struct parser {
        struct ctl *ctl;
        const char *verb; /* NULL in front of it */
        const struct option *options;
        int argc;
        char **argv;
        int i;
        bool help;
        bool version;
};

bool parse_u64(const char *text, uint64_t max, uint64_t *ret) {
        uint64_t v = 0;

        if (!*text)
                return false;
        for (const char *p = text; *p; p++) {
                if (*p < '0' || *p > '9')
                        return false;
                if (__builtin_mul_overflow(v, 10u, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
                        return false;
        }
        if (v > max)
                return false;
        *ret = v;
        return true;
}

/* Appends; false when out of memory. */
static bool string_list_add(struct string_list *list, const char *item) {
        const char **items = reallocarray(list->items, list->n + 1, sizeof(*items));

        if (!items)
                return false;
        list->items = items;
        list->items[list->n++] = item;
        return true;
}

void string_list_deinit(struct string_list *list) {
        free(list->items);
        *list = (struct string_list){ 0 };
}

static bool parse_float(const char *text, float *ret) {
        char *end;
        float v;

        if (*text == 0 || strchr(" \t\n\v\f\r", *text))
                return false;
        v = strtof(text, &end);
        if (*end)
                return false;
        *ret = v;
        return true;
}

/* -1 or the exit status. */
static int option_store(struct parser *p, const struct option *o, const char *value) {
        uint64_t u;
        bool good = true;

        switch (o->type) {
        case OPTION_FLAG:
                *(bool *)o->value = true;
                break;
        case OPTION_STRING:
                *(const char **)o->value = value;
                break;
        case OPTION_LIST:
                if (!string_list_add(o->value, value))
                        return ctl_fail(p->ctl, EXIT_OTHER, "NO_MEMORY", NULL, "Out of memory.");
                break;
        case OPTION_U32:
                good = parse_u64(value, UINT32_MAX, &u);
                if (good)
                        *(uint32_t *)o->value = (uint32_t)u;
                break;
        case OPTION_U64:
                good = parse_u64(value, UINT64_MAX, o->value);
                break;
        case OPTION_FLOAT:
                good = parse_float(value, o->value);
                break;
        }
        if (!good)
                return ctl_fail_usage(p->ctl, p->verb, "--%s takes %s, not '%s'.", o->name,
                                      o->type == OPTION_FLOAT ? "a number" : "a whole number", value);
        if (o->set)
                *o->set |= o->bit;
        return -1;
}

static const struct option *option_find(const struct parser *p, const struct option *globals, const char *name,
                                        size_t n, char letter) {
        const struct option *tables[] = { globals, p->options };

        for (size_t t = 0; t < ARRAY_SIZE(tables); t++)
                for (const struct option *o = tables[t]; o && o->name; o++)
                        if (letter ? o->letter == letter : strlen(o->name) == n && memcmp(o->name, name, n) == 0)
                                return o;
        return NULL;
}

/* The value behind the option, in the next argument. NULL and *ret_status when there is none. */
static const char *next_value(struct parser *p, const struct option *o, int *ret_status) {
        if (p->i + 1 < p->argc)
                return p->argv[++p->i];
        *ret_status = ctl_fail_usage(p->ctl, p->verb, "--%s needs a value.", o->name);
        return NULL;
}

static int parse_long(struct parser *p, const struct option *globals) {
        const char *arg = p->argv[p->i] + 2, *equals = strchr(arg, '='), *value = NULL;
        size_t n = equals ? (size_t)(equals - arg) : strlen(arg);
        const struct option *o = option_find(p, globals, arg, n, 0);
        int status = -1;

        if (!o)
                return ctl_fail_usage(p->ctl, p->verb, "There is no option '--%.*s'.", (int)MIN(n, (size_t)100), arg);
        if (o->type == OPTION_FLAG && equals)
                return ctl_fail_usage(p->ctl, p->verb, "--%s takes no value.", o->name);
        if (o->type != OPTION_FLAG) {
                value = equals ? equals + 1 : next_value(p, o, &status);
                if (!value)
                        return status;
        }
        return option_store(p, o, value);
}

/* One or more letters: "-n5", "-n 5", "-h". */
static int parse_short(struct parser *p, const struct option *globals) {
        const char *arg = p->argv[p->i] + 1;
        int status = -1;

        while (*arg && status < 0) {
                const struct option *o = option_find(p, globals, "", 0, *arg);
                const char *value = NULL;

                if (!o)
                        return ctl_fail_usage(p->ctl, p->verb, "There is no option '-%c'.",
                                              *arg > ' ' && *arg < 127 ? *arg : '?');
                arg++;
                if (o->type != OPTION_FLAG) {
                        value = *arg ? arg : next_value(p, o, &status);
                        if (!value)
                                return status;
                        arg = "";
                }
                status = option_store(p, o, value);
        }
        return status;
}

/* Parses from p->i on. first_only: stop at the first argument that is no option. */
static int parse(struct parser *p, bool first_only, struct string_list *arguments) {
        const struct option globals[] = {
                { "socket", 'S', OPTION_STRING, &p->ctl->socket, NULL, 0, NULL, NULL },
                { "json", 0, OPTION_FLAG, &p->ctl->json, NULL, 0, NULL, NULL },
                { "ask-password", 0, OPTION_FLAG, &p->ctl->ask_password, NULL, 0, NULL, NULL },
                { "no-ask-password", 0, OPTION_FLAG, &p->ctl->no_ask_password, NULL, 0, NULL, NULL },
                { "help", 'h', OPTION_FLAG, &p->help, NULL, 0, NULL, NULL },
                { "version", 0, OPTION_FLAG, &p->version, NULL, 0, NULL, NULL },
                OPTION_END,
        };
        bool options_ended = false;

        for (; p->i < p->argc; p->i++) {
                const char *arg = p->argv[p->i];
                int status = -1;

                if (!options_ended && strcmp(arg, "--") == 0) {
                        options_ended = true;
                } else if (!options_ended && arg[0] == '-' && arg[1] == '-') {
                        status = parse_long(p, globals);
                } else if (!options_ended && arg[0] == '-' && arg[1]) {
                        status = parse_short(p, globals);
                } else if (first_only) {
                        return -1;
                } else if (!string_list_add(arguments, arg)) {
                        status = ctl_fail(p->ctl, EXIT_OTHER, "NO_MEMORY", NULL, "Out of memory.");
                }
                if (status >= 0)
                        return status;
        }
        return -1;
}

static void print_option(char letter, const char *name, const char *argument, const char *help) {
        char left[64];

        (void)snprintf(left, sizeof(left), "%c%c%s--%s%s%s", letter ? '-' : ' ', letter ? letter : ' ',
                       letter ? ", " : "  ", name, argument ? " " : "", argument ? argument : "");
        (void)printf("  %-30s %s\n", left, help);
}

void options_print_global_help(void) {
        print_option('S', "socket", "PATH", "the service's socket (else $SPARK_SOCKET, else " SPARK_SOCKET_DEFAULT ")");
        print_option(0, "json", NULL, "answer as one JSON object; errors too");
        print_option(0, "ask-password", NULL, "a person may be asked for what you may not do (default: on a terminal)");
        print_option(0, "no-ask-password", NULL, "nobody is asked");
        print_option('h', "help", NULL, "this text");
}

static int print_help(const struct option_spec *spec) {
        (void)printf("Usage: sparkctl %s%s%s\n\n%s", spec->verb, *spec->usage ? " " : "", spec->usage, spec->text);
        if (spec->options && spec->options->name)
                (void)printf("\nOptions:\n");
        for (const struct option *o = spec->options; o && o->name; o++)
                print_option(o->letter, o->name, o->argument, o->help);
        (void)printf("\nGlobal options:\n");
        options_print_global_help();
        return EXIT_DONE;
}

static int print_version(void) {
        (void)printf("sparkctl %s\n", SPARK_VERSION);
        return EXIT_DONE;
}

int options_parse(struct ctl *ctl, const struct option_spec *spec, int argc, char **argv,
                  struct string_list *ret_arguments) {
        struct parser p = { .ctl = ctl, .verb = spec->verb, .options = spec->options, .argc = argc, .argv = argv,
                            .i = 1 };
        int status;

        status = parse(&p, false, ret_arguments);
        if (status >= 0)
                return status;
        if (p.help || p.version)
                string_list_deinit(ret_arguments); /* nothing is to be done with them */
        if (p.help)
                return print_help(spec);
        if (p.version)
                return print_version();
        if (ret_arguments->n < spec->min_arguments)
                return ctl_fail_usage(ctl, spec->verb, "Something is missing: sparkctl %s %s", spec->verb, spec->usage);
        if (ret_arguments->n > spec->max_arguments)
                return ctl_fail_usage(ctl, spec->verb, "'%s' is one argument too many (quote a text that has blanks).",
                                      ret_arguments->items[spec->max_arguments]);
        return -1;
}

int options_parse_bare(struct ctl *ctl, const struct option_spec *spec, int argc, char **argv) {
        struct string_list none = { 0 };
        int status = options_parse(ctl, spec, argc, argv, &none);

        string_list_deinit(&none);
        return status;
}

int options_parse_global(struct ctl *ctl, int argc, char **argv, int *ret_first) {
        struct parser p = { .ctl = ctl, .argc = argc, .argv = argv, .i = 1 };
        struct string_list none = { 0 }; /* the first argument ends it */
        int status;

        status = parse(&p, true, &none);
        if (status >= 0)
                return status;
        if (p.version)
                return print_version();
        *ret_first = p.help ? p.argc : p.i;
        return -1;
}

bool parse_size(const char *text, uint64_t *ret) {
        static const char units[] = "KMGT";
        size_t digits = strspn(text, "0123456789"), n = digits;
        const char *unit;
        double value = 0, place = 0.1;

        if (digits == 0 || digits > 16)
                return false;
        if (text[n] == '.') {
                size_t fraction = strspn(text + n + 1, "0123456789");

                if (fraction == 0 || fraction > 16)
                        return false;
                n += 1 + fraction;
        }
        unit = text[n] ? strchr(units, text[n]) : NULL;
        if (text[n] && (!unit || text[n + 1]))
                return false;
        if (!unit && n > digits)
                return false;
        for (size_t i = 0; i < digits; i++)
                value = value * 10 + (text[i] - '0');
        for (size_t i = digits + 1; i < n; i++) {
                value += (text[i] - '0') * place;
                place /= 10;
        }
        for (const char *u = units; unit && u <= unit; u++)
                value *= 1024;
        if (value < 1 || value > (double)(1ull << 50))
                return false;
        *ret = (uint64_t)value;
        return true;
}
