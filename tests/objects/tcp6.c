/* TCP over IPv6: as tcp4.c. */
#include "tcp.h"

int main(void) {
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    return tcp((void *)&any, sizeof any);
}
