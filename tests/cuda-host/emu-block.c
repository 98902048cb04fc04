/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Running a grid: blocks one after another, a block's threads as fibers.
 *
 * A fiber runs until its thread meets others or ends, and then switches to the next one that can run: one of its warp first,
 * in the order that was chosen. Whoever is last at a meeting computes for all and goes on itself; so a function of a warp costs
 * 31 switches, and a barrier one for each thread. When nobody can run and not all have ended, they wait for each other for ever,
 * which on a device may be a hang or wrong results, and here is a message and abort().
 *
 * Fibers are made once and loop over the threads they are given. Each has a stack with a page that faults below it.
 */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "emu-private.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define STACK_BYTES (256u * 1024u)
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define STACK_BYTES (64u * 1024u)
#endif
#define SHARED_GUARD 4096u
#define SHARED_BYTES ((EMU_SHARED_MAX + 3u * SHARED_GUARD - 1u) / SHARED_GUARD * SHARED_GUARD) /* with guards */

enum fiber_state {
        FIBER_RUNS = 0,
        FIBER_IN_WARP = 1,
        FIBER_AT_BARRIER = 2,
        FIBER_ENDED = 3,
};

struct copy {
        uint8_t *to;
        const uint8_t *from; /* NULL: zeros */
};

#define COPY_GROUPS 64u

struct fiber {
        struct emu_thread thread; /* first: emu_thread points to it */
        enum fiber_state state;
        struct warp *warp;
        uint32_t place_bit; /* in the warp's order */
        void *sp;
        uint8_t *stack;
        void *fake_stack; /* AddressSanitizer's */
        const struct emu_meeting *meeting;
        uint32_t mask;
        int barrier_value;
        struct copy *copies; /* under way, oldest first */
        uint32_t n_copies, max_copies;
        uint32_t group_end[COPY_GROUPS]; /* commits under way: where in copies each ends */
        uint32_t n_groups;
};

struct warp {
        struct fiber *lane[EMU_WARP];
        void *mine[EMU_WARP];
        uint32_t exists, ended;
        uint32_t waiting;            /* in a meeting */
        const struct emu_meeting *meeting; /* of all that wait, and their mask; NULL: of several */
        uint32_t mask;
        uint32_t ready;              /* bit p: the lane at place p of the order can run */
        uint8_t place[EMU_WARP];     /* of a lane */
        uint8_t lane_at[EMU_WARP];   /* of a place */
        uint32_t next;               /* place to look at first */
};

static struct {
        struct fiber *fibers;
        uint8_t *stacks;
        uint32_t n_made;
        struct warp warps[EMU_BLOCK_MAX / EMU_WARP];
        uint32_t warp_order[EMU_BLOCK_MAX / EMU_WARP];
        uint32_t warp_place; /* in the order, of the one that runs */
        uint32_t n_threads, n_warps, n_alive, n_at_barrier;
        unsigned barrier_sum, barrier_result;
        const struct emu_kernel_call *call;
        bool waited; /* for the grid in front */
        void *main_sp;
        void *main_fake_stack;
        const void *main_stack;
        size_t main_stack_bytes;
        bool from_main;
        uint8_t *shared; /* with guards */
} run;

struct emu_thread *emu_thread;
struct emu_block emu_block;
uint3 blockIdx;
dim3 blockDim, gridDim;

void emu_die(const char *format, ...) {
        va_list args;

        fputs("cuda emulator: ", stderr);
        va_start(args, format);
        vfprintf(stderr, format, args);
        va_end(args);
        if (run.call && emu_thread)
                fprintf(stderr, "\n  thread %u %u %u of block %u %u %u of a kernel with %s", emu_thread->index.x,
                        emu_thread->index.y, emu_thread->index.z, blockIdx.x, blockIdx.y, blockIdx.z,
                        run.call->name);
        fputc('\n', stderr);
        fflush(stderr);
        abort();
}

