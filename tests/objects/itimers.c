/* The three interval timers. Verified: ITIMER_REAL fires at its time and with its interval; of the others what is left has
 * not grown and the interval is the same. */
#include "object.h"
#include <sys/time.h>

static volatile int alarms;
static volatile int64_t first_ms;
static void handler(int signal) {
    (void)signal;
    if (!alarms++) first_ms = now_ms(CLOCK_MONOTONIC);
}

int main(void) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    NEED(sigaction(SIGALRM, &action, NULL) == 0);
    struct itimerval real = {{0, 50000}, {3, 500000}}, cpu = {{7, 123000}, {1000, 0}}, left;
    int64_t start = now_ms(CLOCK_MONOTONIC);
    NEED(setitimer(ITIMER_REAL, &real, NULL) == 0);
    NEED(setitimer(ITIMER_VIRTUAL, &cpu, NULL) == 0);
    cpu.it_value.tv_sec = 2000;
    NEED(setitimer(ITIMER_PROF, &cpu, NULL) == 0);

    ready();

    for (int tries = 0; alarms < 3 && tries < 20000; tries++) pause_ms(1);
    VERIFY(alarms >= 3);
    verify(first_ms - start >= 3499, "the first alarm came after %lld ms", (long long)(first_ms - start));
    VERIFY(getitimer(ITIMER_REAL, &left) == 0 && left.it_interval.tv_usec == 50000);
    VERIFY(getitimer(ITIMER_VIRTUAL, &left) == 0);
    VERIFY(left.it_interval.tv_sec == 7 && left.it_interval.tv_usec == 123000 && left.it_value.tv_sec >= 900 && left.it_value.tv_sec <= 1000);
    VERIFY(getitimer(ITIMER_PROF, &left) == 0);
    VERIFY(left.it_interval.tv_sec == 7 && left.it_value.tv_sec >= 1900 && left.it_value.tv_sec <= 2000);
    return verified();
}
