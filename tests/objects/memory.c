/* Anonymous memory: private with holes, shared with a child (before and after the fork), copy-on-write pages in parent and child,
 * huge and never touched areas. Verified: content, that private stays private, and that shared stays shared. */
#include "object.h"

#define BYTES (24u << 20)

int main(void) {
    char *private_ = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *shared = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *untouched = mmap(NULL, 1ul << 36, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *cow = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    volatile int *step = shared_page();
    NEED(private_ != MAP_FAILED && shared != MAP_FAILED && untouched != MAP_FAILED && cow != MAP_FAILED);
    /* Every other 64 KiB is never touched. */
    for (size_t at = 0; at < BYTES; at += 131072) fill(private_ + at, 65536, at);
    fill(shared, BYTES / 2, 2);
    fill(cow, BYTES, 3);
    untouched[1ul << 35] = 42;
    pid_t child = fork();
    if (child == 0) {
        fill(shared + BYTES / 2, BYTES / 2, 4);
        for (size_t at = 0; at < BYTES; at += 8192) fill(cow + at, 4096, 1000 + at);
        *step = 1;
        while (*step < 2) pause_ms(1);
        for (size_t at = 0; at < BYTES; at += 8192) verify(filled(cow + at, 4096, 1000 + at), "the child's own page at %zu", at);
        VERIFY(untouched[1ul << 35] == 42 && untouched[12345] == 0);
        VERIFY(filled(shared, BYTES / 2, 2));
        fill(shared, BYTES / 2, 5);
        *step = 3;
        _exit(0);
    }
    while (*step < 1) pause_ms(1);

    ready();

    for (size_t at = 0; at < BYTES; at += 131072) {
        verify(filled(private_ + at, 65536, at), "private memory at %zu", at);
        for (int i = 65536; i < 131072; i += 4096) VERIFY_EQ(private_[at + (size_t)i], 0);
    }
    VERIFY(filled(cow, BYTES, 3));
    VERIFY(filled(shared, BYTES / 2, 2) && filled(shared + BYTES / 2, BYTES / 2, 4));
    VERIFY(untouched[1ul << 35] == 42 && untouched[54321] == 0);
    *step = 2;
    int status;
    VERIFY(waitpid(child, &status, 0) == child && status == 0);
    VERIFY(*step == 3 && filled(shared, BYTES / 2, 5));
    return verified();
}
