/* Refused: a pid namespace inside of the capsule's. */
#include "../object.h"
#include <sched.h>

int main(void) {
    NEED(unshare(CLONE_NEWPID) == 0);
    if (fork() == 0)
        for (;;) pause();
    dprintf(1, "REFUSE namespace %d -1\n", getpid());
    ready();
    return verified();
}
