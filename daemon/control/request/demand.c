/* SPDX-License-Identifier: Apache-2.0 */

#include "demand.h"
#include "job.h"
#include "manager.h"
#include "session/session-view.h"
#include "store/store.h"
#include "users/policy.h"

static uint32_t demand_if(bool anothers) {
        return RIGHT_BIT(anothers ? RIGHT_MANAGE_MODELS : RIGHT_USE);
}

uint32_t demand_import(struct manager *m, const char *name, bool replace, const struct user *user) {
        return demand_if(user->policy.import < 0 || (replace && store_name_is_anothers(m->store, name, user)));
}

uint32_t demand_remove(struct manager *m, const char *name, const struct user *user) {
        return demand_if(store_name_is_anothers(m->store, name, user));
}

/* Where the configuration leaves it to the privileged; what it forbids to all, it is refused for later. */
static uint32_t demand_by(uint64_t who) {
        return demand_if(who == CONFIG_WHO_PRIVILEGED);
}

uint32_t demand_reserve(const struct config *config) {
        return config->leases.who == CONFIG_WHO_ALL ? RIGHT_BIT(RIGHT_RESERVE_MEMORY) : demand_by(config->leases.who);
}

uint32_t demand_hold(const struct config *config) {
        return demand_by(config->residency.holds);
}

/* Ending a job; none where there is none of this number. */
static uint32_t demand_cancel_job(struct manager *m, uint64_t id, const struct user *user) {
        const struct job *job = jobs_find(&m->jobs, id);

        return demand_if(job && job->uid != user->uid);
}

/* Who may import may verify; whose it is, too. */
static uint32_t demand_verify(struct manager *m, const char *name, const struct user *user) {
        return demand_if(user->policy.import <= 0 && store_is_anothers(m->store, name, user));
}

static uint32_t demand_pin(struct manager *m, const Spark__V1__ModelPin *p, const struct user *user) {
        return demand_if(store_is_anothers(m->store, p->model, user) ||
                         (!p->pinned && store_pin_is_anothers(m->store, p->model, user)));
}

static uint32_t demand_others(bool all) {
        return RIGHT_BIT(all ? RIGHT_OBSERVE_OTHERS : RIGHT_USE);
}

static bool is_anothers(const struct manager *m, const char *session, const struct user *user) {
        const struct session *s = session_find(m->sessions, session);

        return s && session_uid(s) != user->uid;
}

/* What changes or reads models and the store. 0 of anything else. */
static uint32_t demand_on_models(struct manager *m, const struct user *user, const Spark__V1__ClientFrame *f) {
        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_LOAD:
        case SPARK__V1__CLIENT_FRAME__BODY_UNLOAD:
                return RIGHT_BIT(RIGHT_MANAGE_MODELS);
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_IMPORT:
                return demand_import(m, f->model_import->name, f->model_import->replace, user);
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_PACK:
                return demand_import(m, f->model_pack->name, f->model_pack->replace, user);
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_ALIAS:
                return demand_import(m, f->model_alias->alias, f->model_alias->replace, user);
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_REMOVE:
                return demand_remove(m, f->model_remove->model, user);
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_PIN:
                return demand_pin(m, f->model_pin, user);
        case SPARK__V1__CLIENT_FRAME__BODY_MODEL_VERIFY:
                return demand_verify(m, f->model_verify->model, user);
        default:
                return 0;
        }
}

void demand_of_frame(struct manager *m, const struct user *user, const Spark__V1__ClientFrame *f, struct demand *ret) {
        uint32_t required = 0, wanted = 0;
        const char *why = NULL;

        switch (f->body_case) {
        case SPARK__V1__CLIENT_FRAME__BODY_PREWARM:
                if (f->prewarm->share && !policy_may_share(m->config, false))
                        required = RIGHT_BIT(RIGHT_MANAGE_MODELS);
                why = "share";
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_FORGET:
                if (f->forget->all_users)
                        required = RIGHT_BIT(RIGHT_MANAGE_MODELS);
                why = "all_users";
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_RESERVE_MEMORY:
                required = demand_reserve(m->config);
                why = "memory.leases";
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_HOLD_WARM:
                required = demand_hold(m->config);
                why = "residency.holds";
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_JOB_CANCEL:
                required = demand_cancel_job(m, f->job_cancel->job, user);
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_STATUS:
                required = demand_others(f->status->all_users);
                why = "all_users";
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_JOBS:
                required = demand_others(f->jobs->all_users);
                why = "all_users";
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SESSIONS:
                required = demand_others(f->sessions->all_users);
                why = "all_users";
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_USAGE_QUERY:
                required = demand_others(f->usage_query->all_users);
                why = "all_users";
                break;
        case SPARK__V1__CLIENT_FRAME__BODY_SESSION_CLOSE: /* who may not is told that there is none */
                if (is_anothers(m, f->session_close->session, user))
                        wanted = RIGHT_BIT(RIGHT_MANAGE_MODELS);
                break;
        default:
                required = demand_on_models(m, user, f);
                break;
        }
        /* whoever could ask may use the service, or may do so before others, which is more */
        *ret = (struct demand){ .required = required & ~RIGHT_BIT(RIGHT_USE), .wanted = wanted, .why = why };
}
