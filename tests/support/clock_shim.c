/*
 * Shifts the wall clock of the process it is preloaded into, by as many microseconds as the file
 * named by TOLLGATE_CLOCK_FILE holds in its first eight bytes, and the boot-time clock by those in its
 * next eight. The file is mapped, so a test moves the clock of a running redis-server by writing to it.
 * (libfaketime crashes redis-server.)
 *
 * CLOCK_MONOTONIC is left alone. Nothing here allocates: the allocator itself asks for the time.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shift;

__attribute__((constructor)) static void map_shift(void) {
    const char *path = getenv("TOLLGATE_CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) abort();
    void *mapped = mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) abort();
    shift = mapped;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    if (failed != 0) return -1;
    int is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if ((is_wall || clock == CLOCK_BOOTTIME) && shift) {
        int64_t by = shift[is_wall ? 0 : 1], micros = now->tv_nsec / 1000 + by % 1000000;
        now->tv_sec += by / 1000000 + (micros >= 1000000) - (micros < 0);
        now->tv_nsec = (micros + 1000000) % 1000000 * 1000 + now->tv_nsec % 1000;
    }
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
