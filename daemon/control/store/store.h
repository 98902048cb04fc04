/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The model store: files that the daemon keeps, by their SHA-256, under names. See docs/store.md for what it promises and
 * store-file.h for what lies on disk. Here is what the rest of control sees: the models of the store stand in the models
 * table like configured ones (struct model with `stored` set), requests about the store are taken up here.
 *
 * Owned by the manager. What is in memory changes only after the disk has it, and changes are made one at a time.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "modeldir.h"
#include "request-error.h"

struct manager;
struct model;
struct request;
struct store;
struct store_op;
struct store_model;
struct user;

/* Starts to look at what is there. 0 or -errno. */
int store_new(struct store **ret, struct manager *m);
/* After the disk and the models table are gone. */
struct store *store_free(struct store *s);
/* Begins what can begin. */
void store_turn(struct store *s);
/* Once a second: gives up workers that do not move. */
void store_tick(struct store *s, uint64_t now_us);

/* A Model* request: taken up in the next turn, which answers it. fds (taken over, on failure too): the descriptors that
 * came along. 0, REQUEST_E_REFUSED with *error filled, or -errno. */
int store_submit(struct store *s, struct request *r, const Spark__V1__ClientFrame *frame, int *fds, size_t n_fds,
                 struct request_error *error);
/* Whoever asked is gone. What has begun to be written down is finished, anything else is given up. */
void store_op_detach(struct store_op *op);

/* The model of the store that goes by this name, alias or "sha256:DIGITS". NULL where there is none; *error is filled
 * where the digits fit several. */
struct model *store_find_model(const struct store *s, const char *name, struct request_error *error);
/* True where there is such a model, and this user has no name for it. */
bool store_is_anothers(const struct store *s, const char *name, const struct user *user);
/* True where the name is another user's; of a digest: where one of its model's names is. */
bool store_name_is_anothers(const struct store *s, const char *name, const struct user *user);
/* True where another user has pinned it. */
bool store_pin_is_anothers(const struct store *s, const char *name, const struct user *user);
/* Its files go by their names, as those of a directory do. */
bool store_is_directory(const struct store_model *stored);
/* Opens a stored model's files for a loader, in the manifest's order: ret_fds [max], owned by the caller; ret_names [max]
 * (NULL where it is no directory). 0, REQUEST_E_REFUSED with *error filled, or -errno. */
int store_open_files(const struct store_model *stored, int *ret_fds, char (*ret_names)[MODELDIR_NAME_MAX], size_t max,
                     size_t *ret_n, struct request_error *error);
/* Brings the names under which models stand in the table in line with the configuration, which goes first. What is in use
 * keeps its name for now. */
void store_yield_names(struct store *s);
/* What its loader said of the model's weights when it came. */
const struct weights *store_weights(const struct store_model *stored);
/* What the store knows of a model, for lists; pointers live until the next turn. */
void store_fill_info(struct store_model *stored, Spark__V1__ModelInfo *info);
