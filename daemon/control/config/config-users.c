/* SPDX-License-Identifier: Apache-2.0 */

/*
 * users = ( { user = "alice"; weight = 2; }, { group = "video"; max_priority = "normal"; }, ... ): what single users may
 * have where that differs from `limits`. Names become uids here, when the file is read: later nobody waits for a name
 * service. Of several entries that fit a uid the first one counts.
 */

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>

#include "config-private.h"

#define MEMBERS_MAX 4096u
#define ACCOUNTS_MAX 65536u

#define AT(member) offsetof(struct config_user, member)
#define OWN_NUMBER(key, lowest, highest) \
        { NULL, #key, KEY_NUMBER, AT(key), lowest, highest, CONFIG_UNSET, NULL, NULL }
#define OWN_SIZE(key, lowest, highest) \
        { NULL, #key, KEY_SIZE, AT(key), lowest, highest, CONFIG_UNSET, NULL, NULL }

/* The ranges of the limits are those of their counterparts in `limits`. */
static const struct key user_keys[] = {
        { NULL, "user", KEY_STRING, AT(user), 0, 0, 0, NULL, NULL },
        OWN_NUMBER(uid, 0, UINT32_MAX - 1),
        { NULL, "group", KEY_STRING, AT(group), 0, 0, 0, NULL, NULL },
        OWN_NUMBER(weight, 1, 1000),
        { NULL, "max_priority", KEY_INDEX, AT(max_priority), 1, 3, CONFIG_UNSET, NULL, CONFIG_PRIORITY_WORDS },
        OWN_NUMBER(connections, 1, 1u << 20),
        OWN_NUMBER(requests, 1, 60000),
        OWN_SIZE(bytes, 64u << 10, 1ull << 50),
        OWN_NUMBER(running, 0, 60000),
        OWN_NUMBER(queued, 0, 60000),
        OWN_SIZE(kv, 0, 1ull << 50),
        OWN_NUMBER(tokens_per_day, 0, 1ull << 53),
        { NULL, "import", KEY_INDEX, AT(import), 0, 0, CONFIG_UNSET, NULL, CONFIG_YES_WORDS },
        OWN_SIZE(store_bytes, 0, 1ull << 50),
};

static bool key_is_text(const struct key *k) {
        return k->type == KEY_STRING;
}

static bool key_is_set(const struct config_user *u, const struct key *k) {
        const void *at = (const char *)u + k->offset;

        return key_is_text(k) ? *(char *const *)at != NULL : *(const uint64_t *)at != CONFIG_UNSET;
}

/* ---- who is meant ---- */

static int add_uid(struct config_user *u, uid_t uid) {
        uid_t *uids;

        for (size_t i = 0; i < u->n_uids; i++)
                if (u->uids[i] == uid)
                        return 0;
        if (u->n_uids >= MEMBERS_MAX)
                return -ENOBUFS;
        uids = reallocarray(u->uids, u->n_uids + 1, sizeof(*uids));
        if (!uids)
                return -ENOMEM;
        u->uids = uids;
        u->uids[u->n_uids++] = uid;
        return 0;
}

/* Everybody whose first group it is. */
static int add_accounts_of(struct config_user *u, gid_t gid) {
        const struct passwd *pw;
        int e = 0;

        setpwent();
        for (unsigned i = 0; i < ACCOUNTS_MAX && !e && (pw = getpwent()); i++)
                if (pw->pw_gid == gid)
                        e = add_uid(u, pw->pw_uid);
        endpwent();
        return e;
}

static int find_members(struct reader *r, struct config_user *u, const config_setting_t *s) {
        const struct group *gr = getgrnam(u->group);
        int e = 0;

        if (!gr)
                return config_fault(r, s, "'group': there is no group '%.64s'", u->group);
        for (size_t i = 0; !e && gr->gr_mem[i]; i++) {
                const struct passwd *pw = getpwnam(gr->gr_mem[i]);

                if (pw) /* a group may name people who have gone */
                        e = add_uid(u, pw->pw_uid);
        }
        if (!e)
                e = add_accounts_of(u, gr->gr_gid);
        if (e == -ENOBUFS)
                return config_fault(r, s, "'group': '%.64s' has more than %u members", u->group, MEMBERS_MAX);
        return e;
}

static int find_user(struct reader *r, struct config_user *u, const config_setting_t *s) {
        const struct passwd *pw = getpwnam(u->user);

        if (!pw)
                return config_fault(r, s, "'user': there is no user '%.64s'", u->user);
        return add_uid(u, pw->pw_uid);
}

static int find_uids(struct reader *r, struct config_user *u, const config_setting_t *s) {
        int named = (u->user != NULL) + (u->group != NULL) + (u->uid != CONFIG_UNSET), e;

        if (named != 1)
                return config_fault(r, s, "each of 'users' must say who is meant by one of 'user', 'uid', 'group'");
        if (u->group)
                return find_members(r, u, config_setting_get_member(s, "group"));
        if (u->user)
                e = find_user(r, u, config_setting_get_member(s, "user"));
        else
                e = add_uid(u, (uid_t)u->uid);
        if (e)
                return e;
        for (const struct config_user *other = r->config->users; other < u; other++)
                if (!other->group && other->uids[0] == u->uids[0])
                        return config_fault(r, s, "two of 'users' are uid %u", (unsigned)u->uids[0]);
        return 0;
}

/* ---- reading ---- */

static const struct key *find_key(const char *name) {
        for (size_t i = 0; i < ARRAY_SIZE(user_keys); i++)
                if (strcmp(user_keys[i].name, name) == 0)
                        return &user_keys[i];
        return NULL;
}

static void user_init(struct config_user *u) {
        for (size_t i = 0; i < ARRAY_SIZE(user_keys); i++)
                if (!key_is_text(&user_keys[i]))
                        *(uint64_t *)(void *)((char *)u + user_keys[i].offset) = user_keys[i].initial;
}

static int read_user(struct reader *r, struct config_user *u, config_setting_t *s) {
        int n, e;

        if (!config_setting_is_group(s))
                return config_fault(r, s, "each of 'users' must be a group: { user = ...; ... }");
        n = config_setting_length(s);
        for (int i = 0; i < n; i++) {
                config_setting_t *child = config_setting_get_elem(s, (unsigned)i);
                const struct key *k = find_key(config_setting_name(child));

                if (!k)
                        return config_fault(r, child, "unknown key '%.64s' in 'users'", config_setting_name(child));
                e = config_set_key(r, k, child, u);
                if (e)
                        return e;
        }
        return find_uids(r, u, s);
}

int config_read_users(struct reader *r, config_setting_t *s) {
        struct config *c = r->config;
        int n, e;

        if (!config_setting_is_list(s))
                return config_fault(r, s, "'users' must be a list: users = ( { ... }, ... );");
        n = config_setting_length(s);
        if ((unsigned)n > CONFIG_USERS_MAX)
                return config_fault(r, s, "%d users, at most %u are allowed", n, CONFIG_USERS_MAX);
        c->users = calloc((size_t)n + 1, sizeof(*c->users));
        if (!c->users)
                return -ENOMEM;
        for (int i = 0; i < n; i++) {
                user_init(&c->users[i]);
                c->n_users++;
                e = read_user(r, &c->users[i], config_setting_get_elem(s, (unsigned)i));
                if (e)
                        return e;
        }
        return 0;
}

void config_users_deinit(struct config *c) {
        for (size_t i = 0; i < c->n_users; i++) {
                free(c->users[i].user);
                free(c->users[i].group);
                free(c->users[i].uids);
        }
        free(c->users);
        c->users = NULL;
        c->n_users = 0;
}

const struct config_user *config_find_user(const struct config *c, uid_t uid) {
        for (size_t i = 0; i < c->n_users; i++)
                for (size_t k = 0; k < c->users[i].n_uids; k++)
                        if (c->users[i].uids[k] == uid)
                                return &c->users[i];
        return NULL;
}

/* ---- printing ---- */

void config_print_users(const struct config *c, FILE *out) {
        (void)fputs("users = (", out);
        for (size_t i = 0; i < c->n_users; i++) {
                const struct config_user *u = &c->users[i];

                (void)fputs(i ? ",\n  {" : "\n  {", out);
                for (size_t k = 0; k < ARRAY_SIZE(user_keys); k++) {
                        if (!key_is_set(u, &user_keys[k]))
                                continue;
                        (void)fprintf(out, " %s = ", user_keys[k].name);
                        config_print_value(u, &user_keys[k], out);
                        (void)fputc(';', out);
                }
                (void)fputs(" }", out);
        }
        (void)fputs(c->n_users ? "\n);\n" : ");\n", out);
}
