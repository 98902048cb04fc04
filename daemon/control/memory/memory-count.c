/* SPDX-License-Identifier: Apache-2.0 */

/* What there is in the ledger, added up from those who have it. */

#include <string.h>
#include <unistd.h>

#include "keep/keep.h"
#include "manager.h"
#include "model/engine.h"
#include "model/load.h"
#include "shed.h"

static uint64_t less(uint64_t a, uint64_t b) {
        return a > b ? a - b : 0;
}

/* What an engine has touched or a driver has taken for it, which is not among the process's pages. */
static uint64_t taken_by(const struct model *model) {
        bool unified = strcmp(model->facts.placement, "unified") == 0;

        return memory_of_process(model->engine->pid) + (unified ? model->facts.device_bytes : 0);
}

static void count_load(struct memory *mem, const struct load *load) {
        mem->images += load->image_bytes;
        mem->kv += load->plan.kv;
        mem->engine += load->plan.engine;
        mem->touched += load->done_bytes;
        mem->control += memory_of_process(load->pid); /* the loader's buffers */
        mem->untouched += less(load->image_bytes, load->done_bytes) + load->plan.kv + load->plan.engine;
}

/* The pool, or what is left of it for the time being. */
static uint64_t pool_of(const struct model *model) {
        if (model_kv_is_away(model))
                return 0;
        return model->shed.known && model->shed.view.kv == model->facts.kv_bytes ? model->shed.view.kv_limit
                                                                                 : model->facts.kv_bytes;
}

static void count_engine(struct memory *mem, const struct model *model) {
        const struct engine *e = model->engine;
        uint64_t kv = pool_of(model), taken = taken_by(model);

        mem->touched += taken;
        if (strcmp(model->facts.placement, "device") == 0)
                mem->device += model->facts.device_bytes;
        if (model->state != MODEL_READY)
                return;
        mem->kv += kv;
        mem->engine += model->facts.other_bytes;
        mem->untouched += less(kv + model->facts.other_bytes, taken);
        if (model_kv_is_away(model))
                return;
        mem->kv_used += e->kv_used;
        mem->kv_cached += e->kv_cached;
        mem->kv_resident += e->kv_resident;
}

void models_count_memory(struct manager *m) {
        struct memory *mem = &m->memory;
        struct list *pos, *tmp;

        mem->control = memory_of_process(getpid()) + keep_bytes(m->keep);
        mem->images = mem->kv = mem->engine = mem->untouched = mem->touched = mem->device = 0;
        mem->kv_used = mem->kv_cached = mem->kv_resident = 0;
        LIST_FOREACH(pos, tmp, &m->models.list) {
                const struct model *model = LIST_ENTRY(pos, struct model, link);

                if (model->load)
                        count_load(mem, model->load);
                mem->images += model->image_bytes;
                mem->touched += model->image_bytes;
                mem->kv += model->kv_promised;
                mem->engine += model->engine_promised;
                mem->untouched += model->kv_promised + model->engine_promised;
                if (model->engine)
                        count_engine(mem, model);
        }
        memory_look(mem);
        mem->users = m->users.bytes;
        mem->given = shed_bytes(m);
}

void memory_report(struct manager *m, struct memory_report *ret) {
        struct memory *mem = &m->memory;
        uint64_t taken;

        models_count_memory(m);
        *ret = (struct memory_report){
                .available = memory_available(mem),
                .machine_available = memory_machine_available(mem),
                .machine = mem->machine,
                .limit = mem->limit == UINT64_MAX ? 0 : mem->limit,
                .floor = mem->floor,
                .headroom = memory_free_for_us(mem),
                .missing = memory_missing(mem),
                .promised = mem->untouched,
                .given = mem->given,
                .images = mem->images,
                .kv = mem->kv,
                .kv_used = mem->kv_used,
                .kv_cached = mem->kv_cached,
                .kv_resident = mem->kv_resident,
                .engine = mem->engine,
                .control = mem->control,
                .users = mem->users,
                .device = mem->device,
                .ours = mem->touched + mem->control,
        };
        taken = less(ret->machine, ret->machine_available);
        ret->others = less(taken, ret->ours);
        ret->psi_known = psi_read(mem->psi_fd, &ret->psi);
}
