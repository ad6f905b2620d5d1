/* Stopped tasks: one by SIGSTOP that was reported, one that was not reported yet, one with a pending signal. Verified: they are still
 * stopped, the report is still to be had once, and SIGCONT wakes them. */
#include "object.h"

int main(void) {
    volatile int *count = shared_page();
    pid_t pids[3];
    int status;
    for (int i = 0; i < 3; i++) {
        pids[i] = fork();
        if (pids[i] == 0)
            for (;;) count[i]++, pause_ms(1);
    }
    for (int i = 0; i < 3; i++) {
        while (!count[i]) pause_ms(1);
        NEED(kill(pids[i], SIGSTOP) == 0);
        wait_asleep(pids[i]);
    }
    NEED(waitpid(pids[0], &status, WUNTRACED) == pids[0] && WIFSTOPPED(status));
    pause_ms(30);
    NEED(kill(pids[2], SIGTERM) == 0);
    int seen[3] = {count[0], count[1], count[2]};

    ready();

    pause_ms(50);
    for (int i = 0; i < 3; i++) verify(count[i] - seen[i] <= 1, "task %d went on by itself", i);
    VERIFY_EQ(waitpid(pids[0], &status, WUNTRACED | WNOHANG), 0);
    VERIFY(waitpid(pids[1], &status, WUNTRACED | WNOHANG) == pids[1] && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    for (int i = 0; i < 3; i++) VERIFY(kill(pids[i], SIGCONT) == 0);
    VERIFY(waitpid(pids[2], &status, 0) == pids[2] && WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    for (int i = 0; i < 2; i++) {
        for (int tries = 0; count[i] <= seen[i] + 1 && tries < 5000; tries++) pause_ms(1);
        VERIFY(count[i] > seen[i] + 1);
        VERIFY(kill(pids[i], SIGKILL) == 0 && waitpid(pids[i], &status, 0) == pids[i]);
    }
    return verified();
}
