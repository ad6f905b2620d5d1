/* epoll with its registrations (level, edge, one-shot; a closed descriptor's duplicate; nested), eventfd as counter and as semaphore,
 * timerfd with what is left and what has run over, signalfd with pending signals. Verified: each reports what it must. */
#include "object.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static void add(int epoll, int fd, uint32_t events, uint64_t data) {
    struct epoll_event event = {.events = events, .data.u64 = data};
    NEED(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

int main(void) {
    int counter = eventfd(7, EFD_NONBLOCK), semaphore = eventfd(3, EFD_SEMAPHORE), quiet = eventfd(0, EFD_NONBLOCK);
    int soon = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), late = timerfd_create(CLOCK_BOOTTIME, 0), over = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    int wall = timerfd_create(CLOCK_REALTIME, 0);
    int level = epoll_create1(EPOLL_CLOEXEC), outer = epoll_create1(0), pair[2];
    NEED(pipe(pair) == 0);
    struct itimerspec in_three = {{0, 0}, {3, 0}}, in_long = {{5, 0}, {5000, 0}}, running = {{0, 10000000}, {0, 1000000}};
    struct itimerspec at_time = {{0, 0}, {time(NULL) + 100000, 0}}, left;
    NEED(timerfd_settime(soon, 0, &in_three, NULL) == 0 && timerfd_settime(late, 0, &in_long, NULL) == 0);
    NEED(timerfd_settime(over, 0, &running, NULL) == 0 && timerfd_settime(wall, TFD_TIMER_ABSTIME, &at_time, NULL) == 0);
    int64_t start = now_ms(CLOCK_MONOTONIC);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN + 2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signals = signalfd(-1, &set, SFD_NONBLOCK);
    NEED(signals != -1);
    union sigval value = {.sival_int = 31337};
    NEED(sigqueue(getpid(), SIGRTMIN + 2, value) == 0 && kill(getpid(), SIGUSR1) == 0);
    add(level, counter, EPOLLIN, 0x1111);
    add(level, quiet, EPOLLIN | EPOLLET, 0x2222);
    add(level, pair[0], EPOLLIN | EPOLLONESHOT | EPOLLRDHUP, 0x3333333333333333ULL);
    add(outer, level, EPOLLIN, 0x4444);
    add(outer, signals, EPOLLIN, 0x5555);
    /* Registered under a number that is closed since; the description lives on in the duplicate. */
    int gone = eventfd(1, 0), kept = dup(gone);
    add(outer, gone, EPOLLIN, 0x6666);
    close(gone);
    pause_ms(100);

    ready();

    uint64_t number;
    struct epoll_event events[8];
    VERIFY_EQ(epoll_wait(level, events, 8, 0), 1);
    VERIFY_EQ(events[0].data.u64, 0x1111);
    int got = epoll_wait(outer, events, 8, 0), seen = 0;
    VERIFY_EQ(got, 3);
    for (int i = 0; i < got; i++) seen |= events[i].data.u64 == 0x4444 ? 1 : events[i].data.u64 == 0x5555 ? 2 : events[i].data.u64 == 0x6666 ? 4 : 8;
    VERIFY_EQ(seen, 7);
    VERIFY(read(counter, &number, 8) == 8 && number == 7);
    VERIFY(read(counter, &number, 8) == -1 && errno == EAGAIN);
    for (int i = 0; i < 3; i++) VERIFY(read(semaphore, &number, 8) == 8 && number == 1);
    VERIFY_EQ(epoll_wait(level, events, 8, 0), 0);
    number = 1;
    VERIFY(write(quiet, &number, 8) == 8 && write(pair[1], "x", 1) == 1);
    VERIFY_EQ(epoll_wait(level, events, 8, 0), 2);
    VERIFY_EQ(epoll_wait(level, events, 8, 0), 0);
    VERIFY(read(kept, &number, 8) == 8 && number == 1);
    VERIFY(timerfd_gettime(late, &left) == 0 && left.it_interval.tv_sec == 5 && left.it_value.tv_sec > 4900 && left.it_value.tv_sec <= 5000);
    VERIFY(timerfd_gettime(wall, &left) == 0 && left.it_value.tv_sec > 99900 && left.it_value.tv_sec <= 100000);
    VERIFY(read(over, &number, 8) == 8);
    verify(number >= 8, "the running timer has fired %llu times", (unsigned long long)number);
    VERIFY(read(soon, &number, 8) == 8 && number == 1);
    VERIFY(now_ms(CLOCK_MONOTONIC) - start >= 2999);
    struct signalfd_siginfo info[4];
    VERIFY_EQ(read(signals, info, sizeof info), 2 * sizeof info[0]);
    VERIFY(info[0].ssi_signo == SIGUSR1 && info[0].ssi_pid == (unsigned)getpid());
    VERIFY(info[1].ssi_signo == (unsigned)SIGRTMIN + 2 && info[1].ssi_int == 31337);
    return verified();
}