static struct fiber *fiber_self(void) {
        return (struct fiber *)emu_thread;
}

/* After a switch, on the new stack. */
EMU_ALWAYS_INLINE void switch_arrive(void *fake_stack) {
#ifdef __SANITIZE_ADDRESS__
        const void *bottom;
        size_t bytes;

        __sanitizer_finish_switch_fiber(fake_stack, &bottom, &bytes);
        if (run.from_main) {
                run.main_stack = bottom;
                run.main_stack_bytes = bytes;
        }
#else
        (void)fake_stack;
#endif
        run.from_main = false;
}

EMU_ALWAYS_INLINE void switch_to(void **save, void **fake_stack, struct fiber *to) {
        emu_thread = &to->thread;
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_start_switch_fiber(fake_stack, to->stack, STACK_BYTES);
#endif
        emu_switch(save, to->sp);
        switch_arrive(*fake_stack);
}

static void switch_to_main(struct fiber *from) {
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_start_switch_fiber(&from->fake_stack, run.main_stack, run.main_stack_bytes);
#endif
        emu_switch(&from->sp, run.main_sp);
        switch_arrive(from->fake_stack);
}

/* The next fiber of a warp that can run, or NULL. */
EMU_ALWAYS_INLINE struct fiber *warp_next(struct warp *w) {
        uint32_t from, place;

        if (w->ready == 0)
                return NULL;
        from = w->ready >> w->next << w->next; /* those further on first */
        place = (uint32_t)__builtin_ctz(from ? from : w->ready);
        w->next = (place + 1) % EMU_WARP;
        return w->lane[w->lane_at[place]];
}

static struct fiber *block_next(void) {
        struct fiber *f = warp_next(&run.warps[run.warp_order[run.warp_place]]);

        for (uint32_t i = 1; !f && i < run.n_warps; i++) {
                run.warp_place = (run.warp_place + 1) % run.n_warps;
                f = warp_next(&run.warps[run.warp_order[run.warp_place]]);
        }
        return f;
}

static void die_deadlock(void) {
        char text[1024];
        size_t at = 0;
        unsigned at_barrier = 0, in_warp = 0;
        const struct fiber *shown = NULL;

        for (uint32_t i = 0; i < run.n_threads; i++) {
                at_barrier += run.fibers[i].state == FIBER_AT_BARRIER;
                if (run.fibers[i].state != FIBER_IN_WARP)
                        continue;
                in_warp++;
                if (!shown || (shown->meeting != run.fibers[i].meeting && at < sizeof text / 2))
                        at += (size_t)snprintf(text + at, sizeof text - at, " (thread %u in %s with mask %08x)", i,
                                               run.fibers[i].meeting->name, run.fibers[i].mask);
                shown = &run.fibers[i];
        }
        text[at] = '\0';
        emu_die("deadlock: %u of %u threads at a barrier, %u in a warp's function%s, %u ended", at_barrier, run.n_threads, in_warp,
                text, run.n_threads - run.n_alive);
}

/* The running fiber can't go on, or has ended. */
EMU_ALWAYS_INLINE void fiber_leave(struct fiber *f, enum fiber_state state) {
        struct fiber *next = block_next();

        f->state = state;

        if (next)
                switch_to(&f->sp, &f->fake_stack, next);
        else if (run.n_alive == 0)
                switch_to_main(f);
        else
                die_deadlock();
}

static void barrier_release(void) {
        run.barrier_result = run.barrier_sum;
        run.barrier_sum = 0;
        run.n_at_barrier = 0;
        for (uint32_t i = 0; i < run.n_threads; i++)
                if (run.fibers[i].state == FIBER_AT_BARRIER) {
                        run.fibers[i].state = FIBER_RUNS;
                        run.fibers[i].warp->ready |= run.fibers[i].place_bit;
                }
}

