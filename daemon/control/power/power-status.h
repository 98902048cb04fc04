/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Power in answers of the protocol. */

#include "power.h"
#include "spark.pb-c.h"

#define POWER_NOTES_MAX 12u

/* What a PowerInfo points at besides the struct power. */
struct power_view {
        char *notes[POWER_NOTES_MAX];
};

void power_fill_info(struct power *p, struct power_view *v, Spark__V1__PowerInfo *info);
void power_fill_user(const struct power *p, uid_t uid, Spark__V1__UserInfo *info);
