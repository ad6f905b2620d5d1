/* Refused: a netlink socket that is subscribed to a group: what it would be told is the host's. */
#include "../object.h"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

int main(void) {
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    NEED(fd != -1 && bind(fd, (void *)&address, sizeof address) == 0);
    dprintf(1, "REFUSE netlink %d %d\n", getpid(), fd);
    ready();
    return verified();
}
