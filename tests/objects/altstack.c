/* A thread that is moved while it runs a signal handler on an alternate stack. Verified: the stack's place and flags, that the
 * handler returns to where it was interrupted, and that the stack serves again. */
#include "object.h"

static char *stack;
#define STACK_BYTES (1 << 16)
static volatile int inside, leave, runs;

static int on_it(const void *at) { return (const char *)at >= stack && (const char *)at < stack + STACK_BYTES; }

static void handler(int signal) {
    volatile char here = (char)signal;
    stack_t now;
    verify(on_it((const void *)&here), "the handler is not on its stack");
    runs++;
    inside = 1;
    while (!leave) {}
    VERIFY(sigaltstack(NULL, &now) == 0);
    VERIFY(now.ss_sp == stack && now.ss_size == STACK_BYTES && now.ss_flags == SS_ONSTACK);
    VERIFY_EQ(here, (char)signal);
}

static void *thread(void *arg) {
    stack_t set = {.ss_sp = stack, .ss_size = STACK_BYTES}, now;
    NEED(sigaltstack(&set, NULL) == 0);
    pthread_kill(pthread_self(), SIGUSR1);
    VERIFY(sigaltstack(NULL, &now) == 0);
    VERIFY(now.ss_sp == stack && now.ss_size == STACK_BYTES && now.ss_flags == 0);
    pthread_kill(pthread_self(), SIGUSR1);
    VERIFY_EQ(runs, 2);
    return arg;
}

int main(void) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    NEED((stack = malloc(STACK_BYTES)) != NULL);
    NEED(sigaction(SIGUSR1, &action, NULL) == 0);
    pthread_t other;
    NEED(pthread_create(&other, NULL, thread, NULL) == 0);
    while (!inside) pause_ms(1);

    ready();

    leave = 1;
    VERIFY(pthread_join(other, NULL) == 0);
    return verified();
}
