/*
 * Fills the disk of the process it is preloaded into, below the directory that is named by
 * DISK_SHIM_DIRECTORY and while a file `full` is there: a file keeps the blocks that it has, and
 * whatever needs a further one fails with ENOSPC. As on a disk, a write that begins within the last
 * block is cut short at its end.
 *
 * Growth by ftruncate fails too, as on file systems without holes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

_Static_assert(sizeof(off_t) == 8, "offsets of 64 bits are passed to the kernel as one argument");

#define BLOCK 4096
#define NO_END INT64_MAX

static const char *directory;
static char mark[PATH_MAX];

__attribute__((constructor)) static void find_directory(void) {
    directory = getenv("DISK_SHIM_DIRECTORY");
    if (!directory || snprintf(mark, sizeof mark, "%s/full", directory) >= (int)sizeof mark) abort();
}

/* The offset from which on there is no room for a file. */
static off_t room_end(int file) {
    char link[32], path[PATH_MAX];
    struct stat about;
    size_t length = strlen(directory);
    if (access(mark, F_OK) != 0) return NO_END;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t read = readlink(link, path, sizeof path);
    if (read <= (ssize_t)length || memcmp(path, directory, length) != 0 || path[length] != '/') return NO_END;
    if (fstat(file, &about) != 0 || !S_ISREG(about.st_mode)) return NO_END;
    return (about.st_size + BLOCK - 1) / BLOCK * BLOCK;
}

static int no_room(void) {
    errno = ENOSPC;
    return -1;
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off_t at) {
    off_t end = room_end(file);
    if (count > 0 && at >= end) return no_room();
    if ((uint64_t)count > (uint64_t)(end - at)) count = (size_t)(end - at);
    return syscall(SYS_pwrite64, file, bytes, count, at);
}

ssize_t write(int file, const void *bytes, size_t count) {
    off_t end = room_end(file);
    if (end != NO_END) {
        int is_appending = fcntl(file, F_GETFL) & O_APPEND;
        off_t at = lseek(file, 0, is_appending ? SEEK_END : SEEK_CUR);
        if (count > 0 && at >= end) return no_room();
        if ((uint64_t)count > (uint64_t)(end - at)) count = (size_t)(end - at);
    }
    return syscall(SYS_write, file, bytes, count);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    if (room_end(file) == NO_END) return syscall(SYS_writev, file, parts, count);
    for (int at = 0; at < count; at++) {
        if (parts[at].iov_len > 0) return write(file, parts[at].iov_base, parts[at].iov_len);
    }
    return 0;
}

int ftruncate64(int file, off_t length) {
    if (length > room_end(file)) return no_room();
    return (int)syscall(SYS_ftruncate, file, length);
}

int fallocate64(int file, int mode, off_t at, off_t length) {
    off_t end = room_end(file);
    if (!(mode & FALLOC_FL_PUNCH_HOLE) && (at > end || length > end - at)) return no_room();
    return (int)syscall(SYS_fallocate, file, mode, at, length);
}

ssize_t pwrite(int, const void *, size_t, off_t) __attribute__((alias("pwrite64")));
int ftruncate(int, off_t) __attribute__((alias("ftruncate64")));
int fallocate(int, int, off_t, off_t) __attribute__((alias("fallocate64")));
