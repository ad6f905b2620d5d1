/* Multicast: groups that sockets have joined, IPv4 and IPv6, one with a filter of sources; the device, hop limit and loop of what they
 * send. Verified: the options, and that each socket still receives from its own groups and from no other (IPv6: that it is a member
 * still; the loopback device has no way to IPv6 groups). */
#include "object.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>

static const char *const ONE = "239.77.0.1", *const OTHER = "239.77.0.2", *const SIX = "ff11::77:1";

static int get(int fd, int level, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    VERIFY(getsockopt(fd, level, name, &value, &length) == 0);
    return value;
}

static void set(int fd, int level, int name, int value) { need(setsockopt(fd, level, name, &value, sizeof value) == 0, "option %d/%d", level, name); }

static int received(int fd) {
    char text[16];
    struct pollfd waits = {fd, POLLIN, 0};
    if (poll(&waits, 1, 200) != 1) return 0;
    VERIFY(recv(fd, text, sizeof text, 0) == 5);
    return 1;
}

static int receiver4(in_port_t port, const char *group, const char *source) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = port};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    NEED(fd != -1);
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    set(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0);
    NEED(bind(fd, (void *)&name, sizeof name) == 0);
    struct ip_mreq_source mreq = {.imr_interface.s_addr = htonl(INADDR_LOOPBACK)};
    inet_aton(group, &mreq.imr_multiaddr);
    if (source) {
        inet_aton(source, &mreq.imr_sourceaddr);
        NEED(setsockopt(fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &mreq, sizeof mreq) == 0);
    } else {
        struct ip_mreq plain = {mreq.imr_multiaddr, mreq.imr_interface};
        NEED(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &plain, sizeof plain) == 0);
    }
    return fd;
}

static void say4(int fd, in_port_t port, const char *group) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = port};
    inet_aton(group, &to.sin_addr);
    VERIFY(sendto(fd, "words", 5, 0, (void *)&to, sizeof to) == 5);
}

int main(void) {
    in_port_t port = htons(7707);
    int one = receiver4(port, ONE, NULL), other = receiver4(port, OTHER, NULL);
    int heard = receiver4(port, ONE, "127.0.0.1"), unheard = receiver4(port, ONE, "127.0.0.9");
    int sender = socket(AF_INET, SOCK_DGRAM, 0), six = socket(AF_INET6, SOCK_DGRAM, 0);
    struct in_addr loopback = {htonl(INADDR_LOOPBACK)};
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = loopback};
    NEED(sender != -1 && six != -1 && bind(sender, (void *)&from, sizeof from) == 0);
    NEED(setsockopt(sender, IPPROTO_IP, IP_MULTICAST_IF, &loopback, sizeof loopback) == 0);
    set(sender, IPPROTO_IP, IP_MULTICAST_TTL, 7);
    struct sockaddr_in6 name = {.sin6_family = AF_INET6, .sin6_port = htons(7708)};
    struct ipv6_mreq mreq = {.ipv6mr_interface = if_nametoindex("lo")};
    inet_pton(AF_INET6, SIX, &mreq.ipv6mr_multiaddr);
    NEED(bind(six, (void *)&name, sizeof name) == 0);
    NEED(setsockopt(six, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &mreq, sizeof mreq) == 0);
    set(six, IPPROTO_IPV6, IPV6_MULTICAST_IF, (int)mreq.ipv6mr_interface);
    set(six, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 9);

    ready();

    VERIFY_EQ(get(sender, IPPROTO_IP, IP_MULTICAST_TTL), 7);
    VERIFY_EQ(get(sender, IPPROTO_IP, IP_MULTICAST_IF), loopback.s_addr);
    VERIFY_EQ(get(one, IPPROTO_IP, IP_MULTICAST_ALL), 0);
    VERIFY_EQ(get(six, IPPROTO_IPV6, IPV6_MULTICAST_IF), if_nametoindex("lo"));
    VERIFY_EQ(get(six, IPPROTO_IPV6, IPV6_MULTICAST_HOPS), 9);
    say4(sender, port, ONE);
    VERIFY(received(one) && received(heard));
    VERIFY(!received(other) && !received(unheard));
    say4(sender, port, OTHER);
    VERIFY(received(other) && !received(one) && !received(heard));
    /* Leaving is refused to who is no member. */
    VERIFY(setsockopt(six, IPPROTO_IPV6, IPV6_DROP_MEMBERSHIP, &mreq, sizeof mreq) == 0);
    NEED(setsockopt(one, IPPROTO_IP, IP_DROP_MEMBERSHIP, &(struct ip_mreq){{inet_addr(ONE)}, loopback}, sizeof(struct ip_mreq)) == 0);
    say4(sender, port, ONE);
    VERIFY(received(heard) && !received(one));
    return verified();
}
