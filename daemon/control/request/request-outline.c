/* SPDX-License-Identifier: Apache-2.0 */

/* What control looks at in a frame that asks for something, and what can be said of it at once. */

#include <fcntl.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "request-private.h"

const char *request_kind_name(enum request_kind kind) {
        static const char *const names[] = {
                [REQUEST_GENERATE] = "generate",     [REQUEST_CHAT] = "chat",   [REQUEST_TOKENIZE] = "tokenize",
                [REQUEST_DETOKENIZE] = "detokenize", [REQUEST_SCORE] = "score", [REQUEST_LOAD] = "load",
                [REQUEST_UNLOAD] = "unload",         [REQUEST_USAGE] = "usage", [REQUEST_PREWARM] = "prewarm",
                [REQUEST_SESSION_APPEND] = "append", [REQUEST_SESSION] = "session",
                [REQUEST_FORGET] = "forget",        [REQUEST_STORE] = "store",
                [REQUEST_LEASE] = "lease", [REQUEST_LOOK] = "look",
        };

        return names[kind];
}

/* Work on text, which an engine does. False: it is none. */
static bool read_text_work(const Spark__V1__ClientFrame *f, struct request_outline *o) {
        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_GENERATE:
                *o = (struct request_outline){ .kind = REQUEST_GENERATE, .model = f->generate->model,
                                               .input_fd = f->generate->input_fd, .credit = f->generate->credit,
                                               .priority = (int)f->generate->priority,
                                               .session = *f->generate->session };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_CHAT:
                *o = (struct request_outline){ .kind = REQUEST_CHAT, .model = f->chat->model, .credit = f->chat->credit,
                                               .priority = (int)f->chat->priority };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_TOKENIZE:
                *o = (struct request_outline){ .kind = REQUEST_TOKENIZE, .model = f->tokenize->model,
                                               .input_fd = f->tokenize->input_fd };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_DETOKENIZE:
                *o = (struct request_outline){ .kind = REQUEST_DETOKENIZE, .model = f->detokenize->model };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SCORE:
                *o = (struct request_outline){ .kind = REQUEST_SCORE, .model = f->score->model,
                                               .input_fd = f->score->input_fd, .priority = (int)f->score->priority };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_PREWARM:
                *o = (struct request_outline){ .kind = REQUEST_PREWARM, .model = f->prewarm->model,
                                               .input_fd = f->prewarm->input_fd, .priority = (int)f->prewarm->priority,
                                               .share = f->prewarm->share };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_APPEND:
                *o = (struct request_outline){ .kind = REQUEST_SESSION_APPEND, .input_fd = f->session_append->input_fd,
                                               .priority = (int)f->session_append->priority, .session = true };
                break;
        default:
                return false;
        }
        return true;
}

/* What is done to models and sessions, or looked up. False: it is none of that. */
static bool read_other_work(const Spark__V1__ClientFrame *f, struct request_outline *o) {
        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_LOAD:
                *o = (struct request_outline){ .kind = REQUEST_LOAD, .model = f->load->model,
                                               .input_fd = f->load->input_fd };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_UNLOAD:
                *o = (struct request_outline){ .kind = REQUEST_UNLOAD, .model = f->unload->model };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_CREATE:
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_FORK:
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_REWIND:
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_CLOSE:
        case SPARK__V1__CLIENT_FRAME__BODY_SESSIONS:
                *o = (struct request_outline){ .kind = REQUEST_SESSION, .session = true };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_FORGET:
                *o = (struct request_outline){ .kind = REQUEST_FORGET, .session = true };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_USAGE_QUERY:
                *o = (struct request_outline){ .kind = REQUEST_USAGE };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_IMPORT:
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_SHOW:
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_VERIFY:
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_REMOVE:
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_PIN:
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_ALIAS:
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_PACK:
                *o = (struct request_outline){ .kind = REQUEST_STORE, .store = true };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_RESERVE_MEMORY:
        case SPARK__V1__CLIENT_FRAME__BODY_HOLD_WARM:
                *o = (struct request_outline){ .kind = REQUEST_LEASE, .lease = true };
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_STATUS:
        case SPARK__V1__CLIENT_FRAME__BODY_JOBS:
        case SPARK__V1__CLIENT_FRAME__BODY_JOB_CANCEL:
                *o = (struct request_outline){ .kind = REQUEST_LOOK, .look = true };
                break;
        default:
                return false;
        }
        return true;
}

int request_outline_read(const Spark__V1__ClientFrame *f, struct request_outline *o) {
        if (!read_text_work(f, o) && !read_other_work(f, o))
                return REQUEST_E_REFUSED;
        if (!o->model)
                o->model = "";
        if (o->credit == 0)
                o->credit = REQUEST_CREDIT_DEFAULT;
        return 0;
}

int request_check_input(const struct request_outline *o, int fd, struct request_error *error) {
        struct stat st;
        uint64_t size;
        int flags;

        if (!o->input_fd)
                return fd < 0 ? 0 : request_refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                                   "A descriptor was sent along, but input_fd is not set.");
        if (fd < 0)
                return request_refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                      "input_fd is set, but no descriptor was sent along.");
        if (o->kind == REQUEST_LOAD) {
                flags = fcntl(fd, F_GETFL);
                if (flags < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || flags & O_PATH ||
                    (flags & O_ACCMODE) == O_WRONLY)
                        return request_refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                              "input_fd: the descriptor sent along is no regular file open for "
                                              "reading.");
                return 0;
        }
        if (fd_memfd_check_sealed(fd, &size) < 0)
                return request_refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                      "input_fd: the descriptor sent along is no memfd sealed against writing, "
                                      "growing and shrinking.");
        if (size > REQUEST_INPUT_MAX)
                return request_refuse(error, SPARK__V1__ERROR_CODE__INVALID_ARGUMENT,
                                      "input_fd: the input has %llu bytes, at most %llu are taken.",
                                      (unsigned long long)size, (unsigned long long)REQUEST_INPUT_MAX);
        return 0;
}

int request_check_admission(struct manager *m, const struct request_outline *o, struct request_error *error) {
        if (!manager_accepts(m))
                return request_refuse(error, SPARK__V1__ERROR_CODE__STOPPING, "The daemon is shutting down.");
        if (o->share && !policy_may_share(m->config, true))
                return request_refuse(error, SPARK__V1__ERROR_CODE__PERMISSION_DENIED,
                                      "share: nobody may make a prefix public (limits.share_prefixes).");
        return 0;
}
