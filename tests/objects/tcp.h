/* TCP over the loopback device, for both families. */
#include "object.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#define QUEUED 200000
static char block[QUEUED], back[QUEUED];

static int get(int fd, int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    verify(getsockopt(fd, level, name, &value, &length) == 0, "option %d/%d: errno %d", level, name, errno);
    return value;
}
static void set(int fd, int level, int name, int value) { need(setsockopt(fd, level, name, &value, sizeof value) == 0, "option %d/%d", level, name); }

static void read_all(int fd, size_t bytes) {
    size_t total = 0;
    while (total < bytes) {
        ssize_t got = read(fd, back + total, bytes - total);
        verify(got > 0, "after %zu of %zu bytes: %zd (errno %d)", total, bytes, got, errno);
        total += (size_t)got;
    }
    verify(memcmp(back, block, bytes) == 0, "other bytes");
}

static void pair(int listener, const struct sockaddr *address, socklen_t length, int *client, int *server) {
    NEED((*client = socket(address->sa_family, SOCK_STREAM, 0)) != -1);
    need(connect(*client, address, length) == 0, "connect");
    NEED((*server = accept(listener, NULL, NULL)) != -1);
}

static int tcp(const struct sockaddr *any, socklen_t length) {
    struct sockaddr_storage address, name, peer;
    int client, server, half_client, half_server, closed_client, closed_server, ready_client, ready_server;
    fill(block, sizeof block, 1);
    int listener = socket(any->sa_family, SOCK_STREAM, 0);
    NEED(listener != -1);
    set(listener, SOL_SOCKET, SO_REUSEADDR, 1);
    NEED(bind(listener, any, length) == 0 && listen(listener, 16) == 0);
    NEED(getsockname(listener, (void *)&address, &length) == 0);
    pair(listener, (void *)&address, length, &client, &server);
    pair(listener, (void *)&address, length, &half_client, &half_server);
    pair(listener, (void *)&address, length, &closed_client, &closed_server);
    pair(listener, (void *)&address, length, &ready_client, &ready_server);
    set(client, IPPROTO_TCP, TCP_NODELAY, 1);
    set(client, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(client, IPPROTO_TCP, TCP_KEEPIDLE, 77);
    set(client, IPPROTO_TCP, TCP_USER_TIMEOUT, 98765);
    set(client, SOL_SOCKET, SO_OOBINLINE, 1);
    struct linger linger = {1, 9}, linger_now;
    NEED(setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    struct timeval timeout = {12, 345000}, timeout_now;
    NEED(setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) == 0);
    set(server, SOL_SOCKET, SO_RCVBUF, 400000);
    int buffer = get(server, SOL_SOCKET, SO_RCVBUF);
    struct tcp_info info, info_now;
    socklen_t info_length = sizeof info;
    NEED(getsockopt(client, IPPROTO_TCP, TCP_INFO, &info, &info_length) == 0);
    NEED(write(client, block, QUEUED) == QUEUED);
    NEED(write(server, block, 100000) == 100000);
    NEED(write(half_client, block, 5000) == 5000 && shutdown(half_client, SHUT_WR) == 0);
    NEED(write(closed_client, block, 7000) == 7000);
    close(closed_client);

    ready();

    length = sizeof name;
    VERIFY(getsockname(client, (void *)&name, &length) == 0 && getpeername(server, (void *)&peer, &length) == 0);
    VERIFY(memcmp(&name, &peer, length) == 0);
    VERIFY(get(client, IPPROTO_TCP, TCP_NODELAY) == 1 && get(client, SOL_SOCKET, SO_KEEPALIVE) == 1);
    VERIFY_EQ(get(client, IPPROTO_TCP, TCP_KEEPIDLE), 77);
    VERIFY_EQ(get(client, IPPROTO_TCP, TCP_USER_TIMEOUT), 98765);
    VERIFY_EQ(get(client, SOL_SOCKET, SO_OOBINLINE), 1);
    VERIFY_EQ(get(listener, SOL_SOCKET, SO_REUSEADDR), 1);
    socklen_t option = sizeof linger_now;
    VERIFY(getsockopt(client, SOL_SOCKET, SO_LINGER, &linger_now, &option) == 0 && linger_now.l_onoff == 1 && linger_now.l_linger == 9);
    option = sizeof timeout_now;
    VERIFY(getsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &timeout_now, &option) == 0 && timeout_now.tv_sec == 12);
    VERIFY_EQ(get(server, SOL_SOCKET, SO_RCVBUF), buffer);
    option = sizeof info_now;
    VERIFY(getsockopt(client, IPPROTO_TCP, TCP_INFO, &info_now, &option) == 0);
    VERIFY_EQ(info_now.tcpi_options & 7, info.tcpi_options & 7);
    VERIFY_EQ(info_now.tcpi_snd_wscale, info.tcpi_snd_wscale);
    VERIFY_EQ(info_now.tcpi_rcv_wscale, info.tcpi_rcv_wscale);
    verify(info_now.tcpi_snd_mss >= info.tcpi_snd_mss, "segments of %u bytes instead of %u", info_now.tcpi_snd_mss, info.tcpi_snd_mss);
    read_all(server, QUEUED);
    read_all(client, 100000);
    for (int i = 0; i < 20; i++) {
        VERIFY(write(client, block, 50000) == 50000);
        read_all(server, 50000);
        VERIFY(write(server, block, 50000) == 50000);
        read_all(client, 50000);
    }
    read_all(half_server, 5000);
    VERIFY(read(half_server, back, 1) == 0);
    VERIFY(write(half_server, block, 3000) == 3000);
    read_all(half_client, 3000);
    close(half_server);
    VERIFY(read(half_client, back, 1) == 0);
    read_all(closed_server, 7000);
    VERIFY(read(closed_server, back, 1) == 0);
    close(ready_client);
    VERIFY(read(ready_server, back, 1) == 0);
    length = sizeof address;
    pair(listener, (void *)&address, any->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6), &client, &server);
    VERIFY(write(client, block, 1000) == 1000);
    read_all(server, 1000);
    return verified();
}
