/* SPDX-License-Identifier: Apache-2.0 */

#include <pwd.h>
#include <stdio.h>

#include "ctl.h"
#include "users.h"

const char *user_name(struct user_names *names, uint32_t uid) {
        const struct passwd *pw;
        size_t i;

        for (i = 0; i < names->n; i++)
                if (names->known[i].uid == uid)
                        return names->known[i].name;
        i = MIN(names->n, (size_t)USER_NAMES_MAX - 1);
        names->known[i].uid = uid;
        pw = uid == UINT32_MAX ? NULL : getpwuid(uid);
        if (pw)
                (void)format_safe(pw->pw_name, names->known[i].name, sizeof(names->known[i].name));
        else if (uid == UINT32_MAX) /* what the ledger had no room for, of whomever */
                (void)snprintf(names->known[i].name, sizeof(names->known[i].name), "(others)");
        else
                (void)snprintf(names->known[i].name, sizeof(names->known[i].name), "%u", uid);
        names->n = MAX(names->n, i + 1);
        return names->known[i].name;
}
