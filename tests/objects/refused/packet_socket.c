/* Refused: a packet socket. */
#include "../object.h"
#include <arpa/inet.h>
#include <linux/if_ether.h>

int main(void) {
    int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    NEED(fd != -1);
    dprintf(1, "REFUSE packet %d %d\n", getpid(), fd);
    ready();
    return verified();
}
