/* File locks: flock, POSIX records (two ranges, read and write), open-file-description locks. Verified by whom they keep out: a
 * child that tries after the move. */
#include "object.h"
#include <sys/file.h>

static int locked_out(int fd, int command, short type, off_t from, off_t bytes) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = from, .l_len = bytes};
    if (fcntl(fd, command, &lock) == 0) return 0;
    VERIFY(errno == EAGAIN || errno == EACCES);
    return 1;
}

int main(void) {
    int whole = open("/tmp/object-flock", O_RDWR | O_CREAT, 0600), parts = open("/tmp/object-posix", O_RDWR | O_CREAT, 0600);
    int own = open("/tmp/object-ofd", O_RDWR | O_CREAT, 0600);
    NEED(whole != -1 && parts != -1 && own != -1);
    NEED(flock(whole, LOCK_EX) == 0);
    NEED(!locked_out(parts, F_SETLK, F_WRLCK, 100, 50) && !locked_out(parts, F_SETLK, F_RDLCK, 1000, 0));
    NEED(!locked_out(own, F_OFD_SETLK, F_WRLCK, 10, 10));
    int go[2];
    NEED(pipe(go) == 0);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        VERIFY(read(go[0], &byte, 1) == 1);
        int fd = open("/tmp/object-flock", O_RDWR);
        VERIFY(flock(fd, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK);
        fd = open("/tmp/object-posix", O_RDWR);
        VERIFY(locked_out(fd, F_SETLK, F_RDLCK, 120, 1) && !locked_out(fd, F_SETLK, F_WRLCK, 150, 10));
        VERIFY(locked_out(fd, F_SETLK, F_WRLCK, 5000, 1) && !locked_out(fd, F_SETLK, F_RDLCK, 5000, 1));
        fd = open("/tmp/object-ofd", O_RDWR);
        VERIFY(locked_out(fd, F_OFD_SETLK, F_RDLCK, 19, 1) && !locked_out(fd, F_OFD_SETLK, F_WRLCK, 20, 1));
        _exit(0);
    }

    ready();

    VERIFY(write(go[1], "x", 1) == 1);
    int status;
    VERIFY(waitpid(child, &status, 0) == child);
    verify(status == 0, "the child ended with %x", status);
    return verified();
}
