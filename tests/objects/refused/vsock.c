/* Refused: a socket to the hypervisor's side. */
#include "../object.h"

#ifndef AF_VSOCK
#define AF_VSOCK 40
#endif

int main(void) {
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    NEED(fd != -1);
    dprintf(1, "REFUSE vsock %d %d\n", getpid(), fd);
    ready();
    return verified();
}
