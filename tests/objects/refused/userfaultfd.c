/* Refused: a userfaultfd that the workload holds. */
#include "../object.h"

int main(void) {
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1);
    NEED(fd != -1);
    dprintf(1, "REFUSE userfaultfd %d %d\n", getpid(), fd);
    ready();
    return verified();
}
