/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The tables of normalization form C, each in ascending order. */

#include <stddef.h>
#include <stdint.h>

struct nfc_class {
        uint32_t first;
        uint32_t last;
        uint8_t order; /* canonical combining class; 0 for characters in no range */
};

struct nfc_parts {
        uint32_t whole;
        uint32_t first;
        uint32_t second; /* 0: there is only one */
};

struct nfc_pair {
        uint32_t first;
        uint32_t second;
        uint32_t whole;
};

extern const struct nfc_class nfc_classes[];
extern const struct nfc_parts nfc_parts[];
extern const struct nfc_pair nfc_pairs[];
extern const size_t nfc_n_classes;
extern const size_t nfc_n_parts;
extern const size_t nfc_n_pairs;
