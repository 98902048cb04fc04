/* SPDX-License-Identifier: Apache-2.0 */

#include <stdio.h>
#include <string.h>

#include "base/macro.h"
#include "sim-scenario.h"

#define MS 1000000ull
#define SECOND (1000 * MS)

/* --- machines ------------------------------------------------------------------------------------------------------ */

/*
 * A step reads the weights once, and computes for each row. From the figures of the machine: 234 GB/s of reachable
 * bandwidth, 213 TFLOP/s.
 *
 * gb10-70b: 95 GB (70.6 G weights, BF16 coded without loss): 406 ms. A row is 141 GFLOP: 0.66 ms, and 1 ms with the KV of some
 * hundred tokens (320 KiB each) that a decoding one reads. 16 GiB of KV.
 * laptop-8b: 8.5 GB (Q8_0): 36 ms. A row is 16 GFLOP, 0.08 ms, and 0.15 ms with its KV. 8 GiB of KV at 128 KiB.
 * tiny: the bundled model of 4 M weights on two cores, as spark-bench engine measures it.
 */
static const struct sim_machine machines[] = {
        { "gb10-70b", "70B at 16 bit on a GB10", 406 * MS, 1 * MS, 64, 512, 52416, 100000 },
        { "laptop-8b", "8B at 8 bit on a laptop of that kind", 36 * MS, MS * 15 / 100, 64, 512, 65536, 100000 },
        { "tiny", "the bundled model on two cores", MS * 45 / 100, MS * 8 / 100, 64, 512, 262144, 100000 },
        { .name = NULL },
};

const struct sim_machine *sim_machines(void) {
        return machines;
}

const struct sim_machine *sim_machine_find(const char *name) {
        for (const struct sim_machine *m = machines; m->name; m++)
                if (strcmp(m->name, name) == 0)
                        return m;
        return NULL;
}

/* --- populations --------------------------------------------------------------------------------------------------- */

static void add(struct sim_config *c, struct sim_group g) {
        c->groups[c->n_groups++] = g;
}

/* The others are many enough to have something waiting always: that is when shares can be compared. */
static void fill_flood(struct sim_config *c, uint32_t clients) {
        uint32_t others = MAX(clients / 100, 24u), flooding = clients > 7 * others ? clients - 7 * others : 1;

        for (uint32_t i = 0; i < 7; i++)
                add(c, (struct sim_group){ .uid = 1001 + i, .clients = others, .class = SCHEDULE_NORMAL,
                                           .arrivals = SIM_CLOSED, .mean_ns = 1 * SECOND });
        add(c, (struct sim_group){ .uid = 1000, .clients = flooding, .class = SCHEDULE_NORMAL,
                                   .arrivals = SIM_FLOOD, .outstanding = 2 });
}

static void fill_priorities(struct sim_config *c, uint32_t clients) {
        add(c, (struct sim_group){ .uid = 1000, .clients = 4, .class = SCHEDULE_INTERACTIVE, .arrivals = SIM_CLOSED,
                                   .mean_ns = 5 * SECOND, .mix = { 8, 0, 2 } });
        for (uint32_t i = 0; i < 7; i++)
                add(c, (struct sim_group){ .uid = 1001 + i, .clients = MAX(clients / 7, 1u), .arrivals = SIM_FLOOD,
                                           .class = SCHEDULE_BACKGROUND, .outstanding = 2 });
}

static void fill_weights(struct sim_config *c, uint32_t clients) {
        for (uint32_t i = 0; i < 8; i++)
                add(c, (struct sim_group){ .uid = 1000 + i, .clients = MAX(clients / 8, 1u), .class = SCHEDULE_NORMAL,
                                           .weight = 1u << i / 2, .arrivals = SIM_FLOOD, .outstanding = 4 });
}

/* User 1000 has both kinds; of the others one churns and one doesn't. */
static void fill_churn(struct sim_config *c, uint32_t clients) {
        uint32_t n = MAX(clients / 4, 1u);

        for (uint32_t i = 0; i < 4; i++)
                add(c, (struct sim_group){ .uid = 1000 + (i > 1 ? i - 1 : 0), .clients = n, .class = SCHEDULE_NORMAL,
                                           .arrivals = SIM_CLOSED, .churn = i % 2 == 1 });
}

