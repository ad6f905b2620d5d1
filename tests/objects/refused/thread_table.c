/* Refused: a thread with a table of descriptors of its own. */
#include "../object.h"
#include <sched.h>

static volatile int alone;

static void *thread(void *arg) {
    NEED(unshare(CLONE_FILES) == 0);
    alone = gettid();
    for (;;) pause();
    return arg;
}

int main(void) {
    pthread_t other;
    NEED(pthread_create(&other, NULL, thread, NULL) == 0);
    while (!alone) pause_ms(1);
    dprintf(1, "REFUSE descriptors %d -1\n", getpid());
    ready();
    return verified();
}
