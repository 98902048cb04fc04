/* SPDX-License-Identifier: Apache-2.0 */

/*
 * spark-bench load: how fast a model gets into memory, against what the disk gives. By turns, the files are read whole
 * with O_DIRECT and a deep queue into buffers that nobody looks at, and loaded into memfds by a child of ours, whose
 * private memory is watched. Neither may leave the files in the page cache, and what is there at first is dropped. With --pack, each
 * round also packs the model into a file, and loads that.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/macro.h"
#include "base/splitname.h"
#include "bench.h"
#include "daemon/loader/load.h"
#include "measure.h"
#include "modeldir.h"

#define DEPTH 32u
#define BLOCK (1u << 20)
#define ROUNDS_MAX 20u

struct options {
        const char *model, *pack;
        unsigned rounds;
        bool json, lossless;
};

struct figures {
        struct samples read_s, load_s, pack_s, packed_s; /* packed: loading what was packed */
        uint64_t packed_bytes;
        uint64_t bytes;      /* of the files */
        uint64_t anon_peak;  /* private memory of the loading process, above what it had before */
        uint64_t cached;     /* bytes of the files that were in the page cache after a load, at most */
};

static int say(const char *what, int r) {
        (void)fprintf(stderr, "spark-bench: load: %s: %s\n", what, strerror(-r));
        return 1;
}

/* ---- reading ---- */

static int submit(struct io_uring *ring, int fd, char *buffers, unsigned slot, uint64_t offset) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

        if (!sqe)
                return -EBUSY;
        io_uring_prep_read(sqe, fd, buffers + (size_t)slot * BLOCK, BLOCK, offset);
        sqe->user_data = slot;
        return 0;
}

static int read_blocks(struct io_uring *ring, int fd, char *buffers, uint64_t size) {
        uint64_t next = 0;
        unsigned in_flight = 0;
        int r = 0;

        for (unsigned i = 0; i < DEPTH && next < size && !r; i++, next += BLOCK, in_flight++)
                r = submit(ring, fd, buffers, i, next);
        while (in_flight > 0) {
                struct io_uring_cqe *cqe;
                unsigned slot;
                int e = io_uring_submit_and_wait(ring, 1);

                if (e < 0)
                        return e;
                e = io_uring_wait_cqe(ring, &cqe);
                if (e < 0)
                        return e;
                slot = (unsigned)cqe->user_data;
                r = r ? r : cqe->res < 0 ? cqe->res : 0;
                io_uring_cqe_seen(ring, cqe);
                in_flight--;
                if (r || next >= size)
                        continue;
                r = submit(ring, fd, buffers, slot, next);
                next += BLOCK;
                in_flight += !r;
        }
        return r;
}

