/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>
#include <string.h>

#include "subverbs.h"

static int print_help(const struct subverbs *s) {
        (void)printf("Usage: sparkctl %s %s\n\n%s\n", s->verb, s->usage, s->text);
        for (size_t i = 0; i < s->n; i++)
                (void)printf("  %-8s %s\n", s->list[i].name, s->list[i].help);
        (void)printf("\n%s`sparkctl %s SUBVERB --help` tells what each takes.\n", s->more ? s->more : "", s->verb);
        return EXIT_DONE;
}

int subverbs_run(const struct subverbs *s, struct ctl *ctl, int argc, char **argv) {
        if (argc < 2)
                return s->missing ? ctl_fail_usage(ctl, s->verb, "%s", s->missing) : s->otherwise(ctl, argc, argv);
        if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
                return print_help(s);
        for (size_t i = 0; i < s->n; i++)
                if (strcmp(argv[1], s->list[i].name) == 0)
                        return s->list[i].run(ctl, argc - 1, argv + 1);
        if (s->missing || argv[1][0] != '-')
                return ctl_fail_usage(ctl, s->verb, "There is no '%s %.100s'.", s->verb, argv[1]);
        return s->otherwise(ctl, argc, argv);
}
