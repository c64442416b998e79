/* Faults of the machine inside the processes of a scene (LD_PRELOAD), for what cannot be done to a machine that others use too.
 *
 * FAULT_CLOCK names a file: from its time of change on, the wall clock is as many seconds ahead as it says (a whole number, which may
 *     be negative): clock_gettime, gettimeofday, time, and the kernel's stamps of what arrived since (SCM_TIMESTAMPNS).
 * FAULT_READ_ONLY names a file, FAULT_FOLDER a folder: while the file exists, nothing below the folder can be written, as after
 *     the kernel remounted a file system for an error: open files too (EROFS).
 *
 * Not seen: what makes system calls of its own (Go, static binaries), timers on CLOCK_REALTIME, and time stamps of files.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define LOOK_NS 1000000L

static int (*real_clock)(clockid_t, struct timespec *);

static struct timespec monotonic(void) {
    struct timespec now;
    if (!real_clock) real_clock = REAL(clock_gettime);
    real_clock(CLOCK_MONOTONIC, &now);
    return now;
}

/* Whether it is time to look at a file again; files are looked at once a millisecond. */
static int due(struct timespec *last) {
    struct timespec now = monotonic();
    if ((now.tv_sec - last->tv_sec) * 1000000000L + now.tv_nsec - last->tv_nsec < LOOK_NS) return 0;
    *last = now;
    return 1;
}

static long step_s;
static struct timespec stepped;

static long step(void) {
    static struct timespec last;
    const char *path = getenv("FAULT_CLOCK");
    struct stat found;
    if (path && !step_s && due(&last) && !stat(path, &found)) {
        char text[32] = {0};
        int file = REAL(open)(path, O_RDONLY | O_CLOEXEC);
        if (file >= 0 && read(file, text, sizeof text - 1) > 0) {
            stepped = found.st_mtim;
            step_s = atol(text);
        }
        if (file >= 0) close(file);
    }
    return step_s;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    if (!real_clock) real_clock = REAL(clock_gettime);
    int code = real_clock(clock, out);
    if (!code && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) out->tv_sec += step();
    return code;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

ssize_t recvmsg(int socket, struct msghdr *message, int flags) {
    ssize_t count = REAL(recvmsg)(socket, message, flags);
    if (count < 0 || !step()) return count;
    for (struct cmsghdr *one = CMSG_FIRSTHDR(message); one; one = CMSG_NXTHDR(message, one)) {
        struct timespec stamp;
        if (one->cmsg_level != SOL_SOCKET || one->cmsg_type != SO_TIMESTAMPNS) continue;
        memcpy(&stamp, CMSG_DATA(one), sizeof stamp);
        if (stamp.tv_sec > stepped.tv_sec || (stamp.tv_sec == stepped.tv_sec && stamp.tv_nsec >= stepped.tv_nsec)) {
            stamp.tv_sec += step_s;
            memcpy(CMSG_DATA(one), &stamp, sizeof stamp);
        }
    }
    return count;
}

/* Whether a path, absolute or relative to the working directory, is below the folder that cannot be written now. */
static int frozen(const char *path) {
    static struct timespec last;
    static int read_only;
    const char *trigger = getenv("FAULT_READ_ONLY"), *folder = getenv("FAULT_FOLDER");
    if (!trigger || !folder) return 0;
    if (due(&last)) read_only = !access(trigger, F_OK);
    return read_only && path && !strncmp(path, folder, strlen(folder));
}

static int frozen_file(int file) {
    char link[64], path[PATH_MAX + 1];
    if (!getenv("FAULT_READ_ONLY")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX);
    if (length < 0) return 0;
    path[length] = 0;
    return frozen(path);
}

#define REFUSE(condition) if (condition) { errno = EROFS; return -1; }
#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        REFUSE(WRITES(flags) && frozen(path)) \
        return REAL(name)(path, flags, mode); \
    }
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        REFUSE(WRITES(flags) && frozen(path)) \
        return REAL(name)(folder, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int file, const void *data, size_t count) { REFUSE(frozen_file(file)) return REAL(write)(file, data, count); }
ssize_t writev(int file, const struct iovec *data, int count) { REFUSE(frozen_file(file)) return REAL(writev)(file, data, count); }
int ftruncate(int file, off_t length) { REFUSE(frozen_file(file)) return REAL(ftruncate)(file, length); }
int ftruncate64(int file, off64_t length) { REFUSE(frozen_file(file)) return REAL(ftruncate64)(file, length); }
int mkdir(const char *path, mode_t mode) { REFUSE(frozen(path)) return REAL(mkdir)(path, mode); }
int rmdir(const char *path) { REFUSE(frozen(path)) return REAL(rmdir)(path); }
int unlink(const char *path) { REFUSE(frozen(path)) return REAL(unlink)(path); }
int rename(const char *from, const char *to) { REFUSE(frozen(from) || frozen(to)) return REAL(rename)(from, to); }
