/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Names of users, each asked for once. Zero-initialise; owns nothing. */

#include <stddef.h>
#include <stdint.h>

#define USER_NAMES_MAX 64u

struct user_names {
        struct {
                uint32_t uid;
                char name[33];
        } known[USER_NAMES_MAX];
        size_t n;
};

/* The user's name, or the number where it has none. Lives until the next call that finds the table full. */
const char *user_name(struct user_names *names, uint32_t uid);
