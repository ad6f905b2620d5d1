/* Pipes and FIFOs with content: a plain one, one in packet mode, a full one with another capacity, one whose writer is closed, one
 * whose reader is closed, a named one, non-blocking ends. Verified: content, its borders, sizes, flags, ends of file. */
#include "object.h"
#include <poll.h>

int main(void) {
    int plain[2], packets[2], full[2], ended[2], broken[2], got;
    static char block[1 << 18], back[1 << 18];
    NEED(pipe(plain) == 0 && pipe2(packets, O_DIRECT) == 0 && pipe2(full, O_NONBLOCK) == 0);
    NEED(pipe(ended) == 0 && pipe(broken) == 0);
    fill(block, sizeof block, 1);
    NEED(write(plain[1], block, 10000) == 10000);
    NEED(write(packets[1], "first", 5) == 5 && write(packets[1], "second packet", 13) == 13);
    NEED((got = fcntl(full[1], F_SETPIPE_SZ, 1 << 17)) == 1 << 17);
    NEED(write(full[1], block, sizeof block) == 1 << 17);
    NEED(write(ended[1], "last words", 10) == 10);
    close(ended[1]);
    close(broken[0]);
    NEED(mkfifo("/tmp/object-fifo", 0600) == 0);
    int fifo = open("/tmp/object-fifo", O_RDWR);
    int fifo_reader = open("/tmp/object-fifo", O_RDONLY | O_NONBLOCK);
    NEED(fifo != -1 && fifo_reader != -1 && write(fifo, "in the fifo", 11) == 11);
    signal(SIGPIPE, SIG_IGN);

    ready();

    VERIFY(read(plain[0], back, sizeof back) == 10000 && !memcmp(back, block, 10000));
    VERIFY(read(packets[0], back, 100) == 5 && !memcmp(back, "first", 5));
    VERIFY(read(packets[0], back, 100) == 13 && !memcmp(back, "second packet", 13));
    VERIFY_EQ(fcntl(full[1], F_GETPIPE_SZ), 1 << 17);
    VERIFY(fcntl(full[0], F_GETFL) & O_NONBLOCK);
    VERIFY(write(full[1], "x", 1) == -1 && errno == EAGAIN);
    size_t total = 0;
    for (ssize_t n; (n = read(full[0], back + total, sizeof back - total)) > 0;) total += (size_t)n;
    VERIFY_EQ(total, 1 << 17);
    VERIFY(memcmp(back, block, total) == 0);
    VERIFY(read(full[0], back, 1) == -1 && errno == EAGAIN);
    VERIFY(read(ended[0], back, 100) == 10 && read(ended[0], back, 100) == 0);
    VERIFY(write(broken[1], "x", 1) == -1 && errno == EPIPE);
    VERIFY(read(fifo_reader, back, 100) == 11 && !memcmp(back, "in the fifo", 11));
    VERIFY(write(fifo, "again", 5) == 5 && read(fifo_reader, back, 100) == 5);
    int third = open("/tmp/object-fifo", O_WRONLY | O_NONBLOCK);
    VERIFY(third != -1 && write(third, "third", 5) == 5 && read(fifo, back, 100) == 5);
    return verified();
}
