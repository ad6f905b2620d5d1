/* Signal actions with flags and masks, a blocked mask, pending signals: standard ones of process and thread, and a queue of
 * real-time signals with payloads. Verified: all of it, and the order and the payload of what was pending. */
#include "object.h"

/* SA_RESTORER, which the C library sets and does not name. */
#define RESTORER 0x04000000

static siginfo_t seen[64];
static volatile sig_atomic_t count;
static void handler(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    if (count < 64) seen[count] = *info;
    count++;
}
static void plain(int signal) { (void)signal; }

int main(void) {
    struct sigaction with_info = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART}, got;
    sigaddset(&with_info.sa_mask, SIGINT);
    sigaddset(&with_info.sa_mask, SIGRTMAX);
    struct sigaction once = {.sa_handler = plain, .sa_flags = SA_RESETHAND | SA_NODEFER};
    for (int i = 0; i < 4; i++) NEED(sigaction(SIGRTMIN + i, &with_info, NULL) == 0);
    NEED(sigaction(SIGUSR1, &with_info, NULL) == 0 && sigaction(SIGUSR2, &with_info, NULL) == 0);
    NEED(sigaction(SIGWINCH, &once, NULL) == 0);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTRAP, SIG_IGN);
    sigset_t mask, now;
    sigemptyset(&mask);
    for (int i = 0; i < 4; i++) sigaddset(&mask, SIGRTMIN + i);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGUSR2);
    sigaddset(&mask, SIGTRAP);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    for (int i = 0; i < 20; i++) {
        union sigval value = {.sival_int = 1000 + i};
        NEED(sigqueue(getpid(), SIGRTMIN + i % 4, value) == 0);
    }
    NEED(kill(getpid(), SIGUSR1) == 0);
    /* To this thread alone. */
    NEED(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR2) == 0);

    ready();

    sigprocmask(SIG_SETMASK, NULL, &now);
    for (int i = 1; i <= SIGRTMAX; i++) verify(sigismember(&now, i) == sigismember(&mask, i), "signal %d in the mask", i);
    for (int i = 0; i < 4; i++) {
        VERIFY(sigaction(SIGRTMIN + i, NULL, &got) == 0);
        VERIFY(got.sa_sigaction == handler && (got.sa_flags & ~RESTORER) == with_info.sa_flags);
        VERIFY(sigismember(&got.sa_mask, SIGINT) && sigismember(&got.sa_mask, SIGRTMAX) && !sigismember(&got.sa_mask, SIGHUP));
    }
    VERIFY(sigaction(SIGWINCH, NULL, &got) == 0 && got.sa_handler == plain);
    VERIFY_EQ(got.sa_flags & ~RESTORER, once.sa_flags);
    VERIFY(sigaction(SIGPIPE, NULL, &got) == 0 && got.sa_handler == SIG_IGN);
    VERIFY(sigaction(SIGTRAP, NULL, &got) == 0 && got.sa_handler == SIG_IGN);
    VERIFY(sigaction(SIGHUP, NULL, &got) == 0 && got.sa_handler == SIG_DFL);
    sigset_t waiting;
    sigpending(&waiting);
    VERIFY(sigismember(&waiting, SIGUSR1) && sigismember(&waiting, SIGUSR2) && sigismember(&waiting, SIGRTMIN));
    VERIFY_EQ(count, 0);
    sigemptyset(&mask);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    VERIFY_EQ(count, 22);
    int next[4] = {1000, 1001, 1002, 1003}, users = 0;
    for (int i = 0; i < count; i++) {
        int number = seen[i].si_signo - SIGRTMIN;
        if (seen[i].si_signo == SIGUSR1) VERIFY(seen[i].si_code == SI_USER && seen[i].si_pid == getpid()), users++;
        else if (seen[i].si_signo == SIGUSR2) VERIFY(seen[i].si_code == SI_TKILL && seen[i].si_pid == getpid()), users++;
        else {
            VERIFY(number >= 0 && number < 4);
            VERIFY(seen[i].si_code == SI_QUEUE && seen[i].si_pid == getpid());
            VERIFY_EQ(seen[i].si_value.sival_int, next[number]);
            next[number] += 4;
        }
    }
    VERIFY_EQ(users, 2);
    return verified();
}
