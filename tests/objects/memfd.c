/* memfds: one with seals and an offset, one mapped shared by two processes, one only mapped (its descriptor is closed). Verified:
 * content, length, seals, offset, close-on-exec, and that it is still one object. */
#include "object.h"

#define BYTES (512u << 10)

int main(void) {
    int sealed = memfd_create("sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC), shared = memfd_create("shared", 0);
    int closed = memfd_create("closed", 0);
    char *block = malloc(BYTES);
    NEED(sealed != -1 && shared != -1 && closed != -1);
    fill(block, BYTES, 1);
    NEED(write(sealed, block, BYTES) == BYTES && lseek(sealed, 12345, SEEK_SET) == 12345);
    NEED(fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0);
    NEED(ftruncate(shared, BYTES) == 0 && ftruncate(closed, BYTES) == 0);
    char *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
    char *hidden = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, closed, 0);
    NEED(at != MAP_FAILED && hidden != MAP_FAILED);
    close(closed);
    fill(at, BYTES, 2);
    fill(hidden, BYTES, 3);
    volatile int *step = shared_page();
    pid_t child = fork();
    if (child == 0) {
        while (*step < 1) pause_ms(1);
        VERIFY(filled(at, BYTES, 4) && filled(hidden, BYTES, 5));
        VERIFY(pwrite(shared, "child", 5, 100) == 5);
        _exit(0);
    }

    ready();

    VERIFY_EQ(lseek(sealed, 0, SEEK_CUR), 12345);
    VERIFY_EQ(fcntl(sealed, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
    VERIFY_EQ(fcntl(sealed, F_GETFD), FD_CLOEXEC);
    VERIFY_EQ(fcntl(shared, F_GETFD), 0);
    VERIFY(pwrite(sealed, "x", 1, 0) == -1 && errno == EPERM);
    VERIFY(pread(sealed, block, BYTES, 0) == BYTES && filled(block, BYTES, 1));
    char name[64] = {0};
    VERIFY(readlink("/proc/self/fd/3", name, sizeof name) > 0 && !strncmp(name, "/memfd:sealed", 13));
    VERIFY(filled(at, BYTES, 2) && filled(hidden, BYTES, 3));
    fill(at, BYTES, 4);
    fill(hidden, BYTES, 5);
    *step = 1;
    int status;
    VERIFY(waitpid(child, &status, 0) == child && status == 0);
    VERIFY(memcmp(at + 100, "child", 5) == 0);
    return verified();
}
