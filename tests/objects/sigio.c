/* SIGIO: sockets and a pipe that tell a process, a thread or a group by a signal when there is something to read. Verified: who is
 * told, by which signal, about which descriptor, and that F_GETOWN_EX, F_GETSIG and O_ASYNC say what they said. */
#include "object.h"

static volatile sig_atomic_t told, told_by, told_tid;

static void tell(int signal, siginfo_t *info, void *context) {
    (void)context;
    told_by = info->si_fd;
    told_tid = gettid();
    /* Last: another thread waits for it, and looks at the rest then. */
    __atomic_store_n(&told, signal, __ATOMIC_SEQ_CST);
}

static volatile pid_t other_tid;
static volatile int end;

static void *other(void *arg) {
    other_tid = gettid();
    while (!end) pause_ms(2);
    return arg;
}

static void own(int fd, int type, pid_t pid, int signal) {
    struct f_owner_ex owner = {type, pid};
    NEED(fcntl(fd, F_SETOWN_EX, &owner) == 0);
    NEED(fcntl(fd, F_SETSIG, signal) == 0);
    NEED(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC) == 0);
}

static void check(int writer, int fd, int type, pid_t pid, int signal, pid_t tid) {
    struct f_owner_ex owner = {-1, -1};
    char byte;
    VERIFY(fcntl(fd, F_GETOWN_EX, &owner) == 0);
    VERIFY_EQ(owner.type, type);
    VERIFY_EQ(owner.pid, pid);
    VERIFY_EQ(fcntl(fd, F_GETSIG), signal);
    VERIFY(fcntl(fd, F_GETFL) & O_ASYNC);
    told = 0;
    VERIFY(write(writer, "x", 1) == 1);
    for (int tries = 0; !told && tries < 5000; tries++) pause_ms(1);
    VERIFY_EQ(told, signal ? signal : SIGIO);
    if (signal) VERIFY_EQ(told_by, fd);
    if (tid) VERIFY_EQ(told_tid, tid);
    VERIFY(read(fd, &byte, 1) == 1);
}

int main(void) {
    int tube[2], plain[2], threads[2], groups[2];
    struct sigaction action = {.sa_sigaction = tell, .sa_flags = SA_SIGINFO | SA_RESTART};
    pthread_t thread;
    NEED(sigaction(SIGIO, &action, NULL) == 0 && sigaction(SIGRTMIN + 3, &action, NULL) == 0);
    NEED(sigaction(SIGRTMIN + 4, &action, NULL) == 0);
    NEED(setpgid(0, 0) == 0 || errno == EPERM);
    NEED(pthread_create(&thread, NULL, other, NULL) == 0);
    while (!other_tid) pause_ms(1);
    NEED(pipe(tube) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, plain) == 0);
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, threads) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, groups) == 0);
    own(tube[0], F_OWNER_PID, getpid(), SIGRTMIN + 3);
    own(plain[0], F_OWNER_PID, getpid(), 0);
    own(threads[0], F_OWNER_TID, other_tid, SIGRTMIN + 4);
    own(groups[0], F_OWNER_PGRP, getpgrp(), SIGRTMIN + 3);

    ready();

    for (int round = 0; round < 2; round++) {
        check(tube[1], tube[0], F_OWNER_PID, getpid(), SIGRTMIN + 3, 0);
        check(plain[1], plain[0], F_OWNER_PID, getpid(), 0, 0);
        check(threads[1], threads[0], F_OWNER_TID, other_tid, SIGRTMIN + 4, other_tid);
        check(groups[1], groups[0], F_OWNER_PGRP, getpgrp(), SIGRTMIN + 3, 0);
    }
    end = 1;
    return verified();
}
