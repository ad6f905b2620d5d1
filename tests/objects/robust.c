/* Robust mutexes, within a process and between two. Verified: after the move their owners die, and the next one gets
 * EOWNERDEAD instead of waiting for ever. */
#include "object.h"

static pthread_mutex_t *shared, own;
static volatile int held, leave;

static void robust(pthread_mutex_t *mutex) {
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    NEED(pthread_mutex_init(mutex, &kind) == 0);
}

static void *owner(void *arg) {
    NEED(pthread_mutex_lock(&own) == 0);
    held = 1;
    while (!leave) pause_ms(1);
    return arg;
}

int main(void) {
    shared = shared_page();
    volatile int *child_holds = (volatile int *)(shared + 1);
    robust(shared);
    robust(&own);
    pid_t child = fork();
    if (child == 0) {
        NEED(pthread_mutex_lock(shared) == 0);
        *child_holds = 1;
        for (;;) pause();
    }
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, owner, NULL) == 0);
    while (!held || !*child_holds) pause_ms(1);

    ready();

    VERIFY_EQ(pthread_mutex_trylock(shared), EBUSY);
    VERIFY_EQ(pthread_mutex_trylock(&own), EBUSY);
    leave = 1;
    VERIFY(pthread_join(thread, NULL) == 0);
    VERIFY_EQ(pthread_mutex_lock(&own), EOWNERDEAD);
    kill(child, SIGKILL);
    VERIFY(waitpid(child, NULL, 0) == child);
    VERIFY_EQ(pthread_mutex_lock(shared), EOWNERDEAD);
    VERIFY_EQ(pthread_mutex_consistent(shared), 0);
    return verified();
}
