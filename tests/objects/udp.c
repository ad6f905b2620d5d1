/* UDP, IPv4 and IPv6: bound, connected, with options. Verified: names, options, and that datagrams go both ways. */
#include "object.h"
#include <netinet/in.h>

static void pair(int family, int *server, int *client) {
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr *any = family == AF_INET ? (void *)&four : (void *)&six;
    socklen_t length = family == AF_INET ? sizeof four : sizeof six;
    NEED((*server = socket(family, SOCK_DGRAM, 0)) != -1 && (*client = socket(family, SOCK_DGRAM | SOCK_NONBLOCK, 0)) != -1);
    NEED(bind(*server, any, length) == 0 && getsockname(*server, any, &length) == 0);
    NEED(connect(*client, any, length) == 0);
    int yes = 1;
    NEED(setsockopt(*server, SOL_SOCKET, SO_BROADCAST, &yes, sizeof yes) == 0);
}

static void talk(int server, int client) {
    struct sockaddr_storage from, name;
    socklen_t length = sizeof from, name_length = sizeof name;
    char text[16];
    VERIFY(send(client, "there", 5, 0) == 5);
    VERIFY(recvfrom(server, text, 16, 0, (void *)&from, &length) == 5);
    VERIFY(getsockname(client, (void *)&name, &name_length) == 0 && name_length == length);
    VERIFY(!memcmp(&from, &name, length));
    VERIFY(sendto(server, "back", 4, 0, (void *)&from, length) == 4);
    VERIFY(recv(client, text, 16, 0) == 4);
    int value;
    length = sizeof value;
    VERIFY(getsockopt(server, SOL_SOCKET, SO_BROADCAST, &value, &length) == 0 && value == 1);
    VERIFY(recv(client, text, 16, 0) == -1 && errno == EAGAIN);
}

int main(void) {
    int four[2], six[2];
    pair(AF_INET, &four[0], &four[1]);
    pair(AF_INET6, &six[0], &six[1]);
    talk(four[0], four[1]);
    talk(six[0], six[1]);

    ready();

    talk(four[0], four[1]);
    talk(six[0], six[1]);
    return verified();
}
