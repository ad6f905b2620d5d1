/* Threads asleep in system calls with a time limit: nanosleep, clock_nanosleep (absolute and relative, two clocks), poll, select,
 * epoll_wait, futex, sigtimedwait, recv with SO_RCVTIMEO. Verified: each ends by its time-out, not before its time, and not an
 * age after it. The limit is longer than the moves, so that they are caught asleep; being moved twice, restart_syscall too. */
#include "object.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>

#define LIMIT_MS 4000
#define LATE_MAX_MS 60000

static struct timespec limit = {LIMIT_MS / 1000, (LIMIT_MS % 1000) * 1000000};
static int nothing[2], sockets[2];

static int in_nanosleep(void) { return nanosleep(&limit, NULL) == 0; }

static int in_clock(clockid_t clock, int flags) {
    struct timespec at = limit, now;
    if (flags & TIMER_ABSTIME) {
        clock_gettime(clock, &now);
        at.tv_sec += now.tv_sec;
        at.tv_nsec += now.tv_nsec;
        if (at.tv_nsec >= 1000000000) at.tv_sec++, at.tv_nsec -= 1000000000;
    }
    return clock_nanosleep(clock, flags, &at, NULL) == 0;
}
static int in_clock_relative(void) { return in_clock(CLOCK_MONOTONIC, 0); }
static int in_clock_absolute(void) { return in_clock(CLOCK_MONOTONIC, TIMER_ABSTIME); }
static int in_clock_boot(void) { return in_clock(CLOCK_BOOTTIME, TIMER_ABSTIME); }

static int in_poll(void) {
    struct pollfd one = {nothing[0], POLLIN, 0};
    return poll(&one, 1, LIMIT_MS) == 0;
}
static int in_ppoll(void) {
    struct pollfd one = {nothing[0], POLLIN, 0};
    struct timespec left = limit;
    return ppoll(&one, 1, &left, NULL) == 0;
}
static int in_select(void) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(nothing[0], &set);
    struct timeval left = {LIMIT_MS / 1000, (LIMIT_MS % 1000) * 1000};
    return select(nothing[0] + 1, &set, NULL, NULL, &left) == 0;
}
static int in_epoll(void) {
    struct epoll_event event = {.events = EPOLLIN};
    int fd = epoll_create1(0);
    epoll_ctl(fd, EPOLL_CTL_ADD, nothing[0], &event);
    /* epoll_wait is not restarted by the kernel after a stop, on any host: a program has to expect EINTR. */
    int64_t end = now_ms(CLOCK_MONOTONIC) + LIMIT_MS;
    for (;;) {
        int left = (int)(end - now_ms(CLOCK_MONOTONIC));
        int got = epoll_wait(fd, &event, 1, left < 0 ? 0 : left);
        if (got != -1 || errno != EINTR) return got == 0;
    }
}
static int in_futex(void) {
    int word = 5;
    return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 5, &limit, NULL, 0) == -1 && errno == ETIMEDOUT;
}
static int in_condition(void) {
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t never;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&never, &monotonic);
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += LIMIT_MS / 1000;
    pthread_mutex_lock(&mutex);
    int got;
    while ((got = pthread_cond_timedwait(&never, &mutex, &at)) == 0) {}
    return got == ETIMEDOUT;
}
static int in_sigtimedwait(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    int64_t end = now_ms(CLOCK_MONOTONIC) + LIMIT_MS;
    for (;;) {
        int64_t ms = end - now_ms(CLOCK_MONOTONIC);
        struct timespec left = {ms / 1000, (ms % 1000) * 1000000};
        if (ms < 0) left = (struct timespec){0, 0};
        if (sigtimedwait(&set, NULL, &left) != -1) return 0;
        if (errno != EINTR) return errno == EAGAIN;
    }
}
static int in_recv(void) {
    char byte;
    int64_t end = now_ms(CLOCK_MONOTONIC) + LIMIT_MS;
    for (;;) {
        int64_t ms = end - now_ms(CLOCK_MONOTONIC);
        if (ms < 1) ms = 1;
        struct timeval left = {ms / 1000, (ms % 1000) * 1000};
        setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &left, sizeof left);
        if (recv(sockets[0], &byte, 1, 0) != -1) return 0;
        if (errno != EINTR) return errno == EAGAIN;
    }
}

static struct sleeper {
    const char *name;
    int (*sleep)(void);
    volatile pid_t tid;
    volatile int64_t slept_ms;
    volatile int right;
} sleepers[] = {
    {"nanosleep", in_nanosleep, 0, 0, 0},
    {"clock_nanosleep, relative", in_clock_relative, 0, 0, 0},
    {"clock_nanosleep, absolute", in_clock_absolute, 0, 0, 0},
    {"clock_nanosleep, boot time", in_clock_boot, 0, 0, 0},
    {"poll", in_poll, 0, 0, 0},
    {"ppoll", in_ppoll, 0, 0, 0},
    {"select", in_select, 0, 0, 0},
    {"epoll_wait", in_epoll, 0, 0, 0},
    {"futex", in_futex, 0, 0, 0},
    {"a condition", in_condition, 0, 0, 0},
    {"sigtimedwait", in_sigtimedwait, 0, 0, 0},
    {"recv", in_recv, 0, 0, 0},
};
#define COUNT (sizeof sleepers / sizeof *sleepers)

static void *thread(void *arg) {
    struct sleeper *self = arg;
    int64_t start = now_ms(CLOCK_MONOTONIC);
    self->tid = gettid();
    int right = self->sleep();
    self->slept_ms = now_ms(CLOCK_MONOTONIC) - start;
    self->right = right;
    return NULL;
}

int main(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    NEED(pipe(nothing) == 0);
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
    pthread_t threads[COUNT];
    for (size_t i = 0; i < COUNT; i++) NEED(pthread_create(&threads[i], NULL, thread, &sleepers[i]) == 0);
    for (size_t i = 0; i < COUNT; i++) {
        while (!sleepers[i].tid) pause_ms(1);
        wait_asleep(sleepers[i].tid);
    }

    ready();

    for (size_t i = 0; i < COUNT; i++) {
        struct sleeper *one = &sleepers[i];
        pthread_join(threads[i], NULL);
        verify(one->right, "%s did not end by its time-out", one->name);
        verify(one->slept_ms >= LIMIT_MS - 1, "%s ended after %lld ms", one->name, (long long)one->slept_ms);
        verify(one->slept_ms < LIMIT_MS + LATE_MAX_MS, "%s ended only after %lld ms", one->name, (long long)one->slept_ms);
    }
    return verified();
}
