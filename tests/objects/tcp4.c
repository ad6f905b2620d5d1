/* TCP over IPv4: established connections with data queued in both directions, one half closed, one whose client has closed, a
 * listener; options, windows, time stamps. Verified: every byte, the options, and that all goes on. */
#include "tcp.h"

int main(void) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return tcp((void *)&any, sizeof any);
}
