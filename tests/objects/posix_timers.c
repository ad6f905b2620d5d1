/* POSIX timers: with holes in their ids, on several clocks, for a signal to the process, to one thread, and for none; one has
 * overrun while its signal was blocked. Verified: ids, time left, interval, overrun, the payload. */
#include "object.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static int make(clockid_t clock, int notify, int signal, int value) {
    struct sigevent event = {.sigev_notify = notify, .sigev_signo = signal, .sigev_value.sival_int = value};
    if (notify == SIGEV_THREAD_ID) event.sigev_notify_thread_id = gettid();
    int id = -1;
    NEED(syscall(SYS_timer_create, clock, &event, &id) == 0);
    return id;
}
static void arm(int id, long value_ms, long interval_ms) {
    struct itimerspec set = {{interval_ms / 1000, interval_ms % 1000 * 1000000}, {value_ms / 1000, value_ms % 1000 * 1000000}};
    NEED(syscall(SYS_timer_settime, id, 0, &set, NULL) == 0);
}
static struct itimerspec left(int id) {
    struct itimerspec now;
    verify(syscall(SYS_timer_gettime, id, &now) == 0, "timer %d is gone", id);
    return now;
}

int main(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int none = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
    int hole = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
    int process = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 4711);
    int thread = make(CLOCK_BOOTTIME, SIGEV_THREAD_ID, SIGRTMIN + 1, 4712);
    int idle = make(CLOCK_REALTIME, SIGEV_SIGNAL, SIGUSR1, 1);
    NEED(syscall(SYS_timer_delete, hole) == 0);
    int last = make(CLOCK_PROCESS_CPUTIME_ID, SIGEV_NONE, 0, 0);
    arm(none, 1000000, 2500);
    arm(process, 10, 10);
    arm(thread, 3000, 0);
    arm(last, 500000, 0);
    int64_t start = now_ms(CLOCK_BOOTTIME);
    pause_ms(200);

    ready();

    struct itimerspec now = left(none);
    VERIFY(now.it_interval.tv_sec == 2 && now.it_interval.tv_nsec == 500000000);
    VERIFY(now.it_value.tv_sec > 900 && now.it_value.tv_sec <= 1000);
    now = left(last);
    VERIFY(now.it_value.tv_sec > 490 && now.it_value.tv_sec <= 500);
    now = left(idle);
    VERIFY(now.it_value.tv_sec == 0 && now.it_value.tv_nsec == 0 && now.it_interval.tv_sec == 0);
    VERIFY(syscall(SYS_timer_gettime, hole, &now) == -1 || hole == last);
    siginfo_t info;
    struct timespec soon = {20, 0};
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    VERIFY_EQ(sigtimedwait(&set, &info, &soon), SIGRTMIN);
    VERIFY(info.si_code == SI_TIMER && info.si_value.sival_int == 4711);
    /* At least what had run over before the move. */
    verify(info.si_overrun >= 15, "overrun %d", info.si_overrun);
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    VERIFY_EQ(sigtimedwait(&set, &info, &soon), SIGRTMIN + 1);
    VERIFY_EQ(info.si_value.sival_int, 4712);
    VERIFY(now_ms(CLOCK_BOOTTIME) - start >= 2999);
    VERIFY(syscall(SYS_timer_delete, process) == 0);
    return verified();
}
