/* Threads and a child blocked for ever in system calls: read on a pipe, write on a full one, poll, select, epoll_wait, futex,
 * sigwaitinfo, waitpid, accept, recv, fcntl lock, read on an eventfd. Verified: none has ended by the move, and each ends
 * with the right result when what it waits for comes. */
#include "object.h"
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>

static int to_read[2], full[2], to_poll[2], to_select[2], to_epoll[2], stream[2], counter, listener, locked;
static int word = 3;
static pid_t child;
static char big[1 << 20];
static size_t full_bytes;

static long in_read(void) { char got[8] = {0}; return read(to_read[0], got, 8) == 4 && !memcmp(got, "pipe", 4); }
static long in_write(void) { return write(full[1], big, 1000) == 1000; }
static long in_poll(void) { struct pollfd one = {to_poll[0], POLLIN, 0}; return poll(&one, 1, -1) == 1 && one.revents == POLLIN; }
static long in_select(void) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(to_select[0], &set);
    return select(to_select[0] + 1, &set, NULL, NULL, NULL) == 1;
}
static long in_epoll(void) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x123456789abcdefULL};
    int fd = epoll_create1(0), got;
    epoll_ctl(fd, EPOLL_CTL_ADD, to_epoll[0], &event);
    memset(&event, 0, sizeof event);
    while ((got = epoll_wait(fd, &event, 1, -1)) == -1 && errno == EINTR) {}
    return got == 1 && event.data.u64 == 0x123456789abcdefULL;
}
static long in_futex(void) {
    long got;
    while ((got = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 3, NULL, NULL, 0)) == -1 && errno == EINTR) {}
    return got == 0 || errno == EAGAIN;
}
static long in_sigwait(void) {
    sigset_t set;
    siginfo_t info;
    int got;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    while ((got = sigwaitinfo(&set, &info)) == -1 && errno == EINTR) {}
    return got == SIGRTMIN + 3 && info.si_value.sival_int == 99;
}
static long in_wait(void) { int status; return waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 9; }
static long in_accept(void) { int fd = accept(listener, NULL, NULL); char got; return fd != -1 && read(fd, &got, 1) == 1 && got == 'a'; }
static long in_recv(void) { char got[8]; return recv(stream[0], got, 8, 0) == 6; }
static long in_lock(void) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(locked, F_SETLKW, &lock) == 0;
}
static long in_eventfd(void) { uint64_t got = 0; return read(counter, &got, 8) == 8 && got == 12; }

static struct one {
    const char *name;
    long (*wait)(void);
    volatile pid_t tid;
    volatile long done, right;
} all[] = {
    {"read", in_read, 0, 0, 0}, {"write", in_write, 0, 0, 0}, {"poll", in_poll, 0, 0, 0}, {"select", in_select, 0, 0, 0},
    {"epoll_wait", in_epoll, 0, 0, 0}, {"futex", in_futex, 0, 0, 0}, {"sigwaitinfo", in_sigwait, 0, 0, 0},
    {"waitpid", in_wait, 0, 0, 0}, {"accept", in_accept, 0, 0, 0}, {"recv", in_recv, 0, 0, 0},
    {"fcntl lock", in_lock, 0, 0, 0}, {"eventfd", in_eventfd, 0, 0, 0},
};
#define COUNT (sizeof all / sizeof *all)

static void *thread(void *arg) {
    struct one *self = arg;
    self->tid = gettid();
    self->right = self->wait();
    self->done = 1;
    return NULL;
}

int main(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    sigprocmask(SIG_BLOCK, &set, NULL);
    NEED(pipe(to_read) == 0 && pipe(full) == 0 && pipe(to_poll) == 0 && pipe(to_select) == 0 && pipe(to_epoll) == 0);
    fcntl(full[1], F_SETFL, O_NONBLOCK);
    for (ssize_t got; (got = write(full[1], big, 4096)) > 0;) full_bytes += (size_t)got;
    fcntl(full[1], F_SETFL, 0);
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0);
    NEED((counter = eventfd(0, 0)) != -1);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    NEED((listener = socket(AF_INET, SOCK_STREAM, 0)) != -1);
    NEED(bind(listener, (void *)&address, sizeof address) == 0 && listen(listener, 5) == 0);
    NEED(getsockname(listener, (void *)&address, &length) == 0);

    /* The child holds a lock on the file until it is told to end. */
    int end_child[2], has_lock[2];
    char byte;
    NEED(pipe(end_child) == 0 && pipe(has_lock) == 0);
    NEED((locked = open("/tmp/blocked-lock", O_RDWR | O_CREAT, 0600)) != -1);
    child = fork();
    if (child == 0) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        close(end_child[1]);
        NEED(fcntl(locked, F_SETLK, &lock) == 0);
        NEED(write(has_lock[1], "x", 1) == 1);
        VERIFY(read(end_child[0], &byte, 1) == 1);
        _exit(9);
    }
    NEED(read(has_lock[0], &byte, 1) == 1);
    pthread_t threads[COUNT];
    for (size_t i = 0; i < COUNT; i++) NEED(pthread_create(&threads[i], NULL, thread, &all[i]) == 0);
    for (size_t i = 0; i < COUNT; i++) {
        while (!all[i].tid) pause_ms(1);
        wait_asleep(all[i].tid);
    }

    ready();

    pause_ms(20);
    for (size_t i = 0; i < COUNT; i++) verify(!all[i].done, "%s has ended by itself", all[i].name);
    VERIFY(write(to_read[1], "pipe", 4) == 4);
    while (full_bytes) {
        ssize_t got = read(full[0], big, full_bytes < sizeof big ? full_bytes : sizeof big);
        VERIFY(got > 0);
        full_bytes -= (size_t)got;
    }
    VERIFY(write(to_poll[1], "x", 1) == 1 && write(to_select[1], "x", 1) == 1 && write(to_epoll[1], "x", 1) == 1);
    word = 4;
    VERIFY_EQ(syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0), 1);
    union sigval value = {.sival_int = 99};
    VERIFY(sigqueue(getpid(), SIGRTMIN + 3, value) == 0);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    VERIFY(connect(client, (void *)&address, sizeof address) == 0 && write(client, "a", 1) == 1);
    VERIFY(write(stream[1], "stream", 6) == 6);
    uint64_t twelve = 12;
    VERIFY(write(counter, &twelve, 8) == 8);
    VERIFY(write(end_child[1], "x", 1) == 1);
    for (size_t i = 0; i < COUNT; i++) {
        pthread_join(threads[i], NULL);
        verify(all[i].right, "%s had the wrong result", all[i].name);
    }
    return verified();
}
