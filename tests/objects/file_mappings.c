/* File mappings: private with some pages changed, read-only, shared and written, of a file that was deleted, with an offset, by
 * two processes. Verified: content, and that what is written through a shared mapping reaches the file and the other process. */
#include "object.h"

#define BYTES (1u << 20)

int main(void) {
    char *block = malloc(BYTES);
    fill(block, BYTES, 1);
    int fd = open("/var/lib/object-mapped", O_RDWR | O_CREAT | O_TRUNC, 0600);
    int deleted = open("/var/lib/object-deleted", O_RDWR | O_CREAT | O_TRUNC, 0600);
    NEED(fd != -1 && deleted != -1);
    NEED(write(fd, block, BYTES) == BYTES && write(deleted, block, BYTES) == BYTES);
    char *private_ = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    char *reading = mmap(NULL, BYTES / 2, PROT_READ, MAP_PRIVATE, fd, BYTES / 2);
    char *shared = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *ghost = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, deleted, 0);
    volatile int *step = shared_page();
    NEED(private_ != MAP_FAILED && reading != MAP_FAILED && shared != MAP_FAILED && ghost != MAP_FAILED);
    fill(private_ + 8192, 4096, 2);
    fill(shared + 65536, 4096, 3);
    fill(ghost + 4096, 4096, 4);
    NEED(unlink("/var/lib/object-deleted") == 0);
    close(fd);
    pid_t child = fork();
    if (child == 0) {
        while (*step < 1) pause_ms(1);
        VERIFY(filled(shared + 131072, 4096, 6) && filled(ghost + 8192, 4096, 7));
        fill(shared + 262144, 4096, 8);
        *step = 2;
        _exit(0);
    }

    ready();

    VERIFY(memcmp(private_, block, 8192) == 0 && filled(private_ + 8192, 4096, 2));
    VERIFY(memcmp(private_ + 12288, block + 12288, 65536 - 12288) == 0);
    VERIFY(memcmp(reading, block + BYTES / 2, BYTES / 2) == 0);
    VERIFY(filled(shared + 65536, 4096, 3));
    VERIFY(filled(ghost + 4096, 4096, 4) && memcmp(ghost, block, 4096) == 0);
    fill(shared + 131072, 4096, 6);
    fill(ghost + 8192, 4096, 7);
    *step = 1;
    int status;
    VERIFY(waitpid(child, &status, 0) == child && status == 0);
    VERIFY(filled(shared + 262144, 4096, 8));
    VERIFY((fd = open("/var/lib/object-mapped", O_RDONLY)) != -1);
    VERIFY(pread(fd, block, 4096, 131072) == 4096 && filled(block, 4096, 6));
    VERIFY(pread(fd, block, 4096, 262144) == 4096 && filled(block, 4096, 8));
    VERIFY(pread(deleted, block, 4096, 8192) == 4096 && filled(block, 4096, 7));
    VERIFY(access("/var/lib/object-deleted", F_OK) == -1);
    return verified();
}
