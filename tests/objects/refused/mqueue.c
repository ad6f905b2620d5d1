/* Refused: a POSIX message queue. */
#include "../object.h"
#include <mqueue.h>

int main(void) {
    mqd_t fd = mq_open("/object", O_RDWR | O_CREAT, 0600, NULL);
    NEED(fd != (mqd_t)-1);
    dprintf(1, "REFUSE queue %d %d\n", getpid(), fd);
    ready();
    return verified();
}
