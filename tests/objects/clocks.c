/* CLOCK_MONOTONIC and CLOCK_BOOTTIME, by the vDSO and by system call. Verified: they never go back and do not jump, although
 * hosts have booted at different times; the processor-time clock has not gone back either. */
#include "object.h"

static int64_t by_call(clockid_t clock) {
    struct timespec now;
    VERIFY(syscall(SYS_clock_gettime, clock, &now) == 0);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static volatile int stop;
static volatile int64_t jump_max;

/* Looks all the time, so that the first look after the move comes at once. */
static void *watch(void *arg) {
    int64_t last = now_ms(CLOCK_MONOTONIC);
    while (!stop) {
        int64_t now = now_ms(CLOCK_MONOTONIC);
        verify(now >= last, "the clock went back by %lld ms", (long long)(last - now));
        if (now - last > jump_max) jump_max = now - last;
        last = now;
    }
    return arg;
}

int main(void) {
    pthread_t watcher;
    int64_t wall = now_ms(CLOCK_REALTIME), monotonic = now_ms(CLOCK_MONOTONIC), boot = now_ms(CLOCK_BOOTTIME);
    NEED(pthread_create(&watcher, NULL, watch, NULL) == 0);

    ready();

    stop = 1;
    pthread_join(watcher, NULL);
    int64_t passed = now_ms(CLOCK_REALTIME) - wall;
    int64_t by_monotonic = now_ms(CLOCK_MONOTONIC) - monotonic, by_boot = now_ms(CLOCK_BOOTTIME) - boot;
    verify(jump_max < 30000, "the clock jumped by %lld ms", (long long)jump_max);
    verify(llabs(by_monotonic - passed) < 2000, "%lld ms passed, %lld by the monotonic clock", (long long)passed, (long long)by_monotonic);
    verify(llabs(by_boot - passed) < 2000, "%lld ms passed, %lld by the boot clock", (long long)passed, (long long)by_boot);
    VERIFY(llabs(by_call(CLOCK_MONOTONIC) - now_ms(CLOCK_MONOTONIC)) < 1000);
    VERIFY(llabs(by_call(CLOCK_BOOTTIME) - now_ms(CLOCK_BOOTTIME)) < 1000);
    return verified();
}
