/* Who shares what: a table shared by two processes (CLONE_FILES), a description inherited by fork, two descriptions of one file.
 * Verified by effect: what one does, the right ones see. Also 900 descriptors at once. */
#include "object.h"
#include <sched.h>
#include <sys/resource.h>

static volatile int *step;
static int file;

static int sharer(void *arg) {
    (void)arg;
    step[1] = 1;
    while (step[0] < 1) pause_ms(1);
    /* Closes a descriptor and opens another in everybody's table. */
    VERIFY(close(500) == 0 && dup2(file, 501) == 501);
    step[1] = 2;
    while (step[0] < 2) pause_ms(1);
    _exit(3);
}

int main(void) {
    step = shared_page();
    file = open("/tmp/object-shared", O_RDWR | O_CREAT, 0600);
    int again = open("/tmp/object-shared", O_RDWR);
    NEED(file != -1 && again != -1 && write(file, "0123456789", 10) == 10);
    for (int fd = 500; fd < 504; fd++)
        if (fd != 501) NEED(dup2(file, fd) == fd);
    struct rlimit limit;
    NEED(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max >= 1600);
    limit.rlim_cur = 1600;
    NEED(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int many[900];
    for (int i = 0; i < 900; i++) {
        int fd = open("/dev/zero", O_RDONLY);
        NEED((many[i] = fcntl(fd, i % 2 ? F_DUPFD_CLOEXEC : F_DUPFD, 600)) == 600 + i);
        close(fd);
    }
    char *stack = malloc(65536);
    pid_t other = clone(sharer, stack + 65536, CLONE_FILES | SIGCHLD, NULL);
    NEED(other != -1);
    pid_t heir = fork();
    if (heir == 0) {
        while (step[0] < 1) pause_ms(1);
        VERIFY(lseek(file, 0, SEEK_CUR) == 3);
        VERIFY(fcntl(500, F_GETFD) == 0);
        _exit(4);
    }
    while (!step[1]) pause_ms(1);

    ready();

    VERIFY(fcntl(500, F_GETFD) == 0 && fcntl(501, F_GETFD) == -1 && fcntl(502, F_GETFD) == 0);
    VERIFY(lseek(file, 3, SEEK_SET) == 3 && lseek(again, 0, SEEK_CUR) == 0 && lseek(503, 0, SEEK_CUR) == 3);
    step[0] = 1;
    while (step[1] < 2) pause_ms(1);
    VERIFY(fcntl(500, F_GETFD) == -1 && fcntl(501, F_GETFD) == 0 && fcntl(503, F_GETFD) == 0);
    int status;
    VERIFY(waitpid(heir, &status, 0) == heir && WIFEXITED(status) && WEXITSTATUS(status) == 4);
    step[0] = 2;
    VERIFY(waitpid(other, &status, 0) == other && WIFEXITED(status) && WEXITSTATUS(status) == 3);
    char byte = 'x';
    for (int i = 0; i < 900; i++)
        VERIFY(read(many[i], &byte, 1) == 1 && byte == 0 && fcntl(many[i], F_GETFD) == (i % 2 ? FD_CLOEXEC : 0));
    return verified();
}
