/* TCP connections that are over, or nearly, while a descriptor holds them: closed by both sides in either order with data that
 * nobody has read, reset with and without such data, a call that was refused, each end's states on the way there. Verified: every
 * byte, then what the kernel says after it (the end, or an error told once), poll's flags, and the socket's own name. */
#include "object.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>

#define UNREAD 100000
static char block[UNREAD], back[UNREAD];
static struct sockaddr_storage address;
static socklen_t size;
static int listener;

static void connection(int *client, int *server) {
    NEED((*client = socket(address.ss_family, SOCK_STREAM, 0)) != -1);
    NEED(connect(*client, (void *)&address, size) == 0);
    NEED((*server = accept(listener, NULL, NULL)) != -1);
}

static int state(int fd) {
    struct tcp_info info;
    socklen_t length = sizeof info;
    VERIFY(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0);
    return info.tcpi_state;
}

static void wait_state(int fd, int wanted) {
    for (int tries = 0; state(fd) != wanted; tries++) {
        need(tries < 5000, "state %d instead of %d", state(fd), wanted);
        pause_ms(1);
    }
}

static void reset(int fd) {
    struct linger now = {1, 0};
    NEED(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0);
    close(fd);
}

static int error_of(int fd) {
    int error = -1;
    socklen_t length = sizeof error;
    VERIFY(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0);
    return error;
}

static void name(int fd, struct sockaddr_storage *to) {
    socklen_t length = sizeof *to;
    memset(to, 0, sizeof *to);
    VERIFY(getsockname(fd, (void *)to, &length) == 0);
}

static void read_all(int fd, size_t bytes) {
    size_t total = 0;
    while (total < bytes) {
        ssize_t got = read(fd, back + total, bytes - total);
        verify(got > 0, "after %zu of %zu bytes: %zd (errno %d)", total, bytes, got, errno);
        total += (size_t)got;
    }
    verify(memcmp(back, block, bytes) == 0, "other bytes");
}

static int events(int fd) {
    struct pollfd poll_fd = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    VERIFY(poll(&poll_fd, 1, 0) >= 0);
    return poll_fd.revents;
}

static void over(int fd, size_t unread, const struct sockaddr_storage *before, int seen) {
    struct sockaddr_storage now;
    name(fd, &now);
    VERIFY(memcmp(&now, before, sizeof now) == 0);
    VERIFY_EQ(state(fd), TCP_CLOSE);
    VERIFY_EQ(events(fd), seen);
    read_all(fd, unread);
    VERIFY_EQ(read(fd, back, 1), 0);
    VERIFY_EQ(read(fd, back, 1), 0);
    VERIFY_EQ(error_of(fd), 0);
    VERIFY(write(fd, "x", 1) == -1 && errno == EPIPE);
}

