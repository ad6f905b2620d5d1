/* Common to the self-verifying programs: each sets a kernel object up, calls ready(), is moved meanwhile (it does not
 * know how often), and then verifies itself. Exit code 0 and "OK": all is as it was. 1: it is not, and why. 2: the
 * program could not set its object up, which says nothing about the move. */
#ifndef OBJECT_H
#define OBJECT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The harness makes this file when the last move is over. */
#define GO_FILE "/tmp/go"

static inline void say(const char *word, const char *format, va_list args) {
    char text[512];
    vsnprintf(text, sizeof text, format, args);
    dprintf(1, "%s%s\n", word, text);
}

/* Verification: ends the program with 1 unless `ok`. */
__attribute__((format(printf, 2, 3))) static inline void verify(int ok, const char *format, ...) {
    if (ok) return;
    va_list args;
    va_start(args, format);
    say("WRONG: ", format, args);
    _exit(1);
}

/* Set-up: ends the program with 2 unless `ok`. */
__attribute__((format(printf, 2, 3))) static inline void need(int ok, const char *format, ...) {
    if (ok) return;
    int error = errno;
    va_list args;
    va_start(args, format);
    say("SET-UP: ", format, args);
    dprintf(1, "SET-UP: errno %d (%s)\n", error, strerror(error));
    _exit(2);
}

#define VERIFY(condition) verify(!!(condition), "%s:%d: %s (errno %d)", __FILE__, __LINE__, #condition, errno)
#define VERIFY_EQ(got, wanted)                                                                                            \
    do {                                                                                                                  \
        long long got_ = (long long)(got), wanted_ = (long long)(wanted);                                                 \
        verify(got_ == wanted_, "%s:%d: %s is %lld, not %lld (errno %d)", __FILE__, __LINE__, #got, got_, wanted_, errno); \
    } while (0)
#define NEED(condition) need(!!(condition), "%s:%d: %s", __FILE__, __LINE__, #condition)

static inline void pause_ms(long ms) {
    struct timespec left = {ms / 1000, (ms % 1000) * 1000000};
    while (nanosleep(&left, &left) == -1 && errno == EINTR) {}
}

static inline int64_t now_ms(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Says that all is set up, and returns after the last move. */
static inline void ready(void) {
    dprintf(1, "READY\n");
    while (access(GO_FILE, F_OK) == -1) pause_ms(2);
}

/* The last line of every main(). */
static inline int verified(void) {
    dprintf(1, "OK\n");
    return 0;
}

/* Waits until a task is asleep in a system call (state S, D or T in /proc). */
static inline void wait_asleep(pid_t tid) {
    char path[64], line[512];
    for (int tries = 0; tries < 5000; tries++) {
        snprintf(path, sizeof path, "/proc/%d/stat", tid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t got = fd == -1 ? -1 : read(fd, line, sizeof line - 1);
        if (fd != -1) close(fd);
        if (got > 0) {
            line[got] = 0;
            char *end = strrchr(line, ')');
            if (end && strchr("SDT", end[2])) return;
        }
        pause_ms(1);
    }
    need(0, "task %d never went to sleep", tid);
}

/* Memory with numbers that follow from a seed, and the check of it. */
static inline void fill(void *at, size_t bytes, uint64_t seed) {
    uint64_t *words = at;
    for (size_t i = 0; i < bytes / 8; i++) {
        uint64_t word = (seed += 0x9e3779b97f4a7c15ULL);
        word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9ULL;
        words[i] = word ^ (word >> 27);
    }
}

static inline int filled(const void *at, size_t bytes, uint64_t seed) {
    const uint64_t *words = at;
    for (size_t i = 0; i < bytes / 8; i++) {
        uint64_t word = (seed += 0x9e3779b97f4a7c15ULL);
        word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9ULL;
        if (words[i] != (word ^ (word >> 27))) return 0;
    }
    return 1;
}

/* A page that parent and children share. */
static inline void *shared_page(void) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    NEED(page != MAP_FAILED);
    return page;
}

#endif
