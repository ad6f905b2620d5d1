/* Refused: a raw socket, held by a child. */
#include "../object.h"
#include <netinet/in.h>

int main(void) {
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    NEED(fd != -1);
    pid_t child = fork();
    if (child == 0)
        for (;;) pause();
    close(fd);
    dprintf(1, "REFUSE raw %d %d\n", child, fd);
    ready();
    return verified();
}