unsigned emu_barrier(int value) {
        struct fiber *f = fiber_self();

        run.barrier_sum += value != 0;
        f->state = FIBER_AT_BARRIER;
        f->warp->ready &= ~f->place_bit;
        if (++run.n_at_barrier == run.n_alive)
                barrier_release();
        else
                fiber_leave(f, FIBER_AT_BARRIER);
        return run.barrier_result;
}

/* Lanes that come to different meetings, or with different masks, that have lanes in common: a mistake. */
static void meet_check(const struct warp *w, const struct fiber *f) {
        for (uint32_t rest = w->waiting & f->mask; rest; rest &= rest - 1) {
                const struct fiber *other = w->lane[__builtin_ctz(rest)];

                if (other->meeting != f->meeting)
                        emu_die("lanes of a warp are in different functions: lane %u in %s, lane %u in %s", f->thread.lane,
                                f->meeting->name, other->thread.lane, other->meeting->name);
                if (other->mask != f->mask)
                        emu_die("%s: lane %u has mask %08x, lane %u %08x", f->meeting->name, f->thread.lane, f->mask,
                                other->thread.lane, other->mask);
        }
}

/* The running lane is at its meeting. Nearly always whoever waits is at the same one; else all are looked at. */
EMU_ALWAYS_INLINE void meet_enter(struct warp *w, const struct fiber *f) {
        if (w->waiting == 0) {
                w->meeting = f->meeting;
                w->mask = f->mask;
        } else if (w->meeting != f->meeting || w->mask != f->mask) {
                meet_check(w, f);
                w->meeting = NULL;
        }
        if (f->mask & w->ended)
                emu_die("%s: lane %d of its mask has ended", f->meeting->name, __builtin_ctz(f->mask & w->ended));
        w->waiting |= 1u << f->thread.lane;
}

/* Bits by lane as bits by place. */
static uint32_t warp_places(const struct warp *w, uint32_t lanes) {
        uint32_t places = 0;

        if (lanes == w->exists)
                return lanes; /* places below the number of lanes */
        for (uint32_t rest = lanes; rest; rest &= rest - 1)
                places |= 1u << w->place[__builtin_ctz(rest)];
        return places;
}

void emu_meet(const struct emu_meeting *meeting, uint32_t mask, void *mine) {
        struct fiber *f = fiber_self();
        struct warp *w = f->warp;
        uint32_t lane = f->thread.lane;

        /* A warp that is not whole has a full mask all the same. */
        f->mask = mask & w->exists;
        if (!(f->mask >> lane & 1u))
                emu_die("%s: lane %u is not in its own mask %08x", meeting->name, lane, mask);
        f->meeting = meeting;
        w->mine[lane] = mine;
        meet_enter(w, f);
        w->ready &= ~f->place_bit;
        if ((w->waiting & f->mask) != f->mask) {
                fiber_leave(f, FIBER_IN_WARP);
                return;
        }
        meeting->compute(w->mine, f->mask);
        w->waiting &= ~f->mask;
        w->ready |= warp_places(w, f->mask);
}

void emu_yield(void) {
        struct fiber *f = fiber_self(), *next = block_next();

        if (next != f)
                switch_to(&f->sp, &f->fake_stack, next);
}

void emu_grid_wait(void) {
        run.waited = true;
}