int main(void) {
    int first[2], last[2], read_out[2], reset_full[2], reset_told[2], piped[2], wait_close[2], wait_fin[2], refused;
    struct sockaddr_storage names[6];
    int seen[6];
    signal(SIGPIPE, SIG_IGN);
    fill(block, sizeof block, 1);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    memcpy(&address, &any, size = sizeof any);
    NEED((listener = socket(AF_INET6, SOCK_STREAM, 0)) != -1);
    NEED(bind(listener, (void *)&address, size) == 0 && listen(listener, 16) == 0);
    NEED(getsockname(listener, (void *)&address, &size) == 0);

    /* Closed by the peer, then by us: LAST_ACK, then over. */
    connection(&last[0], &last[1]);
    NEED(write(last[0], block, UNREAD) == UNREAD);
    close(last[0]);
    wait_state(last[1], TCP_CLOSE_WAIT);
    NEED(shutdown(last[1], SHUT_WR) == 0);
    /* Closed by us, then by the peer: TIME_WAIT for the kernel, over for the descriptor. */
    connection(&first[0], &first[1]);
    NEED(write(first[0], block, 5000) == 5000);
    pause_ms(20);
    NEED(shutdown(first[1], SHUT_WR) == 0);
    close(first[0]);
    /* The same with everything read. */
    connection(&read_out[0], &read_out[1]);
    NEED(write(read_out[0], block, 100) == 100);
    read_all(read_out[1], 100);
    NEED(shutdown(read_out[1], SHUT_WR) == 0);
    close(read_out[0]);
    /* Reset, with data that nobody has read. */
    connection(&reset_full[0], &reset_full[1]);
    NEED(write(reset_full[0], block, 3000) == 3000);
    pause_ms(20);
    reset(reset_full[0]);
    /* Reset, and the program knows. */
    connection(&reset_told[0], &reset_told[1]);
    reset(reset_told[0]);
    wait_state(reset_told[1], TCP_CLOSE);
    NEED(error_of(reset_told[1]) == ECONNRESET);
    /* Reset after the peer's end. */
    connection(&piped[0], &piped[1]);
    NEED(write(piped[0], block, 2000) == 2000 && shutdown(piped[0], SHUT_WR) == 0);
    wait_state(piped[1], TCP_CLOSE_WAIT);
    reset(piped[0]);
    for (int i = 0; i < 6; i++) {
        int fd = (int[]){last[1], first[1], read_out[1], reset_full[1], reset_told[1], piped[1]}[i];
        wait_state(fd, TCP_CLOSE);
        name(fd, &names[i]);
        seen[i] = events(fd);
    }
    /* Half closed either way, with data. */
    connection(&wait_close[0], &wait_close[1]);
    NEED(write(wait_close[0], block, UNREAD) == UNREAD && shutdown(wait_close[0], SHUT_WR) == 0);
    connection(&wait_fin[0], &wait_fin[1]);
    NEED(write(wait_fin[1], block, 100) == 100 && shutdown(wait_fin[1], SHUT_WR) == 0);
    NEED(write(wait_fin[0], block, 4000) == 4000);
    /* Refused, and the program has not asked yet. */
    struct sockaddr_in6 nobody = any;
    nobody.sin6_port = htons(1);
    NEED((refused = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0)) != -1);
    NEED(connect(refused, (void *)&nobody, sizeof nobody) == -1 && errno == EINPROGRESS);
    wait_state(refused, TCP_CLOSE);
    int refused_seen = events(refused);

    ready();

    over(last[1], UNREAD, &names[0], seen[0]);
    over(first[1], 5000, &names[1], seen[1]);
    over(read_out[1], 0, &names[2], seen[2]);
    VERIFY_EQ(events(reset_full[1]), seen[3]);
    read_all(reset_full[1], 3000);
    VERIFY(read(reset_full[1], back, 1) == -1);
    VERIFY_EQ(errno, ECONNRESET);
    VERIFY_EQ(read(reset_full[1], back, 1), 0);
    over(reset_told[1], 0, &names[4], seen[4]);
    VERIFY_EQ(events(piped[1]), seen[5]);
    read_all(piped[1], 2000);
    VERIFY_EQ(read(piped[1], back, 1), 0);
    VERIFY_EQ(error_of(piped[1]), EPIPE);
    VERIFY_EQ(error_of(piped[1]), 0);
    VERIFY_EQ(events(refused), refused_seen);
    VERIFY_EQ(error_of(refused), ECONNREFUSED);
    VERIFY_EQ(error_of(refused), 0);

    wait_state(wait_close[1], TCP_CLOSE_WAIT);
    read_all(wait_close[1], UNREAD);
    VERIFY_EQ(read(wait_close[1], back, 1), 0);
    VERIFY(write(wait_close[1], block, 1000) == 1000);
    read_all(wait_close[0], 1000);
    wait_state(wait_fin[1], TCP_FIN_WAIT2);
    read_all(wait_fin[0], 100);
    VERIFY_EQ(read(wait_fin[0], back, 1), 0);
    read_all(wait_fin[1], 4000);
    close(wait_fin[0]);
    VERIFY_EQ(read(wait_fin[1], back, 1), 0);
    return verified();
}