/* The whole file, once. Adds its size to *bytes. */
static int read_file(const char *path, uint64_t *bytes) {
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
        struct io_uring ring;
        struct stat st;
        void *buffers;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        buffers = mmap(NULL, (size_t)DEPTH * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (buffers == MAP_FAILED)
                return -errno;
        r = io_uring_queue_init(DEPTH, &ring, 0);
        if (r >= 0) {
                r = read_blocks(&ring, fd, buffers, (uint64_t)st.st_size);
                io_uring_queue_exit(&ring);
        }
        (void)munmap(buffers, (size_t)DEPTH * BLOCK);
        *bytes += (uint64_t)st.st_size;
        return r;
}

/* Of a directory, the files that hold weights. */
static int for_each_shard(DIR *dir, const char *path, int (*fn)(const char *path, uint64_t *bytes), uint64_t *bytes) {
        char name[PATH_MAX];
        unsigned number, count;
        struct dirent *e;
        int r = 0;

        while (r >= 0 && (e = readdir(dir))) { /* NOLINT(concurrency-mt-unsafe) */
                if (strcmp(e->d_name, "model.safetensors") != 0 && !modeldir_shard(e->d_name, &number, &count))
                        continue;
                if ((size_t)snprintf(name, sizeof(name), "%s/%s", path, e->d_name) >= sizeof(name))
                        return -ENAMETOOLONG;
                r = fn(name, bytes);
        }
        return r;
}

static int for_each_file(const char *path, int (*fn)(const char *path, uint64_t *bytes), uint64_t *bytes) {
        char name[PATH_MAX];
        unsigned n = splitname_part(path, 1, name, sizeof(name));
        DIR *dir = opendir(path);
        int r;

        if (dir) {
                r = for_each_shard(dir, path, fn, bytes);
                (void)closedir(dir);
                return r;
        }
        r = n ? 0 : fn(path, bytes);

        for (unsigned i = 1; i <= n && r >= 0; i++) {
                (void)splitname_part(path, i, name, sizeof(name));
                r = fn(name, bytes);
        }
        return r;
}

/* ---- the page cache ---- */

static int drop_file(const char *path, uint64_t *bytes) {
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);

        if (fd < 0)
                return -errno;
        return -posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

static int count_cached(const char *path, uint64_t *bytes) {
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        _cleanup_free_ unsigned char *pages = NULL;
        struct stat st;
        size_t n;
        void *p;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        n = ((size_t)st.st_size + 4095) / 4096;
        pages = malloc(n + 1);
        p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (!pages || p == MAP_FAILED)
                return -ENOMEM;
        if (mincore(p, (size_t)st.st_size, pages) == 0)
                for (size_t i = 0; i < n; i++)
                        *bytes += (pages[i] & 1u) * 4096ull;
        (void)munmap(p, (size_t)st.st_size);
        return 0;
}

/* ---- loading ---- */

/* What a child does: loads a model, or packs it. */
struct task {
        const char *path, *pack;
        bool lossless;
};

static int pack(const struct task *t, struct loader_error *error) {
        _cleanup_fd_ int fd = open(t->pack, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

        return fd < 0 ? -errno : loader_pack_path(t->path, t->lossless, fd, error);
}

/* In the child: says how long it took. */
static void child(const struct task *t, int out) {
        struct loader_error error = { 0 };
        int fds[IMAGE_SEGMENTS_MAX], r;
        double start = measure_now_us(), took;
        size_t n = 0;

        r = t->pack ? pack(t, &error) : loader_load_path_as(t->path, t->lossless, fds, &n, &error);
        took = r ? -1 : (measure_now_us() - start) / 1e6;
        if (r)
                (void)fprintf(stderr, "spark-bench: load: %s\n", r > 0 ? error.text : strerror(-r));
        _exit(write(out, &took, sizeof(took)) == sizeof(took) && !r ? 0 : 65);
}

/* Bytes of anonymous memory that a process has; 0 when it is gone. */
static uint64_t anon_bytes(pid_t pid) {
        char path[64], line[128];
        unsigned long long kib = 0;
        FILE *f;

        (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
        f = fopen(path, "re");
        if (!f)
                return 0;
        while (fgets(line, sizeof(line), f))
                if (strncmp(line, "RssAnon:", 8) == 0)
                        kib = strtoull(line + 8, NULL, 10);
        (void)fclose(f);
        return kib * 1024;
}

static int run_task(const struct task *task, struct figures *f, struct samples *ret_s) {
        uint64_t first, now;
        double took = -1;
        int pipe_fds[2], status, r;
        pid_t pid;

        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return -errno;
        pid = fork();
        if (pid < 0) {
                r = -errno;
                (void)fd_close(pipe_fds[0]);
                (void)fd_close(pipe_fds[1]);
                return r;
        }
        if (pid == 0)
                child(task, pipe_fds[1]);
        (void)fd_close(pipe_fds[1]);
        first = anon_bytes(pid);
        while ((r = waitpid(pid, &status, WNOHANG)) == 0) {
                now = anon_bytes(pid);
                f->anon_peak = MAX(f->anon_peak, now > first ? now - first : 0);
                (void)usleep(5000);
        }
        if (read(pipe_fds[0], &took, sizeof(took)) != sizeof(took))
                took = -1;
        (void)fd_close(pipe_fds[0]);
        if (took < 0)
                return -EIO;
        return samples_add(ret_s, took);
}

static int add_size(const char *path, uint64_t *bytes) {
        struct stat st;

        if (stat(path, &st) < 0)
                return -errno;
        *bytes += (uint64_t)st.st_size;
        return 0;
}

/* Packs, and loads what was packed. */
static int measure_packed(const struct options *o, struct figures *f, uint64_t *cached) {
        const struct task to = { .path = o->model, .pack = o->pack, .lossless = o->lossless }, from = { .path = o->pack };
        int r = run_task(&to, f, &f->pack_s);

        f->packed_bytes = 0;
        if (r >= 0)
                r = add_size(o->pack, &f->packed_bytes);
        if (r >= 0)
                r = run_task(&from, f, &f->packed_s);
        return r < 0 ? r : count_cached(o->pack, cached);
}

static int measure(const struct options *o, struct figures *f) {
        const struct task load = { .path = o->model, .lossless = o->lossless };

        for (unsigned i = 0; i < o->rounds; i++) {
                uint64_t cached = 0, none = 0;
                double start;
                int r;

                r = for_each_file(o->model, drop_file, &none);
                f->bytes = 0;
                start = measure_now_us();
                if (r >= 0)
                        r = for_each_file(o->model, read_file, &f->bytes);
                if (r >= 0)
                        r = samples_add(&f->read_s, (measure_now_us() - start) / 1e6);
                if (r >= 0)
                        r = run_task(&load, f, &f->load_s);
                if (r >= 0 && o->pack)
                        r = measure_packed(o, f, &cached);
                if (r >= 0)
                        r = for_each_file(o->model, count_cached, &cached);
                if (r < 0)
                        return r;
                f->cached = MAX(f->cached, cached);
        }
        return 0;
}

static void report(const struct options *o, struct figures *f) {
        double read_s = samples_quantile(&f->read_s, 0.5), load_s = samples_quantile(&f->load_s, 0.5);
        double pack_s = o->pack ? samples_quantile(&f->pack_s, 0.5) : 0, packed_s = o->pack ? samples_quantile(&f->packed_s, 0.5) : 0;
        double mb = (double)f->bytes / 1e6, packed_mb = (double)f->packed_bytes / 1e6;

        if (o->json)
                (void)printf("{\"bytes\":%llu,\"rounds\":%u,\"read_s\":%.6f,\"load_s\":%.6f,\"load_s_best\":%.6f,"
                             "\"read_bytes_per_s\":%.0f,\"load_bytes_per_s\":%.0f,\"ratio\":%.3f,\"anon_peak_bytes\":%llu,"
                             "\"cached_bytes\":%llu,\"packed_bytes\":%llu,\"pack_s\":%.6f,\"load_packed_s\":%.6f}\n",
                             (unsigned long long)f->bytes, o->rounds, read_s, load_s, samples_quantile(&f->load_s, 0),
                             mb * 1e6 / read_s, mb * 1e6 / load_s, load_s / read_s, (unsigned long long)f->anon_peak,
                             (unsigned long long)f->cached, (unsigned long long)f->packed_bytes, pack_s, packed_s);
        else
                (void)printf("read  %8.0f MB in %6.2f s: %6.0f MB/s\nload  %8.0f MB in %6.2f s: %6.0f MB/s, %.2f times as long "
                             "(medians of %u rounds)\nmemory besides the image: %.0f MB; left in the page cache: %.0f MB\n",
                             mb, read_s, mb / read_s, mb, load_s, mb / load_s, load_s / read_s, o->rounds,
                             (double)f->anon_peak / 1e6, (double)f->cached / 1e6);
        if (o->pack && !o->json)
                (void)printf("pack  %8.0f MB in %6.2f s: %6.0f MB/s of the model\nload of it %3.0f MB in %6.2f s: %6.0f MB/s, %.2f times "
                             "as long as the model's\n", packed_mb, pack_s, mb / pack_s, packed_mb, packed_s, packed_mb / packed_s,
                             packed_s / load_s);
}

static int usage(FILE *out, int status) {
        (void)fprintf(out, "Usage: spark-bench load -m FILE|DIR [-r ROUNDS] [--lossless] [--pack FILE] [--json]\n\n"
                           "By turns reads FILE (all parts of a split one) or DIR's weights with O_DIRECT and loads them into\n"
                           "memory. --lossless: weights in BF16 are coded. --pack FILE: each round also packs the model there and\n"
                           "loads what it packed; the file stays.\n");
        return status;
}

int bench_load_main(int argc, char **argv) {
        static const struct option long_options[] = {
                { "model", required_argument, NULL, 'm' }, { "rounds", required_argument, NULL, 'r' },
                { "json", no_argument, NULL, 'j' },        { "help", no_argument, NULL, 'h' },
                { "lossless", no_argument, NULL, 'l' },    { "pack", required_argument, NULL, 'p' },
                { NULL, 0, NULL, 0 },
        };
        struct options o = { .rounds = 3 };
        struct figures f = { 0 };
        int c, r;

        while ((c = getopt_long(argc, argv, "m:r:h", long_options, NULL)) >= 0) {
                if (c == 'h')
                        return usage(stdout, 0);
                if (c == 'm')
                        o.model = optarg;
                else if (c == 'r')
                        o.rounds = (unsigned)strtoul(optarg, NULL, 10);
                else if (c == 'j')
                        o.json = true;
                else if (c == 'l')
                        o.lossless = true;
                else if (c == 'p')
                        o.pack = optarg;
                else
                        return usage(stderr, 64);
        }
        if (!o.model || optind != argc || o.rounds < 1 || o.rounds > ROUNDS_MAX)
                return usage(stderr, 64);
        r = measure(&o, &f);
        if (r >= 0)
                report(&o, &f);
        samples_deinit(&f.read_s);
        samples_deinit(&f.load_s);
        samples_deinit(&f.pack_s);
        samples_deinit(&f.packed_s);
        return r < 0 ? say(o.model, r) : 0;
}
