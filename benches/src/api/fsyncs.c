/* Preloaded into the server that is measured: counts the fsyncs that the program really makes, and makes each take
 * longer when it is asked to. Both numbers lie in a file that is mapped, so that whoever measures reads and sets them
 * while the program runs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct shared {
    uint64_t fsyncs;
    uint64_t extra_us;
};

static struct shared *shared;

__attribute__((constructor)) static void map(void) {
    const char *path = getenv("ISOBAR_BENCH_FSYNCS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED)
        shared = at;
}

static int counted(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int done = real(fd);
    if (shared) {
        __atomic_fetch_add(&shared->fsyncs, 1, __ATOMIC_RELAXED);
        uint64_t us = __atomic_load_n(&shared->extra_us, __ATOMIC_RELAXED);
        struct timespec extra = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
        if (us)
            nanosleep(&extra, NULL);
    }
    return done;
}

int fsync(int fd) { return counted("fsync", fd); }
int fdatasync(int fd) { return counted("fdatasync", fd); }
