/* SPDX-License-Identifier: Apache-2.0 */

/* A shared object that is no backend. */

int spark_something_else(void);

__attribute__((visibility("default"))) int spark_something_else(void) {
        return 1;
}