static void fill_equal(struct sim_config *c, uint32_t clients) {
        for (uint32_t i = 0; i < 8; i++)
                add(c, (struct sim_group){ .uid = 1000 + i, .clients = MAX(clients / 8, 1u), .class = SCHEDULE_NORMAL,
                                           .arrivals = SIM_FLOOD, .outstanding = 2 });
}

static const struct sim_scenario scenarios[] = {
        { .name = "flood", .help = "8 users; one floods with nearly all of the clients", .clients = 100000,
          .fill = fill_flood, .jain_least = 0.97 },
        { .name = "priorities", .help = "4 interactive clients against floods in the background", .clients = 1000,
          .fill = fill_priorities, .jain_least = 0.97, .alone = true },
        { .name = "weights", .help = "8 users that flood, with weights of 1, 2, 4 and 8", .clients = 400,
          .fill = fill_weights, .jain_least = 0.97 },
        { .name = "churn", .help = "clients that take a new connection for each request, beside such that keep theirs",
          .clients = 256, .fill = fill_churn, .jain_least = 0.97, .churn = true },
        { .name = "equal", .help = "8 users that want the same", .clients = 512, .fill = fill_equal, .jain_least = 0.99 },
        { .name = NULL },
};

const struct sim_scenario *sim_scenarios(void) {
        return scenarios;
}

const struct sim_scenario *sim_scenario_find(const char *name) {
        for (const struct sim_scenario *s = scenarios; s->name; s++)
                if (strcmp(s->name, name) == 0)
                        return s;
        return NULL;
}

/* --- a group in words ---------------------------------------------------------------------------------------------- */

static bool parse_word(struct sim_group *g, const char *key, const char *value) {
        static const char *const classes[SCHEDULE_CLASSES] = { "background", "normal", "interactive" };
        unsigned long long n = 0;
        int end = 0;

        for (int i = 0; i < SCHEDULE_CLASSES && strcmp(key, "class") == 0; i++) {
                if (strcmp(value, classes[i]) == 0) {
                        g->class = (enum schedule_class)i;
                        return true;
                }
        }
        if (sscanf(value, "%9llu%n", &n, &end) != 1 || value[end])
                return false;
        if (strcmp(key, "user") == 0)
                g->uid = (uint32_t)n;
        else if (strcmp(key, "weight") == 0)
                g->weight = (uint32_t)n;
        else if (strcmp(key, "clients") == 0)
                g->clients = (uint32_t)n;
        else if (strcmp(key, "flood") == 0)
                g->outstanding = (uint32_t)n;
        else if (strcmp(key, "every-ms") == 0 || strcmp(key, "think-ms") == 0)
                g->mean_ns = n * MS;
        else if (strcmp(key, "start-ms") == 0)
                g->start_ns = n * MS;
        else if (strcmp(key, "chat") == 0)
                g->mix[SIM_CHAT] = (uint8_t)MIN(n, 255u);
        else if (strcmp(key, "long") == 0)
                g->mix[SIM_LONG] = (uint8_t)MIN(n, 255u);
        else if (strcmp(key, "short") == 0)
                g->mix[SIM_SHORT] = (uint8_t)MIN(n, 255u);
        else if (strcmp(key, "churn") == 0)
                g->churn = n != 0;
        else
                return false;
        if (strcmp(key, "flood") == 0)
                g->arrivals = SIM_FLOOD;
        else if (strcmp(key, "every-ms") == 0)
                g->arrivals = SIM_OPEN;
        return true;
}

bool sim_group_parse(struct sim_config *c, const char *text) {
        struct sim_group g = { .uid = 1000, .clients = 1, .class = SCHEDULE_NORMAL, .arrivals = SIM_CLOSED };
        char copy[256], *save = NULL;

        if (c->n_groups == SIM_GROUPS_MAX || strlen(text) >= sizeof(copy))
                return false;
        (void)snprintf(copy, sizeof(copy), "%s", text);
        for (char *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
                char *value = strchr(word, '=');

                if (!value)
                        return false;
                *value++ = 0;
                if (!parse_word(&g, word, value))
                        return false;
        }
        add(c, g);
        return true;
}
