/* A child in sigsuspend() with a temporary mask and one in pause(). Verified: both still wait, the signal gets through by the
 * temporary mask, and the old mask is back afterwards. */
#include "object.h"

static volatile sig_atomic_t got;
static void handler(int signal) { got = signal; }

static void suspended(void) {
    struct sigaction action = {.sa_handler = handler};
    sigset_t blocked, open, now;
    sigaction(SIGUSR1, &action, NULL);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    sigemptyset(&open);
    sigaddset(&open, SIGUSR2);
    VERIFY(sigsuspend(&open) == -1 && errno == EINTR);
    VERIFY_EQ(got, SIGUSR1);
    sigprocmask(SIG_SETMASK, NULL, &now);
    VERIFY(sigismember(&now, SIGUSR1) && sigismember(&now, SIGTERM) && !sigismember(&now, SIGUSR2));
    _exit(11);
}

static void paused(void) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    VERIFY(pause() == -1 && errno == EINTR);
    VERIFY_EQ(got, SIGUSR1);
    _exit(12);
}

int main(void) {
    pid_t one = fork();
    if (one == 0) suspended();
    pid_t other = fork();
    if (other == 0) paused();
    pause_ms(20);
    wait_asleep(one);
    wait_asleep(other);

    ready();

    int status;
    VERIFY_EQ(waitpid(-1, &status, WNOHANG), 0);
    VERIFY(kill(one, SIGUSR1) == 0 && kill(other, SIGUSR1) == 0);
    VERIFY(waitpid(one, &status, 0) == one && WIFEXITED(status));
    VERIFY_EQ(WEXITSTATUS(status), 11);
    VERIFY(waitpid(other, &status, 0) == other && WIFEXITED(status));
    VERIFY_EQ(WEXITSTATUS(status), 12);
    return verified();
}
