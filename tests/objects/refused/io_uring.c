/* Refused: io_uring. The last line before READY says what the plan must name: pid and descriptor. */
#include "../object.h"
#include <linux/io_uring.h>

int main(void) {
    struct io_uring_params params = {0};
    int fd = (int)syscall(SYS_io_uring_setup, 4, &params);
    NEED(fd != -1);
    dprintf(1, "REFUSE io_uring %d %d\n", getpid(), fd);
    ready();
    return verified();
}
