/* Unix sockets: connected pairs of the three types with data queued in both directions, one half closed, a named and an abstract
 * listener, a bound datagram socket that others know by name, options. Verified: content, borders, states, and new connections. */
#include "object.h"
#include <stddef.h>
#include <sys/un.h>

static char block[60000], back[60000];

static socklen_t named(struct sockaddr_un *address, const char *name) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    size_t length = strlen(name);
    memcpy(address->sun_path + (name[0] == '@'), name + (name[0] == '@'), length - (name[0] == '@'));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (name[0] != '@'));
}

static void talk(int listener, const char *name) {
    struct sockaddr_un address;
    socklen_t length = named(&address, name);
    int client = socket(AF_UNIX, SOCK_STREAM, 0), server;
    verify(connect(client, (void *)&address, length) == 0, "connect to %s: errno %d", name, errno);
    VERIFY((server = accept(listener, NULL, NULL)) != -1);
    VERIFY(write(client, "new", 3) == 3 && read(server, back, 10) == 3);
    close(client);
    close(server);
}

int main(void) {
    int stream[2], packets[2], grams[2], half[2];
    struct sockaddr_un address;
    socklen_t length;
    fill(block, sizeof block, 1);
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0);
    NEED(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets) == 0);
    NEED(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, grams) == 0);
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, half) == 0);
    NEED(write(stream[0], block, 50000) == 50000 && write(stream[1], "back", 4) == 4);
    NEED(send(packets[0], "one", 3, 0) == 3 && send(packets[0], "two two", 7, 0) == 7 && send(packets[1], "three", 5, 0) == 5);
    NEED(send(grams[0], "gram", 4, 0) == 4 && send(grams[0], "", 0, 0) == 0 && send(grams[0], "last", 4, 0) == 4);
    NEED(write(half[0], "bye", 3) == 3 && shutdown(half[0], SHUT_WR) == 0);
    int size = 123456, yes = 1, got;
    NEED(setsockopt(stream[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0);
    NEED(setsockopt(packets[0], SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes) == 0);
    socklen_t got_length = sizeof got;
    NEED(getsockopt(stream[0], SOL_SOCKET, SO_SNDBUF, &size, &got_length) == 0);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), abstract = socket(AF_UNIX, SOCK_STREAM, 0);
    length = named(&address, "/run/object-socket");
    NEED(bind(listener, (void *)&address, length) == 0 && listen(listener, 7) == 0);
    length = named(&address, "@object-abstract");
    NEED(bind(abstract, (void *)&address, length) == 0 && listen(abstract, 7) == 0);
    int box = socket(AF_UNIX, SOCK_DGRAM, 0), sender = socket(AF_UNIX, SOCK_DGRAM, 0);
    length = named(&address, "/run/object-box");
    NEED(bind(box, (void *)&address, length) == 0);
    NEED(sendto(sender, "letter", 6, 0, (void *)&address, length) == 6);
    NEED(connect(sender, (void *)&address, length) == 0 && send(sender, "second", 6, 0) == 6);

    ready();

    size_t total = 0;
    while (total < 50000) {
        ssize_t n = read(stream[1], back + total, sizeof back - total);
        VERIFY(n > 0);
        total += (size_t)n;
    }
    VERIFY(total == 50000 && !memcmp(back, block, total));
    VERIFY(read(stream[0], back, 100) == 4 && !memcmp(back, "back", 4));
    VERIFY(recv(packets[1], back, 100, 0) == 3 && !memcmp(back, "one", 3));
    VERIFY(recv(packets[1], back, 100, 0) == 7 && !memcmp(back, "two two", 7));
    VERIFY(recv(packets[0], back, 100, 0) == 5);
    VERIFY(recv(grams[1], back, 100, 0) == 4 && recv(grams[1], back, 100, 0) == 0 && recv(grams[1], back, 100, 0) == 4);
    VERIFY(recv(grams[1], back, 100, 0) == -1 && errno == EAGAIN);
    VERIFY(read(half[1], back, 100) == 3 && read(half[1], back, 100) == 0);
    VERIFY(write(half[1], "still", 5) == 5 && read(half[0], back, 100) == 5);
    got_length = sizeof got;
    VERIFY(getsockopt(stream[0], SOL_SOCKET, SO_SNDBUF, &got, &got_length) == 0);
    VERIFY_EQ(got, size);
    VERIFY(getsockopt(packets[0], SOL_SOCKET, SO_PASSCRED, &got, &got_length) == 0 && got == 1);
    talk(listener, "/run/object-socket");
    talk(abstract, "@object-abstract");
    VERIFY(recv(box, back, 100, 0) == 6 && !memcmp(back, "letter", 6));
    VERIFY(recv(box, back, 100, 0) == 6 && !memcmp(back, "second", 6));
    VERIFY(send(sender, "third", 5, 0) == 5 && recv(box, back, 100, 0) == 5);
    return verified();
}