uint64_t emu_clock(void) {
        struct timespec now;

        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* The place is garbage at once: whoever still reads what was there, or already what will be, sees it. */
void emu_copy_async(void *to, const void *from, int valid) {
        struct fiber *f = fiber_self();
        uint8_t *t = to;

        if ((uintptr_t)to % 16 || (uintptr_t)from % 16)
                emu_die("cp.async: addresses %p and %p must be multiples of 16", to, from);
        if (t < emu_block.shared || t + 16 > emu_block.shared + emu_block.shared_bytes)
                emu_die("cp.async: %p is not in shared memory (%p, %zu bytes)", to, (void *)emu_block.shared, emu_block.shared_bytes);
        if (f->n_copies == f->max_copies) {
                f->max_copies = f->max_copies ? 2 * f->max_copies : 64;
                f->copies = realloc(f->copies, f->max_copies * sizeof *f->copies);
                if (!f->copies)
                        emu_die("out of memory");
        }
        if (valid) { /* read here as well, so that a wrong address shows where it comes from */
                (void)*(const volatile uint64_t *)from;
                (void)*((const volatile uint64_t *)from + 1);
        }
        memset(to, EMU_GARBAGE, 16);
        f->copies[f->n_copies++] = (struct copy){.to = to, .from = valid ? from : NULL};
}

void emu_copy_commit(void) {
        struct fiber *f = fiber_self();

        if (f->n_groups == COPY_GROUPS)
                emu_copy_wait(COPY_GROUPS - 1); /* a device may be as fast */
        f->group_end[f->n_groups++] = f->n_copies;
}

void emu_copy_wait(unsigned pending) {
        struct fiber *f = fiber_self();
        uint32_t n_done, n_copied;

        if (f->n_groups <= pending)
                return;
        n_done = f->n_groups - pending;
        n_copied = f->group_end[n_done - 1];
        for (uint32_t i = 0; i < n_copied; i++)
                if (f->copies[i].from)
                        memcpy(f->copies[i].to, f->copies[i].from, 16);
                else
                        memset(f->copies[i].to, 0, 16);
        f->n_copies -= n_copied;
        if (f->n_copies > 0) /* where nothing was ever copied, copies is NULL */
                memmove(f->copies, f->copies + n_copied, f->n_copies * sizeof *f->copies);
        f->n_groups -= n_done;
        for (uint32_t i = 0; i < f->n_groups; i++)
                f->group_end[i] = f->group_end[i + n_done] - n_copied;
}

/* Not marked as one that does not return: what it says of a stack's end would be wrong. */
static void thread_end(struct fiber *f) {
        struct warp *w = f->warp;

        if (f->n_copies)
                emu_die("a thread ends while %u of its asynchronous copies are under way", f->n_copies);
        for (uint32_t rest = w->waiting; rest; rest &= rest - 1) {
                const struct fiber *other = w->lane[__builtin_ctz(rest)];

                if (other->mask >> f->thread.lane & 1u)
                        emu_die("lane %u ends while lane %u waits for it in %s", f->thread.lane, other->thread.lane,
                                other->meeting->name);
        }
        f->n_groups = 0;
        w->ended |= 1u << f->thread.lane;
        w->ready &= ~f->place_bit;
        run.n_alive--;
        if (run.n_alive && run.n_at_barrier == run.n_alive)
                barrier_release();
        fiber_leave(f, FIBER_ENDED);
}

static void fiber_main(void) {
        switch_arrive(NULL);
        for (;;) {
                run.call->run(run.call->kernel, run.call->args);
                thread_end(fiber_self());
        }
}

/* What emu_switch() takes off a stack: registers, and where to go on. */
static void *fiber_prepare(uint8_t *stack, uint32_t color) {
        /* Not all at the same place of a page, or they would want the same lines of the cache. */
        uintptr_t top = (uintptr_t)stack + STACK_BYTES - color % 32 * 128;
        void **sp;

#if defined(__x86_64__)
        sp = (void **)(top - 64); /* on entry of a function, the pointer is 8 below a multiple of 16 */
        sp[0] = sp[1] = sp[2] = sp[3] = sp[4] = sp[5] = NULL;
        sp[6] = (void *)(uintptr_t)fiber_main;
        sp[7] = NULL;
#else
        sp = (void **)(top - 160);
        memset(sp, 0, 160);
        sp[11] = (void *)(uintptr_t)fiber_main; /* x30 */
#endif
        return sp;
}

static void fibers_make(uint32_t n) {
        const size_t guard = (size_t)sysconf(_SC_PAGESIZE), each = STACK_BYTES + guard;

        if (!run.fibers) {
                run.fibers = calloc(EMU_BLOCK_MAX, sizeof *run.fibers);
                run.stacks = mmap(NULL, each * EMU_BLOCK_MAX, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
                run.shared = aligned_alloc(SHARED_GUARD, SHARED_BYTES);
                if (!run.fibers || run.stacks == MAP_FAILED || !run.shared)
                        emu_die("out of memory");
        }
        for (; run.n_made < n; run.n_made++) {
                struct fiber *f = &run.fibers[run.n_made];

                f->stack = run.stacks + each * run.n_made + guard;
                if (mprotect(f->stack, STACK_BYTES, PROT_READ | PROT_WRITE) < 0)
                        emu_die("out of memory");
                f->sp = fiber_prepare(f->stack, run.n_made);
        }
}

static void warps_set_up(void) {
        uint32_t order[EMU_WARP];

        run.n_warps = (run.n_threads + EMU_WARP - 1) / EMU_WARP;
        emu_order_fill(run.warp_order, run.n_warps);
        run.warp_place = 0;
        for (uint32_t i = 0; i < run.n_warps; i++) {
                struct warp *w = &run.warps[i];
                uint32_t n = run.n_threads - i * EMU_WARP < EMU_WARP ? run.n_threads - i * EMU_WARP : EMU_WARP;

                *w = (struct warp){.exists = n == EMU_WARP ? UINT32_MAX : (1u << n) - 1};
                w->ready = w->exists;
                emu_order_fill(order, n);
                for (uint32_t place = 0; place < n; place++) {
                        w->lane_at[place] = (uint8_t)order[place];
                        w->place[order[place]] = (uint8_t)place;
                }
                for (uint32_t lane = 0; lane < n; lane++)
                        w->lane[lane] = &run.fibers[i * EMU_WARP + lane];
        }
}

static void threads_set_up(dim3 block) {
        for (uint32_t i = 0; i < run.n_threads; i++) {
                struct fiber *f = &run.fibers[i];

                f->thread.index = (uint3){i % block.x, i / block.x % block.y, i / block.x / block.y};
                f->thread.lane = i % EMU_WARP;
                f->warp = &run.warps[i / EMU_WARP];
                f->place_bit = 1u << f->warp->place[i % EMU_WARP];
                f->state = FIBER_RUNS;
        }
}

static void block_run(const struct emu_kernel_call *call, uint3 index) {
        blockIdx = index;
        ASAN_UNPOISON_MEMORY_REGION(emu_block.shared, call->shared_bytes);
        memset(emu_block.shared, EMU_GARBAGE, call->shared_bytes);
        warps_set_up();
        threads_set_up(call->block);
        run.n_alive = run.n_threads;
        run.n_at_barrier = 0;
        run.barrier_sum = 0;
        run.from_main = true;
        switch_to(&run.main_sp, &run.main_fake_stack, block_next());
        emu_thread = NULL;
}

void emu_run_grid(const struct emu_kernel_call *call) {
        uint32_t nx = call->grid.x, ny = call->grid.y, n = nx * ny * call->grid.z, *order = NULL;

        run.n_threads = call->block.x * call->block.y * call->block.z;
        fibers_make(run.n_threads);
        run.call = call;
        run.waited = false;
        blockDim = call->block;
        gridDim = call->grid;
        emu_block = (struct emu_block){.shared = run.shared + SHARED_GUARD, .shared_bytes = call->shared_bytes};
        ASAN_POISON_MEMORY_REGION(run.shared, SHARED_BYTES);
        order = malloc(n * sizeof *order);
        if (!order)
                emu_die("out of memory");
        emu_order_fill(order, n);
        for (uint32_t i = 0; i < n; i++)
                block_run(call, (uint3){order[i] % nx, order[i] / nx % ny, order[i] / nx / ny});
        free(order);
        ASAN_UNPOISON_MEMORY_REGION(run.shared, SHARED_BYTES);
        if (call->dependent && !run.waited)
                emu_die("a kernel that may overlap the one in front never called grid_wait(): %s", call->name);
        run.call = NULL;
}
